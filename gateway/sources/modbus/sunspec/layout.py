"""Layout: where a device's models have their points, as rows of a register map. Pure.

A model on a device may be shorter than its definition (an older edition) or longer (a newer one):
what it has is read, and nothing beyond its own length. How often a group repeats is said by the
model's length, or by a point of the model, which must be asked for: `places` is a generator that
yields offsets and is sent what is there.

What the types mean, and which number each has for "not implemented": SunSpec Device Information
Model Specification, 4.2 (also of accumulators: 0).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase

from gateway.sources.modbus.config import RegisterRow
from gateway.sources.modbus.sunspec.models import Group, Point, model_of
from gateway.sources.modbus.types import RegisterType

__all__ = ["FAST", "SLOW", "FoundModel", "Placed", "places", "rows_of"]

FAST, SLOW = "default", "slow"
"""Scan classes of what a device measures, and of its nameplate and settings."""
HEADER_SIZE = 2  # registers: id and length
# A flow battery has a few hundred cells; a length that makes more of it is not to be believed.
POINTS_MAX = 5000

_NOT_A_COUNT = 0xFFFF
_TYPES: dict[str, tuple[RegisterType, str]] = {
    "int16": (RegisterType.INT16, "0x8000"),
    "uint16": (RegisterType.UINT16, "0xFFFF"),
    "count": (RegisterType.UINT16, "0xFFFF"),
    "acc16": (RegisterType.UINT16, "0"),
    "enum16": (RegisterType.UINT16, "0xFFFF"),
    "bitfield16": (RegisterType.FLAGS16, "0xFFFF"),
    "sunssf": (RegisterType.INT16, "0x8000"),
    "int32": (RegisterType.INT32, "0x80000000"),
    "uint32": (RegisterType.UINT32, "0xFFFFFFFF"),
    "acc32": (RegisterType.UINT32, "0"),
    "enum32": (RegisterType.UINT32, "0xFFFFFFFF"),
    "bitfield32": (RegisterType.FLAGS32, "0xFFFFFFFF"),
    "int64": (RegisterType.INT64, "0x8000000000000000"),
    "uint64": (RegisterType.UINT64, "0xFFFFFFFFFFFFFFFF"),
    "acc64": (RegisterType.UINT64, "0"),
    "float32": (RegisterType.FLOAT32, ""),
    "float64": (RegisterType.FLOAT64, ""),
    "string": (RegisterType.STRING, "0"),
}
"""Those that are not here (pad, eui48) make no tag."""
_UNNAMED = {RegisterType.FLAGS16: RegisterType.UINT16, RegisterType.FLAGS32: RegisterType.UINT32}


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model on a device; `address` is that of its id, `length` what it says behind it."""

    model_id: int
    address: int
    length: int


@dataclass(frozen=True, slots=True)
class Placed:
    """A point of a model on a device."""

    name: str  # within its model: "W", "module_2.DCW"
    point: Point
    offset: int  # registers from the model's id
    scale_from: str  # name of the point that holds its power of ten; "" without one


class _EndOfModel(Exception):
    """The model has no more registers."""


class _Walk:
    """One model, from its first point to its end."""

    def __init__(self, length: int) -> None:
        self._end = HEADER_SIZE + length
        self._at = HEADER_SIZE
        self.placed: list[Placed] = []

    def group(
        self, group: Group, prefix: str, scales: dict[str, str], counts: dict[str, int]
    ) -> Generator[int, int | None, None]:
        """Place a group; `scales` and `counts` are what those around it have."""
        scales = scales | {
            point.name: prefix + point.name for point in group.points if point.type == "sunssf"
        }
        counts = dict(counts)
        for point in group.points:
            if self._at + point.size > self._end or len(self.placed) >= POINTS_MAX:
                raise _EndOfModel
            counts[point.name] = self._at
            scale = scales.get(point.scale, "") if isinstance(point.scale, str) else ""
            self.placed.append(Placed(prefix + point.name, point, self._at, scale))
            self._at += point.size
        for inner in group.groups:
            number = 0
            for number in range(1, (yield from self._count(inner, counts)) + 1):
                name = inner.name if inner.count is None else f"{inner.name}_{number}"
                yield from self.group(inner, f"{prefix}{name}.", scales, counts)

    def _count(self, group: Group, counts: dict[str, int]) -> Generator[int, int | None, int]:
        """How often a group is there."""
        if group.count is None:
            return 1
        if isinstance(group.count, str):
            at = counts.get(group.count)
            said = (yield at) if at is not None else None
            return 0 if said is None or said == _NOT_A_COUNT else said
        # Groups that fill the rest of a model have no groups within.
        return (self._end - self._at) // max(1, group.points_size)


