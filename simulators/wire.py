"""What lines and networks do to a device's answers: a relay before it, which does so on demand."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from simulators.serving import reset, serving

__all__ = ["WIRE_FAULTS", "relay"]

WIRE_FAULTS = {
    "partial": "the answer in two pieces, 50 ms apart",
    "dribble": "the answer byte by byte, 20 ms apart",
    "half": "half the answer, then the connection is reset",
    "reset": "the connection is reset instead of the answer",
    "close": "the connection is closed after the answer",
    "mute": "nothing more is answered on this connection",
    "held": "the answer comes together with the next one",
    "glitch": "a byte 0x00 or 0xFF before or behind the answer, as drivers on RS-485 leave",
    "echo": "the request comes back before the answer, as some adapters do",
    "collision": "another station speaks at the same time",
}
_PARTIAL_S = 0.05
_DRIBBLE_S = 0.02
_CHUNK_BYTES = 4096

Draws = Callable[[str], bool]
"""Whether a fault happens to this answer."""


class _Link:
    """One connection: what is asked goes to the device as it is, what is answered is spoiled."""

    def __init__(self, draws: Draws, rng: random.Random, client: asyncio.StreamWriter) -> None:
        self._draws = draws
        self._random = rng
        self._client = client
        self._asked = b""
        self._held = b""
        self._is_mute = False

    async def ask(self, reader: asyncio.StreamReader, device: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            self._asked = data
            device.write(data)

    async def answer(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            if not await self._pass_on(data):
                return

    async def _pass_on(self, data: bytes) -> bool:
        """Send an answer, or what becomes of it; whether the connection goes on."""
        self._is_mute = self._is_mute or self._draws("mute")
        if self._is_mute:
            return True
        if self._draws("reset"):
            reset(self._client)
            return False
        if self._draws("held"):
            self._held += data
            return True
        data, self._held = self._spoiled(self._held + data), b""
        if self._draws("half"):
            self._client.write(data[: len(data) // 2])
            await self._client.drain()
            await asyncio.sleep(_PARTIAL_S)
            reset(self._client)
            return False
        await self._send(data)
        return not self._draws("close")

    def _spoiled(self, data: bytes) -> bytes:
        if self._draws("glitch"):
            byte = self._random.choice((b"\0", b"\xff"))
            data = self._random.choice((byte + data, data + byte))
        if self._draws("collision"):
            data = bytes(byte & self._random.randrange(256) for byte in data)
        return self._asked + data if self._draws("echo") else data

    async def _send(self, data: bytes) -> None:
        middle = len(data) // 2
        pieces, pause_s = [data], 0.0
        if self._draws("dribble"):
            pieces, pause_s = [data[i : i + 1] for i in range(len(data))], _DRIBBLE_S
        elif self._draws("partial"):
            pieces, pause_s = [data[:middle], data[middle:]], _PARTIAL_S
        for i, piece in enumerate(pieces):
            if i:
                await asyncio.sleep(pause_s)
            self._client.write(piece)
            await self._client.drain()


@asynccontextmanager
async def relay(
    target_port: int, draws: Draws, *, seed: int, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[int]:
    """Pass connections on to a port of this machine until the block ends; the own port."""
    rng = random.Random(seed)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, device = await asyncio.open_connection("127.0.0.1", target_port)
        link = _Link(draws, rng, writer)
        ways = [
            asyncio.create_task(link.ask(reader, device), name="relay:ask"),
            asyncio.create_task(link.answer(answers), name="relay:answer"),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for way in ways:
                with contextlib.suppress(OSError, asyncio.CancelledError):
                    await way
            device.close()

    async with serving(serve, host, port) as own:
        yield own
