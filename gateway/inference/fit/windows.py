"""Windows: what is computed of each window of a run, for all windows of it at once.

Of a scaled run z (rows, tags), for the window of `rows` ending at each row:

    slow, fast   mean over the window, and over its last `fast_rows`
    level        slow, drawn to fast by what they differ beyond chance: steady in noise, and yet
                 quick to see a step and to see it end
    slope        of the least-squares line, times the window's length
    spread       standard deviation about that line, and for each lag asked for the root mean
                 square of z[t] - z[t - lag]: bands of the spectrum, octaves apart

`graph.py` writes the same formulas as ONNX; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gateway.frame import BoolArray, FloatArray
from gateway.inference.fit.recording import Recording

__all__ = ["HOLE_ROWS_MAX", "Run", "Statistics", "level_of", "runs_of", "statistics", "weights"]

# A hole this short is filled with the value before it, as the engine does; a longer one ends a run.
HOLE_ROWS_MAX = 2


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Rows without a hole, of one recording."""

    recording: int  # which of the recordings
    start: int  # its first row there
    values: FloatArray  # (rows, tags), as float32 would hold them


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """Of m windows and n tags, each (m, n); spread (m, n (1 + lags)), lag by lag."""

    slow: FloatArray
    fast: FloatArray
    slope: FloatArray
    spread: FloatArray

    def every(self, count: int) -> Statistics:
        """Of every so many windows, from the first on."""
        step = slice(None, None, count)
        return Statistics(self.slow[step], self.fast[step], self.slope[step], self.spread[step])

    @staticmethod
    def joined(parts: Sequence[Statistics]) -> Statistics:
        return Statistics(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("slow", "fast", "slope", "spread")
            )
        )


def runs_of(recordings: Sequence[Recording], rows_min: int) -> list[Run]:
    """The stretches of at least `rows_min` rows in which every tag is usable."""
    return [run for k, one in enumerate(recordings) for run in _runs(k, one, rows_min)]


def statistics(z: FloatArray, rows: int, fast_rows: int, lags: Sequence[int] = ()) -> Statistics:
    """Of every window of a run of at least `rows` rows; float64 sums keep what float32 loses."""
    slow = _sums(z, rows) / rows
    fast = (_sums(z, fast_rows) / fast_rows)[rows - fast_rows :]
    place = np.arange(1.0, len(z) + 1)[:, np.newaxis]
    middle = np.arange(len(slow))[:, np.newaxis] + (rows + 1) / 2
    spans = rows * (rows**2 - 1) / 12  # sum of squared distances from the middle
    slope = (_sums(z * place, rows) - middle * slow * rows) / spans
    variance = _sums(z * z, rows) / rows - slow**2 - slope**2 * spans / rows
    squares = [variance]
    for lag in lags:
        apart = (z[lag:] - z[:-lag]) ** 2
        squares.append(_sums(apart, rows - lag) / (rows - lag))
    spread = np.sqrt(np.maximum(np.concatenate(squares, axis=1), 0))
    return Statistics(slow, fast, slope * rows, spread)


def level_of(slow: FloatArray, fast: FloatArray, chance: FloatArray) -> FloatArray:
    """Slow, and what fast differs from it beyond `chance`."""
    apart = fast - slow
    level: FloatArray = slow + apart - np.clip(apart, -chance, chance)
    return level


def weights(window: int, rows: int, fast_rows: int) -> FloatArray:
    """(3, window): what makes slow, fast and slope out of a window's rows."""
    found = np.zeros((3, window))
    found[0, window - rows :] = 1 / rows
    found[1, window - fast_rows :] = 1 / fast_rows
    place = np.arange(rows) - (rows - 1) / 2
    found[2, window - rows :] = place * rows / (place**2).sum()
    return found


def _runs(number: int, recording: Recording, rows_min: int) -> Iterator[Run]:
    values = recording.values.astype(np.float32).astype(np.float64)
    usable = recording.usable & np.isfinite(values)
    bad_for = _since(usable)
    held = usable | (
        (bad_for <= HOLE_ROWS_MAX) & (bad_for < np.arange(1, len(values) + 1)[:, None])
    )
    period_ns = round(recording.period_s * 1e9)
    breaks = np.flatnonzero(np.diff(recording.t_ns) > (1.5 + HOLE_ROWS_MAX) * period_ns) + 1
    good = np.logical_and.reduce(held, axis=1)
    for first, last in zip((0, *breaks), (*breaks, len(values)), strict=True):
        inside = np.concatenate([[False], good[first:last], [False]])
        edges = np.flatnonzero(inside[1:] != inside[:-1]) + first
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            if end - start >= rows_min:
                yield Run(number, int(start), _filled(values, usable, int(start), int(end)))


def _filled(values: FloatArray, usable: BoolArray, start: int, end: int) -> FloatArray:
    """Rows of a run; what is not usable is the value before it."""
    part = values[start:end].copy()
    for column in np.flatnonzero(~usable[start:end].all(axis=0)):
        for row in np.flatnonzero(~usable[start:end, column]):
            part[row, column] = part[row - 1, column] if row else values[start - 1, column]
    return part


def _since(usable: BoolArray) -> npt.NDArray[np.int64]:
    """For each cell, how many rows since (and with) the first of the hole it is in; 0 outside."""
    row = np.arange(len(usable))[:, np.newaxis]
    last_good = np.maximum.accumulate(np.where(usable, row, -1), axis=0)
    return (row - last_good).astype(np.int64)


def _sums(z: FloatArray, rows: int) -> FloatArray:
    total = np.concatenate([np.zeros((1, z.shape[1])), np.cumsum(z, axis=0)])
    sums: FloatArray = total[rows:] - total[:-rows]
    return sums