def places(model: Group, length: int) -> Generator[int, int | None, list[Placed]]:
    """Where the points of a model of `length` registers are.

    Yields the offset of a register that says how often a group is there, and is sent its content,
    or None where the device does not give it.
    """
    walk = _Walk(length)
    with suppress(_EndOfModel):
        yield from walk.group(model, "", {}, {})
    return walk.placed


def rows_of(
    found: Iterable[tuple[FoundModel, Sequence[Placed]]],
    asset: str,
    unit_id: int,
    points: Sequence[str] = ("*",),
) -> list[RegisterRow]:
    """The rows of a device's models; `points` are patterns of names, with or without the model's.

    A second model of a name is `<name>_2`. Points that share a scale factor are read at one rate,
    the fastest of theirs.
    """
    rows: list[RegisterRow] = []
    times: dict[str, int] = {}
    for model, placed in found:
        definition = model_of(model.model_id)
        assert definition is not None, "only what is defined can be placed"
        times[definition.name] = number = times.get(definition.name, 0) + 1
        name = definition.name + (f"_{number}" if number > 1 else "")
        rows += _rows(model, name, placed, asset, unit_id, points)
    return rows


def _rows(
    model: FoundModel,
    name: str,
    placed: Sequence[Placed],
    asset: str,
    unit_id: int,
    patterns: Sequence[str],
) -> list[RegisterRow]:
    there = {each.name for each in placed} | {""}
    wanted = {
        each.name: each
        for each in placed
        if each.point.type in _TYPES
        and each.point.type != "sunssf"
        and each.scale_from in there  # else nobody knows what its number means
        and any(
            fnmatchcase(form, pattern)
            for form in (f"{name}.{each.name}", each.name, each.point.name)
            for pattern in patterns
        )
    }
    measured = [each for each in wanted.values() if not each.point.is_slow]
    fast = {each.scale_from for each in measured}
    scales = {each.scale_from for each in wanted.values()} - {""}
    rows = _header_rows(model, name, asset, unit_id, FAST if measured else SLOW) if wanted else []
    for each in placed:
        point, is_scale = each.point, each.point.type == "sunssf"
        if is_scale:
            is_wanted, is_fast = each.name in scales, each.name in fast
        else:
            is_wanted = each.name in wanted
            is_fast = not point.is_slow or (bool(each.scale_from) and each.scale_from in fast)
        if not is_wanted or model.address + each.offset + point.size > 65536:
            continue
        kind, missing = _TYPES[point.type]
        names = ";".join(f"{number}={symbol}" for number, symbol in point.symbols)
        is_named = bool(names) and point.type.startswith(("enum", "bitfield"))
        facts: dict[str, object] = {
            "asset": asset,
            "tag": f"{name}.{each.name}",
            "unit_id": unit_id,
            "address": model.address + each.offset,
            "data_type": kind if is_named else _UNNAMED.get(kind, kind),
            "length": point.size if kind is RegisterType.STRING else 0,
            "names": names if is_named else "",
            "missing": missing,
            "scale_from": f"{name}.{each.scale_from}" if each.scale_from else "",
            "eng_unit": point.eng_unit,
            "scan_class": FAST if is_fast else SLOW,
            # A scale factor is seldom another: it is reported when it is.
            "deadband": 0.5 if is_scale else 0.0,
        }
        if isinstance(point.scale, int) and point.scale:
            facts["scale"] = float(f"1e{point.scale}")
        rows.append(RegisterRow.model_validate(facts))
    return rows


def _header_rows(
    model: FoundModel, name: str, asset: str, unit_id: int, scan_class: str
) -> list[RegisterRow]:
    """Id and length, read with the points: as long as they are right, the model is where it was."""
    expected = (("ID", model.model_id), ("L", model.length))
    return [
        RegisterRow.model_validate(
            {
                "asset": asset,
                "tag": f"{name}.{tag}",
                "unit_id": unit_id,
                "address": model.address + offset,
                "expect": number,
                "scan_class": scan_class,
                "deadband": 0.5,
            }
        )
        for offset, (tag, number) in enumerate(expected)
    ]
