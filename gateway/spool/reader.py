"""Reader: what a sink sees of the spool. Durable samples only, the most urgent lane first.

A reader gives what follows the last acknowledged sample: asked twice without an acknowledgement,
it gives the same again, so a delivery that was cancelled has lost nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from gateway.frame import Frame, Lane
from gateway.spool.catalog import Rows, Segment
from gateway.spool.store import Store
from gateway.tag import TagTable

__all__ = ["Backlog", "Batch", "SpoolReader"]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Samples of one lane, in the order they were stored."""

    lane: Lane
    frame: Frame
    position: int  # opaque: where the lane is done up to once this batch is acknowledged


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
        self._cursor = store.cursor_of(name, self._lanes)
        self._more = asyncio.Event()

    async def next(self, samples_max: int) -> Batch:
        """The next samples of the most urgent lane that has any; waits for them."""
        loop = asyncio.get_running_loop()
        while True:
            self._more.clear()
            lane = next((lane for lane in self._lanes if self._has_more(lane)), None)
            if lane is None:
                await self._more.wait()
                continue
            pieces, position = await loop.run_in_executor(
                self._executor, self._read, lane, self._place(lane), samples_max
            )
            frame = Frame.concatenate(
                [piece.rows.frame(self._table, piece.start, piece.stop) for piece in pieces]
            )
            if len(frame):
                return Batch(lane, frame, position)
            self._cursor.move(lane, position)  # all of it was damaged or has been deleted

    async def acknowledge(self, batch: Batch) -> None:
        """Be done with this batch. Durable within seconds: a crash may repeat it, never skip it."""
        if batch.position > self._place(batch.lane):
            self._cursor.move(batch.lane, batch.position)

    def backlog(self) -> Backlog:
        """How far behind the sink is."""
        samples, oldest_ns = 0, 0
        for lane in self._lanes:
            waiting = self._store.samples_from(lane, self._place(lane))
            if waiting > 0:
                samples += waiting
                t_ns = self._oldest_ns(lane)
                oldest_ns = min(oldest_ns or t_ns, t_ns)
        return Backlog(samples, oldest_ns)

    def wake(self) -> None:
        """There is more than there was."""
        self._more.set()

    def _has_more(self, lane: Lane) -> bool:
        return self._store.samples_end(lane) > self._place(lane)

    def _place(self, lane: Lane) -> int:
        return max(self._cursor.place(lane) or 0, self._store.samples_begin(lane))

    def _read(self, lane: Lane, place: int, samples_max: int) -> tuple[list[_Piece], int]:
        """Pieces from `place` on, and the place behind them; in the readers' thread."""
        catalog = self._store.catalog
        pieces: list[_Piece] = []
        room = samples_max
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
                start = max(place - begin, 0)
                stop = min(end - begin, start + room)
                if stop < end - begin and pieces:
                    return pieces, place  # a record is only split when it is the first
                if start < stop:
                    rows = catalog.read(segment, row, contents)
                    if rows is not None:
                        pieces.append(_Piece(rows, start, stop))
                        room -= stop - start
                place = begin + stop
                if not room:
                    return pieces, place
            place = max(place, samples_end)
        return pieces, place

    def _oldest_ns(self, lane: Lane) -> int:
        place = self._place(lane)
        segment = self._segment_at(lane, place)
        if segment is None:
            return 0
        contents = self._store.catalog.known_contents(segment)
        if contents is None:
            return segment.summary.t_ns_min
        index = contents.index
        first = int(index["samples_end"].searchsorted(place, side="right"))
        return int(index["t_ns_min"][first]) if first < len(index) else segment.summary.t_ns_min

    def _segment_at(self, lane: Lane, place: int) -> Segment | None:
        segments = self._store.catalog.segments[lane]
        return next((s for s in segments if s.summary.samples_end > place), None)
