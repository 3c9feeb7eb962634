"""What a serial Modbus read of 100 registers costs: the leanest client, ours, and pymodbus's.

    python -m bench.modbus_floor [--rounds 15] [--reads 300] [--loop uvloop] [--cores apart]

One server, in a process of its own, that sends prepared bytes. The clients take turns within one
run, so that all see the same machine; each read waits for its answer before the next. What is
counted is the CPU time of the client's process, user and system; the median of the rounds.

Where the two processes run decides more than what they do: on one core (`--cores together`) the
client never sleeps, and a bare read takes a sixth of what it takes on two (`apart`), where it
sleeps and is woken. A gateway sleeps until its device answers, so `apart` is what it pays, and
`together` shows best what each client adds. Both are pinned, because the scheduler else mixes them.

The leanest client is a bare asyncio protocol: it checks nothing, decodes nothing and has no
deadline. It is what asyncio itself costs, and so what the others are held against.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import cast

import uvloop
from pymodbus.client import AsyncModbusTcpClient

from gateway.sources.modbus.client import connect
from gateway.sources.modbus.config import ModbusTcpSettings, RegisterRow
from gateway.sources.modbus.decode import BlockDecoder
from gateway.sources.modbus.peer import Peer
from gateway.sources.modbus.plan import plan

REGISTERS = 100
WARM_READS = 200
TIMEOUT_S = 5.0
HOST = "127.0.0.1"

Read = Callable[[], Awaitable[object]]


class Server(asyncio.Protocol):
    """Answers each request with the same registers."""

    _block = struct.pack(f">{REGISTERS}H", *range(REGISTERS))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        length, count = 3 + len(self._block), len(self._block)
        head = struct.pack(">HHBBB", 0, length, data[6], data[7], count)
        self._transport.write(data[:2] + head + self._block)


class Bare(asyncio.Protocol):
    """A request out, the bytes that come next back."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[bytes]
        self._request = struct.pack(">HHHBBHH", 1, 0, 6, 1, 3, 0, REGISTERS)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._answer.set_result(data)

    async def read(self) -> bytes:
        self._answer = self._loop.create_future()
        self._transport.write(self._request)
        return await self._answer

    def close(self) -> None:
        self._transport.abort()


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Server, HOST, 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)  # until the parent is done, or gone


async def cpu_us(read: Read, reads: int) -> float:
    """CPU microseconds of this process a read."""
    began_ns = time.process_time_ns()
    for _ in range(reads):
        await read()
    return (time.process_time_ns() - began_ns) / reads / 1000


async def measure(port: int, rounds: int, reads: int) -> dict[str, list[float]]:
    rows = [
        RegisterRow(asset="a", tag=f"t{address}", address=address) for address in range(REGISTERS)
    ]
    facts = {"type": "modbus-tcp", "name": "floor", "host": HOST, "port": port, "map": "floor.csv"}
    settings = ModbusTcpSettings.model_validate(facts)
    [scan] = plan(rows, settings)
    [block] = scan.blocks
    decoder = BlockDecoder(block, rows)
    _, bare = await asyncio.get_running_loop().create_connection(Bare, HOST, port)
    peer = AsyncModbusTcpClient(HOST, port=port, timeout=TIMEOUT_S)
    assert await peer.connect()
    async with connect(settings, Peer()) as connection:

        async def ours() -> bytes:
            return await connection.read(block.request, TIMEOUT_S)

        async def ours_decoded() -> object:
            return decoder.decode(await connection.read(block.request, TIMEOUT_S))

        async def pymodbus() -> list[int]:
            answer = await peer.read_holding_registers(0, count=REGISTERS, device_id=1)
            return list(answer.registers)

        # All three read the same, or the comparison means nothing.
        values = decoder.decode(await ours()).values.tolist()
        assert values == list(range(REGISTERS)) == await pymodbus()
        assert (await bare.read())[9:] == await ours()
        clients: dict[str, Read] = {
            "bare asyncio protocol": bare.read,
            "ours": ours,
            "ours, decoded to columns": ours_decoded,
            "pymodbus": pymodbus,
        }
        for read in clients.values():
            await cpu_us(read, WARM_READS)
        found: dict[str, list[float]] = {name: [] for name in clients}
        for _ in range(rounds):
            for name, read in clients.items():
                found[name].append(await cpu_us(read, reads))
    peer.close()
    bare.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--reads", type=int, default=300, help="a client and round")
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop")
    parser.add_argument("--cores", choices=["apart", "together"], default="apart")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if args.cores == "apart" and len(cores) < 2:
        parser.error("there is one core only: use --cores together")
    os.sched_setaffinity(0, {cores[-1] if args.serve and args.cores == "apart" else cores[0]})
    if args.serve:
        uvloop.run(serve())
        return
    command = [sys.executable, "-m", "bench.modbus_floor", "--serve", "--cores", args.cores]
    pipe = subprocess.PIPE
    everywhere = set(cores)  # a child inherits the one core its parent is pinned to
    with subprocess.Popen(
        command,
        stdin=pipe,
        stdout=pipe,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, everywhere),  # noqa: PLW1509 - no threads yet
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            port = int(server.stdout.readline())
            run = uvloop.run if args.loop == "uvloop" else asyncio.run
            found = run(measure(port, args.rounds, args.reads))
        finally:
            server.stdin.close()
    floor = median(found["bare asyncio protocol"])
    print(f"CPU us a serial read of {REGISTERS} registers, {args.loop}, {args.cores}")
    for name, spent in found.items():
        low, high = min(spent), max(spent)
        ratio = median(spent) / floor
        print(f"  {name:26s} {median(spent):6.1f}   x{ratio:.2f}   ({low:.1f} to {high:.1f})")


if __name__ == "__main__":
    main()
