"""Inspect: what a spool holds, how far each sink has got in it, what was deleted. Takes no lock.

Works beside a running gateway: what it deletes or recycles meanwhile is left out. One segment is
in memory at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gateway.errors import SpoolDamaged
from gateway.frame import Lane
from gateway.spool.boots import Boots
from gateway.spool.catalog import Catalog, Segment
from gateway.spool.cursor import SUFFIX, Cursor
from gateway.spool.disk import Disk
from gateway.spool.gap import Gap, decode_gap
from gateway.spool.recovery import find_segments
from gateway.spool.segment import (
    GAP,
    RECORDS_START,
    decode_record,
    payload_of,
    sign_of,
    time_or_zero,
)
from gateway.spool.stats import Damage, SpoolStats

__all__ = [
    "Finding",
    "LaneReport",
    "Noted",
    "Report",
    "SinkPlace",
    "cursor_finding",
    "find_cursors",
    "look",
    "open_catalog",
]

# A lane that lost this much in different places is not understood better by a longer list.
FINDINGS_MAX = 1000
GAPS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Finding:
    """Something on disk that is not what was written, and what that costs."""

    file: str
    what: str
    records: int
    samples: int
    sequence_first: int = 0  # 0: not known
    sequence_last: int = 0
    t_ns_min: int = 0  # of what was lost, or of its neighbours; 0: not known
    t_ns_max: int = 0


@dataclass(frozen=True, slots=True)
class SinkPlace:
    """How far a sink has got in one lane."""

    sink: str
    lane: str
    place: int | None  # samples of the lane, since it began, that are done with; None: never read
    lag_samples: int
    oldest_ns: int  # of what it has not had, to the record; 0: it has had all


@dataclass(slots=True)
class LaneReport:
    """What one lane holds."""

    lane: str
    segments: int = 0
    bytes_used: int = 0
    bytes_written: int = 0  # of these, records
    samples: int = 0
    samples_begin: int = 0  # of the lane, deleted before the oldest that is here
    sequence_first: int = 0
    sequence_last: int = 0
    oldest_ns: int = 0
    newest_ns: int = 0
    gaps: list[Gap] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """What a spool holds."""

    directory: str
    lanes: list[LaneReport] = field(default_factory=list)
    sinks: list[SinkPlace] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


class Noted(Damage):
    """Keeps what recovery finds instead of logging it."""

    def __init__(self) -> None:
        super().__init__(SpoolStats())
        self.findings: list[Finding] = []

    def note(self, where: str, records: int, samples: int, what: str) -> None:
        if (records > 0 or samples > 0) and len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(where, what, max(records, 0), max(samples, 0)))


def open_catalog(disk: Disk, directory: Path) -> tuple[Catalog, list[Finding]]:
    """The segments that are there now, and what opening them finds damaged."""
    damage = Noted()
    boots = Boots(disk, directory)
    catalog = Catalog(disk, damage, boots)
    try:
        boots.load(in_memory=True)  # a look needs no verdicts to begin
        names = disk.names(directory)
    except FileNotFoundError:
        return catalog, damage.findings
    catalog.segments.update(find_segments(disk, directory, names, damage).segments)
    return catalog, damage.findings


def find_cursors(disk: Disk, directory: Path) -> dict[str, Cursor | None]:
    """The sinks' cursors; None for one of which no slot is whole."""
    found: dict[str, Cursor | None] = {}
    try:
        names = disk.names(directory / "cursors")
    except OSError:
        return found
    for name in names:
        if not name.endswith(SUFFIX):
            continue
        cursor = Cursor(directory / "cursors" / name)
        try:
            is_whole = cursor.load(disk)
        except OSError:
            is_whole = False
        found[name.removesuffix(SUFFIX)] = cursor if is_whole else None
    return found


def cursor_finding(file: str) -> Finding:
    what = "neither slot of the cursor is whole: the sink gets everything again"
    return Finding(file, what, 1, 0)


def look(disk: Disk, directory: Path) -> Report:
    """What is there, and how far each sink has got."""
    catalog, findings = open_catalog(disk, directory)
    report = Report(str(directory), findings=list(findings))
    for lane in Lane:
        report.lanes.append(_lane_report(disk, catalog, lane))
    for name, cursor in find_cursors(disk, directory).items():
        if cursor is None:
            report.findings.append(cursor_finding(name + SUFFIX))
            continue
        report.sinks += [
            _sink_place(catalog, name, lane, place)
            for lane in Lane
            if (place := cursor.place(lane)) is not None
        ]
    return report


def _lane_report(disk: Disk, catalog: Catalog, lane: Lane) -> LaneReport:
    segments = catalog.segments[lane]
    report = LaneReport(lane.name.lower(), segments=len(segments))
    if not segments:
        return report
    first, last = segments[0].summary, segments[-1].summary
    report.bytes_used = sum(segment.size for segment in segments)
    report.bytes_written = sum(s.summary.end - RECORDS_START for s in segments)
    report.samples = last.samples_end - first.samples_before
    report.samples_begin = first.samples_before
    report.sequence_first = segments[0].first_sequence
    report.sequence_last = last.sequence_end - 1
    spans = [catalog.times_ns(segment) for segment in segments]
    report.oldest_ns = time_or_zero(min(low for low, _ in spans))
    report.newest_ns = time_or_zero(max(high for _, high in spans))
    for segment in segments:
        report.gaps += _gaps_of(disk, segment)
    del report.gaps[:-GAPS_MAX]
    return report


def _gaps_of(disk: Disk, segment: Segment) -> Iterator[Gap]:
    """The gap records of a segment, found by their first bytes: few among very many records."""
    if segment.contents is not None:
        yield from segment.contents.gaps
        return
    try:
        data = disk.read(segment.path, segment.summary.end, 0)
    except OSError:
        return
    sign = sign_of(GAP)
    at = data.find(sign, RECORDS_START)
    while at >= 0:
        known = decode_record(data, at, segment.seed)
        if known is not None:
            with contextlib.suppress(SpoolDamaged):
                yield decode_gap(payload_of(data, at, known[0]) or b"")
        at = data.find(sign, at + 1)


def _sink_place(catalog: Catalog, sink: str, lane: Lane, place: int) -> SinkPlace:
    begin, end = catalog.samples_begin(lane), catalog.samples_end(lane)
    oldest_ns = 0
    for segment in catalog.segments[lane]:
        if segment.summary.samples_end > place:
            index = catalog.contents(segment).index
            rows = index[index["samples_end"] > place]
            times = catalog.times(rows[:1], "t_ns_min")
            oldest_ns = int(times[0]) if len(times) else catalog.times_ns(segment)[0]
            break
    return SinkPlace(sink, lane.name.lower(), place, max(end - max(place, begin), 0), oldest_ns)
