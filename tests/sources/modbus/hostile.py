"""A Modbus TCP server that does what a script says, right or wrong; raw bytes, no library.

Its registers say where they are from - holding register `a` of unit `u` holds `truth(u, a)` - so
that a value that came from another address, or from another unit, shows.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

__all__ = ["Asked", "Hostile", "Script", "exception_to", "hostile", "right_to", "truth"]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came in."""

    tid: int
    unit_id: int
    function: int
    address: int
    quantity: int


# Gives the bytes to send, or None for silence; may also do worse to the writer itself.
Script = Callable[[Asked, asyncio.StreamWriter], Awaitable[bytes | None]]


def truth(unit_id: int, address: int) -> int:
    return (unit_id * 9973 + address * 7 + 1) % 65536


def right_to(asked: Asked) -> bytes:
    block = b"".join(
        truth(asked.unit_id, asked.address + i).to_bytes(2, "big") for i in range(asked.quantity)
    )
    head = (asked.tid, 0, 3 + len(block), asked.unit_id, asked.function, len(block))
    return struct.pack(">HHHBBB", *head) + block


def exception_to(asked: Asked, code: int) -> bytes:
    return struct.pack(">HHHBBB", asked.tid, 0, 3, asked.unit_id, asked.function | 0x80, code)


async def _right(asked: Asked, _: asyncio.StreamWriter) -> bytes:
    return right_to(asked)


@dataclass(slots=True)
class Hostile:
    """The server; `script` may be replaced at any time."""

    script: Script
    port: int = 0
    connections: int = 0
    asked: list[Asked] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                tid, _, _, *rest = struct.unpack(">HHHBBHH", await reader.readexactly(12))
                asked = Asked(tid, *rest)
                self.asked.append(asked)
                answer = await self.script(asked, writer)
                if answer is not None:
                    writer.write(answer)
        writer.close()

    @staticmethod
    def reset(writer: asyncio.StreamWriter) -> None:
        """Close with RST, after what was written has gone out."""
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()


@asynccontextmanager
async def hostile(script: Script = _right) -> AsyncIterator[Hostile]:
    """The server on a port of its own."""
    peer = Hostile(script)
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:
        server.close()
