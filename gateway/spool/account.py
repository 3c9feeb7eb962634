"""Account: which sinks read with now, and how much of what is deleted they had not had.

Counted once, wherever it is found: when a segment goes, or when a sink begins to read behind what
went while it was away.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from gateway.frame import Lane
from gateway.spool.catalog import Catalog, Segment
from gateway.spool.cursor import Cursor
from gateway.spool.cursors import Cursors
from gateway.spool.stats import SpoolStats

__all__ = ["Account"]

log = logging.getLogger(__name__)

FULL_SHARE = 0.9  # of `bytes_max`; a segment or two may be on their way


class Account:
    """Of one store. Readers begin in the event loop, segments go in the writer's thread."""

    def __init__(self, catalog: Catalog, cursors: Cursors, stats: SpoolStats) -> None:
        self._catalog = catalog
        self._cursors = cursors
        self._stats = stats
        self._reading: dict[str, tuple[Lane, ...]] = {}
        # By sink and lane, what it has had ahead of its cursor; replaced whole, never changed.
        self.ahead: dict[tuple[str, Lane], tuple[tuple[int, int], ...]] = {}

    def begin(self, name: str, lanes: Sequence[Lane]) -> Cursor:
        """The cursor of a sink that begins to read; a gap from while it was away is counted."""
        cursor = self._cursors[name]
        self._reading[name] = tuple(lanes)
        for lane in lanes:
            begin = self._catalog.samples_begin(lane)
            place = cursor.place(lane)
            if place is None:
                cursor.move(lane, begin)
            elif place < begin:
                self._note_gap(lane, begin - place)
                cursor.move(lane, begin)  # counted once
        return cursor

    def deleted(self, segment: Segment) -> int:
        """Count what some sink will never get of a segment that is gone; how much that is."""
        lane, summary = segment.lane, segment.summary
        undelivered = 0
        for name, lanes in list(self._reading.items()):  # the event loop may add one
            cursor = self._cursors[name]
            place = cursor.place(lane)
            if lane in lanes and place is not None and place < summary.samples_end:
                start = max(place, summary.samples_before)
                had = sum(
                    max(0, min(span_stop, summary.samples_end) - max(span_start, start))
                    for span_start, span_stop in self.ahead.get((name, lane), ())
                )
                undelivered = max(undelivered, summary.samples_end - start - had)
                begin = self._catalog.samples_begin(lane)
                is_first = begin >= summary.samples_end
                # Counted here, so the next start must not find it and count it once more. An
                # acknowledgement meanwhile is undone at worst, and the batch sent again. What went
                # in memory may have stood behind what is still to be read: the reader passes it.
                if is_first:
                    cursor.move(lane, begin)  # over what went in memory behind it as well
                elif place >= summary.samples_before:
                    cursor.move(lane, summary.samples_end)
        if undelivered > 0:
            self._note_gap(lane, undelivered)
        else:
            self._stats.losing = ""
        return undelivered

    def _note_gap(self, lane: Lane, samples: int) -> None:
        self._stats.samples_lost_total += samples
        is_full = self._stats.bytes_used >= FULL_SHARE * self._stats.bytes_max
        why = "bytes_max is reached" if is_full else "the disk is full, or what a lane may keep is"
        if not self._stats.losing:
            self._stats.gaps_total += 1
            log.error(
                "spool.undelivered_deleted lane=%s samples=%d cause=%s",
                *(lane.name.lower(), samples, why),
            )
        self._stats.losing = f"samples that sinks have not had are deleted: {why}"
