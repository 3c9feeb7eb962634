"""History: the spool asked by tag and time. The embedded historian behind the page and the CLI.

What cannot hold an answer is not read: segments by the times they span and by the tags that are
in them, records by the times they span. The rest is decoded, in one of three ways: the newest
that fit into an answer (`query`), all of it a chunk at a time (`stream`), or thinned to what a
plot shows (`plot`). Reading happens in a thread of its own, so that a question about a month keeps
neither the event loop nor a sink waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from gateway.frame import BoolArray, Frame, Lane, TimeArray
from gateway.settings import matches_any
from gateway.spool.boots import Boots
from gateway.spool.catalog import Catalog, Contents, Rows, Segment
from gateway.spool.dictionary import Dictionary
from gateway.spool.disk import Disk
from gateway.spool.plot import Plot, Thinner
from gateway.spool.recovery import find_segments
from gateway.spool.stats import Damage, SpoolStats
from gateway.tag import TagTable

__all__ = ["History"]

# 21 bytes each: what an answer may cost in memory unless the caller says otherwise.
SAMPLES_MAX = 100_000
# Chunks of this many samples are handed on: large enough that numpy's calls do not count.
CHUNK_SAMPLES = 65_536
CHUNK_RECORDS = 2048  # a fifth of a second of decoding
# A plot keeps some hundred bytes a tag and bucket; who asks for "*" gets the first of these.
PLOT_TAGS_MAX = 32
# Whoever looks at a plot waits no longer, and the web server gives up at ten seconds.
PLOT_S = 6.0

Refresh = Callable[[], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Question:
    names: Sequence[str]
    start_ns: int
    end_ns: int
    lane: Lane
    # Whoever asked may go away; a long answer must not keep the next question waiting.
    is_given_up: threading.Event = field(default_factory=threading.Event)


class History:
    """Stored samples. `query` and `plot` for the event loop; the others may take long."""

    def __init__(
        self,
        catalog: Catalog,
        table: TagTable,
        executor: Executor | None = None,
        refresh: Refresh | None = None,
    ) -> None:
        self._catalog = catalog
        self._table = table
        self._executor = executor
        self._refresh = refresh
        # Which tags a segment has that nothing is written to any more; asked again, it need not
        # be read to be passed over. Most have the same, and share the set.
        self._names: WeakKeyDictionary[Segment, frozenset[str]] = WeakKeyDictionary()
        self._names_last: frozenset[str] = frozenset()

    @staticmethod
    def open_readonly(
        directory: Path, table: TagTable, disk: Disk | None = None, damage: Damage | None = None
    ) -> History:
        """A spool that a gateway in another process may be writing to. Takes no lock."""
        disk = disk or Disk()
        damage = damage or Damage(SpoolStats())
        boots = Boots(disk, directory)
        catalog = Catalog(disk, damage, boots)

        def refresh() -> None:
            with contextlib.suppress(FileNotFoundError):
                boots.load(in_memory=True)  # a look needs no verdicts to begin
                names = disk.names(directory)
                catalog.segments.update(find_segments(disk, directory, names, damage).segments)

        return History(catalog, table, refresh=refresh)

    async def query(
        self,
        names: Sequence[str],
        start_ns: int,
        end_ns: int,
        lane: Lane = Lane.RAW,
        samples_max: int = SAMPLES_MAX,
    ) -> Frame:
        """Samples with start_ns <= t_ns < end_ns of tags that `names` (names, patterns) match.

        Oldest first; of more than `samples_max` those that were stored last. The table gets the
        tags that it does not have.
        """
        question = _Question(names, start_ns, end_ns, lane)
        found = await self._answer(question, self._newest, question, samples_max)
        return self._join(found, samples_max)

    def query_now(
        self,
        names: Sequence[str],
        start_ns: int,
        end_ns: int,
        lane: Lane = Lane.RAW,
        samples_max: int = SAMPLES_MAX,
    ) -> Frame:
        """The same at once; only in the table's thread."""
        found = self._newest(_Question(names, start_ns, end_ns, lane), samples_max)
        return self._join(found, samples_max)

    def stream(
        self, names: Sequence[str], start_ns: int, end_ns: int, lane: Lane = Lane.RAW
    ) -> Iterator[Frame]:
        """All of it in the order it was stored, some ten thousand samples at a time.

        Only in the table's thread. However much there is, one segment of it is in memory.
        """
        for chunk in _chunks(self._rows(_Question(names, start_ns, end_ns, lane))):
            frame = Frame.concatenate([rows.frame(self._table) for rows in chunk])
            if len(frame):
                yield frame

    def arrivals(
        self, names: Sequence[str], start_ns: int, end_ns: int
    ) -> Iterator[tuple[TimeArray, Frame]]:
        """Raw samples as the pipeline took them: the time of each row's turn, and the frame.

        In the order they were taken, a record at a time, with start_ns <= t_ns < end_ns. Only in
        the table's thread.
        """
        for rows in self._rows(_Question(names, start_ns, end_ns, Lane.RAW)):
            now_ns, row_ends, _ = rows.columns
            frame = rows.frame(self._table)
            if len(frame) == len(rows.columns.frame):
                yield np.repeat(now_ns, np.diff(row_ends, prepend=0)), frame
                continue
            start = 0  # some rows are of tags that are not known
            for turn_ns, stop in zip(now_ns.tolist(), row_ends.tolist(), strict=True):
                frame = rows.frame(self._table, start, stop)
                yield np.full(len(frame), turn_ns), frame
                start = stop

    async def plot(
        self, names: Sequence[str], start_ns: int, end_ns: int, lane: Lane, points_max: int
    ) -> Plot:
        """What a plot `points_max // 4` pixels wide shows of the same samples.

        Newest first, for `PLOT_S` at most: of a month of raw samples what can be read in that.
        """
        question = _Question(names, start_ns, end_ns, lane)
        return await self._answer(question, self._plot, question, points_max)

    async def _answer(self, question: _Question, work: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, work, *arguments)
        except asyncio.CancelledError:
            question.is_given_up.set()
            raise

    def _plot(self, question: _Question, points_max: int) -> Plot:
        thinner = Thinner(question.start_ns, question.end_ns, points_max, is_backwards=True)
        numbers = _Numbers()
        until_s = time.monotonic() + PLOT_S
        is_cut = False
        for newest_first in _chunks(self._rows(question, newest_first=True)):
            chunk = newest_first[::-1]
            frames = [rows.columns.frame for rows in chunk]
            of_series = np.concatenate([numbers.of(rows) for rows in chunk])
            kept = of_series >= 0
            columns = (
                np.concatenate([frame.t_ns for frame in frames]),
                np.concatenate([_as_floats(frame) for frame in frames]),
                np.concatenate([frame.quality for frame in frames]),
            )
            thinner.add(of_series[kept], *(column[kept] for column in columns))
            is_cut = time.monotonic() > until_s
            if is_cut:
                break
        return Plot(
            series=[
                thinner.series(number, tag, eng_unit)
                for number, (tag, eng_unit) in enumerate(numbers.tags)
            ],
            bucket_s=thinner.bucket_ns / 1e9,
            samples=thinner.samples,
            tags_left_out=len(numbers.left_out),
            is_cut=is_cut,
        )

    def _newest(self, question: _Question, samples_max: int) -> list[Rows]:
        """Matching rows a record, newest record first; `samples_max` or some more if there are."""
        found: list[Rows] = []
        samples = 0
        for rows in self._rows(question, newest_first=True):
            found.append(rows)
            samples += len(rows.columns.frame)
            if samples >= samples_max:
                break
        return found

    def _rows(self, question: _Question, *, newest_first: bool = False) -> Iterator[Rows]:
        """What matches of each record that has any, in the order of storing."""
        if self._refresh is not None:
            self._refresh()
        start_ns, end_ns = question.start_ns, question.end_ns
        segments = self._catalog.segments[question.lane]
        for segment in reversed(segments) if newest_first else segments:
            low_ns, high_ns = self._catalog.span_ns(segment)
            if high_ns < start_ns or low_ns >= end_ns:
                continue
            if not self._may_have(segment, question.names):
                continue
            contents = self._catalog.contents(segment)
            index = contents.index  # before the dictionary: that only grows, and is ahead of it
            self._remember(segment, contents)
            wanted = _Wanted(contents.dictionary, question.names)
            if not wanted.has_any():
                continue
            times = self._catalog.times
            overlaps = (times(index, "t_ns_max") >= start_ns) & (times(index, "t_ns_min") < end_ns)
            index = index[overlaps]
            records = index[::-1] if newest_first else index
            for rows in self._catalog.read_many(segment, records, contents):
                if question.is_given_up.is_set():
                    return
                frame = rows.columns.frame
                keep = wanted.of(frame)
                if not keep.any():
                    continue
                keep &= (frame.t_ns >= start_ns) & (frame.t_ns < end_ns)
                if keep.any():
                    kept_before = np.concatenate([[0], np.cumsum(keep)])
                    columns = rows.columns._replace(
                        frame=frame.where(keep), row_ends=kept_before[rows.columns.row_ends]
                    )
                    yield rows._replace(columns=columns)

    def _may_have(self, segment: Segment, names: Sequence[str]) -> bool:
        """False only if it is known that none of the tags is in it."""
        known = self._names.get(segment)
        if known is None:
            return True
        patterns = tuple(name for name in names if _is_pattern(name))
        return any(name in known for name in names if not _is_pattern(name)) or any(
            matches_any(name, patterns) for name in known if patterns
        )

    def _remember(self, segment: Segment, contents: Contents) -> None:
        if segment.can_grow or segment.contents is not None or segment in self._names:
            return
        dictionary = contents.dictionary
        tags = [dictionary[local_id] for local_id in range(len(dictionary))]
        names = frozenset(tag.name for tag in tags if tag is not None)
        if names == self._names_last:
            names = self._names_last
        self._names[segment] = self._names_last = names

    def _join(self, found: Sequence[Rows], samples_max: int) -> Frame:
        frame = Frame.concatenate([rows.frame(self._table) for rows in reversed(found)])
        frame = frame.rows(max(0, len(frame) - samples_max), len(frame))
        return _sorted(frame)


