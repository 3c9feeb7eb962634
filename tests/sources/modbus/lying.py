"""A Modbus TCP server that misbehaves on demand; right answers hold each register's own address."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias


class Asked(NamedTuple):
    transaction_id: int
    unit_id: int
    function: int
    address: int
    quantity: int


Answer: TypeAlias = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


def frame(asked: Asked, pdu: bytes, transaction_id: int | None = None) -> bytes:
    number = asked.transaction_id if transaction_id is None else transaction_id
    return (
        number.to_bytes(2, "big")
        + b"\0\0"
        + (len(pdu) + 1).to_bytes(2, "big")
        + bytes([asked.unit_id])
        + pdu
    )


def right(asked: Asked, shift: int = 0) -> bytes:
    words = range(asked.address + shift, asked.address + shift + asked.quantity)
    block = b"".join((word & 0xFFFF).to_bytes(2, "big") for word in words)
    return frame(asked, bytes([asked.function, len(block)]) + block)


async def well(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(right(asked))


def refuse(code: int) -> Answer:
    async def refusing(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(asked, bytes([asked.function | 0x80, code])))

    return refusing


@dataclass
class Hostile:
    """`answers` are used up one a request; then `usual` answers."""

    port: int = 0
    usual: Answer = well
    answers: list[Answer] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                data = await reader.readexactly(12)
                asked = Asked(
                    int.from_bytes(data[:2], "big"),
                    data[6],
                    data[7],
                    int.from_bytes(data[8:10], "big"),
                    int.from_bytes(data[10:12], "big"),
                )
                self.asked.append(asked)
                answer = self.answers.pop(0) if self.answers else self.usual
                await answer(asked, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def hostile() -> AsyncIterator[Hostile]:
    device = Hostile()
    server = await asyncio.start_server(device.serve, "127.0.0.1", 0)
    device.port = server.sockets[0].getsockname()[1]
    try:
        yield device
    finally:
        server.close()
