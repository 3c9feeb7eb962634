"""Lane: writing one lane. Records are staged for one write, and synced as one batch.

A batch may be written in several goes before it is synced: what is derived can be made again from
the raw lane, so it need not cost the card a flush of its own. Until the sync the drafts are kept.

When a write or sync fails, its file is closed and nothing more is written to that segment: what
the kernel did with the pages is unknown. The whole batch goes to a new segment, whose header says
from which sequence on it has the word.
"""

from __future__ import annotations

import contextlib
import errno
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.clock import Clock
from gateway.frame import Frame, IdArray, Lane, TimeArray
from gateway.spool.catalog import Catalog, Contents, Segment, segment_path
from gateway.spool.columns import Columns, encode_columns
from gateway.spool.dictionary import encode_tags
from gateway.spool.disk import Disk, File
from gateway.spool.gap import Gap, encode_gap
from gateway.spool.pool import Pool
from gateway.spool.segment import (
    FRAMES,
    GAP,
    GIVEN_UP_START,
    RECORDS_START,
    SUMMARY_START,
    TAGS,
    TIME_MIN,
    GivenUp,
    Record,
    SegmentHeader,
    Summary,
    encode_given_up,
    encode_header,
    encode_record,
    encode_summary,
    seed_of,
    summary_of,
)
from gateway.spool.shapes import Shapes
from gateway.spool.stats import SpoolStats
from gateway.tag import Tag, TagTable

__all__ = ["Draft", "LaneWriter", "Shared"]

# Drafts that wait for a sync are in memory; this much on disk is some ten times as much there.
UNSYNCED_BYTES_MAX = 512 * 1024
# A lane that nothing is written to has nothing deleted either; more than a few never wait.
GAPS_WAITING_MAX = 100


@dataclass(slots=True, eq=False)
class Draft:
    """The turns of one lane that will be one record."""

    now_ns: TimeArray  # of each turn
    row_ends: npt.NDArray[np.int64]
    frame: Frame  # with ids of the table
    boot: int = 0  # whose offset its times lack; 0: none
    raw_sequence: int = 0
    sequence: int = 0  # of the record; 0 until it is durable


@dataclass(slots=True)
class Shared:
    """What the lanes of one spool have in common."""

    disk: Disk
    pool: Pool
    catalog: Catalog
    table: TagTable
    clock: Clock
    stats: SpoolStats
    number_last: int  # of segments, in all lanes: a number is used once


class _Part(NamedTuple):
    """A record on its way to the disk."""

    record: Record
    payload: bytes
    what: Draft | Gap | None  # that is written with it; None for tags


