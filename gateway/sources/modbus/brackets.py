"""Brackets: values and the power of ten that scales them, where one answer cannot hold both.

Some devices change a scale factor as its value grows. Where a model is longer than a request, the
scale factor is read before the values and once more behind them, in the same scan: what was read
in between is believed only if it was the same both times.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gateway.frame import FloatArray, IdArray, Part
from gateway.sources.modbus.config import RegisterRow
from gateway.sources.modbus.plan import Block
from gateway.tag import Quality

__all__ = ["Bracket", "bracket_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Bracket:
    """What one scan class has of such values."""

    ids: IdArray  # tags, ascending, and of each the row that holds its power of ten
    holders: IdArray
    blocks: tuple[Block, ...]  # to be read again at the end: the holders alone

    def discredit(self, parts: Iterable[Part], seen: Sequence[FloatArray]) -> int:
        """Take the values out of the parts whose power of ten has changed; how many they were.

        `seen` are the powers of ten, in the order of `holders`: when the scan began, when its
        values were read, and behind them. When it began there may have been none: NaN.
        """
        began, before, after = seen
        is_new = ~np.isnan(began) & (began != before)  # what came first was scaled by the old one
        changed = self.ids[is_new | (before != after)]
        if not len(changed):
            return 0
        count = 0
        for part in parts:
            rows = np.isin(part.tag_ids, changed) & (part.quality < Quality.BAD)
            part.values[rows] = np.nan
            part.quality[rows] = Quality.BAD_SENSOR_FAILURE
            count += int(rows.sum())
        return count


def bracket_of(
    blocks: Sequence[Block],
    distant: Iterable[tuple[int, int]],
    ids: IdArray,
    rows: Sequence[RegisterRow],
) -> Bracket | None:
    """The bracket of a scan class; None where it needs none.

    `distant` are pairs of rows: one with a `scale_from`, and the one of another answer that it
    names. Powers of ten that another scan class reads cannot be read behind the values of this one.
    """
    here = {row for block in blocks for row in block.rows}
    pairs = sorted({(int(ids[row]), holder) for row, holder in distant if holder in here})
    if not pairs:
        return None
    wanted = {holder for _, holder in pairs}
    again = [
        block.part([row for row in block.rows if row in wanted], rows)
        for block in blocks
        if not wanted.isdisjoint(block.rows)
    ]
    found, holders = zip(*pairs, strict=True)
    return Bracket(np.array(found, np.int32), np.array(holders, np.int32), tuple(again))
