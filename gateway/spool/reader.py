"""Reader: what a sink sees of the spool. Durable samples only, the most urgent lane first.

A reader gives what follows the last acknowledged sample: asked twice without an acknowledgement,
it gives the same again, so a delivery that was cancelled has lost nothing.

    cursor           span          span, growing
    ...|--- backlog --####### backlog ---######|-> what is written now
       `- Backfill reads here                  `- SpoolReader.next reads here

A reader that is far behind, after an outage, goes on near the end of the lane at once; what it
skipped is left to `backfill`, a second way through the same lanes that a second task takes. What
has been read ahead of the cursor are spans, in memory: the cursor is moved over them when the
backfill gets there. After a crash they are forgotten, and sent again: repeated, never skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gateway.frame import Frame, Lane, TimeArray
from gateway.spool.catalog import Rows, Segment
from gateway.spool.store import Store
from gateway.tag import TagTable

__all__ = ["Backfill", "Backlog", "Batch", "SpoolReader"]

# Behind by more than this, what is written now does not wait for what was. A batch may be small,
# on a slow link; then a few of them are soon made up for.
LIVE_AFTER_BATCHES = 2
LIVE_AFTER_SAMPLES = 10_000
# Each outage during a backfill makes another; with so many, the newest grows like a backlog.
SPANS_MAX = 64


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Samples of one lane, in the order they were stored."""

    lane: Lane
    frame: Frame
    position: int  # opaque: where the lane is done up to once this batch is acknowledged
    span: int = 0  # opaque: which of the spans it makes longer; 0: none, the cursor moves


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a sink has not acknowledged yet."""

    samples: int
    oldest_ns: int  # time of the oldest, to the record or, far behind, the segment; 0: none


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows start..stop of a record."""

    rows: Rows
    start: int
    stop: int


class _Span(NamedTuple):
    """Samples start..stop of a lane that were read ahead of the cursor."""

    start: int
    stop: int
    key: int


