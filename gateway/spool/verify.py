"""Verify: whether every byte of a spool is what was written, and exactly what is lost where not.

Each record's header and payload checksums, its place in the sequence and in the count of samples,
its columns, and the tags they name. Read-only, without the lock, a segment in memory at a time;
what a running gateway recycles meanwhile is left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.errors import SpoolDamaged, SpoolError
from gateway.frame import Lane
from gateway.spool.catalog import Catalog, Segment, contents_of, parse_name
from gateway.spool.columns import decode_columns
from gateway.spool.cursor import SUFFIX, Cursor
from gateway.spool.dictionary import Dictionary, decode_tags
from gateway.spool.disk import Disk
from gateway.spool.evidence import ends_gone, is_cut
from gateway.spool.gap import decode_gap
from gateway.spool.inspect import FINDINGS_MAX, Finding, cursor_finding, find_cursors, open_catalog
from gateway.spool.recovery import END_HIDDEN, STRANGER
from gateway.spool.salvage import read_around
from gateway.spool.segment import (
    FRAMES,
    GAP,
    HEAD_BYTES,
    TAGS,
    TIME_MAX,
    TIME_MIN,
    Found,
    Summary,
    decode_header,
    payload_of,
    scan,
    time_or_zero,
)

__all__ = ["Verdict", "verify"]

CUT = "the file was longer once: what stood at its end is not known"
_ROTTEN = "bytes between records are not theirs"


@dataclass(slots=True)
class Verdict:
    """Exact counts, and the first `FINDINGS_MAX` places."""

    segments: int = 0
    records: int = 0  # whole
    samples: int = 0  # that can be read
    bytes_read: int = 0
    findings_total: int = 0
    records_damaged: int = 0
    samples_lost: int = 0
    findings: list[Finding] = field(default_factory=list)

    def note(self, finding: Finding) -> None:
        self.findings_total += 1
        self.records_damaged += finding.records
        self.samples_lost += finding.samples
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(finding)


def verify(disk: Disk, directory: Path) -> Verdict:
    """Read everything that is there. SpoolError where there is no spool, OSError as it comes."""
    _check_is_there(disk, directory)
    # Before the lanes, which may grow meanwhile: of what it holds now nothing can be behind them.
    cursors = find_cursors(disk, directory)
    catalog, found = open_catalog(disk, directory)
    verdict = Verdict()
    for lane in Lane:
        before: Summary | None = None
        for segment in catalog.segments[lane]:
            if _verify_segment(disk, segment, before, verdict):
                before = segment.summary
    for finding in _unbelievable(disk, directory, catalog):
        verdict.note(finding)
    for finding in found:
        if finding.what in (END_HIDDEN, STRANGER):  # of which no walk through the lanes can know
            verdict.note(finding)
    for name, cursor in cursors.items():
        if cursor is None:
            verdict.note(cursor_finding(name + SUFFIX))
    for finding in _ends(disk, directory, catalog, [c for c in cursors.values() if c is not None]):
        verdict.note(finding)
    return verdict


def _check_is_there(disk: Disk, directory: Path) -> None:
    try:
        disk.names(directory)
    except (FileNotFoundError, NotADirectoryError) as error:
        hint = "is gateway.data_dir right, and has the gateway ever run?"
        raise SpoolError(f"there is no spool in {directory}", hint=hint) from error


def _ends(
    disk: Disk, directory: Path, catalog: Catalog, cursors: Sequence[Cursor]
) -> Iterator[Finding]:
    """What is missing behind a lane's end, as far as there are signs of it."""
    if any(ends_gone(catalog.segments, cursors)):
        # A segment may have been begun while this one was looking: the derived lanes' word is
        # that of the first look, and the raw lane is looked at once more.
        raw = open_catalog(disk, directory)[0].segments[Lane.RAW]
        for gone in ends_gone({**catalog.segments, Lane.RAW: raw}, cursors):
            first, last = gone.sequence_end, gone.sequence_end + max(gone.records, 1) - 1
            yield Finding(gone.file, gone.what, gone.records, gone.samples, first, last)
    for segments in catalog.segments.values():
        for segment in segments[-1:]:
            with contextlib.suppress(OSError):
                if is_cut(segment, disk.read(segment.path, segment.size, 0)):
                    yield Finding(segment.path.name, CUT, 0, 0)


