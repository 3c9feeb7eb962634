"""Cleaning: which cells of the recordings can be learned from, and why the others cannot.

    missing       not usable, not finite
    out of range  so far off everything else that it is no measurement: a sentinel, a torn word
    stuck         one value for far longer than the tag ever keeps one, and found nowhere else;
                  a stopped drive that says exactly 0 in every break is not stuck

What a fault left in the history is found later, by what the rest of it cannot explain (fit.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gateway.frame import BoolArray, FloatArray
from gateway.inference.fit.recording import Recording
from gateway.inference.fit.windows import HOLE_ROWS_MAX

__all__ = ["Stretch", "clean", "stretches_where"]

# Beyond the middle 99 % by this many times its width.
RANGE_WIDTHS = 20.0
# Unchanged for this many rows at least, and for this many times its usual longest.
STUCK_ROWS_MIN = 32
STUCK_TIMES = 20.0
# A report is for people.
STRETCHES_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A part of the history that was not learned from; `field` is "" when it is all of them."""

    asset: str
    field: str
    start_ns: int
    end_ns: int
    reason: str  # "missing", "stuck", "out of range", "unusual"


def clean(recordings: Sequence[Recording]) -> tuple[list[Recording], list[Stretch]]:
    """The recordings with `usable` narrowed to what can be learned from."""
    cleaned: list[Recording] = []
    found: list[Stretch] = []
    if not recordings:
        return cleaned, found
    low, high = _ranges(recordings)
    for one in recordings:
        usable = one.usable & np.isfinite(one.values)
        found += stretches_where(one, ~usable, "missing", rows_min=HOLE_ROWS_MAX + 1)
        with np.errstate(invalid="ignore"):
            outside = usable & ((one.values < low) | (one.values > high))
        found += stretches_where(one, outside, "out of range")
        usable &= ~outside
        stuck = np.zeros_like(usable)
        for column in range(len(one.fields)):
            stuck[:, column] = _stuck(one.values[:, column], usable[:, column])
        found += stretches_where(one, stuck, "stuck")
        cleaned.append(replace(one, usable=usable & ~stuck))
    return cleaned, found[:STRETCHES_MAX]


def stretches_where(
    recording: Recording, marked: BoolArray, reason: str, *, rows_min: int = 1
) -> Iterator[Stretch]:
    """Each run of marked cells (n, features) of at least `rows_min` rows; once when in all."""
    every = np.logical_and.reduce(marked, axis=1)
    columns = [("", every)]
    columns += [(field, marked[:, k] & ~every) for k, field in enumerate(recording.fields)]
    period_ns = round(recording.period_s * 1e9)
    for field, column in columns:
        for start, end in _runs(column):
            if end - start >= rows_min:
                yield Stretch(
                    asset=recording.asset,
                    field=field,
                    start_ns=int(recording.t_ns[start]),
                    end_ns=int(recording.t_ns[end - 1]) + period_ns,
                    reason=reason,
                )


def _ranges(recordings: Sequence[Recording]) -> tuple[FloatArray, FloatArray]:
    """What each tag's values are believed between, over all recordings."""
    tags = len(recordings[0].fields)
    low, high = np.full(tags, -np.inf), np.full(tags, np.inf)
    for column in range(tags):
        values = np.concatenate(
            [
                one.values[one.usable[:, column] & np.isfinite(one.values[:, column]), column]
                for one in recordings
            ]
        )
        if not len(values):
            continue
        first, last = np.quantile(values, [0.005, 0.995])
        width = last - first
        if width > 0:
            low[column], high[column] = first - RANGE_WIDTHS * width, last + RANGE_WIDTHS * width
    return low, high


def _stuck(values: FloatArray, usable: BoolArray) -> BoolArray:
    """Rows in which one value stands for far too long."""
    found = np.zeros(len(values), np.bool_)
    if len(values) < 2 * STUCK_ROWS_MIN:
        return found
    same = np.concatenate([[False], (values[1:] == values[:-1]) & usable[1:] & usable[:-1]])
    if same.mean() > 0.5:  # a set point, a counter at rest: standing still is its way
        return found
    edges = np.flatnonzero(np.concatenate([~same, [True]]))
    lengths = np.diff(edges)
    rows_max = max(STUCK_ROWS_MIN, STUCK_TIMES * float(np.quantile(lengths, 0.9)))
    for which in np.flatnonzero(lengths > rows_max):
        start, length = int(edges[which]), int(lengths[which])
        if values[start] != 0 and np.count_nonzero(values == values[start]) == length:
            found[start : start + length] = True
    return found


def _runs(marked: BoolArray) -> list[tuple[int, int]]:
    inside = np.concatenate([[False], marked, [False]])
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
