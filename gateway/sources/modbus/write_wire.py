"""Writes on the wire: functions 5, 6, 15, 16 and 22, and values to the registers that hold them.

Imported only where writing is enabled: everything else of the gateway has no query that changes
anything. Sans-IO. Source: Modbus Application Protocol 1.1b3, sections 6.5, 6.6, 6.11, 6.12, 6.16.
`words_of` is the inverse of `decode`: what it gives is read back as the same value. Bits of a
register are set by function 22: to read, change and write all of it would undo what the device
changes meanwhile.
"""

from __future__ import annotations

import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.errors import SluicegateError
from gateway.sources.modbus.config import RegisterRow, Table
from gateway.sources.modbus.plan import width_of
from gateway.sources.modbus.types import RegisterType, parse_bits
from gateway.sources.modbus.wire import Mismatch, check_unit_id
from gateway.tag import ByteOrder

__all__ = [
    "MaskWrite",
    "WriteBits",
    "WriteQuery",
    "WriteRefused",
    "WriteRegisters",
    "query_of",
    "together",
    "words_of",
]

WRITE_REGISTERS_MAX = 123  # 6.12
WRITE_BITS_MAX = 1968  # 6.11
_ECHO = struct.Struct(">BHH")
_FORMATS = {
    RegisterType.INT16: ">h",
    RegisterType.UINT16: ">H",
    RegisterType.INT32: ">i",
    RegisterType.UINT32: ">I",
    RegisterType.INT64: ">q",
    RegisterType.UINT64: ">Q",
    RegisterType.FLOAT16: ">e",
    RegisterType.FLOAT32: ">f",
    RegisterType.FLOAT64: ">d",
}


class WriteRefused(SluicegateError):
    """The gateway does not write this; nothing was sent."""


def _check(unit_id: int, address: int, count: int, count_max: int) -> None:
    check_unit_id(unit_id)
    if not 1 <= count <= count_max:
        raise ValueError(f"{count} is not from 1 to {count_max}")
    if not 0 <= address <= 65536 - count:
        raise ValueError(f"{count} from address {address} end beyond 65535")


class WriteQuery(ABC):
    """What all of them have in common: the answer repeats the beginning of the request."""

    __slots__ = ()
    unit_id: int
    address: int

    @property
    @abstractmethod
    def function(self) -> int: ...

    @property
    def repeated(self) -> bytes:
        """The answer's PDU, if the device did it."""
        return self.encode()

    @abstractmethod
    def encode(self) -> bytes:
        """The request's PDU."""

    def answer_bytes(self, pdu: bytes) -> int:
        """As long as what is repeated; raises Mismatch as soon as something else is."""
        right = self.repeated
        size = min(len(pdu), len(right))
        if pdu[:size] != right[:size]:
            raise Mismatch("written", f"{pdu[:size].hex(' ')} instead of {right.hex(' ')}")
        return len(right)

    def decode(self, pdu: bytes) -> bool:
        """That it was done; raises Mismatch."""
        if pdu != self.repeated:
            raise Mismatch("written", f"{pdu.hex(' ')} instead of {self.repeated.hex(' ')}")
        return True


