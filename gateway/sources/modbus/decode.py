"""Decode: the bytes of one block to the values of its tags, by a program compiled at start.

Tags of one type and byte order are one group: their bytes are gathered in the order of
significance by one index, and viewed as numbers. Values are raw: scaling and ranges come later.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.frame import ByteArray, FloatArray
from gateway.sources.modbus.config import RegisterRow
from gateway.sources.modbus.plan import Block, width_of
from gateway.tag import ByteOrder, DataType, Quality

__all__ = ["BlockDecoder", "Decoded"]

_NUMPY = {
    DataType.BOOL: ">u2",
    DataType.INT16: ">i2",
    DataType.UINT16: ">u2",
    DataType.INT32: ">i4",
    DataType.UINT32: ">u4",
    DataType.INT64: ">i8",
    DataType.UINT64: ">u8",
    DataType.FLOAT32: ">f4",
    DataType.FLOAT64: ">f8",
}
_FLOATS = (DataType.FLOAT32, DataType.FLOAT64)
# From here on two integers may be one float64, and so are kept exactly beside it.
_EXACT_FROM = 2.0**53


class Decoded(NamedTuple):
    """Values of a block's tags, in the order of `block.rows`."""

    values: FloatArray
    quality: ByteArray
    exact: dict[int, int | str]


class _Group(NamedTuple):
    """Tags whose bytes become numbers in one step."""

    places: npt.NDArray[np.intp]  # among the block's rows
    dtype: np.dtype[Any]
    gather: npt.NDArray[np.intp]  # where each byte is, tag after tag, most significant first
    is_bool: bool
    may_be_exact: bool


class BlockDecoder:
    """Decodes the answers to one block's request."""

    def __init__(self, block: Block, rows: Sequence[RegisterRow]) -> None:
        self._size = len(block.rows)
        self._bits: npt.NDArray[np.intp] | None = None
        self._groups: list[_Group] = []
        self._strings: list[tuple[int, slice, ByteOrder]] = []
        members = [rows[index] for index in block.rows]
        self._may_be_nan = any(row.data_type in _FLOATS for row in members)
        first = block.request.address
        if block.request.reads_bits:
            self._bits = np.array([row.address - first for row in members], np.intp)
            return
        groups: defaultdict[tuple[DataType, ByteOrder, bool], list[int]] = defaultdict(list)
        for place, row in enumerate(members):
            if row.data_type is DataType.STRING:
                start = 2 * (row.address - first)
                self._strings.append((place, slice(start, start + 2 * row.length), row.byte_order))
            else:
                # A scaled integer becomes a float anyway.
                exact = row.data_type.is_64_bit_integer and row.scale == 1.0 and row.offset == 0.0
                groups[row.data_type, row.byte_order, exact].append(place)
        for (data_type, order, exact), places in groups.items():
            within = _byte_order(order, 2 * width_of(members[places[0]]))
            starts = np.array([2 * (members[place].address - first) for place in places], np.intp)
            self._groups.append(
                _Group(
                    places=np.array(places, np.intp),
                    dtype=np.dtype(_NUMPY[data_type]),
                    gather=(starts[:, None] + within).ravel(),
                    is_bool=data_type is DataType.BOOL,
                    may_be_exact=exact,
                )
            )

    def decode(self, block: bytes) -> Decoded:
        """The values in an answer of the right length.

        A float that is not a number is BAD_SENSOR_FAILURE, a string that is no text BAD_DECODING.
        """
        data = np.frombuffer(block, np.uint8)
        if self._bits is not None:
            # The first bit is the lowest of the first byte (Application Protocol, 6.1).
            bits = np.unpackbits(data, bitorder="little")[self._bits]
            return Decoded(bits.astype(np.float64), np.zeros(self._size, np.uint8), {})
        values = np.empty(self._size)
        quality = np.zeros(self._size, np.uint8)
        exact: dict[int, int | str] = {}
        for group in self._groups:
            numbers = data[group.gather].view(group.dtype)
            with np.errstate(invalid="ignore"):  # a signalling NaN is a NaN like any other
                values[group.places] = numbers != 0 if group.is_bool else numbers
            if group.may_be_exact:
                large = np.abs(values[group.places]) >= _EXACT_FROM
                for i in np.flatnonzero(large).tolist():
                    exact[int(group.places[i])] = int(numbers[i])
        if self._may_be_nan:
            quality[np.isnan(values)] = Quality.BAD_SENSOR_FAILURE
        for place, where, order in self._strings:
            values[place] = np.nan
            text = _text(block[where], order)
            quality[place] = Quality.BAD_DECODING if text is None else Quality.GOOD
            if text is not None:
                exact[place] = text
        return Decoded(values, quality, exact)


def _byte_order(order: ByteOrder, size: int) -> npt.NDArray[np.intp]:
    """Where the bytes of a value of `size` bytes are on the wire, most significant first."""
    words = np.arange(size, dtype=np.intp).reshape(-1, 2)
    if order in (ByteOrder.CDAB, ByteOrder.DCBA):
        words = words[::-1]
    if order in (ByteOrder.BADC, ByteOrder.DCBA):
        words = words[:, ::-1]
    return words.ravel()


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
