"""Values become the words that Modbus clients expect, whatever type and order."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.client.mixin import ModbusClientMixin

from simulators.physics import Pumps
from simulators.registers import Registers, to_words

FORMATS = {
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "uint64": "Q",
    "float32": "f",
    "float64": "d",
}


def by_struct(value: float, data_type: str, byte_order: str) -> list[int]:
    """The same, the long way round: bytes A B C D put in the order's places."""
    raw = struct.pack(">" + FORMATS[data_type], value)
    words = [raw[k : k + 2] for k in range(0, len(raw), 2)]
    if byte_order in ("CDAB", "DCBA"):
        words.reverse()
    if byte_order in ("BADC", "DCBA"):
        words = [word[::-1] for word in words]
    return [int.from_bytes(word, "big") for word in words]


@given(
    st.sampled_from(["int16", "uint16", "int32", "uint32", "int64", "uint64"]),
    st.sampled_from(["ABCD", "CDAB", "BADC", "DCBA"]),
    st.data(),
)
def test_integers_become_the_words_of_their_order(
    data_type: str, byte_order: str, data: st.DataObject
) -> None:
    limits = np.iinfo(data_type)
    value = data.draw(st.integers(int(limits.min), int(limits.max)))
    words = to_words(np.array([value], data_type), data_type, byte_order)
    assert words.tolist() == [by_struct(value, data_type, byte_order)]


@given(
    st.sampled_from(["float32", "float64"]),
    st.sampled_from(["ABCD", "CDAB", "BADC", "DCBA"]),
    st.floats(width=32, allow_nan=False),
)
def test_floats_become_the_words_of_their_order(
    data_type: str, byte_order: str, value: float
) -> None:
    words = to_words(np.array([value]), data_type, byte_order)
    assert words.tolist() == [by_struct(value, data_type, byte_order)]


@given(st.floats(-1e9, 1e9))
def test_a_value_beyond_its_register_sticks_at_the_end(value: float) -> None:
    stored = to_words(np.array([value]), "int16", "ABCD").astype(np.int16).item()
    assert stored == max(-32768, min(32767, round(value)))


def test_pymodbus_reads_the_same_values_back() -> None:
    values = np.array([1.5, -273.15, 6e4])
    words = to_words(values, "float32", "CDAB")
    read = [
        ModbusClientMixin.convert_from_registers(
            row.tolist(), ModbusClientMixin.DATATYPE.FLOAT32, word_order="little"
        )
        for row in words
    ]
    assert read == pytest.approx(values.tolist())


@pytest.mark.parametrize("units", ["shared", "each"])
def test_no_two_tags_of_a_unit_share_a_register(units: str) -> None:
    registers = Registers(2, 5, units=units)  # type: ignore[arg-type]  # a parameter's values
    width = {"uint16": 1, "int16": 1, "float32": 2, "uint32": 2, "uint64": 4, "bool": 1}
    for server in range(2):
        seen: set[tuple[int, str, int]] = set()
        for row in registers.rows(server):
            count = int(row.length) if row.data_type == "string" else width[row.data_type]
            places = {(row.unit_id, row.table, row.address + k) for k in range(count)}
            assert not places & seen, row
            size = len(registers.block(server, row.unit_id, row.table))
            assert row.address + count <= size, row
            seen |= places


@pytest.mark.parametrize("tags", [1, 2, 21, 50, 100, 101])
def test_a_map_has_exactly_as_many_tags_as_asked(tags: int) -> None:
    rows = Registers(1, 5, units="shared", tags_per_server=tags).rows(0)
    assert len(rows) == tags
    assert len({(row.asset, row.tag) for row in rows}) == tags


def test_a_hundred_tags_fit_one_request_for_words() -> None:
    registers = Registers(1, 5, units="shared", tags_per_server=100)
    assert len(registers.block(0, 1, "input_register")) <= 125


def test_an_update_writes_every_server() -> None:
    registers = Registers(3, 2, units="shared")
    pumps = Pumps(6, 1)
    pumps.step()
    registers.update(pumps)
    speeds = [registers.block(s, 1, "input_register")[2 + 24 * p] for s in range(3) for p in (0, 1)]
    assert speeds == np.rint(pumps.values[:, 0]).tolist()
