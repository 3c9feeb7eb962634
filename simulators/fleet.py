"""A fleet: hundreds of Modbus TCP devices in one process, which know how late they are asked.

Each device is a listener of its own with holding registers from 0 on: register 0 counts its reads,
the others move, each at its own pace. To answer thousands of requests a second beside a gateway on
two cores, the registers of all devices are one array, and an answer is a slice of it: pymodbus's
server takes some hundred microseconds each, and would be what is measured.

Lateness is measured here, on the wire's side. A device that is asked every `period_s` is asked at
phase + k * period_s; the phase is the earliest there is near to where most requests lie in the
period, and what one comes later than that is its lateness. A k without one is a missing scan.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from simulators.faults import FloatArray

__all__ = [
    "Fleet",
    "FleetDevice",
    "FleetSettings",
    "lateness_ms",
    "run_fleet",
    "write_fleet_config",
]

_HEADER = struct.Struct(">HHHBB")  # transaction, protocol, length, unit id, function
_READ = struct.Struct(">HH")
_READ_HOLDING_REGISTERS = 3
_REGISTERS_MAX = 125  # of one read (Modbus Application Protocol 1.1b3, 6.3)
_ILLEGAL_FUNCTION, _ILLEGAL_ADDRESS, _ILLEGAL_VALUE = 1, 2, 3
_ADU_MAX = 260
# Of a period: what comes that much before its time is taken for early, and not for very late.
EARLY_SHARE = 0.2
_STEP_S = 0.1
# Ten hours at 10 Hz; a fleet that is asked for longer tells of the first of them.
_ARRIVALS_MAX = 360_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSettings:
    """A fleet."""

    devices: int = 100
    registers: int = 100
    period_s: float = 0.1  # at which each is to be read
    seed: int = 1
    host: str = "127.0.0.1"
    warm_s: float = 3.0  # of each device's requests, before lateness counts


class FleetDevice:
    """One device: a listener, and when it was asked."""

    def __init__(self, name: str, registers: bytearray) -> None:
        self.name = name
        self.port = 0
        self.connections_total = 0
        self.arrivals_s: list[float] = []  # of reads that were answered
        self._registers = registers  # as they go over the wire

    def answer(self, adu: bytes, at_s: float) -> bytes:
        """What is answered to one request; it is a read, or an exception."""
        transaction, _, _, unit_id, function = _HEADER.unpack_from(adu)
        if function != _READ_HOLDING_REGISTERS or len(adu) != _HEADER.size + _READ.size:
            return _HEADER.pack(transaction, 0, 3, unit_id, function | 0x80) + bytes(
                [_ILLEGAL_FUNCTION if function != _READ_HOLDING_REGISTERS else _ILLEGAL_VALUE]
            )
        address, quantity = _READ.unpack_from(adu, _HEADER.size)
        begin, end = 2 * address, 2 * (address + quantity)
        if not 1 <= quantity <= _REGISTERS_MAX or end > len(self._registers):
            code = _ILLEGAL_ADDRESS if 1 <= quantity <= _REGISTERS_MAX else _ILLEGAL_VALUE
            return _HEADER.pack(transaction, 0, 3, unit_id, function | 0x80) + bytes([code])
        if len(self.arrivals_s) < _ARRIVALS_MAX:
            self.arrivals_s.append(at_s)
        head = _HEADER.pack(transaction, 0, 3 + end - begin, unit_id, function)
        if address == 0:
            count = len(self.arrivals_s) & 0xFFFF
            self._registers[:2] = count.to_bytes(2)
        return head + bytes([end - begin]) + self._registers[begin:end]


class _Connection(asyncio.Protocol):
    def __init__(self, device: FleetDevice) -> None:
        self._device = device
        self._left = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self._device.connections_total += 1

    def data_received(self, data: bytes) -> None:
        at_s = time.monotonic()
        data = self._left + data
        while len(data) >= _HEADER.size:
            size = 6 + int.from_bytes(data[4:6])
            if not _HEADER.size <= size <= _ADU_MAX:
                self._transport.abort()  # nobody knows where the next request begins
                return
            if len(data) < size:
                break
            self._transport.write(self._device.answer(data[:size], at_s))
            data = data[size:]
        self._left = data


class Fleet:
    """All devices, and their registers."""

    def __init__(self, settings: FleetSettings) -> None:
        self.settings = settings
        count = settings.devices
        rng = np.random.default_rng(settings.seed)
        self._bytes = [bytearray(2 * settings.registers) for _ in range(count)]
        self.devices = [FleetDevice(f"device-{i + 1}", self._bytes[i]) for i in range(count)]
        self._pace = rng.uniform(0.02, 0.5, (count, settings.registers))
        self._phase = rng.uniform(0, 2 * np.pi, (count, settings.registers))
        self._began_s = time.monotonic()
        self.step()

    def step(self) -> None:
        """Move all registers but the first of each device."""
        t_s = time.monotonic() - self._began_s
        values = (30_000 + 20_000 * np.sin(self._phase + self._pace * t_s)).astype(">u2")
        for row, data in zip(values, self._bytes, strict=True):
            data[2:] = row.tobytes()[2:]

    def truth(self) -> dict[str, Any]:
        """How often and how late each was asked; JSON."""
        settings = self.settings
        late: list[FloatArray] = []
        missing = 0
        for device in self.devices:
            found, holes = lateness_ms(device.arrivals_s, settings.period_s, settings.warm_s)
            late.append(found)
            missing += holes
        joined = np.concatenate([*late, np.zeros(0)])
        quantiles = np.percentile(joined, (50, 99, 100)).round(3).tolist() if len(joined) else []
        return {
            "devices": settings.devices,
            "requests": sum(len(device.arrivals_s) for device in self.devices),
            "requests_judged": len(joined),
            "scans_missing": missing,
            # None of them where nobody asked.
            "lateness_ms": dict(zip(("p50", "p99", "max"), quantiles, strict=False)),
            "connections": sum(device.connections_total for device in self.devices),
        }


def lateness_ms(
    arrivals_s: list[float], period_s: float, warm_s: float = 0.0
) -> tuple[FloatArray, int]:
    """How late each request came, (n,) ms, and how many scans are missing between them.

    What came within `warm_s` of the first is left out, but tells the phase all the same.
    """
    times = np.array(arrivals_s)
    if not len(times):
        return np.zeros(0), 0
    turns = (times - times[0]) / period_s
    # The phase is the earliest there is near to where most are: what was held up for most of a
    # period must not pass for the earliest of all.
    most = np.angle(np.exp(2j * np.pi * turns).sum()) / (2 * np.pi)
    shift = (turns - most + 0.5) % 1 - 0.5
    phase = most + shift[shift >= -EARLY_SHARE].min()
    numbers = np.floor(turns - phase + EARLY_SHARE / 4).astype(np.int64)
    late = np.maximum(turns - phase - numbers, 0.0) * period_s * 1000
    judged = times - times[0] >= warm_s
    numbers = numbers[judged]
    missing = int(np.maximum(np.diff(numbers) - 1, 0).sum())
    return late[judged], missing


@asynccontextmanager
async def run_fleet(settings: FleetSettings) -> AsyncIterator[Fleet]:
    """The fleet, listening; raises OSError where it cannot."""
    fleet, loop = Fleet(settings), asyncio.get_running_loop()
    servers = []
    try:
        for device in fleet.devices:
            server = await loop.create_server(partial(_Connection, device), settings.host, 0)
            servers.append(server)
            device.port = server.sockets[0].getsockname()[1]
        moving = asyncio.create_task(_move(fleet), name="fleet")
        try:
            yield fleet
        finally:
            moving.cancel()
    finally:
        for server in servers:
            server.close()


async def _move(fleet: Fleet) -> None:
    while True:
        await asyncio.sleep(_STEP_S)
        fleet.step()


def write_fleet_config(folder: Path, fleet: Fleet) -> Path:
    """A gateway's configuration that reads all of it: a map for all, a source for each."""
    settings = fleet.settings
    folder.mkdir(parents=True, exist_ok=True)
    for device in fleet.devices:
        rows = ["asset,tag,table,address,data_type"]
        rows += [
            f"{device.name},r{address},holding_register,{address},uint16"
            for address in range(settings.registers)
        ]
        (folder / f"{device.name}.csv").write_text("\n".join(rows) + "\n")
    text = [
        "[gateway]",
        'name = "fleet"',
        f'data_dir = "{folder.resolve() / "data"}"',
        'http = { listen = "127.0.0.1:8080" }',
        '\n[[asset]]\nname = "device-*"\nclass = "device"',
    ]
    for device in fleet.devices:
        text += [
            f'\n[[source]]\nname = "{device.name}"\ntype = "modbus-tcp"',
            f'host = "{settings.host}"\nport = {device.port}\nmap = "{device.name}.csv"',
            f'scan_classes = {{ default = "{settings.period_s * 1000:g}ms" }}',
            f'response_timeout = "{settings.period_s * 1000:g}ms"',
        ]
    path = folder / "sluicegate.toml"
    path.write_text("\n".join(text) + "\n")
    return path
