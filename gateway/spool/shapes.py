"""Shapes: measured values as the small numbers they were before they became float64. Pure.

What a sensor gives is rarely 53 bits: it is a count, a number of two decimals, a float32. Each
value is stored in the first shape that gives back the same 64 bits:

    0..9   value * 10**shape is a whole number below 2**53: that number
    10     a float32
    11     the eight bytes as they are (and all else: infinities, odd NaNs, -0.0)
    12     the one usual NaN, for "no value": nothing

After Afroozeh, Kuffo and Boncz, "ALP: Adaptive Lossless floating-Point Compression" (SIGMOD
2024). Which shape a tag had last is remembered (`Shapes`), so one pass over a record checks them
all; only rows that do not fit are looked at again.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gateway.errors import SpoolDamaged
from gateway.frame import BoolArray, FloatArray, IdArray
from gateway.spool.packing import Packer, Unpacker

__all__ = ["Shapes", "put_values", "take_values"]

ShapeArray = npt.NDArray[np.uint8]

DECIMALS_MAX = 9
FLOAT32, FLOAT64, NOTHING = 10, 11, 12
_POWERS = np.array([10.0**n for n in range(DECIMALS_MAX + 1)] + [1.0] * 3)
_WHOLE_MAX = 2.0**53
_NAN_BITS = np.array([np.nan]).view(np.int64)[0]


class Shapes:
    """The shape that each tag's values had last, by id; 0 for one that was not seen."""

    def __init__(self) -> None:
        self._of_tag = np.zeros(64, np.uint8)

    def of(self, tag_ids: IdArray) -> ShapeArray:
        """A copy, a shape a row."""
        try:
            return self._of_tag[tag_ids]
        except IndexError:
            grown = np.zeros(2 * int(tag_ids.max()) + 1, np.uint8)
            grown[: len(self._of_tag)] = self._of_tag
            self._of_tag = grown
            return grown[tag_ids]

    def learn(self, tag_ids: IdArray, shapes: ShapeArray) -> None:
        """Remember the wider one, so that 2.0 among 1.25 and 3.75 changes nothing."""
        known = shapes != NOTHING
        np.maximum.at(self._of_tag, tag_ids[known], shapes[known])


@np.errstate(over="ignore", under="ignore")  # whether a value fits is seen by its bits
def put_values(packer: Packer, values: FloatArray, tag_ids: IdArray, shapes: Shapes) -> None:
    """Pack the values of a record."""
    n = len(values)
    if not n:
        return
    values = np.ascontiguousarray(values, "<f8")
    bits = values.view(np.int64)
    shape = shapes.of(tag_ids)
    if not (shape != shape[0]).any() and _put_alike(packer, values, bits, shape):
        return
    odd = ~np.isfinite(values)
    if odd.any():
        shape[odd] = np.where(bits[odd] == _NAN_BITS, np.uint8(NOTHING), np.uint8(FLOAT64))
    whole, fits = _fit(values, bits, shape)
    if not fits.all():
        rows = np.flatnonzero(~fits)
        shape[rows] = _search(values[rows], bits[rows])
        shapes.learn(tag_ids[rows], shape[rows])
        whole[rows] = _whole(values[rows], shape[rows])
    packer.put_bytes(shape)
    decimal = shape <= DECIMALS_MAX
    packer.put_signed(whole if decimal.all() else whole[decimal])
    if not decimal.all():
        packer.put_unsigned(values[shape == FLOAT32].astype("<f4").view("<u4"))
        packer.put_unsigned(values[shape == FLOAT64].view("<u8"))


def _put_alike(
    packer: Packer, values: FloatArray, bits: npt.NDArray[np.int64], shape: ShapeArray
) -> bool:
    """Pack values that all have the one shape they are said to have; False: not all of them do."""
    first = int(shape[0])
    if first > FLOAT32 or not np.isfinite(values).all():
        return False
    if first == FLOAT32:
        narrow, fits = _singles(values, bits)
    else:
        whole, fits = _decimals(values, bits, _POWERS[first])
    if not fits.all():
        return False
    packer.put_bytes(shape)
    if first == FLOAT32:
        packer.put_unsigned(narrow.view("<u4"))
    else:
        packer.put_signed(whole.astype(np.int64))
    return True


def take_values(unpacker: Unpacker, n: int) -> FloatArray:
    """The inverse."""
    if not n:
        return np.empty(0)
    shape = unpacker.octets(n)
    if shape.max() > NOTHING:
        raise SpoolDamaged(f"a value of the unknown shape {int(shape.max())}")
    decimal, single = shape <= DECIMALS_MAX, shape == FLOAT32
    if decimal.all():
        decimals: FloatArray = unpacker.signed(n) / _POWERS[shape]
        return decimals
    if single.all():
        return _take_singles(unpacker, n)
    values = np.full(n, np.nan)
    values[decimal] = unpacker.signed(int(decimal.sum())) / _POWERS[shape[decimal]]
    values[single] = _take_singles(unpacker, int(single.sum()))
    double = shape == FLOAT64
    values[double] = unpacker.unsigned(int(double.sum())).view(np.float64)
    return values


def _take_singles(unpacker: Unpacker, n: int) -> FloatArray:
    narrow = unpacker.narrow(n)
    if narrow.itemsize > 4 and narrow.max() > 0xFFFFFFFF:
        raise SpoolDamaged("a float32 of more than 32 bits")
    return narrow.astype("<u4", copy=False).view("<f4").astype(np.float64)


def _fit(
    values: FloatArray, bits: npt.NDArray[np.int64], shape: ShapeArray
) -> tuple[npt.NDArray[np.int64], BoolArray]:
    """The whole numbers of decimal rows (0 for others), and which rows fit their shape."""
    decimal, single = shape <= DECIMALS_MAX, shape == FLOAT32
    whole, fits = _decimals(np.where(decimal, values, 0.0), bits, _POWERS[shape])
    if single.any():
        _, fits[single] = _singles(values[single], bits[single])
    fits |= shape >= FLOAT64
    whole[~fits] = 0.0
    return whole.astype(np.int64), fits


def _search(values: FloatArray, bits: npt.NDArray[np.int64]) -> ShapeArray:
    """The first shape that each of some finite values fits."""
    shape = np.full(len(values), FLOAT64, np.uint8)
    _, fits32 = _singles(values, bits)
    shape[fits32] = FLOAT32
    for decimals in range(DECIMALS_MAX, -1, -1):
        _, fits = _decimals(values, bits, _POWERS[decimals])
        shape[fits] = decimals
    return shape


def _decimals(
    values: FloatArray, bits: npt.NDArray[np.int64], power: FloatArray | np.float64
) -> tuple[FloatArray, BoolArray]:
    """Values times a power of ten as whole numbers, and which of these give back the same bits."""
    whole = np.rint(values * power) + 0.0  # of -0.0 nothing would be left
    fits: BoolArray = (whole / power).view(np.int64) == bits
    fits &= np.abs(whole) < _WHOLE_MAX
    return whole, fits


def _singles(
    values: FloatArray, bits: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float32], BoolArray]:
    """Values as float32, and which of these give back the same bits."""
    narrow = values.astype("<f4")
    fits: BoolArray = narrow.astype(np.float64).view(np.int64) == bits
    return narrow, fits


def _whole(values: FloatArray, shape: ShapeArray) -> npt.NDArray[np.int64]:
    decimal = shape <= DECIMALS_MAX
    whole: FloatArray = np.rint(np.where(decimal, values, 0.0) * _POWERS[shape])
    return whole.astype(np.int64)
