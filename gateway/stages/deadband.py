"""Deadband: report by exception. What moved less than a tag's deadband is not a sample."""

from __future__ import annotations

import numpy as np

from gateway.frame import BoolArray, Frame
from gateway.tag import TagTable

__all__ = ["Deadband"]


class Deadband:
    """Passes a sample that moved more than the tag's deadband since the last one passed.

    A change of quality always passes (OPC UA Part 4, 7.22.2), and so does a sample
    `report_s` after the last one: a tag that never moves is still known to live.
    """

    def __init__(self, table: TagTable, report_s: float) -> None:
        self._table = table
        self._report_ns = round(report_s * 1e9)
        self._value = np.empty(0)
        self._quality = np.empty(0, np.uint8)
        self._t_ns = np.empty(0, np.int64)

    def apply(self, frame: Frame, now_ns: int) -> Frame:  # noqa: ARG002 - the Stage contract
        """The frame without the rows that say nothing new."""
        banded = self._table.deadband[frame.tag_ids] > 0
        if not banded.any():
            return frame
        self._grow()
        keep: BoolArray = np.ones(len(frame), np.bool_)
        rows = np.flatnonzero(banded)
        while len(rows):
            # One pass decides the first row of each tag; the rest are compared with what it left.
            _, first = np.unique(frame.tag_ids[rows], return_index=True)
            now, rows = rows[first], np.delete(rows, first)
            keep[now] = self._decide(frame, now)
        return frame.where(keep)

    def forget(self) -> None:
        """Let the next sample of every tag pass: times are not comparable with those of before."""
        self._value.fill(np.nan)

    def seen(self, frame: Frame) -> None:
        """Take samples that passed before, as when the raw lane is replayed."""
        self._grow()
        ids = frame.tag_ids
        self._value[ids], self._quality[ids] = frame.values, frame.quality
        self._t_ns[ids] = frame.t_ns

    def _decide(self, frame: Frame, rows: np.ndarray[tuple[int], np.dtype[np.intp]]) -> BoolArray:
        ids = frame.tag_ids[rows]
        value, quality, t_ns = frame.values[rows], frame.quality[rows], frame.t_ns[rows]
        still = np.abs(value - self._value[ids]) <= self._table.deadband[ids]
        still &= quality == self._quality[ids]
        # Also when the clock was set back: nobody is to wait until it is as late again.
        still &= np.abs(t_ns - self._t_ns[ids]) < self._report_ns
        passed: BoolArray = ~still
        ids, value, quality, t_ns = ids[passed], value[passed], quality[passed], t_ns[passed]
        self._value[ids], self._quality[ids], self._t_ns[ids] = value, quality, t_ns
        return passed

    def _grow(self) -> None:
        missing = len(self._table) - len(self._value)
        if missing > 0:
            # NaN is farther from any value than any deadband: a tag's first sample passes.
            self._value = np.concatenate([self._value, np.full(missing, np.nan)])
            self._quality = np.concatenate([self._quality, np.zeros(missing, np.uint8)])
            self._t_ns = np.concatenate([self._t_ns, np.zeros(missing, np.int64)])
