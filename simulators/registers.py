"""Pumps as Modbus registers: where each tag is, how its value becomes words, and the map of it.

The registers of all servers are one array a table, (servers, registers), written column by
column once a tick: the work does not grow with the number of servers. A server answers from its
row. Words are made here with numpy, by no code of the gateway.

Addresses are zero-based. Per server (a PLC) there is unit 1; with `units="shared"` every pump is
a block of its registers, with `units="each"` pump k is unit 11 + k, as behind a Modbus gateway.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from simulators.physics import RANGES, Pumps

__all__ = [
    "MODEL_NAME",
    "PLC_UNIT",
    "PUMP_TAGS",
    "PUMP_UNIT_FIRST",
    "RegisterRow",
    "Registers",
    "Table",
    "TagSpec",
    "to_words",
    "write_map",
]

Table: TypeAlias = Literal["coil", "discrete_input", "input_register", "holding_register"]
Words: TypeAlias = npt.NDArray[np.uint16]

PLC_UNIT = 1
PUMP_UNIT_FIRST = 11
MODEL_NAME = "NB 32-160/177"
_SCAN_COUNT_WORDS = 2  # input registers 0 and 1 of each PLC


@dataclass(frozen=True, slots=True, kw_only=True)
class TagSpec:
    """One tag of a pump; `place` is its address within the pump's block of the table."""

    tag: str
    table: Table
    place: int
    data_type: str
    length: int = 0
    byte_order: str = "ABCD"
    scale: float = 1.0
    offset: float = 0.0
    eng_unit: str = ""
    is_slow: bool = False
    deadband: float = 0.0
    range: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterRow:
    """One row of a register map, columns in the map's order."""

    asset: str
    tag: str
    unit_id: int
    table: Table
    address: int
    data_type: str
    length: int | str = ""
    byte_order: str = "ABCD"
    scale: float = 1.0
    offset: float = 0.0
    eng_unit: str = ""
    scan_class: str = "default"
    deadband: float = 0.0
    low: float | str = ""
    high: float | str = ""


def _measured(
    tag: str, place: int, data_type: str, eng_unit: str, *, scale: float = 1.0, order: str = "ABCD"
) -> TagSpec:
    return TagSpec(
        tag=tag,
        table="input_register",
        place=place,
        data_type=data_type,
        byte_order=order,
        scale=scale,
        eng_unit=eng_unit,
        range=RANGES[tag],
    )


# Types and byte orders are as mixed as on a real controller: words of floats are swapped.
PUMP_TAGS = (
    _measured("speed", 0, "uint16", "rpm"),
    _measured("motor_current", 1, "uint16", "A", scale=0.01),
    _measured("motor_temperature", 2, "int16", "degC", scale=0.1),
    _measured("bearing_temperature", 3, "int16", "degC", scale=0.1),
    _measured("valve_position", 4, "uint16", "%", scale=0.1),
    _measured("tank_level", 5, "uint16", "%", scale=0.1),
    _measured("flow", 8, "float32", "m3/h", order="CDAB"),
    _measured("suction_pressure", 10, "float32", "bar", order="CDAB"),
    _measured("discharge_pressure", 12, "float32", "bar", order="CDAB"),
    _measured("vibration", 14, "float32", "mm/s", order="CDAB"),
    TagSpec(
        tag="ambient_temperature",
        table="input_register",
        place=6,
        data_type="uint16",
        scale=0.1,
        offset=-40.0,
        eng_unit="degC",
        deadband=0.1,
        range=(-40.0, 85.0),
    ),
    TagSpec(tag="starts", table="input_register", place=7, data_type="uint16"),
    TagSpec(
        tag="running_hours",
        table="input_register",
        place=16,
        data_type="uint32",
        scale=0.01,
        eng_unit="h",
    ),
    TagSpec(tag="bottles", table="input_register", place=18, data_type="uint32", byte_order="CDAB"),
    # Millijoules of twenty years: an integer that no float64 holds exactly.
    TagSpec(tag="energy", table="input_register", place=20, data_type="uint64", eng_unit="mJ"),
    TagSpec(tag="running", table="discrete_input", place=0, data_type="bool"),
    TagSpec(tag="alarm", table="discrete_input", place=1, data_type="bool"),
    TagSpec(tag="remote_enabled", table="coil", place=0, data_type="bool", is_slow=True),
    TagSpec(
        tag="set_point",
        table="holding_register",
        place=0,
        data_type="uint16",
        scale=0.1,
        eng_unit="%",
        is_slow=True,
        range=(0.0, 110.0),
    ),
    TagSpec(
        tag="model",
        table="holding_register",
        place=1,
        data_type="string",
        length=8,
        is_slow=True,
    ),
)
# Registers or bits of one pump; blocks follow each other, so that few requests read many pumps.
_BLOCK: Mapping[Table, int] = {
    "coil": 1,
    "discrete_input": 2,
    "input_register": 24,
    "holding_register": 9,
}
_ORDERS = {
    "ABCD": (False, False),
    "CDAB": (True, False),
    "BADC": (False, True),
    "DCBA": (True, True),
}
_NUMPY_TYPES = {
    "int16": ">i2",
    "uint16": ">u2",
    "int32": ">i4",
    "uint32": ">u4",
    "int64": ">i8",
    "uint64": ">u8",
    "float32": ">f4",
    "float64": ">f8",
}


