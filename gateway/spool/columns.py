"""Columns: the turns of one lane in one commit, as bytes and back. Pure, exact to the bit.

Times and tag ids are stored where they do not go on as before (`packing`), values as the small
numbers they were before they became float64 (`shapes`), qualities once where all are the same,
and one raw deflate at level 1 goes over what is not noise.

Layout (docs/formats/spool.md): u32 with the top bit set, the packed columns, deflated JSON of the
exact values (absent when there are none). Layout 1, with the top bit clear, is still read.
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.errors import SpoolDamaged
from gateway.frame import Exact, Frame, TimeArray
from gateway.spool.packing import INFLATE_MAX, RAW_DEFLATE, Packer, Unpacker, deflate, inflate
from gateway.spool.shapes import Shapes, put_values, take_values

__all__ = ["Columns", "decode_columns", "encode_columns"]

_LAYOUT = struct.Struct("<I")
_LAYOUT_2 = 0x80000002
_TOP_BIT = 0x80000000
# What one turn and one sample can take, inflated, and the columns' own beginnings.
_TURN_BYTES, _SAMPLE_BYTES, _COLUMNS_BYTES = 18, 27, 256


class Columns(NamedTuple):
    """The turns of one record; `frame.tag_ids` are local ids of the segment's dictionary."""

    now_ns: TimeArray  # of each turn
    row_ends: npt.NDArray[np.int64]  # row behind the last of each turn
    frame: Frame


def encode_columns(columns: Columns, shapes: Shapes | None = None) -> bytes:
    """The payload of a frames record; `shapes` is what earlier records taught, by local id."""
    now_ns, row_ends, frame = columns
    packer = Packer()
    packer.put_stepping(now_ns.astype(np.int64, copy=False))
    packer.put_stepping(row_ends.astype(np.int64, copy=False))
    packer.put_stepping(frame.t_ns)
    packer.put_stepping(frame.tag_ids.astype(np.int64))
    packer.put_bytes(frame.quality)
    put_values(packer, frame.values, frame.tag_ids, shapes or Shapes())
    return _LAYOUT.pack(_LAYOUT_2) + packer.finish() + _encode_exact(frame.exact)


def decode_columns(payload: bytes, turns: int, samples: int) -> Columns:
    """The inverse; SpoolDamaged for bytes that `encode_columns` cannot have made."""
    if len(payload) < _LAYOUT.size:
        raise SpoolDamaged("a frames record is shorter than its layout field")
    if turns + samples > INFLATE_MAX * (len(payload) + 1):
        raise SpoolDamaged("a frames record claims more samples than its bytes can hold")
    (layout,) = _LAYOUT.unpack_from(payload)
    if not layout & _TOP_BIT:
        return _checked(*_decode_1(payload, layout, turns, samples), samples)
    if layout != _LAYOUT_2:
        raise SpoolDamaged(f"a frames record of an unknown layout, {layout:#x}")
    inflated_max = _COLUMNS_BYTES + turns * _TURN_BYTES + samples * _SAMPLE_BYTES
    unpacker = Unpacker(payload[_LAYOUT.size :], inflated_max)
    now_ns, row_ends = unpacker.stepping(turns), unpacker.stepping(turns)
    t_ns, tag_ids = unpacker.stepping(samples), unpacker.stepping(samples)
    quality = unpacker.octets(samples)
    values = take_values(unpacker, samples)
    unpacker.check_done()
    exact = payload[_LAYOUT.size + unpacker.end :]
    frame = Frame(t_ns, tag_ids.astype(np.int32), values, quality, _decode_exact(exact, samples))
    return _checked(now_ns, row_ends, frame, samples)


def _checked(
    now_ns: TimeArray, row_ends: npt.NDArray[np.int64], frame: Frame, samples: int
) -> Columns:
    turns = len(now_ns)
    rising = row_ends[0] >= 0 and bool((np.diff(row_ends) >= 0).all()) if turns else True
    if not rising or (row_ends[-1] if turns else 0) != samples:
        raise SpoolDamaged("the turns of a frames record do not add up to its samples")
    return Columns(now_ns, row_ends, frame)


def _decode_1(
    payload: bytes, length: int, turns: int, samples: int
) -> tuple[TimeArray, npt.NDArray[np.int64], Frame]:
    """Layout 1, written until 2026-11: every column whole, plane by plane, under one deflate."""
    start = _LAYOUT.size
    size = turns * 12 + samples * 21
    planes = inflate(payload[start : start + length], size)
    if len(planes) != size:
        raise SpoolDamaged("the columns of a frames record have the wrong size")
    cut = 0

    def take(n: int, dtype: str) -> npt.NDArray[Any]:
        nonlocal cut
        width = np.dtype(dtype).itemsize
        flat = np.frombuffer(planes, np.uint8, n * width, cut)
        cut += n * width
        return np.ascontiguousarray(flat.reshape(width, n).T).reshape(-1).view(dtype)

    now_ns = np.cumsum(take(turns, "<i8"), dtype=np.int64)
    row_ends = np.cumsum(take(turns, "<i4"), dtype=np.int64)
    t_ns = np.cumsum(take(samples, "<i8"), dtype=np.int64)
    tag_ids = np.cumsum(take(samples, "<i4"), dtype=np.int32)
    values = take(samples, "<f8").astype(np.float64, copy=False)
    exact = _decode_exact(payload[start + length :], samples)
    return now_ns, row_ends, Frame(t_ns, tag_ids, values, take(samples, "u1"), exact)


def _encode_exact(exact: Exact) -> bytes:
    if not exact:
        return b""
    # The standard library's JSON, since orjson refuses integers beyond 64 bits and lone surrogates.
    text = json.dumps([list(exact.keys()), list(exact.values())], default=int)
    return deflate(text.encode("ascii"))


# Strings of one record. What waits for the disk is bounded by pending_bytes_max; JSON may write
# one character as twelve bytes.
_EXACT_BYTES_MAX = 256 * 2**20


def _decode_exact(deflated: bytes, samples: int) -> Exact:
    if not deflated:
        return {}
    try:
        text = zlib.decompressobj(RAW_DEFLATE).decompress(deflated, _EXACT_BYTES_MAX)
        rows, values = json.loads(text)
        exact = dict(zip(rows, values, strict=True))
    except (zlib.error, ValueError, TypeError, RecursionError) as error:
        raise SpoolDamaged(f"exact values cannot be read: {error}") from error
    for row, value in exact.items():
        is_row = type(row) is int and 0 <= row < samples
        if not is_row or not isinstance(value, (int, str)):
            raise SpoolDamaged("an exact value does not belong to a row")
    return exact
