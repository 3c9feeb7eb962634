"""Plan: tags to the fewest requests, within what a device allows.

Addresses that one answer may hold are read together, over gaps of at most `gap_max` and over those
that were found to be worth it. A value of several registers is never split, since its halves could
be of different moments. For the same reason a value is read together with the register that holds
its power of ten, which some devices change as the value grows; where both do not fit into one
request, that register is read before (`brackets` sees to the rest). Pure, and made at start and
whenever the device has taught us something.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from gateway.sources.modbus.config import ModbusSettings, RegisterRow, Table
from gateway.sources.modbus.types import REGISTERS, RegisterType
from gateway.sources.modbus.wire import Request

__all__ = [
    "Block",
    "Learned",
    "Place",
    "ScanPlan",
    "Span",
    "Verdict",
    "cuts_of",
    "is_cut",
    "place_of",
    "plan",
    "width_of",
]

_FUNCTIONS = {
    Table.COIL: 1,
    Table.DISCRETE_INPUT: 2,
    Table.HOLDING_REGISTER: 3,
    Table.INPUT_REGISTER: 4,
}
_TABLES = {function: table for table, function in _FUNCTIONS.items()}

Place: TypeAlias = tuple[int, int]
"""Unit id and function: where addresses mean something."""
Span: TypeAlias = tuple[int, int]
"""Addresses: the first, and the one behind the last."""


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
        return self.part(self.rows[:middle], rows), self.part(self.rows[middle:], rows)

    def part(self, own: Sequence[int], rows: Sequence[RegisterRow]) -> Block:
        """Some of its rows as a block."""
        return _block((self.request.unit_id, self.request.function), own, rows)


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


class Verdict(StrEnum):
    """What came of reading over a gap."""

    QUICKER = "quicker"
    SLOWER = "slower"
    REFUSED = "refused"
    SILENT = "silent"


@dataclass(slots=True)
class Learned:
    """What a device refused, and how long it takes: so how its map is best cut."""

    # No request reads both the address before a cut and the one behind it.
    cuts: defaultdict[Place, set[int]] = field(default_factory=lambda: defaultdict(set))
    # The same, where the search for what is refused goes on in the next scan; not kept.
    unfinished: defaultdict[Place, set[int]] = field(default_factory=lambda: defaultdict(set))
    alone: set[int] = field(default_factory=set)  # rows that are refused, each a block of its own
    # Unused addresses that were read over once, to see what that costs.
    gaps: defaultdict[Place, dict[Span, Verdict]] = field(default_factory=lambda: defaultdict(dict))

    # What each unit id took to answer, on average, without what the bytes take on the line.
    answer_s: dict[int, float] = field(default_factory=dict)

    def quicker(self, place: Place) -> list[Span]:
        """The gaps that are worth reading over."""
        return [
            span for span, verdict in self.gaps.get(place, {}).items() if verdict is Verdict.QUICKER
        ]


def plan(
    rows: Sequence[RegisterRow], settings: ModbusSettings, learned: Learned | None = None
) -> tuple[ScanPlan, ...]:
    """The requests of each scan class that has tags, the fastest class first.

    A value wider than `registers_max` is asked for all the same, alone: it cannot be split.
    """
    learned = learned or Learned()
    groups: defaultdict[tuple[str, int, int], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        groups[row.scan_class, *place_of(row)].append(index)
    cuts = cuts_of(rows, settings, learned)
    by_class: defaultdict[str, list[Block]] = defaultdict(list)
    holders = _holders(rows)
    for (scan_class, unit_id, function), indexes in sorted(groups.items()):
        place = (unit_id, function)
        together = [index for index in indexes if index not in learned.alone]
        by_class[scan_class] += _blocks(
            place, together, rows, _Limits.of(place, cuts, settings, learned), settings, holders
        )
        by_class[scan_class] += [
            _block(place, (index,), rows) for index in indexes if index in learned.alone
        ]
    held = set(holders.values())
    for blocks in by_class.values():
        blocks.sort(key=lambda block: held.isdisjoint(block.rows))
    periods = settings.periods
    return tuple(
        ScanPlan(name, periods[name], tuple(by_class[name]))
        for name in sorted(by_class, key=lambda name: (periods[name], name))
    )


def cuts_of(
    rows: Sequence[RegisterRow], settings: ModbusSettings, learned: Learned
) -> defaultdict[Place, set[int]]:
    """Addresses that no request reads together with the one before them."""
    cuts: defaultdict[Place, set[int]] = defaultdict(set)
    for place, addresses in (*learned.cuts.items(), *learned.unfinished.items()):
        cuts[place] |= addresses
    for index, row in enumerate(rows):
        place = place_of(row)
        for never in settings.never_read:
            if never.table is row.table:  # a request that reads on both sides of a cut has the edge
                cuts[place] |= {never.first, never.last + 1}
        if index in learned.alone:
            cuts[place] |= {row.address, row.address + width_of(row)}
    return cuts


def is_cut(cuts: Sequence[int], start: int, stop: int) -> bool:
    """Whether a request for these addresses would read across one of the sorted `cuts`."""
    return bisect_right(cuts, start) < bisect_right(cuts, stop - 1)


@dataclass(frozen=True, slots=True)
class _Limits:
    """What one request at a place may read together."""

    cuts: Sequence[int]  # sorted
    gap_max: int
    quicker: Sequence[Span]  # larger gaps that are worth it

    @classmethod
    def of(
        cls,
        place: Place,
        cuts: Mapping[Place, set[int]],
        settings: ModbusSettings,
        learned: Learned,
    ) -> _Limits:
        quicker = learned.quicker(place) if settings.learns_gaps else []
        return cls(sorted(cuts[place]), settings.gap_known, quicker)

    def reads_over(self, start: int, stop: int) -> bool:
        """Whether the addresses of a gap are read."""
        return stop - start <= self.gap_max or any(
            first <= start and stop <= end for first, end in self.quicker
        )


def _blocks(
    place: Place,
    indexes: Sequence[int],
    rows: Sequence[RegisterRow],
    limits: _Limits,
    settings: ModbusSettings,
    holders: Mapping[int, int],
) -> list[Block]:
    # Greedy from the lowest address is minimal: some request must begin at the lowest address
    # that is left, and what the longest such request cannot hold needs another one anyway.
    quantity_max = settings.bits_max if place[1] <= 2 else settings.registers_max
    spans = _spans(indexes, rows, limits, settings, holders)
    cuts = limits.cuts
    parts: list[list[int]] = []
    first = end = 0
    for index in sorted(indexes, key=lambda i: (spans[i][0], -spans[i][1])):
        start, own_end = spans[index]
        stop = max(end, own_end) if parts else 0
        cut = bisect_right(cuts, first)
        fits = (
            bool(parts)
            and not settings.one_request_a_tag
            and limits.reads_over(end, start)
            and stop - first <= quantity_max
            and (cut == len(cuts) or cuts[cut] >= stop)
        )
        if fits:
            parts[-1].append(index)
            end = stop
        else:
            parts.append([index])
            first, end = spans[index]
    return [_block(place, part, rows, spans) for part in parts]


def _holders(rows: Sequence[RegisterRow]) -> dict[int, int]:
    """Of each row with a `scale_from` the row that it names."""
    if not any(row.scale_from for row in rows):
        return {}
    named = {(row.asset, row.tag): index for index, row in enumerate(rows)}
    return {
        index: named[row.asset, row.scale_from]
        for index, row in enumerate(rows)
        if (row.asset, row.scale_from) in named
    }


def _spans(
    indexes: Sequence[int],
    rows: Sequence[RegisterRow],
    limits: _Limits,
    settings: ModbusSettings,
    holders: Mapping[int, int],
) -> dict[int, Span]:
    """Which addresses are read together for each row, as (first, end).

    Its own, and up to its power of ten where one request may read all that is between them.
    """
    own = {index: (rows[index].address, _end(rows[index])) for index in indexes}
    spans = dict(own)
    if not holders or settings.one_request_a_tag:
        return spans

    run: dict[int, int] = {}  # rows between which no gap is too large
    number = end = 0
    for index in sorted(indexes, key=own.__getitem__):
        start, stop = own[index]
        # What a device describes has its registers without a gap.
        number += not (settings.profile or limits.reads_over(end, start))
        run[index] = number
        end = max(end, stop)
    for index in indexes:
        holder = holders.get(index)
        if holder is None or run.get(holder) != run[index]:
            continue
        start, stop = min(own[index][0], own[holder][0]), max(own[index][1], own[holder][1])
        if stop - start <= settings.registers_max and not is_cut(limits.cuts, start, stop):
            spans[index] = start, stop
    return spans


def _end(row: RegisterRow) -> int:
    return row.address + width_of(row)


def _block(
    place: Place,
    indexes: Sequence[int],
    rows: Sequence[RegisterRow],
    spans: Mapping[int, Span] | None = None,
) -> Block:
    """The request that covers some rows, or their spans."""
    covered = [spans[i] if spans else (rows[i].address, _end(rows[i])) for i in indexes]
    start, end = min(first for first, _ in covered), max(last for _, last in covered)
    return Block(Request(*place, start, end - start), tuple(indexes))
