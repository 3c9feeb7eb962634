"""Decode: the bytes of one block to the values of its tags, by a program compiled at start.

Tags of one type and byte order are one group: their bytes are gathered in the order of
significance by one index, and viewed as numbers; single bits, decimal digits and values that mean
"not there" are worked out for the whole group. Values are raw: scaling and ranges come later, but
for powers of ten that the device keeps itself (`scale_from`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.frame import BoolArray, ByteArray, FloatArray
from gateway.sources.modbus.config import RegisterRow
from gateway.sources.modbus.plan import Block, place_of, width_of
from gateway.sources.modbus.types import RegisterType, parse_bits, parse_names, parse_numbers
from gateway.tag import ByteOrder, Quality

__all__ = ["BlockDecoder", "Decoded", "new_exponents"]

_NUMPY = {
    RegisterType.BOOL: ">u2",
    RegisterType.INT8_HIGH: "i1",
    RegisterType.INT8_LOW: "i1",
    RegisterType.UINT8_HIGH: "u1",
    RegisterType.UINT8_LOW: "u1",
    RegisterType.INT16: ">i2",
    RegisterType.UINT16: ">u2",
    RegisterType.INT32: ">i4",
    RegisterType.UINT32: ">u4",
    RegisterType.INT64: ">i8",
    RegisterType.UINT64: ">u8",
    RegisterType.FLOAT16: ">f2",
    RegisterType.FLOAT32: ">f4",
    RegisterType.FLOAT64: ">f8",
    RegisterType.BCD16: ">u2",
    RegisterType.BCD32: ">u4",
    RegisterType.FLAGS16: ">u2",
    RegisterType.FLAGS32: ">u4",
}
# Of a register's two bytes, most significant first, the one that such a value is.
_BYTE = {
    RegisterType.INT8_HIGH: 0,
    RegisterType.UINT8_HIGH: 0,
    RegisterType.INT8_LOW: 1,
    RegisterType.UINT8_LOW: 1,
}
# From here on two integers may be one float64, and so are kept exactly beside it.
_EXACT_FROM = 2.0**53
# SunSpec allows -10 to 10 (Information Model Specification, 4.2.8); what is beyond is no exponent.
EXPONENT_MAX = 10


def new_exponents(rows: Sequence[RegisterRow]) -> FloatArray:
    """What the decoders of one device share: by row, the newest value where it is an exponent."""
    return np.full(len(rows), np.nan)


class Decoded(NamedTuple):
    """Values of a block's tags, in the order of `block.rows`."""

    values: FloatArray
    quality: ByteArray
    exact: dict[int, int | str]


