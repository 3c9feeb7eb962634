"""A recording as a device: the values of a CSV, row after row, in the registers of a map.

The recording is wide: `time` (seconds, or ISO 8601), then a column `<asset>.<tag>` each, as a
gateway's `query --format csv` is turned by any spreadsheet. The map is the one the gateway reads:
asset, tag, unit_id, table, address, data_type, byte_order, scale, offset. An empty cell leaves the
register as it was. pymodbus answers; the encoding is `struct`'s, and none of the gateway's.
"""

from __future__ import annotations

import asyncio
import csv
import struct
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from simulators.pace import beside

__all__ = ["Recorded", "ReplayError", "read_recording", "run_replay"]

_FORMATS = {
    "int16": ">h", "uint16": ">H", "int32": ">i", "uint32": ">I", "int64": ">q", "uint64": ">Q",
    "float32": ">f", "float64": ">d",
}  # fmt: skip
_FUNCTIONS = {1: "coil", 2: "discrete_input", 3: "holding_register", 4: "input_register"}
_BITS = ("coil", "discrete_input")
_ORDERS = ("ABCD", "CDAB", "BADC", "DCBA")


class ReplayError(ValueError):
    """A recording or a map that cannot be played; the message names the place."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """The rows of a recording, ready for the registers."""

    times_s: list[float]  # from the first row on
    # A row each: (unit id, table) -> address -> register or bit
    rows: list[dict[tuple[int, str], dict[int, int]]]

    @property
    def lasts_s(self) -> float:
        """From the first row to as long after the last one as rows are apart."""
        count = len(self.times_s)
        return self.times_s[-1] * count / (count - 1) if count > 1 else 1.0


@dataclass(frozen=True, slots=True)
class _Place:
    unit_id: int
    table: str
    address: int
    data_type: str
    byte_order: str
    scale: float
    offset: float

    def encode(self, value: float) -> dict[int, int]:
        """Registers by address, or one bit."""
        if self.table in _BITS:
            return {self.address: int(value != 0)}
        raw = (value - self.offset) / self.scale
        form = _FORMATS[self.data_type]
        try:
            data = struct.pack(form, raw if form[1] in "fd" else round(raw))
        except (struct.error, OverflowError) as error:
            what = f"{value!r} of {self.table}:{self.address} is beyond what {self.data_type} holds"
            raise ValueError(what) from error
        words = [data[i : i + 2] for i in range(0, len(data), 2)]
        if self.byte_order in ("CDAB", "DCBA"):
            words.reverse()
        if self.byte_order in ("BADC", "DCBA"):
            words = [word[::-1] for word in words]
        return {self.address + i: int.from_bytes(word) for i, word in enumerate(words)}


def read_recording(recording: Path, register_map: Path) -> Recorded:
    """Read and encode all of it; raises ReplayError."""
    places = _read_map(register_map)
    times_s: list[float] = []
    rows: list[dict[tuple[int, str], dict[int, int]]] = []
    with recording.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = [name for name in reader.fieldnames or () if name in places]
        if "time" not in (reader.fieldnames or ()) or not columns:
            raise ReplayError(
                f"{recording}: it needs a column time, and one <asset>.<tag> of the map at least"
            )
        for number, cells in enumerate(reader, start=2):
            row: defaultdict[tuple[int, str], dict[int, int]] = defaultdict(dict)
            try:
                times_s.append(_seconds(cells["time"]))
                for name in columns:
                    if cells[name]:
                        place = places[name]
                        row[place.unit_id, place.table] |= place.encode(_number(cells[name]))
            except (ValueError, TypeError, OverflowError) as error:
                raise ReplayError(f"{recording}: row {number}: {error}") from error
            if len(times_s) > 1 and times_s[-1] <= times_s[-2]:
                raise ReplayError(f"{recording}: row {number}: time does not rise")
            rows.append(dict(row))
    if not rows:
        raise ReplayError(f"{recording}: it has no rows")
    return Recorded([at - times_s[0] for at in times_s], rows)


def _read_map(path: Path) -> dict[str, _Place]:
    places: dict[str, _Place] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        for number, cells in enumerate(csv.DictReader(file), start=2):
            given = {key: (text or "").strip() for key, text in cells.items() if key}
            try:
                table, address = _table_and_address(given)
                place = _Place(
                    int(given.get("unit_id") or 1),
                    table,
                    address,
                    given.get("data_type") or "uint16",
                    given.get("byte_order") or "ABCD",
                    float(given.get("scale") or 1),
                    float(given.get("offset") or 0),
                )
                is_known = place.table in _BITS or place.data_type in _FORMATS
                if not is_known or place.table not in _FUNCTIONS.values():
                    raise ReplayError(f"{place.table} {place.data_type} is not played")
                if place.byte_order not in _ORDERS or place.scale == 0:
                    raise ReplayError("its byte_order or scale is none")
                places[f"{given['asset']}.{given['tag']}"] = place
            except KeyError as error:
                raise ReplayError(f"{path}: row {number}: it has no {error}") from error
            except ValueError as error:
                raise ReplayError(f"{path}: row {number}: {error}") from error
    return places


def _table_and_address(given: dict[str, str]) -> tuple[str, int]:
    """Also of a reference, 40001 or 400001 (Application Protocol, 4.4)."""
    reference = given.get("reference", "")
    if not reference:
        return given.get("table") or "holding_register", int(given["address"])
    tables = {"0": "coil", "1": "discrete_input", "3": "input_register", "4": "holding_register"}
    if len(reference) not in (5, 6) or not reference.isdecimal() or reference[0] not in tables:
        raise ValueError(f"reference {reference} is none")
    return tables[reference[0]], int(reference[1:]) - 1


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _number(text: str) -> float:
    return float({"true": "1", "false": "0"}.get(text.lower(), text))


class _Player:
    """What is in the registers now."""

    def __init__(self, recorded: Recorded) -> None:
        self.recorded = recorded
        self.row = -1
        self.laps = 0
        self.ended = asyncio.Event()
        self._now: defaultdict[tuple[int, str], dict[int, int]] = defaultdict(dict)
        spans: defaultdict[tuple[int, str], int] = defaultdict(int)
        for row in recorded.rows:
            for place, values in row.items():
                spans[place] = max(spans[place], max(values) + 1)
        self.spans = dict(spans)
        self.show(0)

    def show(self, number: int) -> None:
        for place, values in self.recorded.rows[number].items():
            self._now[place] |= values
        self.row = number

    def devices(self) -> list[SimDevice]:
        return [self._device(unit_id) for unit_id in sorted({unit for unit, _ in self.spans})]

    def _device(self, unit_id: int) -> SimDevice:
        def table(name: str) -> list[SimData]:
            count = max(1, self.spans.get((unit_id, name), 1))
            if name in _BITS:
                bits = 16 * -(-count // 16)
                return [SimData(0, count=bits, values=False, datatype=DataType.BITS)]
            return [SimData(0, count=count, datatype=DataType.REGISTERS)]

        async def read(
            function: int,
            _start: int,
            address: int,
            count: int,
            registers: list[int],
            written: list[int] | list[bool] | None,
        ) -> ExcCodes | None:
            if written is not None or function not in _FUNCTIONS:
                return ExcCodes.ILLEGAL_FUNCTION
            name = _FUNCTIONS[function]
            known = self._now[unit_id, name]
            if name in _BITS:  # bits come 16 a word, the first one lowest
                for word in range(len(registers)):
                    bits = (known.get(16 * word + i, 0) << i for i in range(16))
                    registers[word] = sum(bits)
            else:
                for place in range(address, address + count):
                    registers[place] = known.get(place, 0)
            return None

        coils, inputs, holding, registers = (table(name) for name in _FUNCTIONS.values())
        simdata = (coils, inputs, holding, registers)
        return SimDevice(id=unit_id, simdata=simdata, action=read)

    async def play(self, speed: float, *, once: bool) -> None:
        """Row after row, each at its time; then from the beginning, or no further."""
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            for number, at_s in enumerate(self.recorded.times_s):
                await asyncio.sleep(began_s + at_s / speed - loop.time())
                self.show(number)
            self.laps += 1
            if once:
                self.ended.set()
                return
            await asyncio.sleep(began_s + self.recorded.lasts_s / speed - loop.time())


@asynccontextmanager
async def run_replay(
    recorded: Recorded, *, host: str = "127.0.0.1", port: int = 0, speed: float = 1.0, once: bool
) -> AsyncIterator[tuple[int, _Player]]:
    """Answer until the block ends; the port, and who plays."""
    player = _Player(recorded)
    server = ModbusTcpServer(player.devices(), address=(host, port))
    await server.listen()
    try:
        transport: Any = server.transport  # asyncio's Server
        bound: int = transport.sockets[0].getsockname()[1]
        async with beside(player.play(speed, once=once), "replay"):
            yield bound, player
    finally:
        await server.shutdown()  # type: ignore[no-untyped-call]  # pymodbus has none there
