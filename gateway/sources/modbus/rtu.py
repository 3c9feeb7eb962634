"""Modbus RTU frames: the same requests and answers as over TCP, with a CRC in the header's place.

Sans-IO. Source: Modbus over Serial Line 1.02, sections 2.5.1 (RTU) and 6.2.2 (CRC). The length of a
right answer follows from the request, so no timing decides where a frame ends. There is no
transaction id: that an answer is to this request is known by unit id, function, length and CRC, and
because the line was quiet before it (`client`).
"""

from __future__ import annotations

import struct

from gateway.errors import WireError
from gateway.sources.modbus.wire import Request, refusal, wrong

__all__ = ["RtuExchange", "crc16"]

_REQUEST = struct.Struct(">BBHH")


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


class RtuExchange:
    """One request and its answer."""

    __slots__ = ("_buffer", "_echo", "request")

    def __init__(self, request: Request, *, has_echo: bool = False) -> None:
        """`has_echo`: the adapter hears itself, so the request comes back before the answer."""
        self.request = request
        self._buffer = b""
        self._echo = self.encode() if has_echo else b""

    def encode(self) -> bytes:
        """The request's frame."""
        each = self.request
        frame = _REQUEST.pack(each.unit_id, each.function, each.address, each.quantity)
        return frame + crc16(frame)

    def feed(self, data: bytes) -> bytes | None:
        """The block, once the answer is whole.

        Raises DeviceRefused for an exception response and WireError for everything that is not
        an answer to this request; its `kind` is what was wrong.
        """
        self._buffer += data
        if self._echo and not self._take_echo():
            return None
        buffer, request = self._buffer, self.request
        if len(buffer) >= 1 and buffer[0] != request.unit_id:
            raise self._wrong("unit_id", f"unit id {buffer[0]} instead of {request.unit_id}")
        if len(buffer) < 2:
            return None
        if buffer[1] == request.function | 0x80:
            self._check_refusal()
            return None
        if buffer[1] != request.function:
            raise self._wrong("function", f"function {buffer[1]} instead of {request.function}")
        if len(buffer) < 3:
            return None
        size = request.block_bytes
        if buffer[2] != size:
            raise self._wrong("byte_count", f"byte count {buffer[2]} instead of {size}")
        if not self._is_whole(5 + size):
            return None
        return self._buffer[3:-2]

    def _check_refusal(self) -> None:
        """Raise DeviceRefused, once the exception response is whole."""
        if not self._is_whole(5):
            return
        raise refusal(self.request, self._buffer[2])

    def _is_whole(self, size: int) -> bool:
        """Whether the frame is there, with nothing behind it and the right CRC."""
        buffer = self._buffer
        if len(buffer) < size:
            return False
        if len(buffer) > size:
            raise self._wrong("trailing", f"{len(buffer) - size} bytes nobody asked for")
        if crc16(buffer[:-2]) != buffer[-2:]:
            raise self._wrong("crc", "a wrong CRC")
        return True

    def _take_echo(self) -> bool:
        """Leave out what the adapter heard of ourselves; whether all of it has been."""
        echo, buffer = self._echo, self._buffer
        size = min(len(echo), len(buffer))
        if buffer[:size] != echo[:size]:
            raise self._wrong("echo", "no echo of the request, and one was expected")
        self._echo, self._buffer = echo[size:], buffer[size:]
        return not self._echo

    def _wrong(self, kind: str, what: str) -> WireError:
        hint = "the line is left alone until it is quiet, and opened anew"
        return wrong(self.request, self._buffer, kind, what, hint)
