"""Modbus TCP on the wire: read requests out, answers in, nothing believed that was not asked.

Sans-IO. Sources: Modbus Application Protocol 1.1b3 (functions 1-4, sections 6.1-6.4; exceptions,
section 7), Modbus Messaging on TCP/IP Implementation Guide 1.0b (MBAP header, 3.1.3).

An `Exchange` is one request and its answer. It takes bytes in any chunking and gives the block's
bytes once the answer is whole. Transaction id, protocol id, length, unit id, function code and
byte count must be exactly those of the request: everything else raises WireError, after which
the connection must be closed, because what comes next on it cannot be told apart any more.

A `Request` reads: one with any other function, or beyond what the standard allows, cannot be made.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from gateway.errors import DeviceRefused, WireError

__all__ = [
    "ADU_BYTES_MAX",
    "READ_BITS_MAX",
    "READ_REGISTERS_MAX",
    "Exchange",
    "Request",
    "refusal",
    "wrong",
]

# 253 bytes of PDU (Application Protocol, 4.1) hold 125 registers or 2000 bits with their header.
READ_REGISTERS_MAX = 125
READ_BITS_MAX = 2000
ADU_BYTES_MAX = 260  # 7 bytes of MBAP header and the PDU

READ_COILS, READ_DISCRETE_INPUTS, READ_HOLDING_REGISTERS, READ_INPUT_REGISTERS = 1, 2, 3, 4

_HEADER = struct.Struct(">HHHB")  # transaction id, protocol id, length, unit id
_REQUEST = struct.Struct(">HHHBBHH")
_FOREIGN_BYTES_MAX = 32  # of a bad answer, in a message

_HINTS = {
    1: "the device does not know this function: check the table in the register map",
    2: "check the addresses in the register map",
    3: "the device refuses the number of registers: lower registers_max",
    4: "the device says that it failed: look at its own display or log",
    5: "the device needs long for this: scan it less often",
    6: "the device is busy: scan it less often",
    7: "the device cannot do this now: see its manual for exception 7",
    8: "the device found a parity error in its memory",
    9: "exception 9 is not in the standard: see the device's manual",
    10: "the gateway in front of the device has no path to it",
    11: "the gateway in front of the device got no answer from it: check its wiring and unit id",
}


@dataclass(frozen=True, slots=True)
class Request:
    """A read of one block; ValueError for what is no read that the standard allows."""

    unit_id: int
    function: int  # 1-4
    address: int  # zero-based
    quantity: int  # of registers, or of bits

    def __post_init__(self) -> None:
        if not READ_COILS <= self.function <= READ_INPUT_REGISTERS:
            raise ValueError(f"function {self.function} is not a read")
        if not 0 <= self.unit_id <= 255:
            raise ValueError(f"{self.unit_id} is not a unit id")
        quantity_max = READ_BITS_MAX if self.reads_bits else READ_REGISTERS_MAX
        if not 1 <= self.quantity <= quantity_max:
            raise ValueError(f"{self.quantity} is not from 1 to {quantity_max}")
        if not 0 <= self.address <= 65536 - self.quantity:
            raise ValueError(f"{self.quantity} from address {self.address} end beyond 65535")

    @property
    def reads_bits(self) -> bool:
        return self.function <= READ_DISCRETE_INPUTS

    @property
    def block_bytes(self) -> int:
        """Bytes of the block in a right answer."""
        return (self.quantity + 7) // 8 if self.reads_bits else 2 * self.quantity


def refusal(request: Request, code: int) -> DeviceRefused:
    """An exception response, told as what it is."""
    return DeviceRefused(
        unit_id=request.unit_id,
        function=request.function,
        address=request.address,
        code=code,
        hint=_HINTS.get(code, "not a code of the standard: see the device's manual"),
    )


def wrong(request: Request, heard: bytes, kind: str, what: str, hint: str) -> WireError:
    """What was heard is no answer to the request."""
    return WireError(
        f"unit {request.unit_id} answered function {request.function} at address"
        f" {request.address} with {what}: {heard[:_FOREIGN_BYTES_MAX].hex(' ')}",
        kind=kind,
        hint=hint,
    )


class Exchange:
    """One request and its answer."""

    __slots__ = ("_buffer", "_expected", "request", "transaction_id")

    def __init__(self, transaction_id: int, request: Request) -> None:
        self.transaction_id = transaction_id
        self.request = request
        self._buffer = b""
        self._expected = 9 + request.block_bytes

    def encode(self) -> bytes:
        """The request's ADU."""
        each = self.request
        return _REQUEST.pack(
            self.transaction_id, 0, 6, each.unit_id, each.function, each.address, each.quantity
        )

    def feed(self, data: bytes) -> bytes | None:
        """The block, once the answer is whole.

        Raises DeviceRefused for an exception response and WireError for everything that is not
        an answer to this request; its `kind` is what was wrong.
        """
        buffer = self._buffer = self._buffer + data if self._buffer else data
        if len(buffer) < 9:
            if len(buffer) >= 6:
                self._check_header(buffer)
            return None
        self._check_header(buffer)
        request = self.request
        length = int.from_bytes(buffer[4:6], "big")
        unit_id, function = buffer[6], buffer[7]
        if unit_id != request.unit_id:
            raise self._wrong("unit_id", f"unit id {unit_id} instead of {request.unit_id}")
        if function == request.function | 0x80:
            if length != 3:
                raise self._wrong("length", f"an exception of length {length} instead of 3")
            self._refuse_trailing(9)
            raise refusal(request, buffer[8])
        if function != request.function:
            raise self._wrong("function", f"function {function} instead of {request.function}")
        block_bytes = request.block_bytes
        if buffer[8] != block_bytes or length != 3 + block_bytes:
            raise self._wrong(
                "byte_count",
                f"length {length}, byte count {buffer[8]} instead of {3 + block_bytes},"
                f" {block_bytes}",
            )
        if len(buffer) < self._expected:
            return None
        self._refuse_trailing(self._expected)
        return buffer[9:]

    def _check_header(self, buffer: bytes) -> None:
        transaction_id = int.from_bytes(buffer[0:2], "big")
        if transaction_id != self.transaction_id:
            raise self._wrong(
                "transaction_id",
                f"transaction id {transaction_id} instead of {self.transaction_id}",
            )
        if buffer[2:4] != b"\0\0":
            raise self._wrong("protocol_id", "a protocol id that is not Modbus")
        if not 3 <= int.from_bytes(buffer[4:6], "big") <= ADU_BYTES_MAX - 6:
            raise self._wrong("length", "an impossible length field")

    def _refuse_trailing(self, expected: int) -> None:
        if len(self._buffer) > expected:
            raise self._wrong("trailing", f"{len(self._buffer) - expected} bytes nobody asked for")

    def _wrong(self, kind: str, what: str) -> WireError:
        hint = "the connection is closed and opened anew"
        return wrong(self.request, self._buffer, kind, what, hint)
