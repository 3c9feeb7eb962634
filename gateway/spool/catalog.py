"""Catalog: the segments of a lane, what is in them, and how a record is read from one.

In memory each segment has only its summary. The index of its records and its dictionary are
loaded when someone reads it - a pass over the record headers - and kept for the few segments
that were read last: half a million records of a small plant would not fit into a small board.

The writer's thread appends while others read. Nothing here needs a lock for that: summaries are
immutable and replaced as one, an index only grows, and a record that was overwritten while it was
being read fails its checksum.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from gateway.errors import SpoolDamaged
from gateway.frame import Frame, Lane, TimeArray
from gateway.spool.boots import Boots
from gateway.spool.columns import Columns, decode_columns
from gateway.spool.dictionary import Dictionary, decode_tags
from gateway.spool.disk import Disk
from gateway.spool.gap import Gap, decode_gap
from gateway.spool.salvage import read_around
from gateway.spool.segment import (
    FRAMES,
    GAP,
    TAGS,
    TIME_MIN,
    Found,
    GivenUp,
    Record,
    Summary,
    decode_record,
    payload_of,
    scan,
    seed_of,
)
from gateway.spool.stats import Damage
from gateway.tag import TagTable

__all__ = [
    "Catalog",
    "Contents",
    "Rows",
    "Segment",
    "contents_of",
    "missing",
    "parse_name",
    "segment_path",
]

# Ten digits are a segment a second for three centuries; of more, 18 still fit into 64 bits.
_NAME = re.compile(r"(event|score|aggregate|raw)-([0-9]{10,18})\.seg")
# Sinks read in order, queries a few neighbours; one segment's index is some hundred kilobytes.
CONTENTS_KEPT = 4
# A call costs about what reading this many bytes from memory does; and it bounds what one takes.
READ_BYTES_MAX = 256 * 1024

INDEX_DTYPE = np.dtype(
    [
        ("offset", np.int64),
        ("end", np.int64),
        ("sequence", np.int64),
        ("raw_sequence", np.int64),
        ("samples_before", np.int64),
        ("samples_end", np.int64),
        ("t_ns_min", np.int64),
        ("t_ns_max", np.int64),
        ("now_ns_max", np.int64),
        ("boot", np.uint64),  # whose offset its times lack; 0: none
    ]
)
IndexArray: TypeAlias = npt.NDArray[np.void]


class Contents:
    """The records of one segment: where each is, what it spans, the tags they use, and gaps."""

    def __init__(self) -> None:
        self.dictionary = Dictionary()
        self.gaps: list[Gap] = []
        self._rows = np.empty(64, INDEX_DTYPE)
        self._count = 0

    @property
    def index(self) -> IndexArray:
        """One row a frames record, in order; a snapshot."""
        rows = self._rows
        return rows[: self._count]

    def add(self, offset: int, record: Record) -> None:
        if self._count == len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
        self._rows[self._count] = (
            offset,
            offset + record.bytes_on_disk,
            record.sequence,
            record.raw_sequence,
            record.samples_before,
            record.samples_end,
            record.t_ns_min,
            record.t_ns_max,
            record.now_ns_max,
            record.boot_id if record.is_provisional else 0,
        )
        self._count += 1  # last: whoever takes a snapshot sees whole rows only

    def keep(self, count: int) -> None:
        """Forget the records behind the first `count`: they are written again elsewhere."""
        self._rows, self._count = self._rows.copy(), count  # snapshots stay as they were


class Rows(NamedTuple):
    """One record, read; its tag ids are local until `frame` is asked for."""

    sequence: int
    raw_sequence: int
    samples_before: int
    columns: Columns  # times corrected, as far as they are known to be wrong
    dictionary: Dictionary
    boot: int = 0  # whose offset they lack in the record; 0: none

    def frame(self, table: TagTable, start: int = 0, stop: int | None = None) -> Frame:
        """Rows start..stop with ids of the table; only in the table's thread.

        Rows whose tag is not known are left out: its record was damaged, or the table is full.
        """
        frame = self.columns.frame
        if start or stop is not None:
            frame = frame.rows(start, len(frame) if stop is None else stop)
        ids = self.dictionary.table_ids(table)
        tag_ids = ids[np.minimum(frame.tag_ids.view(np.uint32), len(ids) - 1)]
        mapped = Frame(frame.t_ns, tag_ids, frame.values, frame.quality, frame.exact)
        return mapped.where(tag_ids >= 0)


class Segment:
    """One file of a lane, and what is known of it."""

    def __init__(self, path: Path, size: int, summary: Summary, first_sequence: int) -> None:
        self.path = path
        self.size = size
        self.summary = summary  # of what is durable; replaced as one
        self.lane, self.number = parse_name(path.name) or (Lane.RAW, 0)
        self.seed = seed_of(self.lane, self.number)
        self.first_sequence = first_sequence
        # Where the lane stood before it, and before what was given up in memory in between.
        self.begin = GivenUp(first_sequence, summary.samples_before)
        self.can_grow = False  # the last of its lane, sound, without a summary on disk
        self.contents: Contents | None = None  # kept while it can grow
        self.crc_last = self.seed  # the chain's end
        self.is_gone = False  # deleted on purpose
        # Records and samples that are missing between those that can be found; None: not counted.
        self.missing_counted: tuple[int, int] | None = None
        self.damaged: dict[int, int] = {}  # records that could not be read, and their samples
        self.bad_blocks: set[int] = set()  # that the device cannot read any more
        # `Catalog.times_ns`, with the summary and the boots that it was found by.
        self.times_known: tuple[Summary, object, tuple[int, int]] | None = None


def segment_path(directory: Path, lane: Lane, number: int) -> Path:
    return directory / f"{lane.name.lower()}-{number:010d}.seg"


def parse_name(name: str) -> tuple[Lane, int] | None:
    """Lane and number of a segment's file name; None for any other."""
    known = _NAME.fullmatch(name)
    return (Lane[known[1].upper()], int(known[2])) if known else None


