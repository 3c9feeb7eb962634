"""What an operator wants to know of the spool."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field

from gateway.frame import Lane

__all__ = ["Damage", "LaneStats", "SpoolStats"]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class LaneStats:
    """What one lane holds now."""

    bytes_used: int = 0  # of its files, written or not
    segments: int = 0
    samples: int = 0
    sequence_first: int = 0  # of its oldest record; 0: none
    sequence_last: int = 0
    oldest_ns: int = 0  # least sample time in its oldest segment; 0: none
    newest_ns: int = 0


@dataclass(slots=True)
class SpoolStats:
    """Counters (`*_total`) count since the process started and only rise."""

    state: str = "ok"  # or "degraded": the disk takes nothing, what is appended waits in memory
    error_last: str = ""
    cursors_error: str = ""  # why they are not saved
    losing: str = ""  # why samples go that some sink has not had
    bytes_used: int = 0
    bytes_max: int = 0
    pending_bytes: int = 0  # waiting for the disk
    memory_bytes: int = 0  # of files that are in memory because the disk refuses
    quarantine_bytes: int = 0  # of files in which nothing can be believed
    commit_ms_last: float = 0.0
    samples_total: int = 0  # made durable, all lanes
    records_total: int = 0
    commits_total: int = 0
    fsyncs_total: int = 0
    bytes_written_total: int = 0
    records_damaged_total: int = 0  # bytes on disk that are not what was written
    samples_lost_total: int = 0  # damaged, or deleted before every sink had them
    gaps_total: int = 0  # times a sink had to jump over samples that were deleted
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