@dataclass(frozen=True, slots=True)
class WriteBits(WriteQuery):
    """Coils: function 5 for one, 15 for several."""

    unit_id: int
    address: int
    bits: tuple[bool, ...]

    def __post_init__(self) -> None:
        _check(self.unit_id, self.address, len(self.bits), WRITE_BITS_MAX)

    @property
    def function(self) -> int:
        return 5 if len(self.bits) == 1 else 15

    @property
    def repeated(self) -> bytes:
        if len(self.bits) == 1:
            return self.encode()
        return _ECHO.pack(15, self.address, len(self.bits))

    def encode(self) -> bytes:
        if len(self.bits) == 1:
            return _ECHO.pack(5, self.address, 0xFF00 if self.bits[0] else 0)
        number = sum(bit << i for i, bit in enumerate(self.bits))
        data = number.to_bytes((len(self.bits) + 7) // 8, "little")
        return _ECHO.pack(15, self.address, len(self.bits)) + bytes([len(data)]) + data


@dataclass(frozen=True, slots=True)
class WriteRegisters(WriteQuery):
    """Holding registers: function 6 for one, 16 for several."""

    unit_id: int
    address: int
    words: bytes  # big-endian, as on the wire

    def __post_init__(self) -> None:
        if len(self.words) % 2:
            raise ValueError("a register has two bytes")
        _check(self.unit_id, self.address, len(self.words) // 2, WRITE_REGISTERS_MAX)

    @property
    def function(self) -> int:
        return 6 if len(self.words) == 2 else 16

    @property
    def repeated(self) -> bytes:
        if len(self.words) == 2:
            return self.encode()
        return _ECHO.pack(16, self.address, len(self.words) // 2)

    def encode(self) -> bytes:
        if len(self.words) == 2:
            return struct.pack(">BH", 6, self.address) + self.words
        head = _ECHO.pack(16, self.address, len(self.words) // 2)
        return head + bytes([len(self.words)]) + self.words


@dataclass(frozen=True, slots=True)
class MaskWrite(WriteQuery):
    """Function 22: some bits of one holding register, the others as they are.

    The register becomes (what it was AND and_mask) OR (or_mask AND NOT and_mask).
    """

    unit_id: int
    address: int
    and_mask: int
    or_mask: int

    def __post_init__(self) -> None:
        _check(self.unit_id, self.address, 1, 1)
        if not (0 <= self.and_mask <= 0xFFFF and 0 <= self.or_mask <= 0xFFFF):
            raise ValueError("a mask has 16 bits")

    @staticmethod
    def of_bit(unit_id: int, address: int, bit: int, *, on: bool) -> MaskWrite:
        """Set or clear one bit; 0 is the least significant."""
        if not 0 <= bit <= 15:
            raise ValueError(f"{bit} is not a bit of a register")
        return MaskWrite(unit_id, address, 0xFFFF ^ 1 << bit, on << bit)

    @property
    def function(self) -> int:
        return 22

    def is_in(self, register: int) -> bool:
        """Whether a register has the bits as they were to be."""
        return register & ~self.and_mask & 0xFFFF == self.or_mask & ~self.and_mask

    def encode(self) -> bytes:
        return struct.pack(">BHHH", 22, self.address, self.and_mask, self.or_mask)


def query_of(row: RegisterRow, value: float | str | bool) -> WriteQuery:
    """The write of one row's value; WriteRefused where it is not one the row can hold."""
    if row.table is Table.COIL:
        return WriteBits(row.unit_id, row.address, (_bool(row, value),))
    if row.table is not Table.HOLDING_REGISTER:
        raise WriteRefused(f"a {row.table} cannot be written", hint="only coils and holding ones")
    if row.bits:
        return _mask_write(row, value)
    return WriteRegisters(row.unit_id, row.address, words_of(row, value))


def together(queries: Sequence[WriteQuery]) -> list[tuple[WriteQuery, list[int]]]:
    """The fewest writes that do the same, each with the places of what it does.

    Coils that follow each other become one (function 15), and so do registers (16): the device gets
    them at once. All others stay as they are; each is where the first of its parts was.
    """
    found: list[tuple[WriteQuery, list[int]]] = []

    def place(i: int) -> tuple[str, int, int]:
        return type(queries[i]).__name__, queries[i].unit_id, queries[i].address

    for i in sorted(range(len(queries)), key=place):
        last = _joined(found[-1][0], queries[i]) if found else None
        if last is not None:
            found[-1] = (last, [*found[-1][1], i])
        else:
            found.append((queries[i], [i]))
    return sorted(found, key=lambda each: min(each[1]))


def _joined(one: WriteQuery, other: WriteQuery) -> WriteQuery | None:
    """Both as one write; None where they cannot be."""
    if one.unit_id != other.unit_id:
        return None
    match one, other:
        case WriteBits(bits=first), WriteBits(bits=second):
            if one.address + len(first) == other.address and len(first) < WRITE_BITS_MAX:
                return WriteBits(one.unit_id, one.address, first + second)
        case WriteRegisters(words=first_words), WriteRegisters(words=second_words):
            words = first_words + second_words
            follows = one.address + len(first_words) // 2 == other.address
            if follows and len(words) <= 2 * WRITE_REGISTERS_MAX:
                return WriteRegisters(one.unit_id, one.address, words)
    return None


def _mask_write(row: RegisterRow, value: object) -> MaskWrite:
    """Some bits of one register."""
    if row.names or row.scale_from or width_of(row) != 1:
        raise WriteRefused(f"{name_of(row)} is more than bits of one register: not written")
    low, count = parse_bits(row.bits)
    if low + count > 16:
        raise WriteRefused(f"{name_of(row)}: a register has no bits {row.bits}")
    if count == 1:
        number = int(_bool(row, value))
    else:
        number = int.from_bytes(_integer(row, _number(row, value)))
        if number >= 1 << count:
            raise WriteRefused(f"{name_of(row)}: {value!r:.60} is beyond what {count} bits hold")
    kept, set_ = 0xFFFF ^ ((1 << count) - 1) << low, number << low
    if row.byte_order in (ByteOrder.BADC, ByteOrder.DCBA):
        kept, set_ = _swapped(kept), _swapped(set_)
    return MaskWrite(row.unit_id, row.address, kept, set_)


def _swapped(word: int) -> int:
    return word >> 8 | (word & 0xFF) << 8


def words_of(row: RegisterRow, value: float | str | bool) -> bytes:
    """A value in engineering units as the bytes of its registers, as they are on the wire.

    WriteRefused for a value of another kind, beyond the type's limits, or not a number.
    """
    if row.bits or row.names or row.scale_from:
        raise WriteRefused(f"{name_of(row)} is more than a number in its registers: not written")
    match row.data_type:
        case RegisterType.STRING:
            return _in_order(_text(row, value), row.byte_order, swap_words=False)
        case RegisterType.BOOL:
            data = struct.pack(">H", _bool(row, value))
        case RegisterType.FLOAT16 | RegisterType.FLOAT32 | RegisterType.FLOAT64:
            data = _float(row, _number(row, value))
        case kind if kind in _FORMATS:
            data = _integer(row, _number(row, value))
        case kind:
            raise WriteRefused(f"values of type {kind} are not written")
    return _in_order(data, row.byte_order, swap_words=True)


def _in_order(data: bytes, order: ByteOrder, *, swap_words: bool) -> bytes:
    words = [data[i : i + 2] for i in range(0, len(data), 2)]
    if swap_words and order in (ByteOrder.CDAB, ByteOrder.DCBA):
        words.reverse()
    if order in (ByteOrder.BADC, ByteOrder.DCBA):
        words = [word[::-1] for word in words]
    return b"".join(words)


def _bool(row: RegisterRow, value: object) -> bool:
    if isinstance(value, bool) or (isinstance(value, (int, float)) and value in (0, 1)):
        return bool(value)
    raise WriteRefused(f"{name_of(row)} takes true or false, not {value!r:.60}")


def _number(row: RegisterRow, value: object) -> float | int:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise WriteRefused(f"{name_of(row)} takes a number, not {value!r:.60}")
    if isinstance(value, float) and not math.isfinite(value):
        raise WriteRefused(f"{name_of(row)} takes a number, not {value}")
    return value


def _integer(row: RegisterRow, value: float) -> bytes:
    stored: int
    if row.scale == 1.0 and row.offset == 0.0:
        if value != int(value):
            raise WriteRefused(f"{name_of(row)} takes a whole number, not {value!r:.60}")
        stored = int(value)
    else:
        try:
            stored = _within(row, round((value - row.offset) / row.scale))
        except OverflowError as error:
            raise WriteRefused(f"{name_of(row)} cannot hold {value!r:.60}") from error
    try:
        return struct.pack(_FORMATS[row.data_type], stored)
    except struct.error as error:
        raise WriteRefused(
            f"{name_of(row)}: {value!r:.60} is beyond what a {row.data_type} holds"
        ) from (error)


def _within(row: RegisterRow, stored: int) -> int:
    """The number for the register, rounded towards the inside of the row's limits."""

    def beyond(number: int) -> int:
        held, tolerance = number * row.scale + row.offset, 1e-6 * abs(row.scale)
        is_above = row.high is not None and held > row.high + tolerance
        is_below = row.low is not None and held < row.low - tolerance
        return is_above - is_below

    step = 1 if row.scale > 0 else -1
    nearest = stored - step * beyond(stored)
    if beyond(nearest):
        raise WriteRefused(
            f"{name_of(row)}: in steps of {abs(row.scale):g} there is nothing from {row.low:g}"
            f" to {row.high:g}"
        )
    return nearest


def _float(row: RegisterRow, value: float) -> bytes:
    try:
        stored = (value - row.offset) / row.scale
        if math.isfinite(stored):
            return struct.pack(_FORMATS[row.data_type], stored)
    except OverflowError:
        pass
    raise WriteRefused(f"{name_of(row)}: {value!r:.60} is beyond what a {row.data_type} holds")


def _text(row: RegisterRow, value: object) -> bytes:
    if not isinstance(value, str):
        raise WriteRefused(f"{name_of(row)} takes text, not {value!r:.60}")
    if "\0" in value or value != value.strip():
        raise WriteRefused(f"{name_of(row)}: no NUL, and no blanks around it")
    try:
        data = value.encode()
    except UnicodeEncodeError as error:
        raise WriteRefused(f"{name_of(row)}: that is no text") from error
    if len(data) > 2 * width_of(row):
        raise WriteRefused(f"{name_of(row)} holds {2 * width_of(row)} bytes, not {len(data)}")
    return data.ljust(2 * width_of(row), b"\0")


def name_of(row: RegisterRow) -> str:
    """The whole name of its tag."""
    return f"{row.asset}.{row.tag}" if row.asset else row.tag