class _Whole(NamedTuple):
    """What a lane's segments come to, times of all but the last."""

    segments: tuple[Segment, ...]
    size: int
    newest_ns: int


class Catalog:
    """The segments of all lanes, oldest first, and their records.

    A lane's tuple is replaced as one, so that who goes through it sees one state of it.
    """

    def __init__(self, disk: Disk, damage: Damage, boots: Boots) -> None:
        self.segments: dict[Lane, tuple[Segment, ...]] = dict.fromkeys(Lane, ())
        self.boots = boots
        self._disk = disk
        self._damage = damage
        self._lock = threading.RLock()
        self._kept: OrderedDict[Segment, Contents] = OrderedDict()
        self._wholes: dict[Lane, _Whole] = {}

    def samples_begin(self, lane: Lane) -> int:
        """Samples of the lane that have been deleted already."""
        segments = self.segments[lane]
        return segments[0].summary.samples_before if segments else 0

    def samples_end(self, lane: Lane) -> int:
        """Samples of the lane since it began."""
        segments = self.segments[lane]
        return segments[-1].summary.samples_end if segments else 0

    def bytes_of(self, lane: Lane) -> int:
        """Of all files of a lane, written or not."""
        return self._whole(lane).size

    def newest_ns(self, lane: Lane) -> int:
        """The greatest time of a lane that has a segment, as far as is known by now.

        Of closed segments whose times were corrected only the last is looked into.
        """
        whole = self._whole(lane)
        newest_ns = whole.newest_ns
        for segment in reversed(whole.segments):
            low, high = self.times_ns(segment)
            if low <= high:
                return max(newest_ns, high)
        return newest_ns

    def _whole(self, lane: Lane) -> _Whole:
        """What does not change until the lane has other segments: there may be thousands."""
        segments, known = self.segments[lane], self._wholes.get(lane)
        if known is None or known.segments is not segments:
            closed = segments[:-1]
            self._wholes[lane] = known = _Whole(
                segments,
                sum(segment.size for segment in segments),
                max(
                    (s.summary.t_ns_max for s in closed if not s.summary.has_provisional),
                    default=TIME_MIN,
                ),
            )
        return known

    def span_ns(self, segment: Segment) -> tuple[int, int]:
        """Times between which its samples are, least and greatest, on the safe side."""
        low, high = segment.summary.t_ns_min, segment.summary.t_ns_max
        if not segment.summary.has_provisional or low > high:
            return low, high
        least, greatest = self.boots.extremes_ns()
        return low + least, high + greatest

    def times_ns(self, segment: Segment) -> tuple[int, int]:
        """The same exactly, as far as is known by now; may read the segment's index."""
        low, high = segment.summary.t_ns_min, segment.summary.t_ns_max
        if not segment.summary.has_provisional or low > high:
            return low, high
        summary, boots, known = segment.summary, self.boots.known, segment.times_known
        if known is not None and known[0] is summary and known[1] is boots:
            return known[2]
        index = self.contents(segment).index
        index = index[index["samples_end"] > index["samples_before"]]
        if len(index):
            low = int(self.times(index, "t_ns_min").min())
            high = int(self.times(index, "t_ns_max").max())
        segment.times_known = summary, boots, (low, high)
        return low, high

    def times(self, index: IndexArray, column: str) -> TimeArray:
        """A column of times of an index, as far as is known by now."""
        times: TimeArray = index[column]
        boots = index["boot"]
        return times + self.boots.missing_ns(boots) if boots.any() else times

    def waiting_from(self, lane: Lane) -> int | None:
        """Samples of the lane before the first one whose time is not known yet; None: all are."""
        for segment in self.segments[lane]:
            if segment.summary.has_provisional:
                index = self.contents(segment).index
                has_samples = index["samples_end"] > index["samples_before"]
                for row in index[has_samples & (index["boot"] != 0)]:
                    if not self.boots[int(row["boot"])].is_known:
                        return int(row["samples_before"])
        return None

    def contents(self, segment: Segment) -> Contents:
        """What is in a segment; empty where it cannot be read."""
        with self._lock:
            contents = segment.contents
            if contents is None:
                contents = self._kept.get(segment) or self._load(segment)
                self._keep(segment, contents)
        return contents

    def known_contents(self, segment: Segment) -> Contents | None:
        """The same, if it is in memory; never waits."""
        return segment.contents or self._kept.get(segment)

    def release(self, segment: Segment) -> None:
        """Nothing more is written to it: keep its contents only while they are asked for."""
        with self._lock:
            if segment.contents is not None:
                self._keep(segment, segment.contents)
                segment.contents = None

    def read(
        self,
        segment: Segment,
        row: np.void,
        contents: Contents,
        data: bytes | None = None,
        *,
        as_stored: bool = False,
    ) -> Rows | None:
        """The record of one row of a segment's index; None, counted once, if it is damaged.

        `data` are its bytes, if they have been read already. `as_stored`: times as they were
        stamped, whatever is known by now.
        """
        sequence = int(row["sequence"])
        samples = int(row["samples_end"] - row["samples_before"])
        try:
            rows = self._read(segment, row, contents.dictionary, data)
            if rows.boot and not as_stored:
                rows = self._corrected(rows)
        except (OSError, SpoolDamaged) as error:
            self._count(segment, sequence, samples, error)
            return None
        unknown = contents.dictionary.unknown(rows.columns.frame.tag_ids)
        if unknown:
            self._count(segment, sequence, unknown, SpoolDamaged("its tags are damaged"))
        return rows

    def read_many(self, segment: Segment, index: IndexArray, contents: Contents) -> Iterator[Rows]:
        """The records of some rows of an index, in their order; neighbours with one call."""
        first = 0
        while first < len(index):
            stop = first + 1
            begin, end = int(index[first]["offset"]), int(index[first]["end"])
            while stop < len(index):  # a record that adjoins, before or behind
                low = min(begin, int(index[stop]["offset"]))
                high = max(end, int(index[stop]["end"]))
                if high - low > READ_BYTES_MAX or (low < begin) == (high > end):
                    break
                begin, end, stop = low, high, stop + 1
            data = None
            with contextlib.suppress(OSError):  # each is tried alone then, and counted
                data = self._disk.read(segment.path, end - begin, begin)
            for row in index[first:stop]:
                offset = int(row["offset"]) - begin
                piece = None if data is None else data[offset : int(row["end"]) - begin]
                rows = self.read(segment, row, contents, piece)
                if rows is not None:
                    yield rows
            first = stop

    def _count(self, segment: Segment, sequence: int, samples: int, error: Exception) -> None:
        with self._lock:
            if segment.is_gone or sequence in segment.damaged:
                return
            segment.damaged[sequence] = samples
        self._damage.note(segment.path.name, 1, samples, str(error))

    def _corrected(self, rows: Rows) -> Rows:
        now_ns, row_ends, frame = rows.columns
        now_ns = now_ns + self.boots[rows.boot].missing_ns
        columns = Columns(now_ns, row_ends, self.boots.correct(frame, rows.boot))
        return rows._replace(columns=columns)

    def _read(
        self, segment: Segment, row: np.void, dictionary: Dictionary, data: bytes | None
    ) -> Rows:
        offset = int(row["offset"])
        if data is None:
            data = self._disk.read(segment.path, int(row["end"]) - offset, offset)
        known = decode_record(data, 0, segment.seed)
        if known is None or known[0].sequence != int(row["sequence"]):
            raise SpoolDamaged("the header of a record is not what was written")
        record = known[0]
        payload = payload_of(data, 0, record)
        if payload is None:
            raise SpoolDamaged("the payload of a record is not what was written")
        columns = decode_columns(payload, record.turns, record.samples)
        boot = record.boot_id if record.is_provisional else 0
        return Rows(
            record.sequence, record.raw_sequence, record.samples_before, columns, dictionary, boot
        )

    def _load(self, segment: Segment) -> Contents:
        summary = segment.summary
        try:
            data = read_around(self._disk, segment.path, summary.end, segment.bad_blocks)
        except OSError as error:
            samples = summary.samples_end - summary.samples_before
            self._count(segment, summary.sequence_end, samples, error)
            return Contents()
        found = scan(data, segment.seed, limit=summary.sequence_end)
        contents, tags_damaged = contents_of(data, found)
        if not segment.is_gone:
            self._count_missing(segment, found, tags_damaged)
        return contents

    def _count_missing(self, segment: Segment, found: Sequence[Found], tags_damaged: int) -> None:
        """Count what has gone since it was done last: blocks go bad while a gateway runs."""
        records, samples = missing(found, segment.first_sequence, segment.summary)
        if segment.missing_counted is None:
            records_before, samples_before = -tags_damaged, 0
        else:
            records_before, samples_before = segment.missing_counted
        there = {this.record.sequence for this in found}
        counted = [n for sequence, n in segment.damaged.items() if sequence not in there]
        segment.missing_counted = (records, samples)
        self._damage.note(
            segment.path.name,
            max(0, records - records_before - len(counted)),
            max(0, samples - samples_before - sum(counted)),
            "rotten bytes",
        )

    def _keep(self, segment: Segment, contents: Contents) -> None:
        self._kept[segment] = contents
        self._kept.move_to_end(segment)
        while len(self._kept) > CONTENTS_KEPT:
            self._kept.popitem(last=False)


def contents_of(data: bytes, found: Sequence[Found]) -> tuple[Contents, int]:
    """What the records found in a segment amount to, and how many of its tags are damaged."""
    contents, damaged = Contents(), 0
    for offset, record, _, _ in found:
        if record.kind == FRAMES:
            # Ids it could use, though the record that named them be lost: given to other tags,
            # they would make what is stored under them these tags' samples.
            contents.dictionary.reserve(record.tags)
            contents.add(offset, record)
        elif record.kind == TAGS:
            payload = payload_of(data, offset, record)
            try:
                contents.dictionary.add(record.tags, decode_tags(payload or b""))
            except SpoolDamaged:
                damaged += 1
        elif record.kind == GAP:
            with contextlib.suppress(SpoolDamaged):
                contents.gaps.append(decode_gap(payload_of(data, offset, record) or b""))
    return contents, damaged


def missing(found: Sequence[Found], first_sequence: int, summary: Summary) -> tuple[int, int]:
    """Records and samples that a segment should have and has not."""
    records = summary.sequence_end - first_sequence - len(found)
    samples = summary.samples_end - summary.samples_before
    return records, samples - sum(this.record.samples for this in found)
