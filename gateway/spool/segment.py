"""Segment: the bytes of a spool file, and what of them may be believed. Pure, no I/O.

    0      header   60 bytes: which lane, which number, where the lane stood when it began
    128    given up 28 bytes: where it stood before what went in memory (absent if nothing did)
    512    summary  84 bytes: what is in it, written when the segment is full (absent before)
    4096   records, each 8-aligned: header of 104 bytes, payload, zeros up to the next multiple of 8

The first block holds nothing that the records do not say as well: writing the summary, long
after the records, can hurt none of them.

Every checksum starts from a seed made of the lane and the segment's number, which is in the
file's name and never used twice. So a record from a file's former life, or from another file,
fails its checksum however intact it is. Each record also has the checksum of the one before it
(the chain), a sequence that rises by one in its lane, its index in the write that was synced as
one (the batch), and how many samples its lane had before it: what is missing can be counted
exactly, and a torn batch is told from bytes that rotted.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from gateway.frame import Lane

__all__ = [
    "FRAMES",
    "GAP",
    "GIVEN_UP_START",
    "HEADER_BYTES",
    "HEAD_BYTES",
    "RECORDS_START",
    "SUMMARY_START",
    "TAGS",
    "Found",
    "GivenUp",
    "Record",
    "SegmentHeader",
    "Summary",
    "decode_given_up",
    "decode_header",
    "decode_record",
    "decode_summary",
    "encode_given_up",
    "encode_header",
    "encode_record",
    "encode_summary",
    "is_begun",
    "padded",
    "payload_of",
    "scan",
    "seed_of",
    "sign_of",
    "summary_of",
    "time_or_zero",
]

VERSION = 1
FRAMES = 1  # kinds of record
TAGS = 2
GAP = 3

GIVEN_UP_START = 128  # written with the header, in memory
SUMMARY_START = 512  # a sector of its own
HEAD_BYTES = 1024  # of header and summary
RECORDS_START = 4096  # a block of its own

_RECORD_MAGIC = b"SlgR"
_CHECKSUM = struct.Struct("<I")


class Record(NamedTuple):
    """A record's header, without magic, version and checksum."""

    kind: int  # FRAMES, TAGS or GAP
    payload_bytes: int
    payload_crc: int
    previous_crc: int  # header checksum of the record before; the seed in a segment's first
    batch_index: int  # place among the records that were written and synced together
    sequence: int  # rises by one with each record of the lane
    samples_before: int  # of the lane, since it began
    raw_sequence: int  # raw record this one derives from; 0 in the raw lane itself
    boot_id: int
    monotonic_ns: int  # when it was made, comparable within one boot
    t_ns_min: int
    t_ns_max: int
    now_ns_max: int  # greatest time of its turns
    samples: int
    turns: int
    tags: int  # FRAMES: tags its segment must know; TAGS: local id of its first
    is_provisional: int = 0  # 1: its times lack the offset of its boot (`gateway.spool.boots`)

    @property
    def samples_end(self) -> int:
        return self.samples_before + self.samples

    @property
    def bytes_on_disk(self) -> int:
        return padded(HEADER_BYTES + self.payload_bytes)


# Magic, version, kind, is_provisional, then Record's fields from payload_bytes to tags.
_RECORD = struct.Struct("<4sBBBxIIIIQQQQqqqqIII")
HEADER_BYTES = _RECORD.size + _CHECKSUM.size


