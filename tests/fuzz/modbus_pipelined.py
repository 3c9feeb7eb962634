"""Any bytes on a connection with several requests: each gets its own answer, an error, or none."""

from __future__ import annotations

import asyncio

from gateway.errors import DeviceRefused, SourceError
from gateway.sources.modbus.connection import Manner
from gateway.sources.modbus.peer import Peer
from gateway.sources.modbus.pipelined import PipelinedConnection
from gateway.sources.modbus.wire import Exchange, Request

REQUESTS = [Request(1, 3, 10 * number, number + 1) for number in range(4)]
LOOP = asyncio.new_event_loop()


class Nowhere:
    """A transport that takes everything."""

    def write(self, data: bytes) -> None:
        pass

    def abort(self) -> None:
        pass

    def get_extra_info(self, _: str) -> None:
        return None


async def hear(data: bytes, chunk: int) -> None:
    peer = Peer(first_id=0)
    connection = PipelinedConnection(
        lambda query: Exchange(next(peer.transaction_ids), query), Manner(), peer, len(REQUESTS)
    )
    connection.connection_made(Nowhere())
    asking = [asyncio.ensure_future(connection.read(request, 60.0)) for request in REQUESTS]
    await asyncio.sleep(0)
    for start in range(0, len(data), chunk):
        connection.data_received(data[start : start + chunk])
    connection.close(SourceError("the end"))
    found = await asyncio.gather(*asking, return_exceptions=True)
    for number, (request, answer) in enumerate(zip(REQUESTS, found, strict=True), 1):
        if isinstance(answer, bytes):
            size = request.block_bytes
            head = bytes([0, number, 0, 0, 0, 3 + size, 1, 3, size])
            assert len(answer) == size
            assert head + answer in data
        else:
            assert isinstance(answer, SourceError | DeviceRefused), answer


def one(data: bytes) -> None:
    """The first byte is the size of the chunks; the others are heard."""
    if data:
        LOOP.run_until_complete(hear(data[1:], data[0] or 1024))


def answer(number: int) -> bytes:
    size = 2 * number
    return bytes([0, number, 0, 0, 0, 3 + size, 1, 3, size]) + bytes(size)


SEEDS = [
    b"\0" + b"".join(map(answer, (1, 2, 3, 4))),
    b"\x07" + b"".join(map(answer, (3, 1, 4, 2))),
    b"\0" + answer(1) + bytes([0, 2, 0, 0, 0, 3, 1, 0x83, 2]) + answer(3)[:8],
]
