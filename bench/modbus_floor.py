"""What one serial read of 100 registers costs in CPU: `python -m bench.modbus_floor`.

The same server, in a process of its own, answers three clients one after the other: a bare
asyncio protocol that believes every byte (the floor: what the loop and the kernel cost), our
client, which checks them all and keeps a deadline, and pymodbus's.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import struct
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection as Pipe

import uvloop
from pymodbus.client import AsyncModbusTcpClient

from gateway.sources.modbus.client import connect
from gateway.sources.modbus.wire import Request

REGISTERS = 100
READS = 5000
# Before counting: caches and allocators are warm then.
READS_FIRST = 500
TIMEOUT_S = 5.0

Read = Callable[[], Awaitable[object]]


def main() -> None:
    """Print microseconds of CPU a read for each client."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(theirs,), daemon=True)
    server.start()
    try:
        port: int = ours.recv()
        costs = uvloop.run(_measure(port))
    finally:
        server.terminate()
        server.join()
    floor = costs["bare protocol"]
    print(f"{READS} serial reads of {REGISTERS} registers, uvloop, CPU of the client's process")
    for name, cost_us in costs.items():
        print(f"{name:14s} {cost_us:7.1f} us a read   {cost_us / floor:5.2f} x the floor")


async def _measure(port: int) -> dict[str, float]:
    costs = {}
    _, bare = await asyncio.get_running_loop().create_connection(_Bare, "127.0.0.1", port)
    costs["bare protocol"] = await _cost(bare.read)
    bare.transport.close()
    request = Request(1, 3, 0, REGISTERS)
    async with connect("127.0.0.1", port, TIMEOUT_S) as connection:
        costs["sluicegate"] = await _cost(lambda: connection.read(request, TIMEOUT_S))
    client = AsyncModbusTcpClient("127.0.0.1", port=port, timeout=TIMEOUT_S)
    await client.connect()
    costs["pymodbus"] = await _cost(
        lambda: client.read_holding_registers(0, count=REGISTERS, device_id=1)
    )
    client.close()
    return costs


async def _cost(read: Read) -> float:
    """Microseconds of CPU a read."""
    for _ in range(READS_FIRST):
        await read()
    began_s = time.process_time()
    for _ in range(READS):
        await read()
    return (time.process_time() - began_s) / READS * 1e6


class _Bare(asyncio.Protocol):
    """Sends a request and takes the next bytes, whatever they are, for its answer."""

    transport: asyncio.Transport
    _waiting: asyncio.Future[bytes]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment] - it is one for TCP

    async def read(self) -> bytes:
        self._waiting = asyncio.get_running_loop().create_future()
        self.transport.write(struct.pack(">HHHBBHH", 1, 0, 6, 1, 3, 0, REGISTERS))
        return await self._waiting

    def data_received(self, data: bytes) -> None:
        self._waiting.set_result(data)


class _Server(asyncio.Protocol):
    """Answers every request at once with the same registers."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment] - as above

    def data_received(self, data: bytes) -> None:
        head = struct.pack(">HHBBB", 0, 3 + 2 * REGISTERS, 1, 3, 2 * REGISTERS)
        self._transport.write(data[:2] + head + bytes(2 * REGISTERS))


def _serve(pipe: Pipe) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(_Server, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(run())


if __name__ == "__main__":
    main()