class LaneWriter:
    """Appends to the last segment of a lane. One thread only."""

    def __init__(self, lane: Lane, shared: Shared, *, sequence_min: int = 1) -> None:
        self.lane = lane
        self._shared = shared
        self._file: File | None = None
        segments = shared.catalog.segments[lane]
        self._segment: Segment | None = segments[-1] if segments else None
        # Where the lane stands, of what is durable.
        self._sequence_min = self.sequence_end = sequence_min
        self.samples_end = 0
        self.raw_sequence = 0
        if self._segment is not None:
            summary = self._segment.summary
            self.sequence_end = max(summary.sequence_end, sequence_min)
            self.samples_end, self.raw_sequence = summary.samples_end, summary.raw_sequence
        self._contents = Contents()
        self._local_ids = np.empty(0, np.int32)  # by id of the table; -1: not in this segment yet
        self._crc_last = 0
        if self._segment is not None and self._segment.contents is not None:
            self._contents = self._segment.contents
            self._crc_last = self._segment.crc_last
            known = self._contents.dictionary.local_ids(shared.table)
            self._local_ids = np.full(max(known, default=-1) + 1, -1, np.int32)
            self._local_ids[list(known.keys())] = list(known.values())
        self._shapes = Shapes()
        # Records for one write.
        self._staged: list[tuple[Record, Draft | Gap | None]] = []
        self._buffer = bytearray()
        self._samples_staged = 0
        # The batch: what was written since the last sync, and where the segment stood then.
        self._unsynced: list[Draft] = []
        self._redo: list[Draft] = []  # of a batch that could not be synced
        self._gaps: list[Gap] = []  # to be written with the next record
        self._gaps_unsynced: list[Gap] = []
        self._unsynced_bytes = 0
        self._batch_records = 0
        # Where the lane stood before what no segment that is left knows of.
        self._given_up: GivenUp | None = None
        if self._segment is not None and not self._segment.can_grow:
            summary = self._segment.summary
            if sequence_min > summary.sequence_end:
                self._given_up = GivenUp(summary.sequence_end, summary.samples_end)
        self._synced = self._segment.summary if self._segment is not None else None

    def write(self, drafts: Sequence[Draft], *, sync: bool = True) -> None:
        """Write the drafts, in order; with `sync` they are durable then, and all before them.

        OSError leaves those with a sequence durable, and the others to be given again, except
        for the unsynced ones of earlier calls: these are kept here.
        """
        redo, self._redo = self._redo, []
        try:
            for draft in (*redo, *drafts):
                if not draft.sequence:
                    self._stage(draft)
            self._flush(sync=sync or self._unsynced_bytes > UNSYNCED_BYTES_MAX)
        except BaseException:
            self._redo = [draft for draft in redo if not draft.sequence]
            self._give_up(drafts)
            raise

    def sync(self) -> None:
        """Make durable what was written without."""
        if self._unsynced or self._redo:
            self.write([])

    def note_gap(self, gap: Gap) -> None:
        """Say with the next record what was deleted; a flush of its own it is not worth."""
        self._gaps = [*self._gaps[-(GAPS_WAITING_MAX - 1) :], gap]

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    @property
    def is_nearly_full(self) -> bool:
        """Whether the next segment will be wanted soon."""
        segment = self._segment
        return segment is not None and segment.summary.end > segment.size * 3 // 4

    def _stage(self, draft: Draft) -> None:
        """Add a draft to the batch; to a new segment's when this one has no room for it."""
        parts = self._compose(draft) if self._can_grow() else []
        if not self._fits(parts):
            self._flush(sync=True)
            self._forget_tags()  # all are new to the next segment
            parts = self._compose(draft)
            self._begin_segment(sum(part.record.bytes_on_disk for part in parts))
        assert self._segment is not None
        for record, payload, what in parts:
            staged = record._replace(
                previous_crc=self._crc_last,
                batch_index=self._batch_records + len(self._staged),
                sequence=self.sequence_end + len(self._staged),
            )
            data, self._crc_last = encode_record(staged, payload, self._segment.seed)
            self._buffer += data
            self._staged.append((staged, what))
        # Beginning a segment may have deleted another: that gap is for the next record.
        staged_gaps = [part.what for part in parts if isinstance(part.what, Gap)]
        self._gaps_unsynced += staged_gaps
        self._gaps = self._gaps[len(staged_gaps) :]
        self._samples_staged += len(draft.frame)

    def _can_grow(self) -> bool:
        return self._segment is not None and self._segment.can_grow

    def _fits(self, parts: Sequence[_Part]) -> bool:
        segment = self._segment
        if segment is None or not parts:
            return False
        bytes_new = sum(part.record.bytes_on_disk for part in parts)
        return segment.summary.end + len(self._buffer) + bytes_new <= segment.size

    def _compose(self, draft: Draft) -> list[_Part]:
        """The records of a draft and their payloads, without their place in the lane."""
        frame = draft.frame
        parts: list[_Part] = []
        for gap in self._gaps:
            payload = encode_gap(gap)
            parts.append(_Part(self._record(GAP, draft, payload, 0), payload, gap))
        first_new = len(self._contents.dictionary)
        local_ids, tags_new = self._learn(frame.tag_ids)
        if tags_new:
            payload = encode_tags(tags_new)
            parts.append(_Part(self._record(TAGS, draft, payload, first_new), payload, None))
        local = Frame(frame.t_ns, local_ids, frame.values, frame.quality, frame.exact)
        columns = Columns(draft.now_ns, draft.row_ends, local)
        payload = encode_columns(columns, self._shapes)
        tags = len(self._contents.dictionary)
        parts.append(_Part(self._record(FRAMES, draft, payload, tags), payload, draft))
        return parts

    def _record(self, kind: int, draft: Draft, payload: bytes, tags: int) -> Record:
        has_rows = kind == FRAMES and len(draft.frame) > 0
        return Record(
            kind=kind,
            payload_bytes=len(payload),
            payload_crc=zlib.crc32(payload),
            previous_crc=0,
            batch_index=0,
            sequence=0,
            samples_before=self.samples_end + self._samples_staged,
            raw_sequence=draft.raw_sequence,
            boot_id=draft.boot or self._shared.clock.boot_id,
            monotonic_ns=self._shared.clock.monotonic_ns(),
            t_ns_min=int(draft.frame.t_ns.min()) if has_rows else 0,
            t_ns_max=int(draft.frame.t_ns.max()) if has_rows else 0,
            now_ns_max=int(draft.now_ns.max()) if kind == FRAMES else TIME_MIN,
            samples=len(draft.frame) if kind == FRAMES else 0,
            turns=len(draft.now_ns) if kind == FRAMES else 0,
            tags=tags,
            is_provisional=int(kind == FRAMES and draft.boot != 0),
        )

    def _learn(self, tag_ids: IdArray) -> tuple[IdArray, list[Tag]]:
        """Local ids, given here to tags that this segment does not know yet; and those tags."""
        try:
            local_ids = self._local_ids[tag_ids]
        except IndexError:
            grown = np.full(2 * int(tag_ids.max()) + 1, -1, np.int32)
            grown[: len(self._local_ids)] = self._local_ids
            self._local_ids = grown
            local_ids = grown[tag_ids]
        is_new = local_ids < 0
        if not is_new.any():
            return local_ids, []
        new = np.unique(tag_ids[is_new])
        dictionary = self._contents.dictionary
        first = len(dictionary)
        self._local_ids[new] = np.arange(first, first + len(new))
        tags = [self._shared.table[tag_id] for tag_id in new.tolist()]
        dictionary.add(first, tags)
        return self._local_ids[tag_ids], tags

    def _forget_tags(self) -> None:
        self._contents = Contents()
        self._local_ids.fill(-1)
        self._shapes = Shapes()

    def _flush(self, *, sync: bool) -> None:
        """Write what is staged; from here on it may be read."""
        segment = self._segment
        if segment is None or not (self._staged or (sync and self._unsynced)):
            return
        file = self._opened(segment)
        if not file.is_linked():
            raise OSError(errno.ENOENT, f"{segment.path.name} was deleted while in use")
        stats = self._shared.stats
        if self._staged:
            # What is synced later gathers in the page cache until then.
            put = file.append if sync else file.write
            put(self._buffer, segment.summary.end)
            stats.bytes_written_total += len(self._buffer)
        if sync:
            file.sync()
            stats.fsyncs_total += 1
        self._believe(segment)
        if sync:
            self._unsynced.clear()
            self._gaps_unsynced.clear()
            self._unsynced_bytes = self._batch_records = 0
            self._synced = segment.summary

    def _believe(self, segment: Segment) -> None:
        """What is staged has been written: readers may see it."""
        stats = self._shared.stats
        stats.records_total += len(self._staged)
        summary = segment.summary
        for record, what in self._staged:
            if isinstance(what, Draft):
                self._contents.add(summary.end, record)
                what.sequence = record.sequence
                self._unsynced.append(what)
            elif what is not None:
                self._contents.gaps.append(what)
            summary = summary.with_record(summary.end, record)
        stats.samples_total += summary.samples_end - self.samples_end
        self.sequence_end, self.samples_end = summary.sequence_end, summary.samples_end
        self.raw_sequence = summary.raw_sequence
        segment.crc_last = self._crc_last
        segment.summary = summary
        self._unsynced_bytes += len(self._buffer)
        self._batch_records += len(self._staged)
        self._unstage()

    def _unstage(self) -> None:
        self._staged.clear()
        self._buffer = bytearray()
        self._samples_staged = 0

    def _opened(self, segment: Segment) -> File:
        if self._file is None:
            self._file = self._shared.disk.open(segment.path, write=True)
        return self._file

    def _begin_segment(self, bytes_needed: int) -> None:
        shared = self._shared
        disk, pool = shared.disk, shared.pool
        file, size = pool.take(RECORDS_START + bytes_needed)
        shared.number_last += 1
        header = SegmentHeader(
            lane=self.lane,
            number=shared.number_last,
            first_sequence=self.sequence_end,
            samples_before=self.samples_end,
            raw_sequence=self.raw_sequence,
            boot_id=shared.clock.boot_id,
            created_ns=shared.clock.utc_ns(),
        )
        path = segment_path(pool.spare_path.parent, self.lane, shared.number_last)
        try:
            file.write(encode_header(header), 0)
            if self._given_up is not None:
                given_up = encode_given_up(self._given_up, seed_of(self.lane, header.number))
                file.write(given_up, GIVEN_UP_START)
            file.sync()
            disk.rename(pool.spare_path, path)
            disk.sync_directory(path.parent)
        except OSError:
            file.close()
            pool.discard([path])
            raise
        self._finish_segment()
        segment = Segment(path, size, summary_of(header), header.first_sequence)
        segment.begin, self._given_up = self._given_up or segment.begin, None
        segment.can_grow = True
        segment.missing_counted = (0, 0)
        segment.contents = self._contents
        self._segment, self._file, self._crc_last = segment, file, segment.seed
        self._synced = segment.summary
        shared.catalog.segments[self.lane] += (segment,)
        shared.stats.fsyncs_total += 2

    def _finish_segment(self) -> None:
        """Leave the segment before, with a summary that saves the next start from scanning it."""
        segment = self._segment
        if segment is None:
            return
        if segment.can_grow:
            # Not synced: without it the segment is gone through once more, that is all.
            with contextlib.suppress(OSError):
                data = encode_summary(segment.summary, segment.seed)
                self._opened(segment).write(data, SUMMARY_START)
            segment.can_grow = False
        self.close()
        self._shared.catalog.release(segment)

    def _give_up(self, drafts: Sequence[Draft]) -> None:
        """After a failure: nothing more is written to this segment, and this file is not used."""
        self._unstage()
        with contextlib.suppress(OSError):
            self.close()
        segment = self._segment
        if segment is not None and self._synced is not None:
            self._take_back(segment, self._synced, drafts)
        self._forget_tags()
        if segment is None:
            return
        segment.can_grow = False
        if segment.summary.records:
            self._shared.catalog.release(segment)
            return
        self._synced = None
        if segment.begin.sequence < segment.first_sequence:
            self._given_up = segment.begin
        # There is nothing in it; a disk that fails for hours must not leave a file each time.
        segments = self._shared.catalog.segments
        segments[self.lane] = tuple(s for s in segments[self.lane] if s is not segment)
        self._segment = segments[self.lane][-1] if segments[self.lane] else None
        self._shared.pool.discard([segment.path])

    def _take_back(self, segment: Segment, synced: Summary, drafts: Sequence[Draft]) -> None:
        """Come back to where the last sync left the lane; the batch since is to be written again.

        Of `drafts` whoever gave them keeps those that have no sequence.
        """
        given = {id(draft) for draft in drafts}
        for draft in self._unsynced:
            draft.sequence = 0
        self._redo = [draft for draft in self._unsynced if id(draft) not in given] + self._redo
        self._unsynced.clear()
        self._unsynced_bytes = self._batch_records = 0
        self._shared.stats.samples_total -= segment.summary.samples_end - synced.samples_end
        if segment.contents is not None:
            segment.contents.keep(synced.records)
        segment.summary = synced
        self._gaps, self._gaps_unsynced = self._gaps_unsynced + self._gaps, []
        self.sequence_end = max(synced.sequence_end, self._sequence_min)
        self.samples_end, self.raw_sequence = synced.samples_end, synced.raw_sequence