class _Wanted:
    """Which local ids of a segment's dictionary are asked for."""

    def __init__(self, dictionary: Dictionary, names: Sequence[str]) -> None:
        self._dictionary = dictionary
        self._exact = {name for name in names if not _is_pattern(name)}
        self._patterns = tuple(name for name in names if name not in self._exact)
        self._mask = np.zeros(1, np.bool_)  # the last is for ids that are not known

    def has_any(self) -> bool:
        self._learn()
        return bool(self._mask.any())

    def of(self, frame: Frame) -> BoolArray:
        self._learn()
        rows: BoolArray = self._mask[np.minimum(frame.tag_ids.view(np.uint32), len(self._mask) - 1)]
        return rows

    def _learn(self) -> None:
        known = len(self._mask) - 1
        if len(self._dictionary) > known:  # at first, or the segment is being written to
            more = [self._matches(i) for i in range(known, len(self._dictionary))]
            self._mask = np.concatenate([self._mask[:-1], np.array([*more, False], np.bool_)])

    def _matches(self, local_id: int) -> bool:
        tag = self._dictionary[local_id]
        if tag is None:
            return False
        return tag.name in self._exact or matches_any(tag.name, self._patterns)


class _Numbers:
    """Series of a plot by tag name, across segments; each has local ids of its own."""

    def __init__(self) -> None:
        self.tags: list[tuple[str, str]] = []  # name, engineering unit
        self.left_out: set[str] = set()
        self._numbers: dict[str, int] = {}
        self._dictionary: Dictionary | None = None
        self._by_local_id = np.empty(0, np.intp)

    def of(self, rows: Rows) -> npt.NDArray[np.intp]:
        """Each row's series; -1 for one beyond the bound."""
        ids = rows.columns.frame.tag_ids
        if rows.dictionary is not self._dictionary:
            self._dictionary = rows.dictionary
            self._by_local_id = np.empty(0, np.intp)
        known = len(self._by_local_id)
        if int(ids.max()) >= known:
            self._by_local_id = np.concatenate(
                [self._by_local_id, np.full(len(rows.dictionary) - known, -2, np.intp)]
            )
        found: npt.NDArray[np.intp] = self._by_local_id[ids]
        if (found == -2).any():
            for local_id in np.unique(ids[found == -2]).tolist():
                self._by_local_id[local_id] = self._number(rows.dictionary, local_id)
            found = self._by_local_id[ids]
        return found

    def _number(self, dictionary: Dictionary, local_id: int) -> int:
        tag = dictionary[local_id]
        if tag is None:
            return -1
        known = self._numbers.get(tag.name)
        if known is not None:
            return known
        if len(self.tags) >= PLOT_TAGS_MAX:
            self.left_out.add(tag.name)
            return -1
        self._numbers[tag.name] = len(self.tags)
        self.tags.append((tag.name, tag.eng_unit))
        return len(self.tags) - 1


