"""Columns come back to the bit, and bytes that are not ours are refused, never worse."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import SpoolDamaged
from gateway.frame import EMPTY_FRAME, Frame
from gateway.spool.columns import Columns, decode_columns, encode_columns
from gateway.spool.shapes import Shapes

INT64 = st.integers(-(2**63), 2**63 - 1)
EXACT = st.one_of(
    st.text(st.characters(codec=None), max_size=20),  # lone surrogates and NUL are characters too
    st.integers(-(2**63), 2**64 - 1),
)


@st.composite
def records(draw: st.DrawFn) -> Columns:
    row_counts = draw(st.lists(st.integers(0, 6), max_size=6))
    n = sum(row_counts)
    bits = draw(st.lists(st.integers(0, 2**64 - 1), min_size=n, max_size=n))
    times = draw(st.lists(INT64, min_size=n, max_size=n))
    tags = draw(st.lists(st.integers(0, 2**31 - 1), min_size=n, max_size=n))
    quality = draw(st.binary(min_size=n, max_size=n))
    exact = draw(st.dictionaries(st.integers(0, n - 1), EXACT)) if n else {}
    now = draw(st.lists(INT64, min_size=len(row_counts), max_size=len(row_counts)))
    frame = Frame(
        np.array(times, np.int64),
        np.array(tags, np.int32),
        np.array(bits, np.uint64).view(np.float64),
        np.frombuffer(quality, np.uint8),
        exact,
    )
    return Columns(np.array(now, np.int64), np.cumsum(row_counts, dtype=np.int64), frame)


def same(a: Columns, b: Columns) -> bool:
    return (
        a.now_ns.tolist() == b.now_ns.tolist()
        and a.row_ends.tolist() == b.row_ends.tolist()
        and a.frame.t_ns.tolist() == b.frame.t_ns.tolist()
        and a.frame.tag_ids.tolist() == b.frame.tag_ids.tolist()
        and a.frame.values.tobytes() == b.frame.values.tobytes()
        and a.frame.quality.tobytes() == b.frame.quality.tobytes()
        and dict(a.frame.exact) == dict(b.frame.exact)
    )


@given(records())
def test_every_record_comes_back_to_the_bit(columns: Columns) -> None:
    payload = encode_columns(columns)
    assert same(decode_columns(payload, len(columns.now_ns), len(columns.frame)), columns)


FLOAT = st.floats(width=64)
MEASURED = st.one_of(
    st.integers(-(10**6), 10**6).map(float),
    st.integers(-(10**6), 10**6).map(lambda n: n / 100),
    st.floats(width=32),
)


@settings(max_examples=300)
@given(
    st.lists(st.lists(MEASURED, min_size=1, max_size=8), min_size=1, max_size=4),
    st.sampled_from([FLOAT, MEASURED]).flatmap(lambda kind: st.lists(kind, min_size=1, max_size=8)),
)
def test_what_earlier_records_taught_changes_no_bit(
    earlier: list[list[float]], last: list[float]
) -> None:
    shapes = Shapes()
    for values in (*earlier, last):
        n = len(values)
        frame = Frame.of(5, np.arange(n, dtype=np.int32), np.array(values))
        columns = Columns(np.array([7]), np.array([n]), frame)
        assert same(decode_columns(encode_columns(columns, shapes), 1, n), columns)


@pytest.mark.parametrize("tags", [50, 100])
@pytest.mark.parametrize("scans", [2, 10, 64])
def test_wherever_scans_end_a_record_is_no_larger_than_that_of_one_scan_more(
    scans: int, tags: int
) -> None:
    now_ns = np.random.default_rng(scans).integers(1, 10**9, scans + 1).cumsum()

    def size(scans: int) -> int:
        ids = np.tile(np.arange(tags, dtype=np.int32), scans)
        frame = Frame.of(np.repeat(now_ns[:scans], tags), ids, np.ones(scans * tags))
        row_ends = np.arange(1, scans + 1) * tags
        return len(encode_columns(Columns(now_ns[:scans], row_ends, frame)))

    assert size(scans) <= size(scans + 1)


def test_floats_that_compare_oddly_come_back_to_the_bit() -> None:
    bits = [0x7FF8000000000001, 0xFFF8DEADBEEF0001, 0x8000000000000000, 0x7FF0000000000000, 1]
    values = np.array(bits, np.uint64).view(np.float64)
    frame = Frame.of(5, np.zeros(5, np.int32), values)
    back = decode_columns(encode_columns(Columns(np.array([7]), np.array([5]), frame)), 1, 5)
    assert back.frame.values.view(np.uint64).tolist() == bits


def test_columns_of_any_memory_layout_are_accepted() -> None:
    grid = np.arange(40, dtype=np.float64).reshape(10, 4)
    frame = Frame.of(np.arange(20)[::2].copy(), np.arange(10, dtype=np.int32), grid[:, 1])
    back = decode_columns(encode_columns(Columns(np.array([7]), np.array([10]), frame)), 1, 10)
    assert back.frame.values.tolist() == grid[:, 1].tolist()


@settings(max_examples=300)
@given(st.binary(max_size=80), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_bytes_that_are_not_a_payload_are_refused(data: bytes, turns: int, samples: int) -> None:
    try:
        back = decode_columns(data, turns, samples)
    except SpoolDamaged:
        return
    assert len(back.frame) == samples


@settings(max_examples=200)
@given(records(), st.data())
def test_a_payload_with_another_byte_is_refused_or_well_formed(
    columns: Columns, data: st.DataObject
) -> None:
    payload = bytearray(encode_columns(columns))
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        back = decode_columns(bytes(payload), len(columns.now_ns), len(columns.frame))
    except SpoolDamaged:
        return
    assert len(back.frame) == len(columns.frame)
    assert all(0 <= row < len(back.frame) for row in back.frame.exact)


def test_a_payload_never_inflates_to_more_than_it_claims() -> None:
    bomb = zlib.compress(bytes(50_000_000), 9, wbits=-15)
    with pytest.raises(SpoolDamaged, match="wrong size"):
        decode_columns(struct.pack("<I", len(bomb)) + bomb, 1, 4000)
    with pytest.raises(SpoolDamaged, match="claims more samples"):
        decode_columns(struct.pack("<I", 4) + b"abcd", 2**31, 2**31)


def test_a_record_without_rows_keeps_its_turns() -> None:
    now_ns = np.array([5, 9, 9], np.int64)
    payload = encode_columns(Columns(now_ns, np.zeros(3, np.int64), EMPTY_FRAME))
    back = decode_columns(payload, 3, 0)
    assert back.now_ns.tolist() == [5, 9, 9]
    assert len(back.frame) == 0
