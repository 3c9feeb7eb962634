"""Recovery: from whatever files are there to the segments that may be believed.

What is found in them is counted, never raised.

A full segment has its summary in its second sector, so 512 MiB are opened by reading a kilobyte
of each file. Only the last segment of a lane, whose end may be torn, and those that were given
up after a failed sync, are gone through record by record.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from gateway.frame import Lane
from gateway.spool.catalog import Segment, contents_of, missing, parse_name, segment_path
from gateway.spool.disk import Disk
from gateway.spool.salvage import BLOCK_BYTES, read_around
from gateway.spool.segment import (
    HEAD_BYTES,
    RECORDS_START,
    TIME_MAX,
    SegmentHeader,
    Summary,
    decode_given_up,
    decode_header,
    decode_summary,
    scan,
    seed_of,
    summary_of,
)
from gateway.spool.stats import Damage

__all__ = ["END_HIDDEN", "STRANGER", "Found", "find_segments"]

log = logging.getLogger(__name__)

STRANGER = "it does not continue its lane: of another spool, or of an earlier life; not served"
END_HIDDEN = "what may stand at the end of the lane cannot be read"


@dataclass(slots=True)
class Found:
    """What a directory holds."""

    segments: dict[Lane, tuple[Segment, ...]] = field(default_factory=dict)
    number_max: int = 0  # of all that may hold records
    useless: list[Path] = field(default_factory=list)  # segments without a record
    unbelievable: list[Path] = field(default_factory=list)  # nothing in them is what was written
    strangers: list[Path] = field(default_factory=list)  # whole, and not of this lane's history


def find_segments(
    disk: Disk, directory: Path, names: Sequence[str], damage: Damage, *, to_write: bool = False
) -> Found:
    """The segments among `names`, each lane's oldest first.

    `to_write`: for who will append behind them. What a killed process left in the kernel's cache
    is made durable or disbelieved then; who only looks causes no flush.
    """
    numbers: dict[Lane, list[int]] = {lane: [] for lane in Lane}
    found = Found()
    for name in names:
        known = parse_name(name)
        if known is not None:
            lane, number = known
            numbers[lane].append(number)
    for lane, of_lane in numbers.items():
        heads = _heads_of(disk, directory, lane, of_lane)
        strangers = _strangers(lane, heads)
        for number in strangers:
            path = segment_path(directory, lane, number)
            with contextlib.suppress(OSError):
                _count_stranger(_examine(disk, path, heads[number], damage), damage)
            found.strangers.append(path)
            found.number_max = max(found.number_max, number)
        segments: list[Segment] = []
        limit = TIME_MAX  # first sequence of the segment behind
        is_end_hidden = False
        for number in sorted({*of_lane} - strangers, reverse=True):
            path = segment_path(directory, lane, number)
            try:
                head = heads[number] if number in heads else _head_of(disk, path)
                segment = _examine(
                    disk, path, head, damage, limit, is_last=not segments, to_write=to_write
                )
            except FileNotFoundError:
                continue  # deleted or renamed since `names` was taken
            except OSError as error:
                damage.note(path.name, 1, 0, str(error))
                found.number_max = max(found.number_max, number)
                is_end_hidden = is_end_hidden or not segments
                continue
            if segment is None:
                found.unbelievable.append(path)
                continue
            if segments and not segment.summary.records:
                found.useless.append(path)
                continue
            # What cannot be read now may come to light again: it goes on in a file behind that.
            segment.can_grow = segment.can_grow and not is_end_hidden
            limit = segment.begin.sequence
            found.number_max = max(found.number_max, number)
            segments.append(segment)
        segments.reverse()
        found.segments[lane] = tuple(segments)
        _count_missing(segments, damage)
    return found


def _head_of(disk: Disk, path: Path) -> bytes:
    """The first bytes of a file; none where a bad block hides them, not what is behind it."""
    try:
        return disk.read(path, HEAD_BYTES, 0)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""


def _heads_of(disk: Disk, directory: Path, lane: Lane, numbers: Sequence[int]) -> dict[int, bytes]:
    """The heads of a lane's files, oldest first, but for those that cannot be read now."""
    heads: dict[int, bytes] = {}
    for number in sorted(numbers):
        with contextlib.suppress(OSError):
            heads[number] = _head_of(disk, segment_path(directory, lane, number))
    return heads


def _header_in(head: bytes, lane: Lane, number: int) -> SegmentHeader | None:
    """None for a copy under another name, or a file's former life, too."""
    header = decode_header(head)
    is_its_own = header is not None and (header.lane, header.number) == (lane, number)
    return header if is_its_own else None


