"""Rings: the recent samples of all assets of one model, so that a window is one slice.

    cells   the newest value of each (asset, feature), as tags report them
    rings   (assets, 2 x window, features) float32; each tick writes one column twice, `window`
            apart, so that the last `window` columns are contiguous wherever the position is

Every tick of the sample period takes what each cell holds (sample and hold). A column is valid
when every feature of it is usable and not older than the cell allows. Holes are filled: while
one lasts with the last value, and once it ends with the value after it, so that an outage does
not look like a step. How many columns of a window must be valid is the model's business.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gateway.frame import BoolArray, FloatArray, TimeArray
from gateway.inference.runtime import Float32Array
from gateway.tag import Tag

__all__ = ["AGE_MAX_PERIODS", "NOWHERE", "CellArray", "Rings", "age_max_ns"]

CellArray = npt.NDArray[np.intp]

# A value counts for this many sample periods: two lost scans are bridged, the third is a gap.
AGE_MAX_PERIODS = 3
# The cell of every tag that no model watches: written, never read. It spares a mask per frame.
NOWHERE = 0

_FLOAT32_MAX = float(np.finfo(np.float32).max)
# Long before any tick, and near enough to it that their difference is an int64.
_NEVER = np.int64(-(2**61))


def age_max_ns(tag: Tag, period_ns: int, deadband_report_s: float) -> int:
    """How long a value of a tag counts, at a sample period.

    A tag with a deadband is silent while it does not move, but not longer than its report.
    """
    bridged_ns = AGE_MAX_PERIODS * period_ns
    return bridged_ns + round(deadband_report_s * 1e9) if tag.deadband > 0 else bridged_ns


class Rings:
    """Windows of `window` ticks of `features` values for as many assets as are added."""

    def __init__(self, *, window: int, features: int) -> None:
        self.window = window
        self.features = features
        self.slots = 0  # assets; an asset's slot never changes
        self.valid: npt.NDArray[np.int64] = np.zeros(0, np.int64)  # valid columns of each window
        self._position = 0  # of the newest column
        # By cell: NOWHERE, then slot by slot each feature.
        self._value: FloatArray = np.zeros(1)
        # The time of its sample; _NEVER once it is not usable.
        self._heard_ns: TimeArray = np.full(1, _NEVER)
        self._age_max_ns: TimeArray = np.zeros(1, np.int64)
        # By slot; one more axis where it says so.
        self._ring: Float32Array = np.zeros((0, 2 * window, features), np.float32)
        self._is_valid: BoolArray = np.zeros((0, window), np.bool_)
        self._hole: npt.NDArray[np.int64] = np.zeros((0, features), np.int64)  # its length so far
        self._has_holes = False
        self._complete = 0  # columns in a row without a hole

    @property
    def bytes_per_asset(self) -> int:
        return 2 * self.window * self.features * 4

    def add(self) -> int:
        """A slot for one more asset; nothing of it is valid yet."""
        slot = self.slots
        if slot == len(self._ring):
            self._grow(max(8, 2 * slot))
        self._has_holes = True  # before its first sample all is one hole
        self._complete = 0
        self.slots += 1
        return slot

    def connect(self, slot: int, feature: int, age_max_ns: int) -> int:
        """The cell of a feature of a slot; its value counts until it is `age_max_ns` old."""
        cell = 1 + slot * self.features + feature
        self._age_max_ns[cell] = age_max_ns
        return cell

    def hold(
        self, cells: CellArray, values: FloatArray, usable: BoolArray | None, t_ns: TimeArray | int
    ) -> None:
        """Take samples of these times, in order: of one cell the last counts.

        One that is older than what its cell holds is no news. Not usable leaves the value; with
        None all are.
        """
        has_room = np.abs(values) <= _FLOAT32_MAX  # NaN is not
        usable = has_room if usable is None else usable & has_room
        late = t_ns < self._heard_ns[cells]
        if late.any():
            rest = ~late
            cells, values, usable = cells[rest], values[rest], usable[rest]
            t_ns = t_ns if isinstance(t_ns, int) else t_ns[rest]
        if usable.all():
            self._heard_ns[cells] = t_ns
        else:
            self._heard_ns[cells] = np.where(usable, t_ns, _NEVER)
            cells, values = cells[usable], values[usable]
        self._value[cells] = values
        self._heard_ns[NOWHERE] = _NEVER

    @property
    def all_valid(self) -> bool:
        """Whether every column of every window is valid: then `valid` need not be looked at."""
        return self._complete > self.window

    @property
    def values(self) -> FloatArray:
        """What the cells hold, (slots, features), good or not; a view."""
        n = self.slots * self.features
        return self._value[1 : 1 + n].reshape(self.slots, self.features)

    def push(self, tick_ns: int) -> BoolArray | None:
        """One more column for all: what the cells hold at `tick_ns`.

        Which of them are fresh, (slots, features); None when all of them are.
        """
        n, window = self.slots, self.window
        self._position = position = (self._position + 1) % window
        used = slice(1, 1 + n * self.features)
        fresh = tick_ns - self._heard_ns[used] <= self._age_max_ns[used]
        fresh = fresh.reshape(n, self.features)
        column = self._value[used].astype(np.float32).reshape(n, self.features)
        self._ring[:n, position::window] = column[:, np.newaxis]  # both places at once
        has_holes = not fresh.all()
        if has_holes or self._has_holes:  # the usual tick has none: 16 us become 10
            hole = self._hole[:n]
            ended = fresh & (hole > 0)
            if ended.any():
                self._fill(ended, column)
            np.minimum(hole + 1, window, out=hole)
            hole[fresh] = 0
            self._has_holes = has_holes
        self._complete = 0 if has_holes else self._complete + 1
        if self._complete <= window:  # then all is valid, and stays so
            complete = fresh.all(axis=1) if has_holes else np.ones(n, np.bool_)
            oldest = self._is_valid[:n, position]
            self.valid[:n] += complete.astype(np.int64) - oldest
            self._is_valid[:n, position] = complete
        return fresh if has_holes else None

    def gather(self, out: Float32Array) -> None:
        """Copy the window of every slot, oldest column first, into (slots, window, features)."""
        first = self._position + 1
        np.copyto(out, self._ring[: self.slots, first : first + self.window])

    def gather_validity(self, out: BoolArray) -> None:
        """Copy which columns of every slot's window are valid into (slots, window)."""
        newest_last = np.roll(self._is_valid[: self.slots], -1 - self._position, axis=1)
        np.copyto(out, newest_last)

    def window_of(self, slot: int) -> Float32Array:
        """The window of one slot, oldest column first; a view."""
        first = self._position + 1
        return self._ring[slot, first : first + self.window]

    def clock_stepped_back(self, now_ns: int) -> None:
        """Times of before the step must not look like the future."""
        np.minimum(self._heard_ns, now_ns, out=self._heard_ns)

    def _fill(self, ended: BoolArray, column: Float32Array) -> None:
        """Write the newest value over the hole before it, where a hole has ended."""
        slots, features = np.nonzero(ended)
        hole = np.minimum(self._hole[slots, features], self.window - 1)
        back = np.arange(1, hole.max(initial=0) + 1)
        pair, step = np.nonzero(back <= hole[:, np.newaxis])
        rows, columns = slots[pair], features[pair]
        places = (self._position - back[step]) % self.window
        self._ring[rows, places, columns] = column[rows, columns]
        self._ring[rows, places + self.window, columns] = column[rows, columns]

    def _grow(self, slots: int) -> None:
        more = slots - len(self._ring)
        by_cell = ("_value", "_heard_ns", "_age_max_ns")
        for name, rows in [(name, more * self.features) for name in by_cell] + [
            (name, more) for name in ("valid", "_ring", "_is_valid", "_hole")
        ]:
            old = getattr(self, name)
            new = np.zeros((rows, *old.shape[1:]), old.dtype)
            setattr(self, name, np.concatenate([old, new]))
        self._heard_ns[-more * self.features :] = _NEVER
        self._hole[-more:] = self.window
