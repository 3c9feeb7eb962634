from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sources.modbus.config import RegisterRow
from gateway.sources.modbus.decode import BlockDecoder
from gateway.sources.modbus.plan import Block, width_of
from gateway.sources.modbus.wire import Request
from gateway.tag import ByteOrder, DataType, Quality

CODES = {
    DataType.INT16: "h",
    DataType.UINT16: "H",
    DataType.INT32: "i",
    DataType.UINT32: "I",
    DataType.INT64: "q",
    DataType.UINT64: "Q",
    DataType.FLOAT32: "f",
    DataType.FLOAT64: "d",
}


def on_the_wire(big_endian: bytes, order: ByteOrder) -> bytes:
    """The bytes A, B, C, D ... as a device of some order sends them."""
    words = [big_endian[i : i + 2] for i in range(0, len(big_endian), 2)]
    if order in (ByteOrder.CDAB, ByteOrder.DCBA):
        words.reverse()
    if order in (ByteOrder.BADC, ByteOrder.DCBA):
        words = [word[::-1] for word in words]
    return b"".join(words)


def make(rows: list[RegisterRow], first: int, quantity: int, function: int = 3) -> BlockDecoder:
    return BlockDecoder(Block(Request(1, function, first, quantity), tuple(range(len(rows)))), rows)


def row(address: int, data_type: DataType, **more: object) -> RegisterRow:
    base = {"asset": "a", "tag": f"t{address}", "address": address, "data_type": data_type}
    return RegisterRow.model_validate(base | more)


@given(st.data())
def test_every_type_in_every_order_is_what_struct_says(data: st.DataObject) -> None:
    pairs = st.tuples(st.sampled_from(list(CODES)), st.sampled_from(list(ByteOrder)))
    block, rows, wanted = b"", [], []
    for data_type, order in data.draw(st.lists(pairs, min_size=1, max_size=12)):
        size = struct.calcsize(">" + CODES[data_type])
        raw = data.draw(st.binary(min_size=size, max_size=size))
        rows.append(row(len(block) // 2, data_type, byte_order=order))
        wanted.append(struct.unpack(">" + CODES[data_type], raw)[0])
        block += on_the_wire(raw, order)
    found = make(rows, 0, len(block) // 2).decode(block)
    for place, truth in enumerate(wanted):
        value = found.exact.get(place, found.values[place])
        assert value == truth or (math.isnan(truth) and math.isnan(found.values[place]))


def test_integers_beyond_two_to_53_are_exact_unless_they_are_scaled() -> None:
    number = 2**63 + 1
    rows = [row(0, DataType.UINT64), row(4, DataType.UINT64, scale=0.001)]
    found = make(rows, 0, 8).decode(struct.pack(">QQ", number, number))
    assert found.exact == {0: number}
    assert found.values.tolist() == [float(number)] * 2


def test_coils_and_inputs_are_bits_the_first_one_lowest() -> None:
    rows = [row(3, DataType.BOOL), row(12, DataType.BOOL), row(5, DataType.BOOL)]
    found = make(rows, 3, 10, function=1).decode(bytes([0b0000_0101, 0b0000_0010]))
    assert found.values.tolist() == [1.0, 1.0, 1.0]


def test_a_register_as_bool_is_true_when_it_is_not_zero() -> None:
    rows = [row(0, DataType.BOOL), row(1, DataType.BOOL)]
    assert make(rows, 0, 2).decode(struct.pack(">HH", 0, 256)).values.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("data", "order", "text"),
    [
        (b"PM8000\0\0", ByteOrder.ABCD, "PM8000"),
        (b"MP0800\0\0", ByteOrder.BADC, "PM8000"),
        (b" ab \0xyz", ByteOrder.ABCD, "ab"),
        (b"\0" * 8, ByteOrder.ABCD, ""),
        ("Größe".encode() + b"\0", ByteOrder.ABCD, "Größe"),
    ],
)
def test_strings_end_at_the_first_nul(data: bytes, order: ByteOrder, text: str) -> None:
    rows = [row(0, DataType.STRING, length=4, byte_order=order)]
    found = make(rows, 0, 4).decode(data)
    assert found.exact == {0: text}
    assert math.isnan(found.values[0])


def test_bytes_that_are_no_text_are_bad_and_cost_nobody_else() -> None:
    rows = [row(0, DataType.STRING, length=1), row(1, DataType.UINT16)]
    found = make(rows, 0, 2).decode(b"\xff\xfe\0\x07")
    assert found.quality.tolist() == [Quality.BAD_DECODING, Quality.GOOD]
    assert found.values[1] == 7


@given(st.lists(st.tuples(st.integers(0, 20), st.sampled_from(list(CODES))), min_size=1))
def test_tags_may_overlap_and_stand_in_any_order(content: list[tuple[int, DataType]]) -> None:
    rows = [row(address, kind) for address, kind in content]
    end = max(each.address + width_of(each) for each in rows)
    block = bytes(range(2 * end))
    found = make(rows, 0, end).decode(block)
    for place, each in enumerate(rows):
        start, code = 2 * each.address, ">" + CODES[each.data_type]
        truth = struct.unpack_from(code, block, start)[0]
        assert found.exact.get(place, found.values[place]) == truth
