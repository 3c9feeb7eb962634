"""A hundred Modbus TCP devices at 10 Hz: how late each is asked, and what a request costs.

    python -m bench.modbus_fleet [--devices 100] [--registers 100] [--period 0.1] [--seconds 20]

The simulated fleet (`sluicegate simulate fleet`) has one core, who reads it the other; lateness is
measured by the fleet, on the wire's side. Four read it, one after the other:

    timers    a timer a device that writes a prepared request; nobody looks at the answers. What
              uvloop and the kernel cost, and no client at all
    client    the leanest client: a task a device that sleeps until its time, writes a prepared
              request and awaits the bytes that come; nothing is checked or decoded, no deadline
    sources   the gateway's Modbus sources alone: planned, checked, decoded into frames, which are
              counted and dropped
    gateway   `sluicegate run`: stages, spool and page with it

CPU is user and system time of the reader's process, over the seconds that follow a warm-up.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import re
import struct
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import uvloop

from gateway.clock import SystemClock
from gateway.config.load import load
from gateway.frame import Arrival
from gateway.pipeline import Gateway
from gateway.sources.supervise import supervise
from simulators.fleet import FleetSettings
from tests.rig import Process, free_port, sluicegate

__all__ = ["FleetResult", "measure"]

WARM_S = 5.0
READERS = ("timers", "client", "sources", "gateway")


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetResult:
    """What one reader cost, and how late it was."""

    requests: int  # in the seconds that were measured
    cpu_us: float  # of one request
    late_ms: dict[str, float]  # p50, p99, max; by the devices
    scans_missing: int  # by the devices
    overruns: int  # by the gateway itself; 0 where nobody counts


def measure(reader: str, settings: FleetSettings, seconds: float, folder: Path) -> FleetResult:
    """Have a fleet read for so long."""
    cores = sorted(os.sched_getaffinity(0))
    options = ["--devices", str(settings.devices), "--registers", str(settings.registers)]
    options += ["--period", str(settings.period_s), "--write-config", str(folder)]
    with sluicegate("fleet", ["simulate", "fleet", *options], folder) as fleet:
        os.sched_setaffinity(fleet.pid, {cores[-1]})
        ready = json.loads(fleet.wait_for('"ready"'))
        config = Path(ready["config"])
        port = free_port()
        config.write_text(config.read_text().replace("127.0.0.1:8080", f"127.0.0.1:{port}"))
        arguments = ["run", str(config)]
        if reader != "gateway":
            ports = ",".join(map(str, ready["ports"]))
            arguments = [reader, str(config), ports, str(settings.period_s)]
            arguments += [str(settings.registers)]
        module = "gateway.cli.main" if reader == "gateway" else "bench.modbus_fleet"
        process = Process(reader, [sys.executable, "-m", module, *arguments], folder)
        try:
            os.sched_setaffinity(process.pid, {cores[0]})
            time.sleep(WARM_S)
            began = _cpu_s(process.pid)
            began_s = time.monotonic()
            time.sleep(seconds)
            spent = _cpu_s(process.pid) - began
            took_s = time.monotonic() - began_s
            overruns = _overruns(port) if reader == "gateway" else 0
        finally:
            process.stop()
        fleet.stop()
        truth = json.loads(
            fleet.wait_for('"truth"') if fleet.process.poll() is None else _last(fleet)
        )
    requests = round(settings.devices / settings.period_s * took_s)
    return FleetResult(
        requests=requests,
        cpu_us=spent / requests * 1e6,
        late_ms=truth["lateness_ms"],
        scans_missing=truth["scans_missing"],
        overruns=overruns,
    )


def _cpu_s(pid: int) -> float:
    """Of all threads, to the nanosecond; `times` counts in hundredths of a second."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def _last(process: Process) -> str:
    return process.output().strip().splitlines()[-1]


