"""Plan: tags to the fewest requests, within what a device allows.

Addresses that one answer may hold are read together, over gaps of at most `gap_max` registers; a
value of several registers is never split. Pure, and made once at start.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.sources.modbus.config import ModbusSettings, RegisterRow, Table
from gateway.sources.modbus.wire import Request
from gateway.tag import DataType

__all__ = ["Block", "ScanPlan", "plan", "width_of"]

_FUNCTIONS = {
    Table.COIL: 1,
    Table.DISCRETE_INPUT: 2,
    Table.HOLDING_REGISTER: 3,
    Table.INPUT_REGISTER: 4,
}
_WIDTHS = {
    DataType.INT32: 2,
    DataType.UINT32: 2,
    DataType.FLOAT32: 2,
    DataType.INT64: 4,
    DataType.UINT64: 4,
    DataType.FLOAT64: 4,
}


def width_of(row: RegisterRow) -> int:
    """Registers (or bits) that a row's value takes."""
    return row.length if row.data_type is DataType.STRING else _WIDTHS.get(row.data_type, 1)


@dataclass(frozen=True, slots=True)
class Block:
    """One request, and which rows of the map its answer holds."""

    request: Request
    rows: tuple[int, ...]  # indexes into the register map, by address


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
        names = {function: table.value for table, function in _FUNCTIONS.items()}
        return [
            f"unit {block.request.unit_id:3d}  {names[block.request.function]:16s}"
            f" {block.request.address:5d}-{block.request.address + block.request.quantity - 1:<5d}"
            f" {block.request.quantity:4d} {'bits' if block.request.reads_bits else 'registers'},"
            f" {len(block.rows)} tags"
            for block in self.blocks
        ]


def plan(
    rows: Sequence[RegisterRow],
    settings: ModbusSettings,
    refused: Sequence[RegisterRow] = (),
) -> tuple[ScanPlan, ...]:
    """The requests of each scan class that has tags, the fastest class first.

    What the device `refused` is not read over either.
    """
    holes = {
        (row.unit_id, _FUNCTIONS[row.table], row.address + i)
        for row in refused
        for i in range(width_of(row))
    }
    groups: defaultdict[tuple[str, int, int], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        groups[row.scan_class, row.unit_id, _FUNCTIONS[row.table]].append(index)
    by_class: defaultdict[str, list[Block]] = defaultdict(list)
    for (scan_class, unit_id, function), indexes in sorted(groups.items()):
        avoid = {address for u, f, address in holes if (u, f) == (unit_id, function)}
        by_class[scan_class] += _blocks(rows, indexes, unit_id, function, settings, avoid)
    periods = settings.scan_classes
    return tuple(
        ScanPlan(name, periods[name], tuple(by_class[name]))
        for name in sorted(by_class, key=lambda name: (periods[name], name))
    )


def _blocks(
    rows: Sequence[RegisterRow],
    indexes: Sequence[int],
    unit_id: int,
    function: int,
    settings: ModbusSettings,
    avoid: set[int],
) -> list[Block]:
    # Greedy from the lowest address is minimal: a block that could be longer never gains by
    # being shorter, since what follows would have to be read all the same.
    count_max = settings.bits_max if function <= 2 else settings.registers_max
    blocks: list[Block] = []
    chosen: list[int] = []
    first = end = 0
    for index in sorted(indexes, key=lambda i: (rows[i].address, -width_of(rows[i]))):
        start, stop = rows[index].address, rows[index].address + width_of(rows[index])
        fits = start - end <= settings.gap_max and max(stop, end) - first <= count_max
        fits = fits and avoid.isdisjoint(range(end, start))
        if chosen and not fits:
            blocks.append(Block(Request(unit_id, function, first, end - first), tuple(chosen)))
            chosen = []
        if not chosen:
            first = end = start
        chosen.append(index)
        end = max(end, stop)
    if chosen:
        blocks.append(Block(Request(unit_id, function, first, end - first), tuple(chosen)))
    return blocks
