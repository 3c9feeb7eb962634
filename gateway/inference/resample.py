"""Resample: samples as they arrived -> what a model of a sample period sees of them, tick by tick.

The engine's own rings do it (sample and hold, ages, holes), a ring a tag, so that a model is
fitted to what it will be given. What comes out is thinner than what came in: memory grows with
the ticks, 5 bytes a tag each, and a long silence is a break, not rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gateway.frame import BoolArray, Frame, TimeArray
from gateway.inference.rings import NOWHERE, CellArray, Rings, age_max_ns
from gateway.inference.runtime import Float32Array
from gateway.tag import DataType, Quality, Tag, TagTable

__all__ = ["Resampled", "Resampler"]

# Ticks taken from the rings at once; a hole is filled as far back as twice this.
BLOCK_TICKS = 128


@dataclass(frozen=True, slots=True, eq=False)
class Resampled:
    """n ticks of some tags. A break in time is a tick later than one period after the last."""

    tag_ids: tuple[int, ...]
    period_s: float
    t_ns: TimeArray  # (n,) rising
    values: Float32Array  # (n, tags)
    usable: BoolArray  # (n, tags)


class Resampler:
    """Takes frames in the order they arrived; tags may appear at any time."""

    def __init__(
        self,
        table: TagTable,
        period_s: float,
        deadband_report_s: float = 60.0,
        wanted: Callable[[Tag], bool] = lambda tag: tag.data_type is not DataType.STRING,
    ) -> None:
        self._table = table
        self._wanted = wanted
        self._period_s = period_s
        self._period_ns = round(period_s * 1e9)
        self._report_s = deadband_report_s
        self._rings = Rings(window=2 * BLOCK_TICKS, features=1)
        self._cells: CellArray = np.full(0, NOWHERE, np.intp)  # by tag id
        self._tag_ids: list[int] = []  # by slot
        self._tick_ns: int | None = None  # the newest tick
        self._silent_ticks_max = 1 + 2 * BLOCK_TICKS
        self._waiting: list[int] = []  # ticks in the rings that are not taken yet
        self._blocks: list[tuple[TimeArray, Float32Array, BoolArray]] = []

    def feed(self, arrived_ns: TimeArray, frame: Frame) -> None:
        """Samples and when each arrived, which must not fall."""
        if not len(frame):
            return
        self._connect_new_tags()
        buckets = arrived_ns // self._period_ns
        # A clock that was set back: the engine goes on from there, but a history must rise.
        buckets = np.maximum.accumulate(buckets)
        starts = np.flatnonzero(np.diff(buckets, prepend=buckets[0] - 1))
        t_ns = np.minimum(frame.t_ns, arrived_ns)  # a device's clock may be ahead of ours
        if (np.diff(t_ns) < 0).any():
            # Which of two samples of a tag is news is decided turn by turn.
            starts = np.union1d(starts, np.flatnonzero(np.diff(arrived_ns)) + 1)
        usable = frame.quality < Quality.BAD
        cells = self._cells[frame.tag_ids]
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(frame)], strict=True):
            self._advance(int(buckets[start]) * self._period_ns)
            rows = slice(start, stop)
            self._rings.hold(cells[rows], frame.values[rows], usable[rows], t_ns[rows])

    def finish(self) -> Resampled:
        """All ticks up to the one that sees the last samples."""
        if self._tick_ns is not None:
            self._advance(self._tick_ns + self._period_ns)
            self._take(len(self._waiting))
        tags = len(self._tag_ids)
        n = sum(len(t_ns) for t_ns, _, _ in self._blocks)
        values = np.zeros((n, tags), np.float32)
        usable = np.zeros((n, tags), np.bool_)
        start = 0
        for t_ns, block, valid in self._blocks:  # a later block may have more tags
            rows = slice(start, start + len(t_ns))
            values[rows, : block.shape[1]] = block
            usable[rows, : block.shape[1]] = valid
            start = rows.stop
        t_ns = np.concatenate([[], *(times for times, _, _ in self._blocks)]).astype(np.int64)
        return Resampled(tuple(self._tag_ids), self._period_s, t_ns, values, usable)

    def _connect_new_tags(self) -> None:
        known = len(self._cells)
        if known == len(self._table):
            return
        new = np.full(len(self._table) - known, NOWHERE, np.intp)
        for i in range(len(new)):
            tag = self._table[known + i]
            if not self._wanted(tag):
                continue
            age_ns = age_max_ns(tag, self._period_ns, self._report_s)
            new[i] = self._rings.connect(self._rings.add(), 0, age_ns)
            self._tag_ids.append(known + i)
            self._silent_ticks_max = max(
                self._silent_ticks_max, 2 * BLOCK_TICKS + age_ns // self._period_ns + 1
            )
        self._cells = np.concatenate([self._cells, new])

    def _advance(self, to_ns: int) -> None:
        """Push the ticks up to `to_ns`; of a long silence only as many as still see something."""
        if self._tick_ns is None:
            self._tick_ns = to_ns
            return
        tick = self._tick_ns + self._period_ns
        last = min(to_ns, self._tick_ns + self._silent_ticks_max * self._period_ns)
        for tick_ns in range(tick, last + 1, self._period_ns):
            self._rings.push(tick_ns)
            self._waiting.append(tick_ns)
            if len(self._waiting) == 2 * BLOCK_TICKS:
                self._take(BLOCK_TICKS)
        self._tick_ns = max(self._tick_ns, to_ns)

    def _take(self, ticks: int) -> None:
        """Move the oldest waiting ticks out of the rings."""
        rings, waiting = self._rings, len(self._waiting)
        windows = np.empty((rings.slots, rings.window, 1), np.float32)
        valid = np.empty((rings.slots, rings.window), np.bool_)
        rings.gather(windows)
        rings.gather_validity(valid)
        columns = slice(rings.window - waiting, rings.window - waiting + ticks)
        t_ns = np.array(self._waiting[:ticks], np.int64)
        self._blocks.append((t_ns, windows[:, columns, 0].T.copy(), valid[:, columns].T.copy()))
        del self._waiting[:ticks]