def to_words(values: npt.NDArray[np.generic], data_type: str, byte_order: str) -> Words:
    """(n,) stored values as (n, words) registers; integers are clipped to what the type holds."""
    swap_words, swap_bytes = _ORDERS[byte_order]
    wire = np.dtype(_NUMPY_TYPES[data_type])
    if wire.kind in "iu" and values.dtype.kind == "f":
        limits = np.iinfo(wire)
        values = np.clip(np.rint(values), limits.min, limits.max)
    words = values.astype(wire).view(">u2").reshape(len(values), -1).astype(np.uint16)
    if swap_bytes:
        words = words.byteswap()
    return words[:, ::-1] if swap_words else words


def text_to_words(text: str, length: int) -> Words:
    """ASCII, two characters a register, ended by zeros."""
    raw = text.encode("ascii").ljust(2 * length, b"\0")
    assert len(raw) == 2 * length
    return np.frombuffer(raw, ">u2").astype(np.uint16)


class Registers:
    """The tables of all servers, and the rows of their maps.

    `tags_per_server` of 0 maps every tag; another number maps so many, `scan_count` among them.
    """

    def __init__(
        self,
        servers: int,
        pumps_per_server: int,
        *,
        units: Literal["shared", "each"] = "each",
        tags_per_server: int = 0,
        slow_class: str = "slow",
    ) -> None:
        self.servers = servers
        self.pumps_per_server = pumps_per_server
        self.units = units
        self._slow_class = slow_class
        self._tags_max = tags_per_server or 1 + pumps_per_server * len(PUMP_TAGS)
        size = {table: count * pumps_per_server for table, count in _BLOCK.items()}
        self._words = np.zeros((servers, _SCAN_COUNT_WORDS + size["input_register"]), np.uint16)
        self._settings = np.zeros((servers, size["holding_register"]), np.uint16)
        self._inputs = np.zeros((servers, size["discrete_input"]), np.bool_)
        self._coils = np.ones((servers, size["coil"]), np.bool_)
        # The same memory with an axis for the pumps of a server.
        self._by_pump: dict[Table, npt.NDArray[np.generic]] = {
            "input_register": self._words[:, _SCAN_COUNT_WORDS:],
            "holding_register": self._settings,
            "discrete_input": self._inputs,
        }
        for table, array in self._by_pump.items():
            view = array.view()
            view.shape = (servers, pumps_per_server, _BLOCK[table])  # raises if it must copy
            self._by_pump[table] = view
        self._specs = [spec for spec in PUMP_TAGS if spec.tag not in ("model", "remote_enabled")]
        model = next(spec for spec in PUMP_TAGS if spec.tag == "model")
        words = text_to_words(MODEL_NAME, model.length)
        self._by_pump["holding_register"][:, :, model.place : model.place + model.length] = words

    def update(self, pumps: Pumps) -> None:
        """Write what the pumps say now."""
        values = values_by_tag(pumps)
        for spec in self._specs:
            block = self._by_pump[spec.table]
            column = values[spec.tag]
            if spec.data_type == "bool":
                block[:, :, spec.place] = column.reshape(block.shape[:2])
                continue
            if spec.scale != 1.0 or spec.offset != 0.0:
                column = (column - spec.offset) / spec.scale  # type: ignore[operator]  # a float
            words = to_words(column, spec.data_type, spec.byte_order)
            stop = spec.place + words.shape[1]
            block[:, :, spec.place : stop] = words.reshape(*block.shape[:2], -1)

    def count_scan(self, server: int, count: int) -> None:
        """Put `count` where the next read finds it."""
        self._words[server, :_SCAN_COUNT_WORDS] = (count >> 16 & 0xFFFF, count & 0xFFFF)

    def unit_ids(self) -> list[int]:
        """Of one server; all servers have the same."""
        own = [PLC_UNIT]
        if self.units == "each":
            own += [PUMP_UNIT_FIRST + pump for pump in range(self.pumps_per_server)]
        return own

    def block(self, server: int, unit_id: int, table: Table) -> npt.NDArray[np.generic]:
        """Registers (uint16) or bits (bool) of a table from address 0, as a view; may be empty."""
        whole: dict[Table, npt.NDArray[np.generic]] = {
            "coil": self._coils,
            "discrete_input": self._inputs,
            "input_register": self._words,
            "holding_register": self._settings,
        }
        row: npt.NDArray[np.generic] = whole[table][server]
        if self.units == "shared":
            return row
        first = _SCAN_COUNT_WORDS if table == "input_register" else 0
        if unit_id == PLC_UNIT:
            start, stop = 0, first
        else:
            start = first + (unit_id - PUMP_UNIT_FIRST) * _BLOCK[table]
            stop = start + _BLOCK[table]
        part: npt.NDArray[np.generic] = row[start:stop]
        return part

    def rows(self, server: int) -> list[RegisterRow]:
        """The register map of one server."""
        rows = [
            RegisterRow(
                asset=f"plc-{server + 1}",
                tag="scan_count",
                unit_id=PLC_UNIT,
                table="input_register",
                address=0,
                data_type="uint32",
            )
        ]
        for pump in range(self.pumps_per_server):
            rows += [self._row(server, pump, spec) for spec in PUMP_TAGS]
        return rows[: self._tags_max]

    def _row(self, server: int, pump: int, spec: TagSpec) -> RegisterRow:
        start, unit_id = 0, PUMP_UNIT_FIRST + pump
        if self.units == "shared":
            start, unit_id = pump * _BLOCK[spec.table], PLC_UNIT
            start += _SCAN_COUNT_WORDS if spec.table == "input_register" else 0
        low, high = spec.range or ("", "")
        return RegisterRow(
            asset=f"pump-{server * self.pumps_per_server + pump + 1}",
            tag=spec.tag,
            unit_id=unit_id,
            table=spec.table,
            address=start + spec.place,
            data_type=spec.data_type,
            length=spec.length or "",
            byte_order=spec.byte_order,
            scale=spec.scale,
            offset=spec.offset,
            eng_unit=spec.eng_unit,
            scan_class=self._slow_class if spec.is_slow else "default",
            deadband=spec.deadband,
            low=low,
            high=high,
        )


def values_by_tag(pumps: Pumps) -> dict[str, npt.NDArray[np.generic]]:
    """What each tag of PUMP_TAGS says, one row a pump, in engineering units; no `model`."""
    counters = pumps.counters
    found: dict[str, npt.NDArray[np.generic]] = {
        tag: pumps.values[:, column] for column, tag in enumerate(RANGES)
    }
    return found | {
        "ambient_temperature": pumps.room,
        "starts": counters.starts,
        "running_hours": counters.running_s / 3600,
        "bottles": np.floor(counters.bottles),
        "energy": counters.energy_mj,
        "running": pumps.is_running,
        "alarm": pumps.alarm,
        "remote_enabled": np.ones(len(pumps.names), np.bool_),
        "set_point": pumps.set_point,
    }


def write_map(path: Path, rows: list[RegisterRow]) -> None:
    """A register map as CSV, one row a tag."""
    columns = [column.name for column in fields(RegisterRow)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            cells = (getattr(row, column) for column in columns)
            writer.writerow([f"{c:g}" if isinstance(c, float) else c for c in cells])
