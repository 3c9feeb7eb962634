"""Plan: tags to the fewest requests, within what a device allows.

Addresses that one answer may hold are read together, over gaps of at most `gap_max`; a value of
several registers is never split, since its halves could be of different moments. Pure, and made
at start and whenever the device has taught us something.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from gateway.sources.modbus.config import ModbusSettings, RegisterRow, Table
from gateway.sources.modbus.types import REGISTERS, RegisterType
from gateway.sources.modbus.wire import Request

__all__ = ["Block", "Learned", "Place", "ScanPlan", "place_of", "plan", "width_of"]

_FUNCTIONS = {
    Table.COIL: 1,
    Table.DISCRETE_INPUT: 2,
    Table.HOLDING_REGISTER: 3,
    Table.INPUT_REGISTER: 4,
}
_TABLES = {function: table for table, function in _FUNCTIONS.items()}

Place: TypeAlias = tuple[int, int]
"""Unit id and function: where addresses mean something."""


def width_of(row: RegisterRow) -> int:
    """Registers (or bits) that a row's value takes."""
    return row.length if row.data_type is RegisterType.STRING else REGISTERS.get(row.data_type, 1)


def place_of(row: RegisterRow) -> Place:
    """Where a row's address means something."""
    return row.unit_id, _FUNCTIONS[row.table]


@dataclass(frozen=True, slots=True)
class Block:
    """One request, and which rows of the map its answer holds."""

    request: Request
    rows: tuple[int, ...]  # indexes into the register map, by address

    def halves(self, rows: Sequence[RegisterRow]) -> tuple[Block, Block]:
        """Its rows as two blocks; it has at least two."""
        middle = len(self.rows) // 2
        first, second = (
            _block((self.request.unit_id, self.request.function), part, rows)
            for part in (self.rows[:middle], self.rows[middle:])
        )
        return first, second


@dataclass(frozen=True, slots=True)
class ScanPlan:
    """All requests of one scan class."""

    scan_class: str
    period_s: float
    blocks: tuple[Block, ...]

    @property
    def tags(self) -> int:
        return sum(len(block.rows) for block in self.blocks)

    def describe(self) -> list[str]:
        """A line a request, for people."""
        return [
            f"unit {block.request.unit_id:3d}  {_TABLES[block.request.function]:16s}"
            f" {block.request.address:5d}-{block.request.address + block.request.quantity - 1:<5d}"
            f" {block.request.quantity:4d} {'bits' if block.request.reads_bits else 'registers'},"
            f" {len(block.rows)} tags"
            for block in self.blocks
        ]


@dataclass(slots=True)
class Learned:
    """What a device refused, and so how its map must be cut."""

    # No request reads both the address before a cut and the one behind it.
    cuts: defaultdict[Place, set[int]] = field(default_factory=lambda: defaultdict(set))
    alone: set[int] = field(default_factory=set)  # rows that are refused, each a block of its own


def plan(
    rows: Sequence[RegisterRow], settings: ModbusSettings, learned: Learned | None = None
) -> tuple[ScanPlan, ...]:
    """The requests of each scan class that has tags, the fastest class first.

    A value wider than `registers_max` is asked for all the same, alone: it cannot be split.
    """
    learned = learned or Learned()
    groups: defaultdict[tuple[str, int, int], list[int]] = defaultdict(list)
    cuts: defaultdict[Place, set[int]] = defaultdict(set)
    for place, addresses in learned.cuts.items():
        cuts[place] |= addresses
    for index, row in enumerate(rows):
        function = _FUNCTIONS[row.table]
        groups[row.scan_class, row.unit_id, function].append(index)
        for never in settings.never_read:
            if never.table is row.table:  # a request that reads on both sides of a cut has the edge
                cuts[row.unit_id, function] |= {never.first, never.last + 1}
        if index in learned.alone:
            cuts[row.unit_id, function] |= {row.address, row.address + width_of(row)}
    by_class: defaultdict[str, list[Block]] = defaultdict(list)
    for (scan_class, unit_id, function), indexes in sorted(groups.items()):
        place = (unit_id, function)
        together = [index for index in indexes if index not in learned.alone]
        by_class[scan_class] += _blocks(place, together, rows, sorted(cuts[place]), settings)
        by_class[scan_class] += [
            _block(place, (index,), rows) for index in indexes if index in learned.alone
        ]
    periods = settings.scan_classes
    return tuple(
        ScanPlan(name, periods[name], tuple(by_class[name]))
        for name in sorted(by_class, key=lambda name: (periods[name], name))
    )


def _blocks(
    place: Place,
    indexes: Sequence[int],
    rows: Sequence[RegisterRow],
    cuts: Sequence[int],
    settings: ModbusSettings,
) -> list[Block]:
    # Greedy from the lowest address is minimal: some request must begin at the lowest address
    # that is left, and what the longest such request cannot hold needs another one anyway.
    quantity_max = settings.bits_max if place[1] <= 2 else settings.registers_max
    parts: list[list[int]] = []
    first = end = 0
    for index in sorted(indexes, key=lambda i: (rows[i].address, -width_of(rows[i]))):
        start = rows[index].address
        stop = max(end, start + width_of(rows[index])) if parts else 0
        cut = bisect_right(cuts, first)
        fits = (
            bool(parts)
            and not settings.one_request_a_tag
            and start - end <= settings.gap_max
            and stop - first <= quantity_max
            and (cut == len(cuts) or cuts[cut] >= stop)
        )
        if fits:
            parts[-1].append(index)
            end = stop
        else:
            parts.append([index])
            first, end = start, start + width_of(rows[index])
    return [_block(place, part, rows) for part in parts]


def _block(place: Place, indexes: Sequence[int], rows: Sequence[RegisterRow]) -> Block:
    """The request that covers some rows."""
    start = min(rows[i].address for i in indexes)
    end = max(rows[i].address + width_of(rows[i]) for i in indexes)
    return Block(Request(*place, start, end - start), tuple(indexes))
