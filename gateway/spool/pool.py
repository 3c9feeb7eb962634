"""Pool: the files that segments are written to, and which segment goes when there is no room.

A file once written is renamed and written again, because its blocks need no journal commit any
more. At most one spare is kept. Room is made by deleting whole segments, oldest first: of the raw
lane as long as it has more than the one being written, then aggregates, scores and events.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from gateway.frame import Lane
from gateway.spool.catalog import Catalog, Segment
from gateway.spool.config import SpoolSettings
from gateway.spool.disk import File
from gateway.spool.overlay import OverlayDisk
from gateway.spool.quarantine import Quarantine
from gateway.spool.segment import GIVEN_UP_START, GivenUp, encode_given_up

__all__ = ["Pool"]

# What is given up first: raw samples are many, events few and what people ask for.
EVICTION_ORDER = (Lane.RAW, Lane.AGGREGATE, Lane.SCORE, Lane.EVENT)
# A lane holds on to the segment it writes; with 16 of them in bytes_max the four lanes and the
# spare leave two thirds of it to retention.
SEGMENTS_MIN = 16
# A file system without any space harms everyone else on the board; leave them this much.
BYTES_FREE_MIN = 8 * 2**20
_BLOCK = 4096


class Pool:
    """Hands out files of zeros or of old records, and takes segments back."""

    def __init__(
        self,
        disk: OverlayDisk,
        directory: Path,
        settings: SpoolSettings,
        catalog: Catalog,
        on_evict: Callable[[Segment, str], None],
    ) -> None:
        self.bytes_max = settings.bytes_max
        self.segment_bytes = _blocks(min(settings.segment_bytes, self.bytes_max // SEGMENTS_MIN))
        self.spare_path = directory / "spare.seg"
        self._disk = disk
        self._directory = directory
        self._catalog = catalog
        self._on_evict = on_evict
        self._age_ns_max = {
            Lane[name.upper()]: round(age_s * 1e9) for name, age_s in settings.age_max.items()
        }
        self._lane_bytes_max = {
            Lane[name.upper()]: size for name, size in settings.lane_bytes_max.items()
        }
        # Sixteen a lane: when one has to go, little goes with it.
        self._memory_segment_bytes = _blocks(settings.pending_bytes_max // 64)
        self._spare_bytes = 0
        self._discarded: list[Path] = []  # to be deleted
        self.quarantine = Quarantine(disk, directory, self.bytes_max)

    @property
    def bytes_used(self) -> int:
        """Of all files, written or not."""
        kept = sum(map(self._catalog.bytes_of, self._catalog.segments))
        return kept + self._spare_bytes + self.quarantine.bytes_used

    def adopt(
        self,
        useless: Sequence[Path] = (),
        unbelievable: Sequence[Path] = (),
        strangers: Sequence[Path] = (),
    ) -> None:
        """Keep a spare from before if it has the right size; delete what holds no records.

        Where there should be records and none can be believed, the file is set aside. So are
        strangers; what is whole is never deleted, and stays where it is if there is no room.
        """
        with contextlib.suppress(OSError):
            if self._disk.size(self.spare_path) == self.segment_bytes:
                self._spare_bytes = self.segment_bytes
            else:
                self._disk.unlink(self.spare_path)
        self.quarantine.load()
        self.quarantine.take(strangers)
        self.discard([*useless, *self.quarantine.take(unbelievable)])

    def discard(self, paths: Sequence[Path]) -> None:
        """Delete files that hold nothing anybody was promised; later, if the disk refuses now."""
        self._discarded += paths
        with contextlib.suppress(OSError):
            self._purge()

    def take(self, size: int) -> tuple[File, int]:
        """The file at `spare_path`, open, with at least `size` bytes, and how many it has."""
        in_memory = self._disk.use_memory
        size = max(self._memory_segment_bytes if in_memory else self.segment_bytes, _blocks(size))
        if in_memory:
            return self._take_memory(size), size
        self._disk.make_directory(self._directory)
        self._provide(size)
        try:
            file = self._disk.open(self.spare_path, write=True)
        except FileNotFoundError:  # somebody emptied the directory
            self._spare_bytes = 0
            self._provide(size)
            file = self._disk.open(self.spare_path, write=True)
        self._spare_bytes = 0
        return file, size

    def _take_memory(self, size: int) -> File:
        while self._disk.bytes_free(self._directory) < size and self._evict_memory():
            pass
        self._spare_bytes = 0  # one on the disk is of no use now; `adopt` finds it again
        return self._disk.create(self.spare_path, size)

    def _evict_memory(self) -> bool:
        """Give up the oldest segment that is in memory; False if none can go."""
        for lane in EVICTION_ORDER:
            for oldest, behind in pairwise(self._catalog.segments[lane]):
                if self._disk.is_in_memory(oldest.path):
                    oldest.is_gone = True
                    self._disk.unlink(oldest.path)
                    kept = tuple(s for s in self._catalog.segments[lane] if s is not oldest)
                    self._catalog.segments[lane] = kept
                    self._on_evict(oldest, "memory")
                    self._begin_at(behind, oldest.begin)
                    return True
        return False

    def _begin_at(self, segment: Segment, given_up: GivenUp) -> None:
        """Have it on record, in memory too: no start must take what is gone for damage."""
        file = self._disk.open(segment.path, write=True)
        file.write(encode_given_up(given_up, segment.seed), GIVEN_UP_START)
        file.close()
        segment.begin = given_up

    def prepare(self) -> None:
        """Have a spare ready, so that the next commit need not wait for it; or not, if it fails."""
        with contextlib.suppress(OSError):
            self._provide(self.segment_bytes)

    def shrink(self) -> None:
        """Come down to `bytes_max`, which may have been lowered since the files were written."""
        while self.bytes_used > self.bytes_max and self._evict(size=0):
            pass

    def expire(self, now_ns: int) -> None:
        """Delete what its lane's own retention does not keep; never the last segment of a lane."""
        for lane in self._age_ns_max.keys() | self._lane_bytes_max.keys():
            bytes_max = self._lane_bytes_max.get(lane, self.bytes_max)
            since_ns = now_ns - self._age_ns_max.get(lane, now_ns)
            while len(segments := self._catalog.segments[lane]) > 1:
                if self._catalog.bytes_of(lane) > bytes_max:
                    self._delete(segments[0], self.segment_bytes, "lane")
                elif self._catalog.times_ns(segments[0])[1] < since_ns:
                    self._delete(segments[0], self.segment_bytes, "age")
                else:
                    break

    def _provide(self, size: int) -> None:
        """A spare of exactly `size` bytes."""
        if self._spare_bytes not in (0, size):
            self._disk.unlink(self.spare_path)
            self._spare_bytes = 0
        while self.bytes_used + size - self._spare_bytes > self.bytes_max and self._evict(size):
            pass
        while not self._spare_bytes and self._is_scarce(size) and self._evict(size):
            pass
        while not self._spare_bytes:
            try:
                self._disk.create(self.spare_path, size).close()
                self._spare_bytes = size
            except OSError as error:
                is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                if not is_full or not self._evict(size):
                    raise

    def _is_scarce(self, size: int) -> bool:
        return self._disk.bytes_free(self._directory) < size + BYTES_FREE_MIN

    def _evict(self, size: int) -> bool:
        """Delete the oldest segment, or make it the spare; False if none can go."""
        if self.quarantine.drop_oldest():
            return True
        for lane in EVICTION_ORDER:
            segments = self._catalog.segments[lane]
            if len(segments) > 1:
                self._delete(segments[0], size, "space")
                return True
        return False

    def _delete(self, oldest: Segment, size: int, reason: str) -> None:
        """Delete a lane's first segment, or make it the spare if that is to have its size."""
        # A discarded file may hold records that a failed sync left. The segment behind it says
        # that they do not count, so it must not go first.
        self._purge()
        becomes_spare = oldest.size == size and not self._spare_bytes
        oldest.is_gone = True  # before the file is: whoever reads it meanwhile is not alarmed
        try:
            with contextlib.suppress(FileNotFoundError):
                if becomes_spare:
                    self._disk.rename(oldest.path, self.spare_path)
                else:
                    self._disk.unlink(oldest.path)
        except OSError:
            oldest.is_gone = False
            raise
        self._catalog.segments[oldest.lane] = self._catalog.segments[oldest.lane][1:]
        self._on_evict(oldest, reason)
        if becomes_spare:
            # Its old name must be gone for good before anything else is written into it.
            self._disk.sync_directory(self._directory)
            self._spare_bytes = size

    def _purge(self) -> None:
        while self._discarded:
            with contextlib.suppress(FileNotFoundError):
                self._disk.unlink(self._discarded[-1])
            self._discarded.pop()


def _blocks(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
