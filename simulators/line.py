"""The pump line on the wire: several Modbus TCP servers, each a PLC with some pumps.

pymodbus's server speaks the protocol and asks us, a read at a time, for the registers it is about
to send; we hand it a slice of what the last tick wrote. Each answer is counted, and input
register 0 of each PLC (`scan_count`, uint32) counts its own reads, so that every scan carries a
number of its own, and a database can be held against what was served.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pymodbus.constants import ExcCodes
from pymodbus.exceptions import NoSuchIdException
from pymodbus.framer import FramerType
from pymodbus.server import ModbusTcpServer
from pymodbus.server.requesthandler import ServerRequestHandler
from pymodbus.simulator import DataType, SimData, SimDevice

from simulators.pace import Pace, beside
from simulators.physics import Pumps
from simulators.registers import (
    MODEL_NAME,
    PLC_UNIT,
    PUMP_TAGS,
    PUMP_UNIT_FIRST,
    RegisterRow,
    Registers,
    Table,
    values_by_tag,
)
from simulators.serial_line import serial_line

__all__ = ["Line", "LineSettings", "Plc", "run_line"]

_TABLES: dict[int, Table] = {
    1: "coil",
    2: "discrete_input",
    3: "holding_register",
    4: "input_register",
}
_FRAMERS = {"tcp": FramerType.SOCKET, "rtu": FramerType.RTU, "ascii": FramerType.ASCII}
# A header says how long its request is; Modbus allows 254 bytes after the length (MBAP, 3.1.3).
_ADU_LENGTH_MAX = 254
# Requests that wait in one connection: more than any client keeps in flight.
_WAITING_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LineSettings:
    """A pump line."""

    servers: int = 4
    pumps_per_server: int = 2
    tags_per_server: int = 0  # not 0: exactly so many, on as many pumps as that takes
    units: Literal["shared", "each"] = "each"
    seed: int = 1
    host: str = "127.0.0.1"
    port: int = 0  # of the first server, the next ones follow; 0 = free ones
    speed: float = 1.0  # plant seconds a second; 0 stands still
    steady: bool = False  # no stops and change-overs
    framing: Literal["tcp", "rtu", "ascii"] = "tcp"  # the others on a terminal each
    step_s: float = 0.2  # plant time

    @property
    def pumps(self) -> int:
        """Of one server."""
        if self.tags_per_server:
            return max(1, -(-(self.tags_per_server - 1) // len(PUMP_TAGS)))
        return self.pumps_per_server


class Plc:
    """One server, and what it has answered."""

    def __init__(self, line: Line, index: int) -> None:
        self.name = f"plc-{index + 1}"
        self.host = line.settings.host
        self.port = 0
        self.device = ""  # the terminal that leads here, with a serial framing
        self.scan_count = 0
        self.reads: Counter[tuple[int, Table, int, int]] = Counter()  # unit, table, address, count
        self.connections = 0
        self._line = line
        self._index = index
        self._server: ModbusTcpServer | None = None

    async def start(self, port: int) -> None:
        """Listen; raises OSError when the port is taken."""
        units = [self._device(unit) for unit in self._line.registers.unit_ids()]
        framing = self._line.settings.framing
        server = _Server if framing == "tcp" else ModbusTcpServer
        self._server = server(
            units,
            framer=_FRAMERS[framing],
            address=(self.host, port),
            ignore_missing_devices=True,
            trace_connect=self._count_connection,
        )
        try:
            await self._server.serve_forever(background=True)
        except RuntimeError as error:
            raise OSError(f"{self.name} cannot listen on {self.host}:{port}") from error
        sockets = self._server.transport.sockets  # type: ignore[attr-defined]  # asyncio's Server
        self.port = sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the listener and every connection."""
        if self._server is not None:
            await self._server.shutdown()  # type: ignore[no-untyped-call]  # pymodbus is half typed
            self._server = None

    def truth(self) -> dict[str, Any]:
        """What was served."""
        reads = [
            {"unit_id": unit, "table": table, "address": address, "count": count, "answered": n}
            for (unit, table, address, count), n in sorted(self.reads.items())
        ]
        return {
            "name": self.name,
            "host": self.host,
            "port": self.port,
            "connections": self.connections,
            "requests_answered": sum(self.reads.values()),
            "scan_count": self.scan_count,
            "reads": reads,
        }

    def _count_connection(self, is_up: bool) -> None:
        self.connections += 1 if is_up else -1

    def _device(self, unit_id: int) -> SimDevice:
        """A unit as pymodbus knows it; it refuses a table without a single word."""
        block = self._line.registers.block
        sizes = {table: len(block(self._index, unit_id, table)) for table in _TABLES.values()}

        def bits(table: Table) -> list[SimData]:
            count = 16 * max(1, -(-sizes[table] // 16))
            return [SimData(0, count=count, values=False, datatype=DataType.BITS)]

        def words(table: Table) -> list[SimData]:
            return [SimData(0, count=max(1, sizes[table]), datatype=DataType.REGISTERS)]

        return SimDevice(
            id=unit_id,
            simdata=(
                bits("coil"),
                bits("discrete_input"),
                words("holding_register"),
                words("input_register"),
            ),
            action=self._reader(unit_id),
        )

    def _reader(self, unit_id: int) -> Callable[..., Coroutine[None, None, ExcCodes | None]]:
        """What pymodbus calls before each answer, to bring its registers up to date."""
        names = [self.name]
        if unit_id >= PUMP_UNIT_FIRST:
            first = self._index * self._line.settings.pumps
            names.append(self._line.pumps.names[first + unit_id - PUMP_UNIT_FIRST])
        elif self._line.settings.units == "shared":
            first = self._index * self._line.settings.pumps
            names += self._line.pumps.names[first : first + self._line.settings.pumps]
        board = self._line.pumps.board
        blocks = {
            table: self._line.registers.block(self._index, unit_id, table)
            for table in _TABLES.values()
        }

        async def read(
            function: int,
            _start: int,
            address: int,
            count: int,
            registers: list[int],
            written: list[int] | list[bool] | None,
        ) -> ExcCodes | None:
            if any(board.is_offline(name) for name in names):
                # With ignore_missing_devices no answer is sent: the client waits in vain.
                raise NoSuchIdException(f"unit {unit_id} is offline")
            if written is not None or function not in _TABLES:
                return ExcCodes.ILLEGAL_FUNCTION
            table = _TABLES[function]
            block = blocks[table]
            if table in ("coil", "discrete_input"):  # bits come 16 a word, the first one lowest
                padded = np.zeros(16 * len(registers), np.bool_)
                padded[: len(block)] = block
                registers[:] = np.packbits(padded, bitorder="little").view("<u2").tolist()
            else:
                if table == "input_register" and unit_id == PLC_UNIT and address == 0:
                    self.scan_count += 1
                    self._line.registers.count_scan(self._index, self.scan_count)
                registers[address : address + count] = block[address : address + count].tolist()
            self.reads[unit_id, table, address, count] += 1
            return None

        return read


class Line:
    """The pumps and their PLCs."""

    def __init__(self, settings: LineSettings) -> None:
        self.settings = settings
        self.registers = Registers(
            settings.servers,
            settings.pumps,
            units=settings.units,
            tags_per_server=settings.tags_per_server,
        )
        devices = [f"plc-{k + 1}" for k in range(settings.servers)]
        self.pumps = Pumps(
            settings.servers * settings.pumps,
            settings.seed,
            step_s=settings.step_s,
            devices=devices,
            steady=settings.steady,
        )
        self.plcs = [Plc(self, index) for index in range(settings.servers)]
        self._advance(1)

    def rows(self, server: int) -> list[RegisterRow]:
        """The register map of one server."""
        return self.registers.rows(server)

    def values(self) -> dict[str, float | int | str | bool]:
        """`asset.tag` -> what the registers say now, unrounded, in engineering units."""
        found: dict[str, float | int | str | bool] = {}
        columns = {tag: column.tolist() for tag, column in values_by_tag(self.pumps).items()}
        for row, asset in enumerate(self.pumps.names):
            found |= {f"{asset}.{tag}": column[row] for tag, column in columns.items()}
            found[f"{asset}.model"] = MODEL_NAME
        return found

    def truth(self) -> dict[str, Any]:
        """What was served, and what is wrong with the plant; JSON."""
        return {
            "plant": "line",
            "seed": self.settings.seed,
            "steps": self.pumps.steps,
            "plant_s": round(self.pumps.now_s, 3),
            "tags": sum(len(self.rows(server)) for server in range(self.settings.servers)),
            "requests_answered": sum(sum(plc.reads.values()) for plc in self.plcs),
            "servers": [plc.truth() for plc in self.plcs],
            "faults": self.pumps.board.active(),
        }

    async def tick(self) -> None:
        """Let the plant run for ever, at its speed."""
        async for steps in Pace(self.settings.step_s, self.settings.speed):
            self._advance(steps)

    def _advance(self, steps: int) -> None:
        for _ in range(steps):
            self.pumps.step()
        self.registers.update(self.pumps)


@asynccontextmanager
async def run_line(settings: LineSettings) -> AsyncIterator[Line]:
    """A line that runs and answers until the block is left."""
    line = Line(settings)
    async with beside(line.tick(), "line:tick"), AsyncExitStack() as lines:
        try:
            for index, plc in enumerate(line.plcs):
                await plc.start(settings.port + index if settings.port else 0)
                if settings.framing != "tcp":
                    plc.device = await lines.enter_async_context(serial_line(plc.host, plc.port))
            yield line
        finally:
            for plc in line.plcs:
                await plc.stop()


class _Server(ModbusTcpServer):
    def callback_new_connection(self) -> ServerRequestHandler:
        return _Connection(self, self.trace_packet, self.trace_pdu, self.trace_connect)


class _Connection(ServerRequestHandler):
    """One request after the other.

    pymodbus forgets requests that arrive while it works on one; real controllers queue them.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)  # type: ignore[no-untyped-call]  # pymodbus is half typed
        self._waiting = b""
        self._answering: asyncio.Task[None] | None = None

    def data_received(self, data: bytes) -> None:
        self._waiting += data
        if len(self._waiting) > _WAITING_BYTES_MAX:
            self.close()
        elif self._answering is None:
            self._take_next()

    def handle_later(self) -> None:
        self._answering = self.loop.create_task(self._answer(), name="line:answer")

    async def _answer(self) -> None:
        try:
            await self.handle_request()  # type: ignore[no-untyped-call]  # pymodbus is half typed
        finally:
            self._answering = None
            self._take_next()

    def _take_next(self) -> None:
        while len(self._waiting) >= 8 and self.transport:
            length = int.from_bytes(self._waiting[4:6], "big")
            if not 2 <= length <= _ADU_LENGTH_MAX:
                self.close()
                return
            adu, rest = self._waiting[: 6 + length], self._waiting[6 + length :]
            if len(adu) < 6 + length:
                return
            self._waiting = rest
            self.recv_buffer = b""
            super().data_received(adu)
            if self.last_pdu is not None:
                return  # handle_later comes next, and then the request after this one