def _strangers(lane: Lane, heads: Mapping[int, bytes]) -> set[int]:
    """Those of a lane's files that do not continue it, where most others do.

    Sequences rise from file to file. One that begins with a lower sequence than the file before it
    was brought from another spool, or from an earlier life of this one: believed, it would deny all
    that is before it. The files kept are the most that rise together.
    """
    begins = [
        (number, header.first_sequence)
        for number, head in heads.items()
        if (header := _header_in(head, lane, number)) is not None
    ]
    if all(before[1] <= after[1] for before, after in pairwise(begins)):
        return set()
    # The longest run that does not fall (Fredman, "On computing the length of longest increasing
    # subsequences", 1975): of each length, the one that ends lowest.
    ends: list[int] = []
    runs: list[list[int]] = []
    for number, first in begins:
        place = bisect_right(ends, first)
        run = [*(runs[place - 1] if place else []), number]
        ends[place : place + 1], runs[place : place + 1] = [first], [run]
    return {number for number, _ in begins} - {*runs[-1]}


def _count_stranger(segment: Segment | None, damage: Damage) -> None:
    if segment is not None:
        summary = segment.summary
        samples = summary.samples_end - summary.samples_before
        damage.note(segment.path.name, summary.records, samples, STRANGER)


def _examine(
    disk: Disk,
    path: Path,
    data: bytes,
    damage: Damage,
    limit: int = TIME_MAX,
    *,
    is_last: bool = False,
    to_write: bool = False,
) -> Segment | None:
    """One file, of which `data` is the head; None if nothing in it can be believed."""
    lane, number = parse_name(path.name) or (Lane.RAW, 0)
    seed = seed_of(lane, number)
    size = disk.size(path)
    header = _header_in(data, lane, number)
    summary = decode_summary(data, seed)
    if header is not None and summary is not None:
        is_full = not is_last and summary.sequence_end <= limit and summary.end <= size
        if is_full:
            return _begun(Segment(path, size, summary, header.first_sequence), data)
    is_uncertain = is_last and to_write
    if is_uncertain:
        disk.make_durable(path)
    bad_blocks: set[int] = set()
    data = read_around(disk, path, size, bad_blocks)
    # An end that the device cannot read was not torn: nothing before it is disbelieved.
    is_hidden = is_last and _is_end_hidden(data, seed, limit, bad_blocks)
    is_end = is_last and not is_hidden
    segment = _go_through(path, data, header, limit, damage, is_last=is_end)
    if segment is not None:
        # Nothing is written where something may come to light again.
        is_sound = header is not None and summary is None and not bad_blocks
        segment.can_grow = is_last and is_sound
        segment.bad_blocks = bad_blocks
        if is_hidden:
            damage.note(path.name, 1, 0, END_HIDDEN)
        _begun(segment, data)
    return segment


def _is_end_hidden(data: bytes, seed: int, limit: int, bad_blocks: set[int]) -> bool:
    """Whether records may stand behind the last one that can be read."""
    if not bad_blocks:
        return False
    found = scan(data, seed, limit=limit)
    end = found[-1].end if found else RECORDS_START
    return any((block + 1) * BLOCK_BYTES > end for block in bad_blocks)


def _begun(segment: Segment, data: bytes) -> Segment:
    """Have a segment know where the lane stood before it."""
    segment.begin = decode_given_up(data, segment.seed) or segment.begin
    return segment


def _go_through(
    path: Path,
    data: bytes,
    header: SegmentHeader | None,
    limit: int,
    damage: Damage,
    *,
    is_last: bool,
) -> Segment | None:
    """A file without a summary to rely on."""
    lane, number = parse_name(path.name) or (Lane.RAW, 0)
    seed = seed_of(lane, number)
    records = scan(data, seed, limit=limit, is_last=is_last)
    if header is None:
        if not records:
            return None
        first = records[0].record
        damage.note(path.name, 1, 0, "the header of the segment is not what was written")
        header = SegmentHeader(
            lane, number, first.sequence, first.samples_before, first.raw_sequence, 0, 0
        )
    summary: Summary = summary_of(header)
    for this in records:
        summary = summary.with_record(this.offset, this.record)
    segment = Segment(path, len(data), summary, header.first_sequence)
    if not (is_last or summary.records):
        return segment  # given up: what it lacks is counted with what its neighbours say
    lost_records, lost_samples = missing(records, header.first_sequence, summary)
    damage.note(path.name, lost_records, lost_samples, "bytes between records are not theirs")
    segment.missing_counted = (lost_records, lost_samples)
    if is_last:
        segment.contents, tags_damaged = contents_of(data, records)
        damage.note(path.name, tags_damaged, 0, "tags are damaged")
        segment.crc_last = records[-1].checksum if records else seed
    return segment


def _count_missing(segments: Sequence[Segment], damage: Damage) -> None:
    """What is missing between one segment and the next: the end of one, or whole files."""
    for before, segment in pairwise(segments):
        damage.note(
            segment.path.name,
            segment.begin.sequence - before.summary.sequence_end,
            segment.begin.samples - before.summary.samples_end,
            "what should stand before it is missing",
        )