def _verify_segment(disk: Disk, segment: Segment, before: Summary | None, verdict: Verdict) -> bool:
    """Go through one file; False if it has been deleted meanwhile."""
    name, summary = segment.path.name, segment.summary
    try:
        data = read_around(disk, segment.path, summary.end, segment.bad_blocks)
    except FileNotFoundError:
        return False
    except OSError as error:
        samples = summary.samples_end - summary.samples_before
        first, last = segment.first_sequence, summary.sequence_end - 1
        records = max(last + 1 - first, 1)
        times = time_or_zero(summary.t_ns_min), time_or_zero(summary.t_ns_max)
        verdict.note(Finding(name, str(error), records, samples, first, last, *times))
        return True
    records_found = scan(data, segment.seed, limit=summary.sequence_end)
    payloads = _Payloads(name, data, contents_of(data, records_found)[0].dictionary)
    found = [*_heads(segment, data, before), *_walk(segment, records_found)]
    found += payloads.check(records_found)
    if found and not _is_there(disk, segment.path):
        return False  # recycled while it was being read
    verdict.segments += 1
    verdict.bytes_read += len(data)
    verdict.records += payloads.records
    verdict.samples += payloads.samples
    for finding in found:
        verdict.note(finding)
    return True


def _heads(segment: Segment, data: bytes, before: Summary | None) -> Iterator[Finding]:
    """The segment's own header, and what is missing between the segment before and this one."""
    name, summary = segment.path.name, segment.summary
    header = decode_header(data)
    if header is None or (header.lane, header.number) != (segment.lane, segment.number):
        yield Finding(name, "the header of the segment is not what was written", 1, 0)
    if before is not None:
        at = (before.sequence_end, before.samples_end, before.t_ns_max)
        begin = (*segment.begin, summary.t_ns_min)
        yield from _missing(name, "what should stand before it is missing", at, begin)


def _walk(segment: Segment, records: Sequence[Found]) -> Iterator[Finding]:
    """Records that the sequences say should stand before, between and behind those there are."""
    name, summary = segment.path.name, segment.summary
    at = (segment.first_sequence, summary.samples_before, TIME_MIN)
    for _, record, _, _ in records:
        has_times = record.samples > 0
        begin = (record.sequence, record.samples_before, record.t_ns_min if has_times else TIME_MAX)
        yield from _missing(name, _ROTTEN, at, begin)
        at = (record.sequence + 1, record.samples_end, record.t_ns_max if has_times else at[2])
    end = (summary.sequence_end, summary.samples_end, TIME_MAX)
    yield from _missing(name, _ROTTEN, at, end)


Place = tuple[int, int, int]  # a sequence, samples before it, the nearest time that is known


def _missing(name: str, what: str, at: Place, begin: Place) -> Iterator[Finding]:
    """What lies between two places of a lane that should be one."""
    records, samples = max(begin[0] - at[0], 0), max(begin[1] - at[1], 0)
    if records or samples:
        last = max(begin[0] - 1, at[0])
        times = time_or_zero(at[2]), time_or_zero(begin[2])
        yield Finding(name, what, records, samples, at[0], last, *times)


class _Payloads:
    """Whether each record of a segment can be read, and how many of its samples."""

    def __init__(self, name: str, data: bytes, dictionary: Dictionary) -> None:
        self.records = 0
        self.samples = 0
        self._name = name
        self._data = data
        self._dictionary = dictionary

    def check(self, records: Sequence[Found]) -> Iterator[Finding]:
        for this in records:
            record = this.record
            try:
                what, damaged, lost = "the tags of some samples are damaged", 0, self._unknown(this)
            except SpoolDamaged as error:
                what, damaged, lost = str(error), 1, record.samples
            self.records += not damaged
            self.samples += record.samples - lost
            if damaged or lost:
                where = (record.sequence, record.sequence, record.t_ns_min, record.t_ns_max)
                yield Finding(self._name, what, damaged, lost, *where)

    def _unknown(self, this: Found) -> int:
        """Samples of a record whose tags are not known; SpoolDamaged if it is damaged itself."""
        record = this.record
        payload = payload_of(self._data, this.offset, record)
        if payload is None:
            raise SpoolDamaged("the payload of a record is not what was written")
        if record.kind == TAGS:
            decode_tags(payload)
        elif record.kind == GAP:
            decode_gap(payload)
        elif record.kind == FRAMES:
            columns = decode_columns(payload, record.turns, record.samples)
            return self._dictionary.unknown(columns.frame.tag_ids)
        return 0


def _unbelievable(disk: Disk, directory: Path, catalog: Catalog) -> Iterator[Finding]:
    """Files with a segment's name that recovery could make nothing of."""
    known = {segment.path.name for segments in catalog.segments.values() for segment in segments}
    try:
        names = disk.names(directory)
    except FileNotFoundError:
        return
    for name in names:
        if parse_name(name) is None or name in known:
            continue
        try:
            header = decode_header(disk.read(directory / name, HEAD_BYTES, 0))
        except FileNotFoundError:
            continue
        except OSError as error:
            yield Finding(name, str(error), 1, 0)
            continue
        if header is None or (header.lane, header.number) != parse_name(name):
            yield Finding(name, "nothing in this file can be believed", 1, 0)


def _is_there(disk: Disk, path: Path) -> bool:
    try:
        disk.size(path)
    except FileNotFoundError:
        return False
    return True
