"""Frame: the samples of one scan or one batch of messages, as arrays. The only thing that flows.

A sample is one row: its tag (dense id into the `TagTable`), its time, its value, its quality.
Values are float64. What a float64 cannot hold exactly - strings, integers beyond 2**53 - stands
beside them in `exact`, keyed by row; that is nearly always empty, so numbers pay nothing for it
(docs/decisions/0002-exact-values.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "EMPTY_FRAME",
    "Arrival",
    "BoolArray",
    "ByteArray",
    "Exact",
    "FloatArray",
    "Frame",
    "IdArray",
    "Lane",
    "Part",
    "TimeArray",
    "Turn",
]

FloatArray: TypeAlias = npt.NDArray[np.float64]
TimeArray: TypeAlias = npt.NDArray[np.int64]
IdArray: TypeAlias = npt.NDArray[np.int32]
ByteArray: TypeAlias = npt.NDArray[np.uint8]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
Exact: TypeAlias = Mapping[int, int | str]

_NOTHING: Exact = MappingProxyType({})


class Lane(IntEnum):
    """Priority class of the spool; each lane has its own segments, retention and cursors."""

    EVENT = 0
    SCORE = 1
    AGGREGATE = 2
    RAW = 3

    # That of an enum is Python, by the name; lanes are keys wherever a turn goes.
    __hash__ = int.__hash__


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """Samples as columns of equal length n; rows of one tag are in the order they were taken."""

    t_ns: TimeArray  # UTC nanoseconds since 1970
    tag_ids: IdArray  # dense ids of a TagTable
    values: FloatArray  # NaN where the value is only in `exact`, or where there is none
    quality: ByteArray  # gateway.tag.Quality codes
    exact: Exact = field(default_factory=lambda: _NOTHING)  # row -> string, or integer beyond 2**53

    def __post_init__(self) -> None:
        assert self.t_ns.shape == self.tag_ids.shape == self.values.shape == self.quality.shape
        assert self.t_ns.dtype == np.int64
        assert self.tag_ids.dtype == np.int32
        assert self.values.dtype == np.float64
        assert self.quality.dtype == np.uint8

    def __len__(self) -> int:
        return len(self.t_ns)

    @staticmethod
    def of(
        t_ns: int | TimeArray,
        tag_ids: IdArray,
        values: FloatArray,
        quality: int | ByteArray = 0,
        exact: Exact = _NOTHING,
    ) -> Frame:
        """A frame in which a scalar time or quality holds for every row."""
        n = len(tag_ids)
        times = t_ns if isinstance(t_ns, np.ndarray) else np.full(n, t_ns, np.int64)
        codes = quality if isinstance(quality, np.ndarray) else np.full(n, quality, np.uint8)
        return Frame(times, tag_ids, values, codes, exact)

    @staticmethod
    def concatenate(frames: Sequence[Frame]) -> Frame:
        """One frame with the rows of all, in order."""
        frames = [frame for frame in frames if len(frame)]
        if not frames:
            return EMPTY_FRAME
        if len(frames) == 1:
            return frames[0]
        return Frame(
            np.concatenate([frame.t_ns for frame in frames]),
            np.concatenate([frame.tag_ids for frame in frames]),
            np.concatenate([frame.values for frame in frames]),
            np.concatenate([frame.quality for frame in frames]),
            _stacked(frames),
        )

    @staticmethod
    def stacked(parts: Sequence[Part], by_ns: int = 0) -> Frame:
        """One frame with the rows of all, in order, all times so much later."""
        if len(parts) == 1:
            t_ns, tag_ids, values, quality, exact = parts[0]
            times = np.empty(len(tag_ids), np.int64)
            times.fill(t_ns + by_ns)
            return Frame(times, tag_ids, values, quality, exact)
        if not parts:
            return EMPTY_FRAME
        starts = np.array([part.t_ns for part in parts], np.int64) + by_ns
        return Frame(
            np.repeat(starts, [len(part.tag_ids) for part in parts]),
            np.concatenate([part.tag_ids for part in parts]),
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.quality for part in parts]),
            _stacked(parts),
        )

    def where(self, keep: BoolArray) -> Frame:
        """The rows for which `keep` is true, in order."""
        if keep.all():
            return self
        exact: Exact = _NOTHING
        if self.exact:
            new_row = np.cumsum(keep) - 1
            exact = {int(new_row[row]): v for row, v in self.exact.items() if keep[row]}
        return Frame(
            self.t_ns[keep], self.tag_ids[keep], self.values[keep], self.quality[keep], exact
        )

    def shifted(self, by_ns: int) -> Frame:
        """The same with all times so much later."""
        if not by_ns:
            return self
        return Frame(self.t_ns + by_ns, self.tag_ids, self.values, self.quality, self.exact)

    def rows(self, start: int, stop: int) -> Frame:
        """Rows start..stop as views, nothing copied."""
        exact: Exact = _NOTHING
        if self.exact:
            exact = {row - start: v for row, v in self.exact.items() if start <= row < stop}
        cut = slice(start, stop)
        return Frame(self.t_ns[cut], self.tag_ids[cut], self.values[cut], self.quality[cut], exact)

    def value(self, row: int) -> float | int | str:
        """The value of one row, exact where it is kept exactly."""
        return self.exact[row] if row in self.exact else float(self.values[row])


class Part(NamedTuple):
    """Samples of one time: columns of equal length, as a frame has them."""

    t_ns: int
    tag_ids: IdArray
    values: FloatArray
    quality: ByteArray
    exact: Exact = _NOTHING


def _stacked(parts: Sequence[Frame] | Sequence[Part]) -> Exact:
    """The exact values of all, by the rows that they have when one comes after the other."""
    exact: dict[int, int | str] = {}
    start = 0
    for part in parts:
        if part.exact:
            exact.update((start + row, value) for row, value in part.exact.items())
        start += len(part.tag_ids)
    return exact or _NOTHING


EMPTY_FRAME = Frame(
    np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.float64), np.empty(0, np.uint8)
)


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """What a source hands to the pipeline: a frame, and whom to tell once it is on disk."""

    frame: Frame
    on_durable: Callable[[], None] | None = None
    redelivered: bool = False  # the broker may have given us these samples before
    boot: int = 0  # Clock.boot when it was stamped


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """All that one turn of the pipeline made; it becomes durable as one.

    `now_ns` is the gateway's time of the turn. Everything the stages decide by time they decide
    by this number, so that replaying the raw lane gives the same outcome.
    """

    now_ns: int
    frames: Mapping[Lane, Frame]
    boot: int = 0  # whose offset all these times are to be corrected by; 0: they are final
    # Raw record up to which what follows from it is in here, or was before; 0: its own. A replay
    # makes several turns, and a crash between two of them must not make the second look done.
    raw_sequence: int = 0
