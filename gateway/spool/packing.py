"""Packing: columns of integers as few bytes, and back. Pure, exact, bounded.

A column is stored byte plane by byte plane (all lowest bytes, then all second bytes, ...), as
many planes as its greatest value needs. Planes that look like noise go to a stream of their own
that is not deflated: deflate takes 20 ns a byte to find that there is nothing to find.

Times and tag ids rise by much the same step from row to row (0 within a scan, 1 from tag to
tag), so only the places where they do not are stored, if these are few.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt

from gateway.errors import SpoolDamaged

__all__ = ["INFLATE_MAX", "RAW_DEFLATE", "Packer", "Unpacker", "deflate", "inflate"]

_LEVEL = 1
RAW_DEFLATE = -15  # without zlib's own checksum: the record has one
_LENGTHS = struct.Struct("<II")  # of the deflated stream, of the noise
_STEPS = struct.Struct("<qqIB")  # first value, usual step, rows that step otherwise, how stored
_SPARSE, _DENSE = 0, 1
_STEPS_SAMPLED = 9
# Of 128 bytes drawn evenly from 256, a hundred are different; at 85 there are 7 bits in each.
_NOISE_SAMPLE = 128
_NOISE_DISTINCT = 85
# Deflate cannot exceed 1032:1, so what claims more than that is not believed.
INFLATE_MAX = 1032

UintArray = npt.NDArray[np.uint64]
NarrowArray = npt.NDArray[np.uint32] | npt.NDArray[np.uint64]
IntArray = npt.NDArray[np.int64]


class Packer:
    """Takes columns one after the other; `finish` gives the bytes of all."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._noise: list[bytes] = []

    def finish(self) -> bytes:
        """Two lengths, the deflated stream, the noise."""
        deflated = deflate(b"".join(self._parts))
        noise = b"".join(self._noise)
        return b"".join((_LENGTHS.pack(len(deflated), len(noise)), deflated, noise))

    def put_bytes(self, column: npt.NDArray[np.uint8]) -> None:
        """A column of bytes, often all the same."""
        n = len(column)
        is_same = n > 0 and not np.any(column != column[0])
        self._parts += [b"\1", column[:1].tobytes()] if is_same else [b"\0", column.tobytes()]

    def put_unsigned(self, column: UintArray | npt.NDArray[np.uint32]) -> None:
        """A column of unsigned integers; at least one byte each."""
        n = len(column)
        if not n:
            return
        width = max(1, (int(column.max()).bit_length() + 7) // 8)
        narrow = column.astype("<u4" if width <= 4 else "<u8", copy=False)
        planes = np.ascontiguousarray(narrow.view(np.uint8).reshape(n, -1)[:, :width].T)
        mask = 0
        self._parts.append(bytes((width,)))
        place = len(self._parts)
        for i in range(width):
            plane = planes[i].tobytes()
            if len(set(plane[:_NOISE_SAMPLE])) >= _NOISE_DISTINCT:
                mask |= 1 << i
                self._noise.append(plane)
            else:
                self._parts.append(plane)
        self._parts.insert(place, bytes((mask,)))

    def put_signed(self, column: IntArray) -> None:
        """A column of signed integers, those near zero in the fewest bytes."""
        self.put_unsigned(_zigzag(column))

    def put_stepping(self, column: IntArray) -> None:
        """A column that mostly rises by one step; differences wrap around."""
        n = len(column)
        if not n:
            return
        differences = column[1:] - column[:-1]
        step = _usual(differences)
        places = (differences != step).nonzero()[0]
        kind = _SPARSE if 4 * len(places) <= n else _DENSE
        self._parts.append(_STEPS.pack(int(column[0]), step, len(places), kind))
        if kind == _SPARSE:
            if len(places):
                gaps = np.empty(len(places), np.uint64)
                gaps[0] = places[0]
                np.subtract(places[1:], places[:-1], out=gaps[1:], casting="unsafe")
                self.put_unsigned(gaps)
                self.put_signed(differences[places] - step)
        else:
            self.put_signed(differences - step)


class Unpacker:
    """Gives the columns back in the order they were put; SpoolDamaged for what cannot be."""

    def __init__(self, payload: bytes, inflated_max: int) -> None:
        if len(payload) < _LENGTHS.size:
            raise SpoolDamaged("a frames record is shorter than its length fields")
        length, noise = _LENGTHS.unpack_from(payload)
        self.end = _LENGTHS.size + length + noise
        if self.end > len(payload):
            raise SpoolDamaged("the columns of a frames record reach behind its end")
        deflated = payload[_LENGTHS.size : _LENGTHS.size + length]
        self._data = _Stream(inflate(deflated, inflated_max))
        self._noise = _Stream(payload[_LENGTHS.size + length : self.end])

    def check_done(self) -> None:
        """That nothing was left over."""
        if not (self._data.is_done and self._noise.is_done):
            raise SpoolDamaged("the columns of a frames record have the wrong size")

    def octets(self, n: int) -> npt.NDArray[np.uint8]:
        is_same = self._data.take(1)[0]
        column = np.frombuffer(self._data.take(min(n, 1) if is_same else n), np.uint8)
        return np.repeat(column, n) if is_same else column

    def unsigned(self, n: int) -> UintArray:
        return self.narrow(n).astype(np.uint64, copy=False)

    def narrow(self, n: int) -> NarrowArray:
        """The same in 32 bits where these are enough."""
        if not n:
            return np.empty(0, np.uint32)
        width, mask = self._data.take(2)
        if not 1 <= width <= 8:
            raise SpoolDamaged(f"a column of {width} byte planes")
        size = 4 if width <= 4 else 8
        planes = np.zeros((n, size), np.uint8)
        for i in range(width):
            plane = (self._noise if mask >> i & 1 else self._data).take(n)
            planes[:, i] = np.frombuffer(plane, np.uint8)
        flat: NarrowArray = planes.reshape(-1).view(f"<u{size}")
        return flat

    def signed(self, n: int) -> IntArray:
        return _unzigzag(self.unsigned(n))

    def stepping(self, n: int) -> IntArray:
        if not n:
            return np.empty(0, np.int64)
        first, step, odd, kind = _STEPS.unpack(self._data.take(_STEPS.size))
        column = np.full(n, step, np.int64)
        if kind == _SPARSE:
            places = np.cumsum(self.unsigned(odd).astype(np.int64)) if odd <= n else _TOO_FAR
            if len(places) and not (places.min() >= 0 and places.max() < n - 1):
                raise SpoolDamaged("a step behind the end of its column")
            column[1:][places] += self.signed(len(places))
        else:
            column[1:] += self.signed(n - 1)
        column[0] = first
        return column.cumsum(out=column)


class _Stream:
    """Bytes that are taken from the front."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_done(self) -> bool:
        return self._at == len(self._data)

    def take(self, size: int) -> bytes:
        data = self._data[self._at : self._at + size]
        if len(data) < size:
            raise SpoolDamaged("the columns of a frames record are too short")
        self._at += size
        return data


def _usual(differences: IntArray) -> int:
    """The most common of some; one alone may be where a scan ends, and is then in every record."""
    stride = -(-len(differences) // _STEPS_SAMPLED) or 1
    some = differences[stride // 2 :: stride].tolist()
    return max(set(some), key=some.count, default=0)


_TOO_FAR = np.array([-1], np.int64)


def deflate(data: bytes) -> bytes:
    """Fast rather than small: level 6 takes twice the time for 4 % fewer bytes."""
    return zlib.compress(data, _LEVEL, wbits=RAW_DEFLATE)


def inflate(deflated: bytes, size_max: int) -> bytes:
    """What was deflated, if it is no more than `size_max`; never more memory than that."""
    inflater = zlib.decompressobj(RAW_DEFLATE)
    try:
        data = inflater.decompress(deflated, size_max + 1)
    except zlib.error as error:
        raise SpoolDamaged(f"columns cannot be inflated: {error}") from error
    if len(data) > size_max or not inflater.eof or inflater.unused_data:
        raise SpoolDamaged("the columns of a frames record have the wrong size")
    return data


def _zigzag(column: IntArray) -> UintArray:
    """0, -1, 1, -2 ... as 0, 1, 2, 3 ..."""
    folded = (column << 1) ^ (column >> 63)
    return folded.view(np.uint64)


def _unzigzag(column: UintArray) -> IntArray:
    halves = (column >> np.uint64(1)).view(np.int64)
    return halves ^ -(column & np.uint64(1)).view(np.int64)