class SpoolReader:
    """One sink's way through its lanes. Used by one task; readers do not disturb each other."""

    def __init__(
        self, name: str, lanes: Sequence[Lane], store: Store, table: TagTable, executor: Executor
    ) -> None:
        self.name = name
        self._lanes = sorted(set(lanes))  # Lane's order is that of urgency
        self._store = store
        self._table = table
        self._executor = executor
        self._cursor = store.account.begin(name, self._lanes)
        self._more = asyncio.Event()
        self._spans: dict[Lane, list[_Span]] = {lane: [] for lane in self._lanes}
        self._span_last = 0
        self._skipped = asyncio.Event()
        self._backfill: Backfill | None = None

    @property
    def backfill(self) -> Backfill:
        """The way through what this reader skips from now on, where it is far behind."""
        if self._backfill is None:
            self._backfill = Backfill(self)
        return self._backfill

    async def next_skipped(self, samples_max: int) -> Batch:
        """The oldest samples that were skipped, of the most urgent lane; waits for them."""
        while True:
            self._skipped.clear()
            lane = next((lane for lane in self._lanes if self._spans[lane]), None)
            if lane is None:
                await self._skipped.wait()
                continue
            place, stop = self._place(lane), self._spans[lane][0].start
            if place >= stop:
                self._join(lane)
                continue
            frame, position = await self._read_frame(lane, place, samples_max, stop)
            batch = Batch(lane, frame, position)
            if len(frame):
                return batch
            self.acknowledge_skipped(batch)

    def acknowledge_skipped(self, batch: Batch) -> None:
        """Be done with a batch that had been skipped."""
        if batch.position > self._place(batch.lane):
            self._cursor.move(batch.lane, batch.position)
        self._join(batch.lane)

    async def next(self, samples_max: int) -> Batch:
        """The next samples of the most urgent lane that has any; waits for them."""
        while True:
            self._more.clear()
            lane = next((lane for lane in self._lanes if self._has_more(lane, samples_max)), None)
            if lane is None:
                await self._more.wait()
                continue
            spans = self._spans[lane]
            key = spans[-1].key if spans else 0
            stop = self._store.samples_ready(lane)
            frame, position = await self._read_frame(
                lane, self._live_place(lane), samples_max, stop
            )
            batch = Batch(lane, frame, position, key)
            if len(frame):
                return batch
            await self.acknowledge(batch)  # all of it was damaged or has been deleted

    async def acknowledge(self, batch: Batch) -> None:
        """Be done with this batch. A crash may repeat it, never skip it."""
        spans = self._spans[batch.lane]
        for i, span in enumerate(spans):
            if span.key == batch.span:
                spans[i] = span._replace(stop=max(span.stop, batch.position))
                self._tell(batch.lane)
                return
        if batch.position > self._place(batch.lane):  # also of a span that the cursor has reached
            self._cursor.move(batch.lane, batch.position)

    def backlog(self) -> Backlog:
        """How far behind the sink is."""
        samples, oldest_ns = 0, 0
        for lane in self._lanes:
            place = self._place(lane)
            waiting = self._store.samples_from(lane, place)
            for span in self._spans[lane]:
                waiting -= max(0, span.stop - max(span.start, place))
            if waiting > 0:
                samples += waiting
                t_ns = self._oldest_ns(lane, place)
                oldest_ns = min(oldest_ns or t_ns, t_ns)
        return Backlog(samples, oldest_ns)

    def wake(self) -> None:
        """There is more than there was."""
        self._more.set()

    def _has_more(self, lane: Lane, samples_max: int) -> bool:
        """Whether there is anything to read; far behind, with a backfill, it goes to the end."""
        end, spans = self._store.samples_ready(lane), self._spans[lane]
        behind = end - self._live_place(lane)
        is_far = behind > max(LIVE_AFTER_BATCHES * samples_max, LIVE_AFTER_SAMPLES)
        if is_far and len(spans) < SPANS_MAX and self._backfill is not None:
            self._span_last += 1
            # With a batch of what came last, every tag that lives is current at once.
            start = self._begin_of_record(lane, end - samples_max, end)
            spans.append(_Span(start, start, self._span_last))
            self._skipped.set()
        return behind > 0

    def _live_place(self, lane: Lane) -> int:
        """Where what comes next is read; behind a span, what was deleted does not matter."""
        spans = self._spans[lane]
        return max(spans[-1].stop, self._store.samples_begin(lane)) if spans else self._place(lane)

    def _join(self, lane: Lane) -> None:
        """Move the cursor over the spans that it has reached."""
        spans = self._spans[lane]
        while spans and self._place(lane) >= spans[0].start:
            self._cursor.move(lane, max(self._place(lane), spans.pop(0).stop))
        self._tell(lane)

    def _tell(self, lane: Lane) -> None:
        """Let the store know what it must not count as undelivered."""
        spans = tuple((span.start, span.stop) for span in self._spans[lane])
        self._store.account.ahead[self.name, lane] = spans

    async def _read_frame(
        self, lane: Lane, place: int, samples_max: int, stop: int
    ) -> tuple[Frame, int]:
        loop = asyncio.get_running_loop()
        samples_max = min(samples_max, stop - place)
        pieces, position, spare = await loop.run_in_executor(
            self._executor, self._read, lane, place, samples_max, stop
        )
        frames = [piece.rows.frame(self._table, piece.start, piece.stop) for piece in pieces]
        frame = Frame.concatenate(frames)
        if spare and len(frames[-1]) == pieces[-1].stop - pieces[-1].start:  # no row is left out
            kept = self._between_points(frame, len(frame) - spare)
            position -= len(frame) - kept
            frame = frame.rows(0, kept)
        return frame, position

    def _between_points(self, frame: Frame, wanted: int) -> int:
        """Where to end a frame, near `wanted`, so that no point is cut.

        From `wanted` on all is of one time. The quality of a point is the worst of its samples in a
        batch, and of two batches with parts of it the last has the word. A point is of one asset
        and time.
        """
        begin = int(np.argmax(frame.t_ns == frame.t_ns[-1]))  # a time may come again: the safe side
        assets = [self._table[tag_id].asset for tag_id in frame.tag_ids[begin:].tolist()]
        last = {asset: i for i, asset in enumerate(assets)}
        best, open_until = begin, 0
        for i, asset in enumerate(assets):
            open_until = max(open_until, last[asset])
            if i == open_until:
                if best and begin + i + 1 > wanted:
                    break
                best = begin + i + 1
        return best

    def _place(self, lane: Lane) -> int:
        return max(self._cursor.place(lane) or 0, self._store.samples_begin(lane))

    def _read(
        self, lane: Lane, place: int, samples_max: int, stop_place: int
    ) -> tuple[list[_Piece], int, int]:
        """Pieces from `place` on, and the place behind them; in the readers' thread.

        None from `stop_place` on. What was given up or is damaged takes no room of `samples_max`.
        Last, how many samples the last piece has beyond that because they are of one time.
        """
        catalog = self._store.catalog
        pieces: list[_Piece] = []
        room, spare = samples_max, 0
        for segment in catalog.segments[lane]:
            # Taken before the index: what is written meanwhile may be in the index, but is never
            # passed over.
            samples_end = segment.summary.samples_end
            if samples_end <= place:
                continue
            contents = catalog.contents(segment)
            index = contents.index
            first = int(index["samples_end"].searchsorted(place, side="right"))
            for row in index[first:]:
                begin, end = int(row["samples_before"]), int(row["samples_end"])
                if begin >= stop_place:
                    return pieces, stop_place, 0
                start = max(place - begin, 0)
                stop = min(end - begin, start + room, stop_place - begin)
                if stop < end - begin and pieces:
                    return pieces, place, 0  # a record is only split when it is the first
                if start < stop:
                    rows = catalog.read(segment, row, contents)
                    if rows is not None:
                        most = min(end, stop_place) - begin
                        spare = _same_time(rows.columns.frame.t_ns[stop - 1 : most]) - 1
                        stop += spare
                        pieces.append(_Piece(rows, start, stop))
                        room = max(0, room - (stop - start))
                place = begin + stop
                if not room or place >= stop_place:
                    return pieces, place, spare
            place = max(place, samples_end)
            if place >= stop_place:
                return pieces, stop_place, 0
        return pieces, place, 0

    def _oldest_ns(self, lane: Lane, place: int) -> int:
        segment = self._segment_at(lane, place)
        if segment is None:
            return 0
        contents = self._store.catalog.known_contents(segment)
        if contents is None:
            return self._store.catalog.span_ns(segment)[0]
        index = contents.index
        first = int(index["samples_end"].searchsorted(place, side="right"))
        if first == len(index):
            return segment.summary.t_ns_min
        return int(self._store.catalog.times(index[first : first + 1], "t_ns_min")[0])

    def _begin_of_record(self, lane: Lane, place: int, end: int) -> int:
        """Where the next record begins, if there is one before `end`: a point is of one record."""
        segment = self._segment_at(lane, place)
        contents = self._store.catalog.known_contents(segment) if segment is not None else None
        if contents is None:
            return place
        begins = contents.index["samples_before"]
        behind = begins[(begins >= place) & (begins < end)]
        return int(behind[0]) if len(behind) else place

    def _segment_at(self, lane: Lane, place: int) -> Segment | None:
        segments = self._store.catalog.segments[lane]
        return next((s for s in segments if s.summary.samples_end > place), None)


def _same_time(t_ns: TimeArray) -> int:
    """How many of them, from the first on, are the same."""
    if len(t_ns) == 1:  # of each record that is read whole: 0.04 us, and below it would be 1.1
        return 1
    is_other = t_ns != t_ns[0]
    return int(is_other.argmax()) if is_other.any() else len(t_ns)


class Backfill:
    """What a reader skipped, oldest first. Used by one task, beside the reader's own."""

    def __init__(self, reader: SpoolReader) -> None:
        self._reader = reader

    async def next(self, samples_max: int) -> Batch:
        """The oldest samples that were skipped; waits until there are any."""
        return await self._reader.next_skipped(samples_max)

    async def acknowledge(self, batch: Batch) -> None:
        """Be done with this batch. A crash may repeat it, never skip it."""
        self._reader.acknowledge_skipped(batch)

    def backlog(self) -> Backlog:
        """How far behind the sink is."""
        return self._reader.backlog()
