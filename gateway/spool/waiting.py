"""Waiting: samples of a boot whose time is not known yet, kept back from sinks until it is.

The records say in their headers which boot's offset their times lack (`boots` has the offsets).
Here is where each lane's sinks must stop for that, and what is worked out when a verdict comes: a
boot that ended without one was over when the next began, and so can be estimated.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np

from gateway.frame import BoolArray, Lane
from gateway.spool.boots import Boot, Boots
from gateway.spool.catalog import Catalog, Contents, IndexArray
from gateway.spool.stats import SpoolStats

__all__ = ["SEQUENCE_MAX", "Waiting"]

SEQUENCE_MAX = 2**63 - 1
_LANES = (Lane.RAW, Lane.EVENT, Lane.SCORE, Lane.AGGREGATE)  # raw has every boot, in order


class _Span(NamedTuple):
    """First and last provisional time of a boot, and how much they can be too early at most."""

    first_ns: int
    last_ns: int
    missing_ns_max: int

    def joined(self, other: _Span) -> _Span:
        """Of two lanes."""
        first_ns, last_ns = min(self.first_ns, other.first_ns), max(self.last_ns, other.last_ns)
        return _Span(first_ns, last_ns, min(self.missing_ns_max, other.missing_ns_max))


class Waiting:
    """What of a spool waits for the time."""

    def __init__(self, catalog: Catalog, boots: Boots, stats: SpoolStats) -> None:
        self._catalog = catalog
        self._boots = boots
        self._stats = stats
        self._from: dict[Lane, int] = {}  # places from which on a lane's times are not known yet
        self._lock = threading.Lock()  # of what waits, and whether

    def place(self, lane: Lane) -> int:
        """The first sample of a lane that waits."""
        return self._from.get(lane, SEQUENCE_MAX)

    @property
    def samples(self) -> int:
        """Samples of all lanes that wait."""
        catalog = self._catalog
        return sum(
            max(0, catalog.samples_end(lane) - max(place, catalog.samples_begin(lane)))
            for lane, place in list(self._from.items())
        )

    def find(self) -> None:
        """Look where each lane has to wait."""
        with self._lock:
            self._find()

    def _find(self) -> None:
        found = {lane: self._catalog.waiting_from(lane) for lane in Lane}
        self._from = {lane: place for lane, place in found.items() if place is not None}

    def hold_back(self, lane: Lane, boot_id: int, place: int) -> None:
        """Samples of a boot are about to be written at a place of a lane."""
        with self._lock:
            if not self._boots[boot_id].is_known:
                self._from.setdefault(lane, place)

    def begin(self, boot_id: int, offset_ns: int, *, in_memory: bool) -> None:
        """Have it on record from where a boot's provisional times start. Raises OSError."""
        with self._lock:
            if boot_id not in self._boots:
                self._save(self._boots.all() | {boot_id: Boot(offset_ns)}, in_memory=in_memory)

    def settle(self, boot_id: int, verdict: Boot, began_ns: int, *, in_memory: bool) -> None:
        """A verdict of a boot (none for 0), and of those before it, which were over by then."""
        with self._lock:
            boots = self._boots.all()
            later_ns = began_ns
            for earlier, span in reversed(self._spans().items()):
                if earlier != boot_id:
                    missing_ns = min(later_ns - 1 - span.last_ns, span.missing_ns_max)
                    offset_ns = boots.get(earlier, Boot(0)).offset_ns
                    boots[earlier] = Boot(offset_ns, missing_ns, "estimated")
                    later_ns = span.first_ns + missing_ns
            if boot_id:
                boots[boot_id] = verdict
            if boots != self._boots.all():
                self._save(boots, in_memory=in_memory)
                self._find()

    def _save(self, boots: dict[int, Boot], *, in_memory: bool) -> None:
        self._boots.save(boots, in_memory=in_memory)
        self._stats.fsyncs_total += 0 if in_memory else 2

    def _spans(self) -> dict[int, _Span]:
        """Where the provisional times of each boot that waits lie, in the order they were.

        Turns without samples count as well: they say as much about when it was.
        """
        indexes = {lane: index for lane in _LANES if len(index := self._index(lane))}
        waiting = {
            boot
            for index in indexes.values()
            for boot in np.unique(index["boot"][_has_samples(index)]).tolist()
            if boot and not self._boots[boot].is_known
        }
        spans: dict[int, _Span] = {}
        for index in indexes.values() if waiting else ():
            boots, is_known = index["boot"], index["boot"] == 0
            _, first = np.unique(boots, return_index=True)
            for boot in boots[np.sort(first)].tolist():
                if boot not in waiting:
                    continue
                times = index["now_ns_max"][boots == boot]
                # Where a known time follows one of these, that is as late as it can have been.
                last = np.flatnonzero((boots[:-1] == boot) & is_known[1:])
                late_ns = index["now_ns_max"][last + 1] - 1 - index["now_ns_max"][last]
                missing_ns_max = int(late_ns.min(initial=SEQUENCE_MAX))
                span = _Span(int(times.min()), int(times.max()), missing_ns_max)
                spans[boot] = span if boot not in spans else spans[boot].joined(span)
        return spans

    def _index(self, lane: Lane) -> IndexArray:
        """The records of the segments that have provisional times, and of those behind them."""
        segments = self._catalog.segments[lane]
        wanted = [
            self._catalog.contents(segment).index
            for before, segment in zip((None, *segments), segments, strict=False)
            if segment.summary.has_provisional
            or (before is not None and before.summary.has_provisional)
        ]
        return np.concatenate(wanted) if wanted else Contents().index


def _has_samples(index: IndexArray) -> BoolArray:
    has: BoolArray = index["samples_end"] > index["samples_before"]
    return has