def _overruns(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    found = re.findall(r"^sluicegate_source_scan_overruns_total\{.*\} (\S+)$", text, re.MULTILINE)
    assert found, "the gateway has no metric of its overruns"
    return round(sum(map(float, found)))


class Bare(asyncio.Protocol):
    """Asks at its times, and lets go of what is answered."""

    def __init__(self, first_s: float, period_s: float, registers: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._next_s, self._period_s = first_s, period_s
        self._request = struct.pack(">HHHBBHH", 1, 0, 6, 1, 3, 0, registers)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._loop.call_at(self._next_s, self._ask)

    def _ask(self) -> None:
        self._transport.write(self._request)
        self._next_s += self._period_s
        self._loop.call_at(self._next_s, self._ask)


async def timers(ports: list[int], period_s: float, registers: int) -> None:
    loop = asyncio.get_running_loop()
    first_s = loop.time() + 1
    for number, port in enumerate(ports):
        at_s = first_s + number * period_s / len(ports)
        await loop.create_connection(
            lambda at_s=at_s: Bare(at_s, period_s, registers), "127.0.0.1", port
        )
    await asyncio.Event().wait()


class Awaited(asyncio.Protocol):
    """A request out, the bytes that come next back."""

    def __init__(self, registers: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[bytes]
        self._request = struct.pack(">HHHBBHH", 1, 0, 6, 1, 3, 0, registers)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._answer.set_result(data)

    async def poll(self, next_s: float, period_s: float) -> None:
        loop = self._loop
        while True:
            await asyncio.sleep(next_s - loop.time())
            self._answer = loop.create_future()
            self._transport.write(self._request)
            await self._answer
            next_s += period_s


async def client(ports: list[int], period_s: float, registers: int) -> None:
    loop = asyncio.get_running_loop()
    first_s = loop.time() + 1
    async with asyncio.TaskGroup() as tasks:
        for number, port in enumerate(ports):
            _, protocol = await loop.create_connection(
                partial(Awaited, registers), "127.0.0.1", port
            )
            at_s = first_s + number * period_s / len(ports)
            tasks.create_task(protocol.poll(at_s, period_s))


async def sources(config: Path) -> None:
    clock = SystemClock()
    gateway = Gateway(load(config), clock)

    async def drop(arrival: Arrival) -> None:
        del arrival

    gc.collect()
    gc.freeze()  # as `sluicegate run` does
    async with asyncio.TaskGroup() as tasks:
        for source in gateway.sources:
            tasks.create_task(supervise(source, drop, clock))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--registers", type=int, default=100)
    parser.add_argument("--period", type=float, default=0.1)
    parser.add_argument("--seconds", type=float, default=20.0)
    args = parser.parse_args(argv)
    settings = FleetSettings(devices=args.devices, registers=args.registers, period_s=args.period)
    print(
        f"{args.devices} devices x {args.registers} registers every {args.period * 1000:g} ms:"
        f" {args.devices / args.period:,.0f} requests/s for {args.seconds:g} s"
    )
    least = {}
    for reader in READERS:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(reader, settings, args.seconds, Path(folder))
        least[reader] = found.cpu_us
        against = found.cpu_us / least.get("client", found.cpu_us)
        late = ", ".join(f"{name} {ms:.1f}" for name, ms in found.late_ms.items())
        print(
            f"{reader:8} {found.cpu_us:6.1f} us CPU a request  x{against:.2f}"
            f"   late, ms: {late}   missing {found.scans_missing}, overruns {found.overruns}",
            flush=True,
        )


def _read(argv: list[str]) -> None:
    """One of the readers, as a process of its own."""
    reader, config, ports, period_s, registers = argv
    if reader == "sources":
        uvloop.run(sources(Path(config)))
        return
    read = timers if reader == "timers" else client
    uvloop.run(read(list(map(int, ports.split(","))), float(period_s), int(registers)))


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in READERS:
        _read(sys.argv[1:])
    else:
        main()
