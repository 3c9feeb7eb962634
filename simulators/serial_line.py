"""A serial line without wires: a pseudo-terminal whose far end is a server on this machine.

What comes out of the terminal goes to the server as it is, and back; so the server has to speak
the line's framing (RTU or ASCII) over TCP. As on a real line one master is served at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import tempfile
import tty
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

__all__ = ["SerialLine", "pluggable_line", "serial_line"]

_CHUNK_BYTES = 4096
# While the far end is away a line is silent, and asked for again this often.
_RECONNECT_S = 0.2


@asynccontextmanager
async def serial_line(host: str, port: int) -> AsyncIterator[str]:
    """The path of a terminal that leads to a server, until the block is left."""
    far, near = pty.openpty()
    tty.setraw(near)  # else what the server says would be echoed before anybody opens it
    os.set_blocking(far, False)
    pumping = asyncio.create_task(_pump(far, host, port), name="serial line")
    try:
        yield os.ttyname(near)
    finally:
        pumping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pumping
        os.close(far)
        os.close(near)


class SerialLine:
    """A serial line whose adapter can be pulled out; `path` is a link that lasts."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.away_s = 0.0
        self.pulled_total = 0
        self.is_pulled = asyncio.Event()

    def unplug(self, seconds: float) -> None:
        """Be gone for so long: the terminal ends, and one with another name comes back."""
        if not 0 <= seconds <= 3600:
            raise ValueError("seconds are 0 to 3600")
        self.away_s = seconds
        self.is_pulled.set()


@asynccontextmanager
async def pluggable_line(host: str, port: int) -> AsyncIterator[SerialLine]:
    """Like `serial_line`, with an adapter that can be unplugged."""
    with tempfile.TemporaryDirectory(prefix="serial-") as folder:
        link = Path(folder) / "line"
        line = SerialLine(str(link))

        async def be() -> None:
            while True:
                async with serial_line(host, port) as terminal:
                    link.symlink_to(terminal)
                    is_there.set()
                    await line.is_pulled.wait()
                    line.is_pulled.clear()
                    line.pulled_total += 1
                    link.unlink()
                await asyncio.sleep(line.away_s)

        is_there = asyncio.Event()
        being = asyncio.create_task(be(), name="pluggable line")
        try:
            await is_there.wait()
            yield line
        finally:
            being.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await being


async def _pump(far: int, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(_RECONNECT_S)
            continue
        loop.add_reader(far, _forward, far, writer)
        try:
            while data := await reader.read(_CHUNK_BYTES):
                await _write(far, data)
        except OSError:
            pass  # the server ended; a new connection is made
        finally:
            loop.remove_reader(far)
            writer.close()


def _forward(far: int, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.write(os.read(far, _CHUNK_BYTES))


async def _write(far: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(far, data) :]
        except BlockingIOError:  # nobody reads there: a line has no memory either
            await asyncio.sleep(0.01)