class _Group(NamedTuple):
    """Tags whose bytes become numbers in one step."""

    places: npt.NDArray[np.intp]  # among the block's rows
    kind: RegisterType
    dtype: np.dtype[Any]
    # Where each byte is, tag after tag, most significant first; a slice where that is as they come.
    gather: npt.NDArray[np.intp] | slice
    may_be_exact: bool
    bits: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None  # of each tag: lowest bit, mask
    missing: npt.NDArray[Any] | None  # (tags, most that one has): numbers that mean "not there"

    @property
    def is_plain(self) -> bool:
        """Whether its numbers are the values, all of them, in the order of the rows."""
        kind = self.kind
        is_plain = not (kind.is_bcd or kind.is_float or kind is RegisterType.BOOL)
        return is_plain and not self.may_be_exact and self.bits is None and self.missing is None

    def numbers(self, data: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        numbers: npt.NDArray[Any] = data[self.gather].view(self.dtype)
        if self.bits is not None:
            shift, mask = self.bits
            numbers = (numbers.astype(np.uint64) >> shift) & mask
        return numbers


class _Names(NamedTuple):
    """A tag whose numbers have names."""

    place: int
    names: Mapping[int, str]
    is_flags: bool

    def text(self, number: int) -> str:
        if not self.is_flags:
            return self.names.get(number, str(number))
        set_bits = [bit for bit in range(number.bit_length()) if number >> bit & 1]
        return ",".join(self.names.get(bit, f"bit{bit}") for bit in set_bits)


class BlockDecoder:
    """Decodes the answers to one block's request."""

    def __init__(
        self, block: Block, rows: Sequence[RegisterRow], exponents: FloatArray | None = None
    ) -> None:
        """`exponents` is `new_exponents` of all rows, the same for all blocks of a device."""
        self._size = len(block.rows)
        self._distant: list[tuple[int, int]] = []
        self._bits: npt.NDArray[np.intp] | None = None
        self._is_plain = False
        self._groups: list[_Group] = []
        self._strings: list[tuple[int, slice, ByteOrder, bool]] = []  # last: may be missing
        self._names: list[_Names] = []
        members = [rows[index] for index in block.rows]
        expected = [(row.address, row.expect) for row in members if row.expect is not None]
        self._expected_at = np.array([at - block.request.address for at, _ in expected], np.intp)
        self._expected = np.array([number for _, number in expected], np.uint16)
        self._may_be_nan = any(row.data_type.is_float for row in members)
        first = block.request.address
        if block.request.reads_bits:
            self._bits = np.array([row.address - first for row in members], np.intp)
            return
        self._exponents = exponents if exponents is not None else new_exponents(rows)
        self._compile_exponents(block, rows)
        groups: defaultdict[tuple[RegisterType, ByteOrder, bool, bool, bool], list[int]]
        groups = defaultdict(list)
        for place, row in enumerate(members):
            if row.names:
                names = parse_names(row.names)
                self._names.append(_Names(place, names, row.data_type.is_flags))
            if row.data_type is RegisterType.STRING:
                start = 2 * (row.address - first)
                where = slice(start, start + 2 * row.length)
                self._strings.append((place, where, row.byte_order, bool(row.missing)))
            else:
                key = (row.data_type, row.byte_order, _is_exact(row), bool(row.bits))
                groups[*key, bool(row.missing)].append(place)
        for (kind, order, is_exact, has_bits, has_missing), places in groups.items():
            within = _bytes_of(kind, order, 2 * width_of(members[places[0]]))
            starts = np.array([2 * (members[place].address - first) for place in places], np.intp)
            gather = (starts[:, None] + within).ravel()
            self._groups.append(
                _Group(
                    places=np.array(places, np.intp),
                    kind=kind,
                    dtype=np.dtype(_NUMPY[kind]),
                    gather=_as_they_come(gather),
                    may_be_exact=is_exact,
                    bits=_masks([members[place].bits for place in places]) if has_bits else None,
                    missing=_missing([members[place] for place in places]) if has_missing else None,
                )
            )

        self._is_plain = (
            len(self._groups) == 1
            and len(self._groups[0].places) == self._size
            and self._groups[0].is_plain
            and not self._may_be_nan
            and not self._held.size
            and not self._scaled.size
            and not self._names
        )

    def _compile_exponents(self, block: Block, rows: Sequence[RegisterRow]) -> None:
        """Which of the tags are exponents, and which are scaled by one, wherever it is read."""
        index_of = {(row.asset, row.tag): index for index, row in enumerate(rows)}
        wanted = {(row.asset, row.scale_from) for row in rows if row.scale_from}
        held = [
            (place, index)
            for place, index in enumerate(block.rows)
            if (rows[index].asset, rows[index].tag) in wanted
        ]
        scaled = [
            (place, index_of.get((rows[index].asset, rows[index].scale_from), -1))
            for place, index in enumerate(block.rows)
            if rows[index].scale_from
        ]
        self._held = np.array(held, np.intp).reshape(-1, 2).T
        self._scaled = np.array(scaled, np.intp).reshape(-1, 2).T
        # Of those whose exponent is in this very answer: which they are, and where its bytes are.
        request, order = block.request, (ByteOrder.BADC, ByteOrder.DCBA)
        beside = [
            (number, 2 * (rows[index].address - request.address), rows[index].byte_order in order)
            for number, (_, index) in enumerate(scaled)
            if index >= 0
            and place_of(rows[index]) == (request.unit_id, request.function)
            and 0 <= rows[index].address - request.address < request.quantity
        ]
        near = {number for number, *_ in beside}
        self._distant = [
            (block.rows[place], index)
            for number, (place, index) in enumerate(scaled)
            if number not in near and index >= 0
        ]
        self._beside = np.array([number for number, *_ in beside], np.intp)
        self._beside_bytes = np.array(
            [(at + swapped, at + 1 - swapped) for _, at, swapped in beside], np.intp
        ).reshape(-1)

    @property
    def distant(self) -> list[tuple[int, int]]:
        """Rows scaled by a row that another answer holds, with that row."""
        return self._distant

    def is_of_another(self, block: bytes) -> bool:
        """Whether an answer has other numbers than rows expect: it is not of the device meant."""
        if not self._expected.size:
            return False
        return bool((np.frombuffer(block, ">u2")[self._expected_at] != self._expected).any())

    def decode(self, block: bytes) -> Decoded:
        """The values in an answer of the right length.

        A float that is not a number, a number that means "not there", a text that is empty where
        that means so, and a value whose exponent is none are BAD_SENSOR_FAILURE; a string that is
        no text and digits that are none BAD_DECODING.
        """
        data = np.frombuffer(block, np.uint8)
        if self._is_plain:  # as most blocks are: integers of one type
            numbers = self._groups[0].numbers(data)
            return Decoded(numbers.astype(np.float64), np.zeros(self._size, np.uint8), {})
        if self._bits is not None:
            # The first bit is the lowest of the first byte (Application Protocol, 6.1).
            bits = np.unpackbits(data, bitorder="little")[self._bits]
            return Decoded(bits.astype(np.float64), np.zeros(self._size, np.uint8), {})
        return self._decode_all(data, block)

    def _decode_all(self, data: npt.NDArray[np.uint8], block: bytes) -> Decoded:
        """Each group of tags, and what stands beside numbers."""
        values = np.empty(self._size)
        quality = np.zeros(self._size, np.uint8)
        exact: dict[int, int | str] = {}
        for group in self._groups:
            self._decode_group(group, group.numbers(data), values, quality, exact)
        if self._may_be_nan:
            quality[np.isnan(values) & (quality == 0)] = Quality.BAD_SENSOR_FAILURE
        if self._held.size or self._scaled.size:
            self._apply_exponents(data, values, quality)
        for place, where, order, may_be_missing in self._strings:
            values[place] = np.nan
            text = _text(block[where], order)
            if text is None:
                quality[place] = Quality.BAD_DECODING
            elif not text and may_be_missing:
                quality[place] = Quality.BAD_SENSOR_FAILURE
            else:
                exact[place] = text
        for named in self._names:
            if quality[named.place] == Quality.GOOD:
                number = exact.get(named.place, values[named.place])
                exact[named.place] = named.text(int(number))
                values[named.place] = np.nan
        return Decoded(values, quality, exact)

    @staticmethod
    def _decode_group(
        group: _Group,
        numbers: npt.NDArray[Any],
        values: FloatArray,
        quality: ByteArray,
        exact: dict[int, int | str],
    ) -> None:
        if group.kind.is_bcd:
            decimal, is_decimal = _from_bcd(numbers)
            values[group.places] = np.where(is_decimal, decimal, np.nan)
            quality[group.places[~is_decimal]] = Quality.BAD_DECODING
        elif group.kind.is_float:
            with np.errstate(invalid="ignore"):  # a signalling NaN is a NaN like any other
                values[group.places] = numbers
        else:
            is_bool = group.kind is RegisterType.BOOL and group.bits is None
            values[group.places] = numbers != 0 if is_bool else numbers
        if group.may_be_exact:
            large = np.abs(values[group.places]) >= _EXACT_FROM
            for i in np.flatnonzero(large).tolist():
                exact[int(group.places[i])] = int(numbers[i])
        if group.missing is not None:
            is_missing = (numbers[:, None] == group.missing).any(axis=1)
            for i in np.flatnonzero(is_missing).tolist():
                exact.pop(int(group.places[i]), None)
            values[group.places[is_missing]] = np.nan
            quality[group.places[is_missing]] = Quality.BAD_SENSOR_FAILURE

    def _apply_exponents(
        self, data: npt.NDArray[np.uint8], values: FloatArray, quality: ByteArray
    ) -> None:
        places, rows = self._held
        self._exponents[rows] = values[places]
        places, rows = self._scaled
        exponent = np.where(rows >= 0, self._exponents[rows], np.nan)
        if self._beside.size:
            exponent[self._beside] = data[self._beside_bytes].view(">i2")
        good = np.abs(exponent) <= EXPONENT_MAX  # NaN is not
        # Divided, not multiplied by a tenth that no float64 holds: 2301 and -1 are 230.1.
        power = 10.0 ** np.abs(np.where(good, exponent, 0.0))
        scaled = np.where(exponent < 0, values[places] / power, values[places] * power)
        values[places] = np.where(good, scaled, np.nan)
        quality[places[~good & (quality[places] == 0)]] = Quality.BAD_SENSOR_FAILURE


def _as_they_come(gather: npt.NDArray[np.intp]) -> npt.NDArray[np.intp] | slice:
    """The same as a slice, which copies nothing, where the indexes are one after the other."""
    start, stop = int(gather[0]), int(gather[0]) + len(gather)
    return slice(start, stop) if np.array_equal(gather, np.arange(start, stop)) else gather


def _is_exact(row: RegisterRow) -> bool:
    """Whether its integers may need more than a float64; a scaled one becomes a float anyway."""
    is_64_bit = row.data_type in (RegisterType.INT64, RegisterType.UINT64)
    return is_64_bit and row.scale == 1.0 and row.offset == 0.0 and not row.scale_from


def _masks(texts: Sequence[str]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    bits = [parse_bits(text) for text in texts]
    return (
        np.array([low for low, _ in bits], np.uint64),
        np.array([2**count - 1 for _, count in bits], np.uint64),
    )


def _missing(rows: Sequence[RegisterRow]) -> npt.NDArray[Any]:
    """Numbers that mean "not there", a row a tag, as the device's own type has them."""
    listed = [parse_numbers(row.missing) for row in rows]
    most = max(map(len, listed))
    dtype = np.dtype(_NUMPY[rows[0].data_type]).newbyteorder("=")
    padded = [(*numbers, *[numbers[0]] * (most - len(numbers))) for numbers in listed]
    if dtype.kind == "f":
        return np.array(padded, dtype)
    # 0x8000 is what the manual says of an int16, though that is -32768.
    wrapped = np.array([[number % 2**64 for number in numbers] for numbers in padded], np.uint64)
    return wrapped.astype(dtype)


def _from_bcd(numbers: npt.NDArray[Any]) -> tuple[FloatArray, BoolArray]:
    """The decimal numbers, and whether each has decimal digits only."""
    digits = 2 * numbers.dtype.itemsize
    shifts = 4 * np.arange(digits, dtype=np.uint32)
    nibbles = (numbers.astype(np.uint32)[:, None] >> shifts) & 0xF
    is_decimal: BoolArray = np.logical_and.reduce(nibbles <= 9, axis=1)
    return nibbles.astype(np.float64) @ (10.0 ** np.arange(digits)), is_decimal


def _bytes_of(kind: RegisterType, order: ByteOrder, size: int) -> npt.NDArray[np.intp]:
    """Where the bytes of a value of `size` bytes are on the wire, most significant first."""
    words = np.arange(size, dtype=np.intp).reshape(-1, 2)
    if order in (ByteOrder.CDAB, ByteOrder.DCBA):
        words = words[::-1]
    if order in (ByteOrder.BADC, ByteOrder.DCBA):
        words = words[:, ::-1]
    found = words.ravel()
    return found[[_BYTE[kind]]] if kind in _BYTE else found


def _text(data: bytes, order: ByteOrder) -> str | None:
    """Characters up to the first NUL, without surrounding blanks; None for what is no text.

    A string has no most significant word: of the byte order only BADC's swap within words is
    meant, which DCBA has too.
    """
    if order in (ByteOrder.BADC, ByteOrder.DCBA):
        data = b"".join(data[i : i + 2][::-1] for i in range(0, len(data), 2))
    try:
        return data.split(b"\0", 1)[0].decode("utf-8").strip()
    except UnicodeDecodeError:
        return None
