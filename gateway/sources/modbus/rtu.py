"""Modbus RTU frames: the same queries and answers as over TCP, with a CRC in the header's place.

Sans-IO. Source: Modbus over Serial Line 1.02, sections 2.5.1 (RTU) and 6.2.2 (CRC). The length of a
right answer follows from the query and the answer itself, so no timing decides where a frame ends.
There is no transaction id: that an answer is to this query is known by unit id, function, length
and CRC, and because the line was quiet before it (`connection`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, NoReturn, TypeVar

from gateway.sources.modbus.wire import Mismatch, Query, Request, answer_of, wrong

__all__ = ["LineExchange", "RtuExchange", "crc16"]

T = TypeVar("T")

_EXCEPTION_BYTES = 5
# Unit id, function and the address' high byte may be those of an answer by chance; with three bytes
# more it is what we said ourselves.
_ECHO_BYTES_MIN = 6
# What a driver that is switched on or off leaves beside a frame on a line without bias.
_GLITCHES = (0x00, 0xFF)
_GLITCHES_MAX = 2


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_TABLE = _crc_table()


def crc16(data: bytes) -> bytes:
    """The CRC of a frame as it is sent, low byte first."""
    crc = 0xFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc.to_bytes(2, "little")


class LineExchange(ABC, Generic[T]):
    """One query and its answer on a line, where we may hear ourselves."""

    __slots__ = ("_buffer", "_echo", "_own", "glitches", "query")

    def __init__(self, query: Query[T], *, has_echo: bool = False) -> None:
        """`has_echo`: the adapter hears itself, so the request comes back before the answer."""
        self.query = query
        self._buffer = b""
        self._own = self._frame(bytes([query.unit_id]) + query.encode())
        self._echo = self._own if has_echo else b""
        self.glitches = 0  # bytes beside the answer that were passed over

    def encode(self) -> bytes:
        """The query's frame."""
        return self._own

    def feed(self, data: bytes) -> T | None:
        """What was asked, once the answer is whole.

        Raises DeviceRefused for an exception response and WireError for everything that is not
        an answer to this query; its `kind` is what was wrong.
        """
        self._buffer += data
        if self._echo and not self._take_echo():
            return None
        try:
            body = self._body(self._buffer)
            if body is None:
                return None
            if self._buffer == self._own and isinstance(self.query, Request):
                # Some reads of bits look like answers themselves.
                self._refuse("echo", "the request itself")
            return answer_of(self.query, body[0], body[1:])
        except Mismatch as mismatch:
            self._refuse(mismatch.kind, mismatch.what)

    @abstractmethod
    def _frame(self, body: bytes) -> bytes:
        """What is sent for unit id and PDU."""

    @abstractmethod
    def _body(self, buffer: bytes) -> bytes | None:
        """Unit id and PDU, once the frame is whole and its check right; raises Mismatch."""

    def _take_echo(self) -> bool:
        """Leave out what the adapter heard of ourselves; whether all of it has been."""
        echo, buffer = self._echo, self._buffer
        size = min(len(echo), len(buffer))
        if buffer[:size] != echo[:size]:
            self._refuse("echo", "no echo of the request, and one was expected")
        self._echo, self._buffer = echo[size:], buffer[size:]
        return not self._echo

    def _refuse(self, kind: str, what: str) -> NoReturn:
        hint = "the line is left alone until it is quiet, and opened anew"
        heard, own = self._buffer, self._own
        if len(heard) >= _ECHO_BYTES_MIN and own.startswith(heard[: len(own)]):
            kind, what = "echo", "the request itself"
            hint = "the adapter hears what it sends: set echo = true"
        raise wrong(self.query, heard, kind, what, hint)


class RtuExchange(LineExchange[T]):
    """One query and its answer as RTU frames."""

    __slots__ = ()

    def _frame(self, body: bytes) -> bytes:
        return body + crc16(body)

    def _body(self, buffer: bytes) -> bytes | None:
        start = self._glitches_before(buffer)
        frame = buffer[start:]
        size = self._frame_bytes(frame)
        if len(frame) < size:
            return None
        behind = frame[size:]
        if len(behind) > _GLITCHES_MAX or not set(behind) <= set(_GLITCHES):
            raise Mismatch("trailing", f"{len(behind)} bytes nobody asked for")
        frame = frame[:size]
        if crc16(frame[:-2]) != frame[-2:]:
            raise Mismatch("crc", "a wrong CRC")
        self.glitches = start + len(behind)
        return frame[:-2]

    def _glitches_before(self, buffer: bytes) -> int:
        """How many bytes before the frame can be none of it."""
        unit_id = self.query.unit_id
        for i, byte in enumerate(buffer[:_GLITCHES_MAX]):
            if byte == unit_id or byte not in _GLITCHES:
                return i
        return min(len(buffer), _GLITCHES_MAX)

    def _frame_bytes(self, buffer: bytes) -> int:
        """How long the frame is as far as its beginning tells; raises Mismatch."""
        query = self.query
        if buffer and buffer[0] != query.unit_id:
            raise Mismatch("unit_id", f"unit id {buffer[0]} instead of {query.unit_id}")
        if len(buffer) < 2 or buffer[1] == query.function | 0x80:
            return _EXCEPTION_BYTES
        if buffer[1] != query.function:
            raise Mismatch("function", f"function {buffer[1]} instead of {query.function}")
        return 3 + query.answer_bytes(buffer[1:])