def padded(size: int) -> int:
    """The next multiple of 8; resynchronising looks at these places only."""
    return -(-size // 8) * 8


def seed_of(lane: Lane, number: int) -> int:
    """What every checksum in a segment starts from."""
    return zlib.crc32(struct.pack("<BQ", lane, number))


def encode_record(record: Record, payload: bytes, seed: int) -> tuple[bytes, int]:
    """The record's bytes, and the checksum that the next one carries as `previous_crc`."""
    kind, *fields, is_provisional = record
    header = _RECORD.pack(_RECORD_MAGIC, VERSION, kind, is_provisional, *fields)
    checksum = zlib.crc32(header, seed)
    padding = bytes(record.bytes_on_disk - HEADER_BYTES - len(payload))
    return b"".join((header, _CHECKSUM.pack(checksum), payload, padding)), checksum


def decode_record(data: bytes, offset: int, seed: int) -> tuple[Record, int] | None:
    """The record header at `offset` and its checksum; None if there is none to be believed."""
    if len(data) - offset < HEADER_BYTES or data[offset : offset + 4] != _RECORD_MAGIC:
        return None
    (checksum,) = _CHECKSUM.unpack_from(data, offset + _RECORD.size)
    if zlib.crc32(data[offset : offset + _RECORD.size], seed) != checksum:
        return None
    _, version, kind, is_provisional, *fields = _RECORD.unpack_from(data, offset)
    record = Record._make((kind, *fields, is_provisional))
    return (record, checksum) if version == VERSION else None


def sign_of(kind: int) -> bytes:
    """What every record of a kind begins with: enough to find a few among very many."""
    return _RECORD_MAGIC + bytes([VERSION, kind])


def is_begun(data: bytes, offset: int) -> bool:
    """Whether something at `offset` begins as every record does."""
    return data[offset : offset + len(_RECORD_MAGIC)] == _RECORD_MAGIC


def payload_of(data: bytes, offset: int, record: Record) -> bytes | None:
    """The payload of the record at `offset`; None if it is not what was written."""
    start = offset + HEADER_BYTES
    payload = data[start : start + record.payload_bytes]
    return payload if zlib.crc32(payload) == record.payload_crc else None


class SegmentHeader(NamedTuple):
    """Where the lane stood when the segment began."""

    lane: int
    number: int
    first_sequence: int  # of its first record, whenever that is written
    samples_before: int
    raw_sequence: int  # as in the lane's record before
    boot_id: int
    created_ns: int  # UTC


_SEGMENT = struct.Struct("<4sBB2xQQQQQq")  # magic, version, then SegmentHeader's fields
_SEGMENT_MAGIC = b"SlgS"


def encode_header(header: SegmentHeader) -> bytes:
    data = _SEGMENT.pack(_SEGMENT_MAGIC, VERSION, *header)
    return data + _CHECKSUM.pack(zlib.crc32(data))


def decode_header(data: bytes) -> SegmentHeader | None:
    """The header at the start of a segment; None if there is none to be believed."""
    if not _is_intact(data, _SEGMENT, _SEGMENT_MAGIC, 0):
        return None
    return SegmentHeader._make(_SEGMENT.unpack_from(data)[2:])


class GivenUp(NamedTuple):
    """Where the lane stood before segments that were given up in memory, right before this one."""

    sequence: int
    samples: int


_GIVEN_UP = struct.Struct("<4sB3xQQ")  # magic, version, then GivenUp's fields
_GIVEN_UP_MAGIC = b"SlgU"


def encode_given_up(given_up: GivenUp, seed: int) -> bytes:
    data = _GIVEN_UP.pack(_GIVEN_UP_MAGIC, VERSION, *given_up)
    return data + _CHECKSUM.pack(zlib.crc32(data, seed))


def decode_given_up(data: bytes, seed: int) -> GivenUp | None:
    """From a segment given from its first byte; None if nothing was, or none can be believed."""
    if not _is_intact(data, _GIVEN_UP, _GIVEN_UP_MAGIC, GIVEN_UP_START, seed):
        return None
    return GivenUp._make(_GIVEN_UP.unpack_from(data, GIVEN_UP_START)[2:])


class Summary(NamedTuple):
    """What a segment holds. Kept in memory for each, and on disk once the segment is full."""

    end: int  # offset behind its last record
    records: int  # with frames
    sequence_end: int  # one more than its last record's
    samples_before: int
    samples_end: int
    raw_sequence: int  # of its last record with frames
    t_ns_min: int
    t_ns_max: int
    now_ns_max: int
    has_provisional: int = 0  # 1: times in some of its records lack an offset

    def with_record(self, offset: int, record: Record) -> Summary:
        """The summary once `record`, at `offset`, is in the segment as well."""
        has_samples = record.samples > 0
        return Summary(
            end=offset + record.bytes_on_disk,
            records=self.records + (record.kind == FRAMES),
            sequence_end=record.sequence + 1,
            samples_before=self.samples_before,
            samples_end=record.samples_end,
            # A gap or tags that come with frames may have been kept where the frames were not:
            # only with these is what is derived from that raw record there.
            raw_sequence=record.raw_sequence if record.kind == FRAMES else self.raw_sequence,
            t_ns_min=min(self.t_ns_min, record.t_ns_min) if has_samples else self.t_ns_min,
            t_ns_max=max(self.t_ns_max, record.t_ns_max) if has_samples else self.t_ns_max,
            now_ns_max=max(self.now_ns_max, record.now_ns_max),
            has_provisional=self.has_provisional | record.is_provisional,
        )


TIME_MIN, TIME_MAX = -(2**63), 2**63 - 1


def time_or_zero(t_ns: int) -> int:
    """A summary's time for people: 0 where there was no sample to have one."""
    return 0 if t_ns in (TIME_MIN, TIME_MAX) else t_ns


def summary_of(header: SegmentHeader) -> Summary:
    """The summary of a segment without records."""
    return Summary(
        end=RECORDS_START,
        records=0,
        sequence_end=header.first_sequence,
        samples_before=header.samples_before,
        samples_end=header.samples_before,
        raw_sequence=header.raw_sequence,
        t_ns_min=TIME_MAX,
        t_ns_max=TIME_MIN,
        now_ns_max=TIME_MIN,
    )


_SUMMARY = struct.Struct("<4sBB2xQQQQQQqqq")  # magic, version, has_provisional, then the fields
_SUMMARY_MAGIC = b"SlgE"


def encode_summary(summary: Summary, seed: int) -> bytes:
    *fields, has_provisional = summary
    data = _SUMMARY.pack(_SUMMARY_MAGIC, VERSION, has_provisional, *fields)
    return data + _CHECKSUM.pack(zlib.crc32(data, seed))


def decode_summary(data: bytes, seed: int) -> Summary | None:
    """The summary of a segment given from its first byte; None if there is none."""
    if not _is_intact(data, _SUMMARY, _SUMMARY_MAGIC, SUMMARY_START, seed):
        return None
    _, _, has_provisional, *fields = _SUMMARY.unpack_from(data, SUMMARY_START)
    return Summary._make((*fields, has_provisional))


def _is_intact(data: bytes, layout: struct.Struct, magic: bytes, start: int, seed: int = 0) -> bool:
    end = start + layout.size
    if len(data) < end + _CHECKSUM.size or data[start : start + 4] != magic:
        return False
    (checksum,) = _CHECKSUM.unpack_from(data, end)
    return zlib.crc32(data[start:end], seed) == checksum and data[start + 4] == VERSION


class Found(NamedTuple):
    """A record that may be believed."""

    offset: int
    record: Record
    checksum: int
    is_chained: bool  # it follows the one before it directly

    @property
    def end(self) -> int:
        return self.offset + self.record.bytes_on_disk


def scan(data: bytes, seed: int, *, limit: int = TIME_MAX, is_last: bool = False) -> list[Found]:
    """The records of a segment, given from its first byte.

    `limit`: the next segment's first sequence; what reaches it was written there once more,
    after a failed sync here. `is_last`: nothing follows, so the end may be torn: payloads are
    checked, and an unfinished batch at the end is left out as if it had not been written. With
    `is_last` false a payload is checked when it is read.
    """
    found: list[Found] = []
    offset, previous_crc, sequence_last, samples_last = RECORDS_START, seed, -1, 0
    while offset >= 0:
        known = decode_record(data, offset, seed)
        if known is None:
            offset = _next_magic(data, offset + 8)
            continue
        record, checksum = known
        this = Found(offset, record, checksum, record.previous_crc == previous_crc)
        rises = record.sequence > sequence_last and record.samples_before >= samples_last
        if (
            rises
            and record.sequence < limit
            and this.end <= len(data)
            and (not is_last or payload_of(data, offset, record) is not None)
        ):
            found.append(this)
            offset, previous_crc = this.end, checksum
            sequence_last, samples_last = record.sequence, record.samples_end
        else:
            offset = _next_magic(data, offset + 8)
    if is_last:
        del found[_finished(found) :]
    return _in_place(found)


def _in_place(found: list[Found]) -> list[Found]:
    """Without records that the one behind them does not continue: relics of a write that was lost.

    Of two neighbours that do not fit together one is a relic; it is the second, if it does not
    fit to its own successor either.
    """
    kept: list[Found] = []
    behind: Found | None = None
    for this in reversed(found):
        follows = behind is not None and behind.record.sequence == this.record.sequence + 1
        is_relic = follows and behind is not None and not behind.is_chained
        if not is_relic:
            kept.append(this)
        behind = None if is_relic else this
    kept.reverse()
    return kept


def _next_magic(data: bytes, offset: int) -> int:
    """Where a record may begin at or after `offset`; -1 for nowhere."""
    at = data.find(_RECORD_MAGIC, offset)
    while at >= 0 and at % 8:
        at = data.find(_RECORD_MAGIC, at + 1)
    return at


def _finished(found: list[Found]) -> int:
    """How many records stay when an unfinished batch at the end is taken off.

    A record that follows a gap and is not the first of its batch belongs to a batch of which
    something is missing. If a later batch follows, the missing rotted after it was synced. If
    none does, the batch was never synced, and nobody was told that it is durable. Likewise tags
    at the end that no frames follow.
    """
    kept = len(found)
    i = kept - 1
    while i >= 0 and found[i].record.batch_index > 0:
        if not found[i].is_chained:
            kept = i
        i -= 1
    while kept and found[kept - 1].record.kind == TAGS:
        kept -= 1
    return kept
