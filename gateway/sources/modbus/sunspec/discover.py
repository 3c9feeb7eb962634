"""Discover: which SunSpec models a device has, and where.

The marker "SunS" stands at one of few addresses; behind it is a chain of models, each with its id
and length before its registers, until id 0xFFFF (SunSpec Device Information Model Specification,
3). A chain that breaks off costs what is behind the break, and is said.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from gateway.errors import DeviceRefused, SourceError
from gateway.sources.modbus.config import RegisterRow
from gateway.sources.modbus.sunspec.layout import (
    HEADER_SIZE,
    FoundModel,
    Placed,
    places,
    rows_of,
)
from gateway.sources.modbus.sunspec.models import VENDORS_FROM, model_of

__all__ = ["BASES", "MEASURING", "Discovered", "NoMarker", "Read", "discover", "find_marker"]

BASES = (40000, 50000, 0)
"""Where the marker may be, the usual address first (ibid., 3.1)."""
MEASURING = (
    *(1, 101, 102, 103, 111, 112, 113, 120, 121, 122, 124, 160, 201, 202, 203, 204),
    *(211, 212, 213, 214, 302, 303, 304, 305, 306, 307, 308, 401, 402, 403, 404, 501, 502, 601),
    *range(701, 715),
    *range(801, 810),
)
"""Models that say what a device is and does; the others are for those who control it."""
# A big device has twenty; each costs a request at every connect.
MODELS_MAX = 200
_MARKER = b"SunS"
_END = 0xFFFF
# Registers asked for at once where counts are: those of a curve's neighbours are then known too.
_CHUNK = 64
_UNIT_AWAY = (10, 11)

Read = Callable[[int, int], Awaitable[bytes]]
"""Holding registers from an address on; raises DeviceRefused and other SourceErrors."""


class NoMarker(SourceError):
    """The unit answers, and is no SunSpec device."""


@dataclass(slots=True)
class Discovered:
    """What a unit has."""

    base: int
    models: list[FoundModel] = field(default_factory=list)
    placed: list[tuple[FoundModel, list[Placed]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what is odd about it, for people

    def rows(self, asset: str, unit_id: int, points: Sequence[str] = ("*",)) -> list[RegisterRow]:
        """A register map of it."""
        return rows_of(self.placed, asset, unit_id, points)


async def find_marker(read: Read, bases: Sequence[int] = BASES) -> int:
    """Where the marker is; raises NoMarker, or what `read` raises when the unit is away."""
    for base in bases:
        try:
            found = await read(base, 2)
        except DeviceRefused as refused:
            if refused.code in _UNIT_AWAY:
                raise
            continue
        if found == _MARKER:
            return base
    where = ", ".join(map(str, bases))
    raise NoMarker(
        f'no "SunS" at holding register {where}',
        hint="switch SunSpec on at the device, check the unit id, or set sunspec.base",
    )


async def discover(
    read: Read, bases: Sequence[int] = BASES, models: Sequence[int] = MEASURING
) -> Discovered:
    """The models of a unit and the places of those that are asked for.

    Raises NoMarker, or what `read` raises when the unit is away.
    """
    found = Discovered(await find_marker(read, bases))
    await _walk(found, read)
    for model in found.models:
        definition = model_of(model.model_id)
        if definition is None:
            kind = "a maker's own" if model.model_id >= VENDORS_FROM else "unknown"
            found.notes.append(f"model {model.model_id} at {model.address} is {kind}: left out")
        elif model.model_id in models:
            placed = await _place(model, read)
            found.placed.append((model, placed))
            defined = definition.points_size
            if placed and model.length < defined:
                beyond = {point.name for point in definition.points if point.type != "pad"}
                beyond -= {each.point.name for each in placed}
                if beyond:
                    found.notes.append(
                        f"model {model.model_id} at {model.address} has {model.length} registers,"
                        f" not {defined}: {', '.join(sorted(beyond))} are left out"
                    )
    return found


async def _walk(found: Discovered, read: Read) -> None:
    """Follow the chain."""
    at = found.base + len(_MARKER) // 2
    while True:
        if at + HEADER_SIZE > 65536:
            found.notes.append(f"the chain of models has no end marker up to {at}")
            return
        try:
            model_id, length = struct.unpack(">HH", await read(at, HEADER_SIZE))
        except DeviceRefused as refused:
            if refused.code in _UNIT_AWAY:
                raise
            await _broken_off(found, read, at, refused)
            return
        if model_id == _END:
            return
        if at + HEADER_SIZE + length > 65536 or model_id == 0:
            found.notes.append(
                f"the chain of models breaks off at {at}: id {model_id}, length {length}"
            )
            return
        if len(found.models) >= MODELS_MAX:
            found.notes.append(f"there are more than {MODELS_MAX} models: the rest is left out")
            return
        found.models.append(FoundModel(model_id, at, length))
        at += HEADER_SIZE + length


async def _broken_off(found: Discovered, read: Read, at: int, refused: DeviceRefused) -> None:
    """Nothing is where the last model ends: its length may be a lie, or the end marker left out."""
    said = f"the chain of models has no end marker at {at} (exception {refused.code})"
    found.notes.append(said)
    if not found.models or not found.models[-1].length:
        return
    last = found.models[-1]
    try:
        await read(at - 1, 1)
    except DeviceRefused:
        definition = model_of(last.model_id)
        length = min(last.length, definition.points_size if definition else 0)
        found.models[-1] = FoundModel(last.model_id, last.address, length)
        found.notes.append(
            f"model {last.model_id} at {last.address} says {last.length} registers, which are not"
            f" there: {length} are taken"
        )


async def _place(model: FoundModel, read: Read) -> list[Placed]:
    """Where a model's points are; asks for the counts that decide it."""
    definition = model_of(model.model_id)
    assert definition is not None
    known: dict[int, int] = {}
    steps = places(definition, model.length)
    content: int | None = None
    while True:
        try:
            offset = steps.send(content)
        except StopIteration as done:
            placed: list[Placed] = done.value
            return placed
        if offset not in known:
            known |= await _registers(model, offset, read)
        content = known.get(offset)


async def _registers(model: FoundModel, offset: int, read: Read) -> dict[int, int]:
    """Content of registers from an offset on, by offset; at least that one unless it is refused."""
    for quantity in (min(_CHUNK, HEADER_SIZE + model.length - offset), 1):
        try:
            data = await read(model.address + offset, quantity)
        except DeviceRefused as refused:
            if refused.code in _UNIT_AWAY:
                raise
        else:
            return dict(enumerate(struct.unpack(f">{quantity}H", data), offset))
    return {}
