"""Plot: many samples thinned to few points that draw the same line. Pure, a chunk at a time.

M4 (Jugel et al., VLDB 2014): of each bucket of time the first, the last, the least and the
greatest sample. A line drawn through those is, at one bucket a column of pixels, the line through
all of them: no spike is lost. Besides, each bucket has its mean, its count, and its worst quality.

Samples may come in any order. What is kept is one row of numbers a tag and bucket, however many
samples there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gateway.frame import ByteArray, FloatArray, TimeArray
from gateway.tag import Quality

__all__ = ["POINTS_A_BUCKET", "Plot", "Series", "Thinner"]

POINTS_A_BUCKET = 4
_TIME_MIN, _TIME_MAX = -(2**63), 2**63 - 1
_BAD = int(Quality.BAD)

_BUCKET = np.dtype(
    [
        ("t_first", np.int64),
        ("first", np.float64),
        ("t_last", np.int64),
        ("last", np.float64),
        ("t_min", np.int64),
        ("min", np.float64),
        ("t_max", np.int64),
        ("max", np.float64),
        ("sum", np.float64),
        ("count", np.int64),  # with a value that may be used
        ("without", np.int64),  # bad, or text
        ("quality", np.uint8),  # the worst
    ]
)
_EMPTY = np.array(
    (_TIME_MAX, np.nan, _TIME_MIN, np.nan, 0, np.inf, 0, -np.inf, 0.0, 0, 0, 0), _BUCKET
)


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One tag. `t_ns` and `values` are to be drawn; the rest has an entry a bucket with samples."""

    tag: str
    eng_unit: str
    t_ns: TimeArray
    values: FloatArray
    bucket_ns: TimeArray  # where each begins
    min: FloatArray
    max: FloatArray
    mean: FloatArray
    count: npt.NDArray[np.int64]
    without: npt.NDArray[np.int64]  # samples without a value that may be used
    quality: ByteArray


@dataclass(frozen=True, slots=True, eq=False)
class Plot:
    """The answer: a series a tag, and how it was made."""

    series: Sequence[Series]
    bucket_s: float
    samples: int  # that were gone through
    tags_left_out: int  # matched, but beyond the bound
    is_cut: bool  # there was more than the time allowed; what is there is the newest


class Thinner:
    """Takes samples by series number and gives a row a bucket.

    Of samples of one time the one that was stored last is the last; `is_backwards` says that later
    calls bring what was stored earlier.
    """

    def __init__(
        self, start_ns: int, end_ns: int, points_max: int, *, is_backwards: bool = False
    ) -> None:
        assert start_ns < end_ns
        self._is_backwards = is_backwards
        # Nothing is stored outside of these, and differences between them fit into 64 bits.
        start_ns, end_ns = max(start_ns, -(2**62)), min(end_ns, 2**62)
        buckets = max(points_max // POINTS_A_BUCKET, 1)
        self._start_ns = start_ns
        self.bucket_ns = max(-(-(end_ns - start_ns) // buckets), 1)
        self._buckets = -(-(end_ns - start_ns) // self.bucket_ns)
        self._rows = np.empty((0, self._buckets), _BUCKET)
        self.samples = 0

    def add(
        self,
        numbers: npt.NDArray[np.intp],
        t_ns: TimeArray,
        values: FloatArray,
        quality: ByteArray,
    ) -> None:
        """Samples within the span, of the series `numbers`."""
        if not len(numbers):
            return
        self.samples += len(numbers)
        self._grow(int(numbers.max()) + 1)
        cells = numbers * self._buckets + (t_ns - self._start_ns) // self.bucket_ns
        rows = self._rows.reshape(-1)
        np.maximum.at(rows["quality"], cells, quality)
        usable = np.isfinite(values) & (quality < _BAD)
        if not usable.all():
            np.add.at(rows["without"], cells[~usable], 1)
            cells, t_ns, values = cells[usable], t_ns[usable], values[usable]
        if len(cells):
            self._fold(rows, cells, t_ns, values)

    def series(self, number: int, tag: str, eng_unit: str) -> Series:
        """What is known of one series."""
        self._grow(number + 1)
        rows = self._rows[number]
        places = np.flatnonzero((rows["count"] > 0) | (rows["without"] > 0))
        rows = rows[places]
        has = rows["count"] > 0
        filled = rows[has]
        names = ("first", "min", "max", "last")
        t_ns = np.stack([filled[f"t_{name}"] for name in names], axis=1).reshape(-1)
        values = np.stack([filled[name] for name in names], axis=1).reshape(-1)
        order = np.argsort(t_ns, kind="stable")
        t_ns, values = t_ns[order], values[order]
        new = np.ones(len(t_ns), np.bool_)
        new[1:] = (t_ns[1:] != t_ns[:-1]) | (values[1:] != values[:-1])
        nothing = np.where(has, 0.0, np.nan)
        return Series(
            tag=tag,
            eng_unit=eng_unit,
            t_ns=t_ns[new],
            values=values[new],
            bucket_ns=self._start_ns + places.astype(np.int64) * self.bucket_ns,
            min=rows["min"] + nothing,
            max=rows["max"] + nothing,
            mean=rows["sum"] / np.maximum(rows["count"], 1) + nothing,
            count=rows["count"].copy(),
            without=rows["without"].copy(),
            quality=rows["quality"].copy(),
        )

    def _grow(self, count: int) -> None:
        if count > len(self._rows):
            more = np.full((count - len(self._rows), self._buckets), _EMPTY, _BUCKET)
            self._rows = np.concatenate([self._rows, more])

    def _fold(
        self,
        rows: npt.NDArray[Any],
        cells: npt.NDArray[np.int64],
        t_ns: TimeArray,
        values: FloatArray,
    ) -> None:
        # By cell and time; of equal times as they were stored. Then each cell is one run.
        order = np.lexsort((t_ns, cells))
        cells, t_ns, values = cells[order], t_ns[order], values[order]
        starts = np.flatnonzero(np.diff(cells, prepend=cells[0] - 1))
        stops = np.append(starts[1:], len(cells))
        at = cells[starts]
        into = rows[at]
        counts = stops - starts
        into["count"] += counts
        into["sum"] += np.add.reduceat(values, starts)
        first, last = t_ns[starts], t_ns[stops - 1]
        is_first, is_last = first < into["t_first"], last >= into["t_last"]
        if self._is_backwards:
            is_first, is_last = first <= into["t_first"], last > into["t_last"]
        _put(into, "first", is_first, first, values[starts])
        _put(into, "last", is_last, last, values[stops - 1])
        run = np.repeat(np.arange(len(starts)), counts)
        for name, extreme in (("min", np.minimum), ("max", np.maximum)):
            best = extreme.reduceat(values, starts)
            # The first row of each run that has the extreme value.
            hits = np.flatnonzero(values == best[run])
            hits = hits[np.flatnonzero(np.diff(run[hits], prepend=-1))]
            is_better = best < into["min"] if name == "min" else best > into["max"]
            _put(into, name, is_better, t_ns[hits], best)
        rows[at] = into


def _put(
    into: npt.NDArray[Any], name: str, where: npt.NDArray[np.bool_], t_ns: Any, values: Any
) -> None:
    into[f"t_{name}"][where] = t_ns[where]
    into[name][where] = values[where]
