"""Plain codecs for the payloads of records, while worlds are run by the thousand.

The real ones are pure and have tests of their own; they would take half of a world's time. What
the worlds are about - where records stand, what of them is believed - is untouched.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import numpy as np

from gateway.errors import SpoolDamaged
from gateway.frame import Frame
from gateway.spool import catalog, lane
from gateway.spool.columns import Columns
from gateway.tag import Tag, TagTable

__all__ = ["plain_codecs"]

_COUNTS = struct.Struct("<II")


def _encode_columns(columns: Columns, _shapes: object = None) -> bytes:
    now_ns, row_ends, frame = columns
    parts = (now_ns, row_ends, frame.t_ns, frame.values, frame.tag_ids.astype(np.int32))
    counts = _COUNTS.pack(len(now_ns), len(frame))
    return counts + b"".join(part.tobytes() for part in parts)


def _decode_columns(payload: bytes, turns: int, samples: int) -> Columns:
    if len(payload) != _COUNTS.size + 16 * turns + 20 * samples:
        raise SpoolDamaged("a frames record of the wrong size")
    if _COUNTS.unpack_from(payload) != (turns, samples):
        raise SpoolDamaged("a frames record with other counts than its header has")
    times = np.frombuffer(payload, np.int64, 2 * turns + samples, _COUNTS.size)
    at = _COUNTS.size + 16 * turns + 8 * samples
    values = np.frombuffer(payload, np.float64, samples, at)
    tag_ids = np.frombuffer(payload, np.int32, samples, at + 8 * samples)
    frame = Frame(times[2 * turns :], tag_ids, values, np.zeros(samples, np.uint8))
    return Columns(times[:turns], times[turns : 2 * turns], frame)


@contextmanager
def plain_codecs(table: TagTable) -> Iterator[None]:
    """Within the block, columns are arrays as they are, and tags of `table` are their names."""

    def encode_tags(tags: Sequence[Tag]) -> bytes:
        return " ".join(tag.name for tag in tags).encode()

    def decode_tags(payload: bytes) -> list[Tag]:
        ids = [table.id_of(name) for name in payload.decode("ascii", "replace").split()]
        if not ids or None in ids:
            raise SpoolDamaged("a tags record cannot be read")
        return [table[tag_id] for tag_id in ids if tag_id is not None]

    with (
        mock.patch.object(lane, "encode_columns", _encode_columns),
        mock.patch.object(lane, "encode_tags", encode_tags),
        mock.patch.object(catalog, "decode_columns", _decode_columns),
        mock.patch.object(catalog, "decode_tags", decode_tags),
    ):
        yield
