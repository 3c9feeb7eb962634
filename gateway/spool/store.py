"""Store: the spool without threads. Opens a directory, commits groups, keeps within bounds.

Everything here is called by one thread at a time: first by the one that opens, then by the
writer's. Sinks and queries read beside it, through the catalog.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from gateway.clock import Clock
from gateway.errors import SpoolLocked
from gateway.frame import Lane
from gateway.spool.account import Account
from gateway.spool.boots import Boot, Boots
from gateway.spool.catalog import Catalog, Rows, Segment, parse_name
from gateway.spool.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from gateway.spool.config import SpoolSettings
from gateway.spool.cursors import Cursors
from gateway.spool.disk import Disk, File
from gateway.spool.evidence import count_ends
from gateway.spool.gap import Gap
from gateway.spool.group import Group
from gateway.spool.lane import Draft, LaneWriter, Shared
from gateway.spool.overlay import OverlayDisk
from gateway.spool.pool import Pool
from gateway.spool.recovery import find_segments
from gateway.spool.segment import HEAD_BYTES, decode_header, time_or_zero
from gateway.spool.stats import Damage, SpoolStats
from gateway.spool.waiting import SEQUENCE_MAX, Waiting
from gateway.tag import TagTable

__all__ = ["Store"]

log = logging.getLogger(__name__)

DERIVED = (Lane.EVENT, Lane.SCORE, Lane.AGGREGATE)


class Store:
    """One directory."""

    def __init__(
        self, directory: Path, settings: SpoolSettings, table: TagTable, clock: Clock, disk: Disk
    ) -> None:
        self.directory = directory
        self.settings = settings
        self.table = table
        self.clock = clock
        self.disk = OverlayDisk(disk, settings.pending_bytes_max)
        self._real_disk = disk
        self._is_blind = False  # what the directory holds could not be seen
        self.stats = SpoolStats(bytes_max=settings.bytes_max)
        self.damage = Damage(self.stats)
        self.boots = Boots(disk, directory)
        self.catalog = Catalog(self.disk, self.damage, self.boots)
        self.waiting = Waiting(self.catalog, self.boots, self.stats)
        self.pool = Pool(self.disk, directory, settings, self.catalog, self._on_evict)
        self.cursors = Cursors(directory / "cursors", disk, self.stats, self.catalog.samples_end)
        self.account = Account(self.catalog, self.cursors, self.stats)
        self.last_turn_ns = 0
        self.last_boot = 0  # of the last turn on disk
        # What was derived from raw records before this sequence is on disk for certain. Every raw
        # record says it; 0 in those written before there were marks, when all was synced at once.
        self._derived_mark = 1
        self.derived_turn_ns = 0
        self._boot_begun: tuple[int, int] | None = None  # its id and offset, to be recorded
        self._must_save_cursors = False
        self._has_given_up = False  # in memory, since the disk refused last
        self.checkpoint: Checkpoint | None = None  # of the start; the raw lane goes on from it
        self._writers: dict[Lane, LaneWriter] = {}
        self._lock: File | None = None

    def open(self) -> None:
        """Lock, create what is not there, recover what is. Raises SpoolLocked, OSError."""
        self._take_lock()
        with contextlib.suppress(OSError):  # a disk that cannot be written can still be read
            # Of a process that was killed there may be names that are not on disk yet.
            self.disk.sync_directory(self.directory)
        names = self.disk.names(self.directory)
        # Before anything is counted: they may fail, and be tried again.
        self.boots.load(in_memory=self.in_memory)
        self.cursors.load(in_memory=self.in_memory)
        found = find_segments(self.disk, self.directory, names, self.damage, to_write=True)
        self.catalog.segments.update(found.segments)
        self.waiting.find()
        self.pool.adopt(found.useless, found.unbelievable, found.strangers)
        shared = Shared(
            disk=self.disk,
            pool=self.pool,
            catalog=self.catalog,
            table=self.table,
            clock=self.clock,
            stats=self.stats,
            number_last=max(found.number_max, self._number_of_spare()),
        )
        for lane in DERIVED:
            self._writers[lane] = LaneWriter(lane, shared)
        # Were the raw lane's end lost, its sequences must not be given to other turns: the
        # derived lanes would take these for worked already.
        named_max = max(writer.raw_sequence for writer in self._writers.values())
        self._writers[Lane.RAW] = LaneWriter(Lane.RAW, shared, sequence_min=named_max + 1)
        count_ends(self.catalog.segments, self.cursors, self.damage)
        self._must_save_cursors = self.cursors.check()
        self.cursors.ends = {lane: self.samples_end(lane) for lane in Lane}
        if self.settings.raw:
            self._derived_mark = self._writers[Lane.RAW].raw_sequence or 1
            self._find_turns()
            self.checkpoint = self._find_checkpoint()
        self._update_stats()

    def _take_lock(self) -> None:
        """Anew where somebody deleted the folder, or the lock. Raises SpoolLocked, OSError."""
        if self._lock is not None and self._lock.is_linked():
            return
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        self.disk.make_directory(self.directory)
        try:
            self._lock = self.disk.lock(self.directory / "lock")
        except OSError:
            if not self.disk.use_memory:
                raise

    def enter_memory(self) -> None:
        """Go on in memory, bounded: the disk has refused for too long. Raises SpoolLocked."""
        self.disk.use_memory, self._has_given_up = True, False
        if not self.is_open:
            try:
                self._real_disk.names(self.directory)
            except OSError:
                self._is_blind = True
            try:
                self.open()
            except BaseException:
                self.disk.use_memory = self._is_blind = False
                raise

    @property
    def in_memory(self) -> bool:
        return self.disk.use_memory

    def leave_memory(self) -> None:
        """Copy what is in memory to the disk, which is in use again then. Raises OSError."""
        self._real_disk.make_directory(self.directory)
        self.disk.use_memory = False
        try:
            self._take_lock()
            self._check_not_blind()
            self.boots.leave_memory()
            self._save_cursors_first()
            self.waiting.find()
            for lane in (Lane.RAW, *DERIVED):
                for segment in self.catalog.segments[lane]:
                    if self.disk.is_in_memory(segment.path):
                        self.disk.settle(segment.path)
        except (OSError, SpoolLocked):
            self.disk.use_memory = True
            raise
        finally:
            for writer in self._writers.values():
                writer.close()  # files in memory that have been copied are not written to
        if self._is_blind:
            self.cursors.forgo()
        self._is_blind = False
        self.pool.adopt()
        self._update_stats()

    def _check_not_blind(self) -> None:
        """Two spools, each with sequences of its own, cannot become one."""
        if self._is_blind and any(map(parse_name, self._real_disk.names(self.directory))):
            raise OSError(errno.EEXIST, "its files could not be read at the start: restart")

    def is_kept(self, raw_sequence: int) -> bool:
        """Whether a raw record that was written in memory has not been given up since.

        Without a raw lane nobody knows which groups a segment had: with one given up, all are.
        """
        if not self.settings.raw:
            return not self._has_given_up
        segments = self.catalog.segments[Lane.RAW]
        return any(s.first_sequence <= raw_sequence < s.summary.sequence_end for s in segments)

    @property
    def is_open(self) -> bool:
        return Lane.RAW in self._writers

    def commit(self, groups: Sequence[Group]) -> None:
        """Make the groups durable: the raw lane first, then what was derived from it.

        A failure is answered with a new segment, once; a second one raises OSError. What became
        durable until then is remembered in the groups, so they may be committed again.
        """
        if not self.is_open:
            self.open()
        if not self.in_memory:
            self._take_lock()
        self._record_boot()
        self._save_cursors_first()
        for group in groups:
            drafts = group.draft(keeps_raw=self.settings.raw)
            if Lane.RAW in drafts:
                drafts[Lane.RAW].raw_sequence = self._derived_mark
        self._hold_back(groups)
        self._write(Lane.RAW, groups, sync=True)
        raw_sequence = self._writers[Lane.RAW].sequence_end - 1
        for lane in DERIVED:
            for group in groups:
                draft = (group.drafts or {}).get(lane)
                if draft is not None and not draft.sequence:
                    draft.raw_sequence = group.made_of or raw_sequence
            # What can be made again from the raw lane is synced with the next flush that is due.
            self._write(lane, groups, sync=lane is Lane.EVENT or not self.settings.raw)
        if self.settings.raw:
            self.last_turn_ns = groups[-1].turns[-1].now_ns
        self.stats.commits_total += 1
        self._update_stats()

    def tidy(self) -> None:
        """What can be done while nobody waits: fewer files if there are too many, or a spare."""
        if self.in_memory:
            return
        self.pool.shrink()
        self.pool.expire(self.clock.utc_ns())
        if any(writer.is_nearly_full for writer in self._writers.values()):
            self.pool.prepare()
            self._update_stats()

    def sync_derived(self) -> None:
        """Make durable what was written to the derived lanes; the replay need not go so far back.

        Raises OSError; nothing is lost then, and the next time will do.
        """
        for lane in DERIVED:
            if lane in self._writers:
                self._writers[lane].sync()
        # The first commit after a start brings what the replay has made anew.
        if self.settings.raw and self.stats.commits_total and not self.in_memory:
            self._derived_mark = self._writers[Lane.RAW].sequence_end

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Make a checkpoint durable, after all that was derived before it. Raises OSError."""
        if self.in_memory or not self.is_open:
            return
        self.sync_derived()
        self.stats.bytes_written_total += save_checkpoint(
            self._real_disk, self.directory, checkpoint
        )
        self.stats.fsyncs_total += 3

    def save_cursors(self, *, sync: bool = True) -> None:
        """Write the cursors that moved. Raises OSError; the next time will do then."""
        self.cursors.save(in_memory=self.in_memory, sync=sync)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sync_derived()
        for writer in self._writers.values():
            with contextlib.suppress(OSError):
                writer.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def applied(self, lane: Lane) -> int:
        """Raw sequence that the lane's last durable record names; 0 if there is none."""
        writer = self._writers.get(lane)
        if writer is None:
            return 0
        return writer.sequence_end - 1 if lane is Lane.RAW else writer.raw_sequence

    def samples_end(self, lane: Lane) -> int:
        """Durable samples of the lane since it began: where a reader is when it has them all."""
        return self.catalog.samples_end(lane)

    def samples_begin(self, lane: Lane) -> int:
        """Samples of the lane that have been deleted already."""
        return self.catalog.samples_begin(lane)

    def samples_ready(self, lane: Lane) -> int:
        """How far a sink may read: up to where times are not known yet."""
        return min(self.samples_end(lane), self.waiting.place(lane))

    @property
    def samples_waiting(self) -> int:
        """Samples of all lanes that wait for the time."""
        return self.waiting.samples

    def newest_ns(self) -> int:
        """The newest time of any turn on disk, as far as is known; 0 for none."""
        newest = 0
        for segments in self.catalog.segments.values():
            for segment in segments[-1:]:
                index = self.catalog.contents(segment).index
                newest = max(newest, int(self.catalog.times(index, "now_ns_max").max(initial=0)))
        return newest

    def _hold_back(self, groups: Sequence[Group]) -> None:
        """Before anybody can read it: what has no known time yet is not for sinks."""
        for group in groups:
            for lane, draft in (group.drafts or {}).items():
                if draft.boot and len(draft.frame):
                    self.waiting.hold_back(lane, draft.boot, self._writers[lane].samples_end)

    def begin_boot(self, boot_id: int, offset_ns: int) -> None:
        """Have it on record from where this boot's provisional times start.

        Raises OSError; it is tried again then before anything else of this boot is written.
        """
        self._boot_begun = (boot_id, offset_ns)
        self._record_boot()

    def _save_cursors_first(self) -> None:
        """Before a lane grows again that a cursor on disk is ahead of. Raises OSError."""
        if self.in_memory or (self.cursors.are_loaded and not self._must_save_cursors):
            return
        try:
            self.cursors.save(in_memory=False)
        except OSError:
            if self._must_save_cursors:  # else they cannot be read, and are not waited for
                raise
        else:
            self._must_save_cursors = False

    def _record_boot(self) -> None:
        if self._boot_begun is not None:
            self.waiting.begin(*self._boot_begun, in_memory=self.in_memory)
            self._boot_begun = None

    def settle_boots(self, boot_id: int, verdict: Boot, began_ns: int) -> None:
        """Write down how wrong a boot's provisional times are, and those of boots before it.

        `began_ns` is the right time of its beginning: the ones before were over by then. Raises
        OSError; nothing is known then that was not known before.
        """
        self.waiting.settle(boot_id, verdict, began_ns, in_memory=self.in_memory)
        if self.settings.raw and not self.stats.commits_total:
            self._find_turns()  # a replay begins at times as they are known now

    def samples_from(self, lane: Lane, place: int) -> int:
        """Samples there are behind a place; what was given up between segments does not count."""
        waiting = 0
        for segment in reversed(self.catalog.segments[lane]):
            summary = segment.summary
            if summary.samples_end <= place:
                break
            waiting += summary.samples_end - max(place, summary.samples_before)
        return waiting

    def rows_since(self, lane: Lane, since_ns: int, after: int = SEQUENCE_MAX) -> Iterator[Rows]:
        """Records that hold a turn at or after `since_ns`, or come after the sequence `after`.

        `since_ns` is what is known to be the time by now; what is given has the times it was
        stamped with, as all was that was made of it.
        """
        greatest_ns = self.boots.extremes_ns()[1]
        for segment in self.catalog.segments[lane]:
            summary = segment.summary
            now_ns_max = summary.now_ns_max + greatest_ns * summary.has_provisional
            if now_ns_max >= since_ns or summary.sequence_end - 1 > after:
                contents = self.catalog.contents(segment)
                index = contents.index
                is_recent = self.catalog.times(index, "now_ns_max") >= since_ns
                for row in index[is_recent | (index["sequence"] > after)]:
                    rows = self.catalog.read(segment, row, contents, as_stored=True)
                    if rows is not None:
                        yield rows

    def rows_backwards(self, lane: Lane, *, as_stored: bool = False) -> Iterator[Rows]:
        """Records, newest first."""
        for segment in reversed(self.catalog.segments[lane]):
            contents = self.catalog.contents(segment)
            for row in contents.index[::-1]:
                rows = self.catalog.read(segment, row, contents, as_stored=as_stored)
                if rows is not None:
                    yield rows

    def _write(self, lane: Lane, groups: Sequence[Group], *, sync: bool) -> None:
        drafts = [
            draft for group in groups if (draft := (group.drafts or {}).get(lane)) is not None
        ]
        if drafts:
            self._insist(lane, drafts, sync=sync)

    def _insist(self, lane: Lane, drafts: Sequence[Draft], *, sync: bool) -> None:
        """Write; a failure is answered with a new segment, once."""
        writer = self._writers[lane]
        try:
            writer.write(drafts, sync=sync)
        except OSError as error:
            if self.stats.state == "ok":
                log.warning("spool.write_failed lane=%s error=%s", lane.name.lower(), error)
            self.stats.error_last = str(error)
            writer.write(drafts, sync=sync)

    def _on_evict(self, segment: Segment, reason: str) -> None:
        """A segment is gone: count what nobody will get of it, and note the gap."""
        summary = segment.summary
        samples = summary.samples_end - summary.samples_before
        if reason == "memory":
            self._has_given_up = True
            self.stats.samples_given_up_total += samples
        self._writers[segment.lane].note_gap(
            Gap(
                reason=reason,
                samples=samples,
                undelivered=self.account.deleted(segment),
                sequence_first=segment.first_sequence,
                sequence_last=summary.sequence_end - 1,
                t_ns_min=time_or_zero(summary.t_ns_min),
                t_ns_max=time_or_zero(summary.t_ns_max),
            )
        )

    def _find_turns(self) -> None:
        self.last_turn_ns, self.last_boot = self._find_last_turn()
        self.derived_turn_ns = self._find_derived_turn_ns()

    def _find_last_turn(self) -> tuple[int, int]:
        newest = next(self.rows_backwards(Lane.RAW), None)
        return (int(newest.columns.now_ns[-1]), newest.boot) if newest is not None else (0, 0)

    def _find_derived_turn_ns(self) -> int:
        """A time before which all that was derived is on disk; 0 if it is not known.

        That of the last such turn, or of one behind it that is older: times of boots that did not
        know theirs may run back.
        """
        if not self._writers[Lane.RAW].raw_sequence:
            return self.last_turn_ns
        sequence = self._derived_mark - 1
        found: list[int] = []
        for segment in self.catalog.segments[Lane.RAW]:
            if segment.summary.sequence_end <= sequence:
                continue
            index = self.catalog.contents(segment).index
            first = int(index["sequence"].searchsorted(sequence, side="right")) - 1
            if not found and (first < 0 or segment.first_sequence > sequence):
                return 0
            found += self.catalog.times(index[max(first, 0) :], "now_ns_max").tolist()
        return min(found, default=0)

    def _find_checkpoint(self) -> Checkpoint | None:
        """One that the raw lane goes on from without a hole."""
        checkpoint = load_checkpoint(self._real_disk, self.directory)
        segments = self.catalog.segments[Lane.RAW]
        if checkpoint is None or not segments:
            return None
        end = self._writers[Lane.RAW].sequence_end
        if segments[0].first_sequence - 1 <= checkpoint.sequence < end:
            return checkpoint
        log.warning("spool.checkpoint_unusable error=its raw records are gone")
        return None

    def _number_of_spare(self) -> int:
        """The number that the spare bore last; its records would be believed under it."""
        with contextlib.suppress(OSError):
            header = decode_header(self.disk.read(self.pool.spare_path, HEAD_BYTES, 0))
            if header is not None:
                return header.number
        return 0

    def _update_stats(self) -> None:
        self.stats.bytes_used = self.pool.bytes_used
        self.stats.quarantine_bytes = self.pool.quarantine.bytes_used
        self.stats.memory_bytes = self.disk.memory_bytes
        for lane, segments in self.catalog.segments.items():
            stats = self.stats.lanes[lane]
            stats.segments = len(segments)
            stats.bytes_used = self.catalog.bytes_of(lane)
            stats.samples = self.samples_end(lane) - self.samples_begin(lane)
            if segments:
                oldest, newest = segments[0], segments[-1]
                stats.sequence_first = oldest.first_sequence
                stats.sequence_last = newest.summary.sequence_end - 1
                stats.oldest_ns = time_or_zero(self.catalog.times_ns(oldest)[0])
                stats.newest_ns = time_or_zero(self.catalog.newest_ns(lane))
