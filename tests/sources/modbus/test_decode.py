from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sources.modbus.config import RegisterRow
from gateway.sources.modbus.decode import BlockDecoder, new_exponents
from gateway.sources.modbus.plan import Block, width_of
from gateway.sources.modbus.types import RegisterType
from gateway.sources.modbus.wire import Request
from gateway.tag import ByteOrder, Quality

CODES = {
    RegisterType.INT16: "h",
    RegisterType.UINT16: "H",
    RegisterType.INT32: "i",
    RegisterType.UINT32: "I",
    RegisterType.INT64: "q",
    RegisterType.UINT64: "Q",
    RegisterType.FLOAT32: "f",
    RegisterType.FLOAT64: "d",
    RegisterType.FLOAT16: "e",
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


def row(address: int, data_type: RegisterType, **more: object) -> RegisterRow:
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
    rows = [row(0, RegisterType.UINT64), row(4, RegisterType.UINT64, scale=0.001)]
    found = make(rows, 0, 8).decode(struct.pack(">QQ", number, number))
    assert found.exact == {0: number}
    assert found.values.tolist() == [float(number)] * 2


def test_coils_and_inputs_are_bits_the_first_one_lowest() -> None:
    rows = [row(3, RegisterType.BOOL), row(12, RegisterType.BOOL), row(5, RegisterType.BOOL)]
    found = make(rows, 3, 10, function=1).decode(bytes([0b0000_0101, 0b0000_0010]))
    assert found.values.tolist() == [1.0, 1.0, 1.0]


def test_a_register_as_bool_is_true_when_it_is_not_zero() -> None:
    rows = [row(0, RegisterType.BOOL), row(1, RegisterType.BOOL)]
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
    rows = [row(0, RegisterType.STRING, length=4, byte_order=order)]
    found = make(rows, 0, 4).decode(data)
    assert found.exact == {0: text}
    assert math.isnan(found.values[0])


def test_bytes_that_are_no_text_are_bad_and_cost_nobody_else() -> None:
    rows = [row(0, RegisterType.STRING, length=1), row(1, RegisterType.UINT16)]
    found = make(rows, 0, 2).decode(b"\xff\xfe\0\x07")
    assert found.quality.tolist() == [Quality.BAD_DECODING, Quality.GOOD]
    assert found.values[1] == 7


@given(st.lists(st.tuples(st.integers(0, 20), st.sampled_from(list(CODES))), min_size=1))
def test_tags_may_overlap_and_stand_in_any_order(content: list[tuple[int, RegisterType]]) -> None:
    rows = [row(address, kind) for address, kind in content]
    end = max(each.address + width_of(each) for each in rows)
    block = bytes(range(2 * end))
    found = make(rows, 0, end).decode(block)
    for place, each in enumerate(rows):
        start, code = 2 * each.address, ">" + CODES[each.data_type]
        truth = struct.unpack_from(code, block, start)[0]
        assert found.exact.get(place, found.values[place]) == truth


ORDERS = st.sampled_from(list(ByteOrder))


@given(st.integers(0, 9999), st.integers(0, 99_999_999), ORDERS)
def test_decimal_digits_are_a_number(small: int, large: int, order: ByteOrder) -> None:
    rows = [
        row(0, RegisterType.BCD16, byte_order=order),
        row(1, RegisterType.BCD32, byte_order=order),
    ]
    block = on_the_wire(bytes.fromhex(f"{small:04d}"), order)
    block += on_the_wire(bytes.fromhex(f"{large:08d}"), order)
    assert make(rows, 0, 3).decode(block).values.tolist() == [small, large]


def test_digits_that_are_none_are_bad_and_cost_nobody_else() -> None:
    rows = [row(0, RegisterType.BCD16), row(1, RegisterType.BCD16)]
    found = make(rows, 0, 2).decode(b"\x12\x3a\x12\x34")
    assert found.quality.tolist() == [Quality.BAD_DECODING, Quality.GOOD]
    assert found.values[1] == 1234


@given(st.binary(min_size=2, max_size=2), ORDERS)
def test_a_register_may_hold_two_bytes(raw: bytes, order: ByteOrder) -> None:
    kinds = (
        RegisterType.INT8_HIGH, RegisterType.INT8_LOW,
        RegisterType.UINT8_HIGH, RegisterType.UINT8_LOW,
    )  # fmt: skip
    rows = [row(0, kind, byte_order=order) for kind in kinds]
    wanted = [*struct.unpack("bb", raw), *struct.unpack("BB", raw)]
    assert make(rows, 0, 1).decode(on_the_wire(raw, order)).values.tolist() == wanted


@given(st.integers(0, 2**32 - 1), st.integers(0, 31), st.integers(0, 31), ORDERS)
def test_bits_of_a_register_are_numbers_of_their_own(
    number: int, one: int, other: int, order: ByteOrder
) -> None:
    low, high = sorted((one, other))
    rows = [
        row(0, RegisterType.UINT32, byte_order=order, bits=str(low)),
        row(0, RegisterType.UINT32, byte_order=order, bits=f"{low}-{high}"),
        row(0, RegisterType.UINT32, byte_order=order),
    ]
    block = on_the_wire(struct.pack(">I", number), order)
    wanted = [number >> low & 1, number >> low & (2 ** (high - low + 1) - 1), number]
    assert make(rows, 0, 2).decode(block).values.tolist() == wanted


def test_numbers_and_flags_may_have_names() -> None:
    rows = [
        row(0, RegisterType.UINT16, names="0=off;1=on"),
        row(1, RegisterType.UINT16, names="0=off;1=on"),
        row(2, RegisterType.FLAGS16, names="0=door open;3=too hot"),
        row(3, RegisterType.UINT16, bits="4-5", names="2=auto"),
    ]
    found = make(rows, 0, 4).decode(struct.pack(">HHHH", 1, 7, 0b11001, 0x20))
    assert found.exact == {0: "on", 1: "7", 2: "door open,too hot,bit4", 3: "auto"}
    assert all(math.isnan(value) for value in found.values)


@pytest.mark.parametrize("number", [2**53 + 3, 2**64 - 1])
def test_the_name_of_a_large_number_is_its_own(number: int) -> None:
    named = row(0, RegisterType.UINT64, names=f"{number}=big;3=x")
    assert make([named], 0, 4).decode(struct.pack(">Q", number)).exact == {0: "big"}
    other = row(0, RegisterType.UINT64, names="3=x")
    assert make([other], 0, 4).decode(struct.pack(">Q", number)).exact == {0: str(number)}


def test_a_number_that_means_not_there_is_no_value() -> None:
    rows = [
        row(0, RegisterType.INT16, missing="0x8000"),
        row(1, RegisterType.UINT16, missing="0xFFFF;0xFFFE"),
        row(2, RegisterType.UINT64, missing="0xFFFFFFFFFFFFFFFF"),
        row(6, RegisterType.INT16, missing="0x8000"),
    ]
    found = make(rows, 0, 7).decode(struct.pack(">hHQh", -32768, 0xFFFE, 2**64 - 1, 5))
    assert found.quality.tolist() == [Quality.BAD_SENSOR_FAILURE] * 3 + [Quality.GOOD]
    assert found.exact == {}
    assert found.values[3] == 5


def test_a_power_of_ten_from_another_register_is_applied() -> None:
    rows = [
        row(0, RegisterType.UINT16, scale_from="t2"),
        row(1, RegisterType.INT32, scale_from="t2"),
        row(2, RegisterType.INT16, missing="0x8000"),
    ]
    rows[1] = row(3, RegisterType.INT32, scale_from="t2")
    decoder = make(rows, 0, 5)
    found = decoder.decode(struct.pack(">HHhi", 2301, 0, -1, -7))
    assert found.values.tolist() == [230.1, -0.7, -1.0]
    found = decoder.decode(struct.pack(">HHhi", 2301, 0, -32768, -7))
    assert found.quality.tolist() == [Quality.BAD_SENSOR_FAILURE] * 3


def test_the_power_of_ten_may_come_with_another_request() -> None:
    rows = [row(0, RegisterType.UINT16, scale_from="t9"), row(9, RegisterType.INT16)]
    shared = new_exponents(rows)
    values = BlockDecoder(Block(Request(1, 3, 0, 1), (0,)), rows, shared)
    exponents = BlockDecoder(Block(Request(1, 3, 9, 1), (1,)), rows, shared)
    assert values.decode(b"\0\x0c").quality.tolist() == [Quality.BAD_SENSOR_FAILURE]
    exponents.decode(struct.pack(">h", 2))
    assert values.decode(b"\0\x0c").values.tolist() == [1200.0]