def _is_pattern(name: str) -> bool:
    return bool(set("*?[") & set(name))


def _chunks(found: Iterator[Rows]) -> Iterator[list[Rows]]:
    chunk: list[Rows] = []
    samples = 0
    for rows in found:
        chunk.append(rows)
        samples += len(rows.columns.frame)
        if samples >= CHUNK_SAMPLES or len(chunk) >= CHUNK_RECORDS:
            yield chunk
            chunk, samples = [], 0
    if chunk:
        yield chunk


def _as_floats(frame: Frame) -> npt.NDArray[np.float64]:
    """The values as numbers to draw: integers beyond 2**53 rounded, text as none."""
    if not frame.exact:
        return frame.values
    values = frame.values.copy()
    for row, value in frame.exact.items():
        values[row] = np.nan if isinstance(value, str) else float(value)
    return values


def _sorted(frame: Frame) -> Frame:
    """The rows by time; those of one time as they were stored."""
    order = np.argsort(frame.t_ns, kind="stable")
    exact: Mapping[int, int | str] = frame.exact
    if exact:
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        exact = {int(place[row]): value for row, value in exact.items()}
    return Frame(
        frame.t_ns[order],
        frame.tag_ids[order],
        frame.values[order],
        frame.quality[order],
        exact,
    )
