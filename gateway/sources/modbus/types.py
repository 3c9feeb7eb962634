"""Register types: what a device stores, and what becomes of it as a tag. Pure.

The Modbus standard knows registers and bits only; what several of them mean is the maker's
business. These are the forms that makers' manuals use. A fixed-point number is an integer with a
`scale`; a scale that the device itself keeps in another register is `scale_from` (SunSpec's `sf`).
"""

from __future__ import annotations

from enum import StrEnum

from gateway.tag import DataType

__all__ = ["REGISTERS", "RegisterType", "parse_bits", "parse_names", "parse_numbers"]


class RegisterType(StrEnum):
    """What a device stores under an address."""

    BOOL = "bool"
    INT8_HIGH = "int8_high"  # the upper byte of a register, the lower one is another value's
    INT8_LOW = "int8_low"
    UINT8_HIGH = "uint8_high"
    UINT8_LOW = "uint8_low"
    INT16 = "int16"
    UINT16 = "uint16"
    INT32 = "int32"
    UINT32 = "uint32"
    INT64 = "int64"
    UINT64 = "uint64"
    FLOAT16 = "float16"
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    BCD16 = "bcd16"  # a decimal digit in each half byte
    BCD32 = "bcd32"
    FLAGS16 = "flags16"  # bits with a meaning each, which `names` says
    FLAGS32 = "flags32"
    STRING = "string"

    @property
    def is_float(self) -> bool:
        return self.value.startswith("float")

    @property
    def is_bcd(self) -> bool:
        return self.value.startswith("bcd")

    @property
    def is_flags(self) -> bool:
        return self.value.startswith("flags")

    @property
    def is_unsigned(self) -> bool:
        """Whether single bits of it have a number of their own."""
        return self.value.startswith(("uint", "flags"))

    @property
    def tag_type(self) -> DataType:
        """What its values are, before they are scaled or named."""
        return _TAG_TYPES.get(self) or DataType(self.value)


_TAG_TYPES = {
    RegisterType.INT8_HIGH: DataType.INT16,
    RegisterType.INT8_LOW: DataType.INT16,
    RegisterType.UINT8_HIGH: DataType.UINT16,
    RegisterType.UINT8_LOW: DataType.UINT16,
    RegisterType.FLOAT16: DataType.FLOAT32,
    RegisterType.BCD16: DataType.UINT16,
    RegisterType.BCD32: DataType.UINT32,
    RegisterType.FLAGS16: DataType.UINT16,
    RegisterType.FLAGS32: DataType.UINT32,
}

REGISTERS = {
    RegisterType.INT32: 2,
    RegisterType.UINT32: 2,
    RegisterType.FLOAT32: 2,
    RegisterType.BCD32: 2,
    RegisterType.FLAGS32: 2,
    RegisterType.INT64: 4,
    RegisterType.UINT64: 4,
    RegisterType.FLOAT64: 4,
}
"""Registers of a value; those that are not here have one."""


def parse_bits(text: str) -> tuple[int, int]:
    """`"4-7"` or `"3"` as the lowest bit and how many there are; ValueError says what is wrong."""
    first, dash, last = text.partition("-")
    low = _whole(first)
    high = _whole(last) if dash else low
    if low is None or high is None or not 0 <= low <= high <= 31:
        raise ValueError('write one bit or a range, such as "3" or "4-7"; 0 is the lowest')
    return low, high - low + 1


def parse_names(text: str) -> dict[int, str]:
    """`"0=off;1=on"` as a dictionary; ValueError says what is wrong."""
    names: dict[int, str] = {}
    for part in text.split(";"):
        number, equals, name = part.partition("=")
        key = _whole(number)
        if not equals or not name.strip() or key is None or key in names:
            raise ValueError('write each number once with its name, such as "0=off;1=on"')
        names[key] = name.strip()
    return names


def parse_numbers(text: str) -> tuple[int, ...]:
    """`"0x8000;65535"` as numbers; ValueError says what is wrong."""
    numbers = [_whole(part) for part in text.split(";")]
    if None in numbers:
        raise ValueError('write whole numbers, such as "0x8000" or "32768;65535"')
    return tuple(number for number in numbers if number is not None)


def _whole(text: str) -> int | None:
    try:
        return int(text.strip(), 0)
    except ValueError:
        return None
