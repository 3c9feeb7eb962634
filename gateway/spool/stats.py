"""What an operator wants to know of the spool."""

from __future__ import annotations

import logging
import threading
from dataclasses import field

from gateway.frame import Lane
from gateway.stats import stat, stats

__all__ = ["Damage", "LaneStats", "SpoolStats"]

log = logging.getLogger(__name__)


@stats
class LaneStats:
    """What one lane holds now."""

    bytes_used: int = stat("bytes of the lane's files, written or not")
    segments: int = stat("files of the lane")
    samples: int = stat("samples in the lane")
    sequence_first: int = stat("number of the lane's oldest record; 0: none")
    sequence_last: int = stat("number of the lane's newest record; 0: none")
    oldest_ns: int = stat("least time in the oldest file, nanoseconds since 1970; 0: none")
    newest_ns: int = stat("time of the newest sample, nanoseconds since 1970; 0: none")


@stats
class SpoolStats:
    """Counters (`*_total`) count since the process started and only rise."""

    state: str = stat("1 for what it is: ok, or degraded (the disk takes nothing)", default="ok")
    error_last: str = ""
    cursors_error: str = ""  # why they are not saved
    losing: str = ""  # why samples go that some sink has not had
    bytes_used: int = stat("bytes of the spool's files")
    bytes_max: int = stat("bytes that the spool's files may have")
    pending_bytes: int = stat("bytes that wait for the disk")
    memory_bytes: int = stat("bytes of files kept in memory because the disk refuses")
    quarantine_bytes: int = stat("bytes of files set aside, in which nothing can be believed")
    commit_ms_last: float = stat("how long the newest commit took", default=0.0)
    samples_total: int = stat("samples made durable, all lanes")
    records_total: int = stat("records written")
    commits_total: int = stat("commits: groups of records made durable together")
    fsyncs_total: int = stat("flushes of the disk's cache that were asked for")
    bytes_written_total: int = stat("bytes written to the spool's files")
    records_damaged_total: int = stat("records on disk that are not what was written")
    samples_lost_total: int = stat("samples damaged, or deleted before every sink had them")
    samples_given_up_total: int = stat(
        "samples that memory had no room for while the disk refused, had by sinks or not"
    )
    gaps_total: int = stat("times that samples began to be deleted before every sink had them")
    lanes: dict[Lane, LaneStats] = field(
        default_factory=lambda: {lane: LaneStats() for lane in Lane}
    )


class Damage:
    """Counts what is not on disk as it was written, from whichever thread finds it."""

    def __init__(self, stats: SpoolStats) -> None:
        self._stats = stats
        self._lock = threading.Lock()
        self._where_last = ""

    def note(self, where: str, records: int, samples: int, what: str) -> None:
        """One finding, to be noted once; a line a file is logged, not a line a record."""
        if records <= 0 and samples <= 0:
            return
        with self._lock:
            self._stats.records_damaged_total += max(records, 0)
            self._stats.samples_lost_total += max(samples, 0)
            is_known, self._where_last = where == self._where_last, where
        if not is_known:
            log.error(
                "spool.damaged at=%s records=%d samples_lost=%d error=%.255s",
                where,
                records,
                samples,
                what,
            )
