"""Modbus ASCII frames: a colon, the bytes as hexadecimal digits, an LRC, carriage return and feed.

Sans-IO. Source: Modbus over Serial Line 1.02, sections 2.5.2 (ASCII) and 6.2.1 (LRC). Up to a
second may pass between two characters; `connection` keeps that time.
"""

from __future__ import annotations

from binascii import unhexlify
from typing import TypeVar

from gateway.sources.modbus.rtu import LineExchange
from gateway.sources.modbus.wire import PDU_BYTES_MAX, Mismatch

__all__ = ["CHARACTER_GAP_S", "AsciiExchange", "lrc"]

T = TypeVar("T")

CHARACTER_GAP_S = 1.0  # 2.5.2.1: a longer one is an error
_START, _END = b":", b"\r\n"
# Colon, unit id, PDU and LRC in two digits each, CR and LF: the 513 characters of the standard.
_FRAME_CHARACTERS_MAX = 1 + 2 * (1 + PDU_BYTES_MAX + 1) + 2


def lrc(data: bytes) -> int:
    """The check of a frame: what makes its bytes add up to zero."""
    return -sum(data) & 0xFF


class AsciiExchange(LineExchange[T]):
    """One query and its answer as ASCII frames."""

    __slots__ = ()

    def _frame(self, body: bytes) -> bytes:
        return _START + (body + bytes([lrc(body)])).hex().upper().encode() + _END

    def _body(self, buffer: bytes) -> bytes | None:
        if buffer and not buffer.startswith(_START):
            raise Mismatch("start", "a frame that does not begin with a colon")
        end = buffer.find(_END)
        if end < 0:
            if len(buffer) >= _FRAME_CHARACTERS_MAX:
                raise Mismatch("length", "a frame without end")
            return None
        if len(buffer) > end + len(_END):
            raise Mismatch("trailing", f"{len(buffer) - end - 2} characters nobody asked for")
        if end + len(_END) > _FRAME_CHARACTERS_MAX:
            raise Mismatch("length", "a frame that is longer than the standard allows")
        try:
            body = unhexlify(buffer[1:end])
        except ValueError:
            raise Mismatch("digits", "what are not pairs of hexadecimal digits") from None
        if len(body) < 3:
            raise Mismatch("length", "a frame without a function code")
        if sum(body) & 0xFF:
            raise Mismatch("lrc", "a wrong LRC")
        return body[:-1]
