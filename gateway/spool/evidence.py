"""Evidence: what others know of the end of a lane that is not there any more.

A last segment that was cut, or put back from an older copy, looks like one in which nothing more
was ever written. But cursors move for durable samples only, and a derived record names the raw
record that it follows from, which was synced before. Lanes that wait for a flush of their own
(scores, aggregates) may end before a cursor after any power cut: of these it proves nothing. Nor
does it where no segment is left, since most of what it counted has been deleted long ago.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from gateway.frame import Lane
from gateway.spool.catalog import Segment
from gateway.spool.cursor import Cursor
from gateway.spool.segment import HEADER_BYTES, RECORDS_START, decode_record, is_begun
from gateway.spool.stats import Damage

__all__ = ["Gone", "count_ends", "ends_gone", "is_cut"]

SYNCED = (Lane.EVENT, Lane.RAW)  # at each commit
BLOCK_BYTES = 4096  # that every segment has a multiple of

Segments = Mapping[Lane, Sequence[Segment]]


class Gone(NamedTuple):
    """What is certain to have stood behind a lane's end."""

    lane: Lane
    file: str  # the last there is
    records: int  # 0: not known
    samples: int  # 0: not known
    sequence_end: int  # of what is there

    @property
    def what(self) -> str:
        return (
            f"the end of the lane is gone: records {self.sequence_end} and on are named by others"
            if self.records
            else "the end of the lane is gone: a sink has had samples that stood behind it"
        )


def ends_gone(segments: Segments, cursors: Iterable[Cursor]) -> Iterator[Gone]:
    """The lanes whose end is known to be missing."""
    known = list(cursors)
    for lane in SYNCED:
        if not segments[lane]:
            continue
        last = segments[lane][-1]
        end = last.summary.samples_end
        samples = max((cursor.place(lane) or 0 for cursor in known), default=0) - end
        records = _named(segments) + 1 - last.summary.sequence_end if lane is Lane.RAW else 0
        if samples > 0 or records > 0:
            yield Gone(
                lane, last.path.name, max(records, 0), max(samples, 0), last.summary.sequence_end
            )


def count_ends(segments: Segments, cursors: Iterable[Cursor], damage: Damage) -> None:
    """Count what is gone, before cursors are moved back to where their lanes end."""
    for gone in ends_gone(segments, cursors):
        # A cursor does not say how many records it was; one at least.
        damage.note(f"end of {gone.file}", gone.records or 1, gone.samples, gone.what)


def is_cut(segment: Segment, data: bytes) -> bool:
    """Whether a lane's last file was longer once: no write and no power cut makes it shorter."""
    if segment.size % BLOCK_BYTES or segment.size <= RECORDS_START:
        return True
    offset = segment.summary.end
    while (known := decode_record(data, offset, segment.seed)) is not None:
        offset += known[0].bytes_on_disk  # of a batch that is not whole
    # Nobody begins a record where not even its header has room, in a former life neither.
    is_within_header = len(data) < offset + HEADER_BYTES and is_begun(data, offset)
    return offset > len(data) or is_within_header


def _named(segments: Segments) -> int:
    """The last raw record that a derived one follows from."""
    derived = [
        of_lane[-1] for lane, of_lane in segments.items() if of_lane and lane is not Lane.RAW
    ]
    return max((segment.summary.raw_sequence for segment in derived), default=0)
