"""Search: the points of a batch that a sink will not take, found by halving from the front.

What is accepted is done. What is refused is halved until one point stands alone; behind it all
the rest is tried at once. A bad point among n costs at most log2 n + 1 refusals, and every good
point is accepted once. Pure: whoever sends says what became of it and asks what to try next.

A point that is refused by itself is only a suspect where the refusal does not say that it is about
the data; `Proof` keeps it until the server has taken another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gateway.errors import SinkError, SinkRejected
from gateway.frame import BoolArray, Frame
from gateway.tag import Tags

__all__ = ["Proof", "Search", "points_of"]

PointArray = npt.NDArray[np.intp]

# After so many points in a row that are refused without a word on why another one is sent again.
REFUSED_IN_A_ROW_MAX = 3


class Search:
    """Which points to try next. At first all of them have been tried, and not accepted."""

    def __init__(self, points: PointArray) -> None:
        self._points = points  # of each row, numbered from 0
        self._count = int(points.max()) + 1
        self._start, self._stop = 0, self._count  # tried; what is before `_start` is done
        self._bad_to = 0  # a bad point is, or seems to be, from `_start` to here
        self._at_once = self._count

    @property
    def is_done(self) -> bool:
        return self._start >= self._count

    @property
    def is_lone(self) -> bool:
        """Whether what is tried is one point."""
        return self._stop - self._start == 1

    @property
    def is_narrowing(self) -> bool:
        """Whether what is tried is, or seems to be, part of something bad."""
        return self._bad_to > self._start

    @property
    def is_only(self) -> bool:
        """Whether there is but one point in all."""
        return self._count == 1

    @property
    def rows(self) -> BoolArray:
        """The rows to try."""
        return self._rows(self._start, self._stop)

    @property
    def rows_left(self) -> BoolArray:
        """The rows that are not done."""
        return self._rows(self._start, self._count)

    def rows_behind(self) -> Iterator[BoolArray]:
        """The rows of 1, 2, 4 ... points behind those tried."""
        begin, size = self._stop, 1
        while begin < self._count:
            yield self._rows(begin, begin + size)
            begin, size = begin + size, 2 * size

    def done(self) -> None:
        """These were accepted, or the one is given up."""
        self._start = self._stop
        self._next()

    def refused(self) -> None:
        """Something in these is bad."""
        self._bad_to = self._stop
        self._next()

    def acquitted(self) -> None:
        """It was not their fault; try them again."""
        self._bad_to = self._start
        self._next()

    def too_many(self) -> None:
        """Try fewer at once."""
        self._at_once = max(1, (self._stop - self._start) // 2)
        self._next()

    def _next(self) -> None:
        size = self._at_once
        if self.is_narrowing:
            size = min(size, max(1, (self._bad_to - self._start) // 2))
        self._stop = min(self._start + size, self._count)

    def _rows(self, start: int, stop: int) -> BoolArray:
        rows: BoolArray = (self._points >= start) & (self._points < stop)
        return rows


@dataclass(slots=True)
class Proof:
    """Points that were refused by themselves, and whether the server took others after them."""

    suspects: list[tuple[Frame, SinkError]] = field(default_factory=list)
    is_given: bool = False  # that it is not we who are refused
    refused: int = 0  # suspects since another point was taken
    has_doubted: bool = False  # whether anything was refused that may have been good

    def see(self, trouble: SinkError | None) -> None:
        """What became of some points: taken, or refused, for what they are or not."""
        if trouble is None or (isinstance(trouble, SinkRejected) and trouble.is_certain):
            self.is_given, self.refused = True, 0
        elif isinstance(trouble, SinkRejected):
            self.has_doubted = True

    def suspect(self, part: Frame, refusal: SinkRejected) -> None:
        """One more; of many in a row some may come after the server began to refuse everything."""
        self.suspects.append((part, refusal))
        self.refused += 1
        if self.refused >= REFUSED_IN_A_ROW_MAX:
            self.is_given = False

    def left(self, rest: Frame) -> Frame:
        """The suspects, and what comes behind them."""
        return Frame.concatenate([*(part for part, _ in self.suspects), rest])


def points_of(frame: Frame, table: Tags) -> PointArray:
    """The point each row is in - rows of equal measurement, labels and time - from 0, in order."""
    series_of: dict[object, int] = {}
    tag_ids, places = np.unique(frame.tag_ids, return_inverse=True)
    of_tag = [
        series_of.setdefault((table[i].measurement, table[i].labels), len(series_of))
        for i in tag_ids.tolist()
    ]
    series = np.array(of_tag, np.intp)[places]
    order = np.lexsort((frame.t_ns, series))
    begins = np.ones(len(frame), np.bool_)
    begins[1:] = np.diff(series[order]) != 0
    begins[1:] |= np.diff(frame.t_ns[order]) != 0
    first_rows = order[begins]  # lexsort keeps equal rows in order
    number = np.empty(len(first_rows), np.intp)
    number[np.argsort(first_rows)] = np.arange(len(first_rows))
    points = np.empty(len(frame), np.intp)
    points[order] = number[np.cumsum(begins) - 1]
    return points
