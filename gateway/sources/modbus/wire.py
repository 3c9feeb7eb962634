"""Modbus on the wire: requests out, answers in, nothing believed that was not asked.

Sans-IO. Sources: Modbus Application Protocol 1.1b3 (functions 1-4, sections 6.1-6.4; exceptions,
section 7), Modbus Messaging on TCP/IP Implementation Guide 1.0b (MBAP header, 3.1.3).

A `Query` is what is asked of one unit and what counts as its answer: PDUs alone. `Request`, a read
of one block, is the one that scans are made of; `identification` has another; whatever writes has
its queries in a module of its own. Three framings carry any of them: `Exchange` here (Modbus TCP,
TLS and UDP), `rtu.RtuExchange` and `ascii.AsciiExchange`. An exchange is one query and its answer:
it takes bytes in any chunking and gives what was asked once the answer is whole.

Transaction id, protocol id, length, unit id, function code and byte count must be exactly those of
the query: everything else raises WireError, after which the connection must be closed, because
what comes next on it cannot be told apart any more.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from gateway.errors import DeviceRefused, WireError

__all__ = [
    "ADU_BYTES_MAX",
    "PDU_BYTES_MAX",
    "READ_BITS_MAX",
    "READ_REGISTERS_MAX",
    "Exchange",
    "Mismatch",
    "Query",
    "Request",
    "answer_of",
    "check_unit_id",
    "refusal",
    "wrong",
]

# 253 bytes of PDU (Application Protocol, 4.1) hold 125 registers or 2000 bits with their header.
PDU_BYTES_MAX = 253
READ_REGISTERS_MAX = 125
READ_BITS_MAX = 2000
ADU_BYTES_MAX = 260  # 7 bytes of MBAP header and the PDU

READ_COILS, READ_DISCRETE_INPUTS, READ_HOLDING_REGISTERS, READ_INPUT_REGISTERS = 1, 2, 3, 4

_HEADER = struct.Struct(">HHHB")  # transaction id, protocol id, length, unit id
_REST = struct.Struct(">HHB")  # the same behind the transaction id
_READ = struct.Struct(">BHH")
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

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Mismatch(ValueError):
    """An answer's PDU is not one to the query; an exchange makes a WireError of it."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(what)
        self.kind = kind
        self.what = what


class Query(Protocol[T_co]):
    """What is asked of one unit, and what counts as its answer."""

    @property
    def unit_id(self) -> int: ...

    @property
    def function(self) -> int: ...

    @property
    def address(self) -> int:
        """Where it is asked, for messages; 0 where that means nothing."""
        ...

    def encode(self) -> bytes:
        """The request's PDU, the function code first."""
        ...

    def answer_bytes(self, pdu: bytes) -> int:
        """How long the answer's PDU is, as far as its first bytes tell.

        A number above len(pdu) asks for more; exact once that many are there. `pdu` has at least
        the function code, which is right, and may have bytes behind its end. Raises Mismatch.
        """
        ...

    def decode(self, pdu: bytes) -> T_co:
        """What a whole answer of the right length says. Raises Mismatch."""
        ...


def check_unit_id(unit_id: int) -> None:
    """Raise ValueError for what is no unit id."""
    if not 0 <= unit_id <= 255:
        raise ValueError(f"{unit_id} is not a unit id")


@dataclass(frozen=True, slots=True)
class Request:
    """A read of one block; ValueError for what is no read that the standard allows."""

    unit_id: int
    function: int  # 1-4
    address: int  # zero-based
    quantity: int  # of registers, or of bits
    block_bytes: int = field(init=False, repr=False, compare=False)  # in a right answer
    # What is the same whenever it is asked: its ADU and a right answer's head, each behind the
    # transaction id.
    asks: bytes = field(init=False, repr=False, compare=False)
    head: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not READ_COILS <= self.function <= READ_INPUT_REGISTERS:
            raise ValueError(f"function {self.function} is not a read")
        check_unit_id(self.unit_id)
        quantity_max = READ_BITS_MAX if self.reads_bits else READ_REGISTERS_MAX
        if not 1 <= self.quantity <= quantity_max:
            raise ValueError(f"{self.quantity} is not from 1 to {quantity_max}")
        if not 0 <= self.address <= 65536 - self.quantity:
            raise ValueError(f"{self.quantity} from address {self.address} end beyond 65535")
        size = (self.quantity + 7) // 8 if self.reads_bits else 2 * self.quantity
        object.__setattr__(self, "block_bytes", size)
        pdu = self.encode()
        own = _REST.pack(0, len(pdu) + 1, self.unit_id) + pdu
        object.__setattr__(self, "asks", own)
        head = _REST.pack(0, size + 3, self.unit_id) + bytes([self.function, size])
        object.__setattr__(self, "head", head)

    @property
    def reads_bits(self) -> bool:
        return self.function <= READ_DISCRETE_INPUTS

    def encode(self) -> bytes:
        """The request's PDU."""
        return _READ.pack(self.function, self.address, self.quantity)

    def answer_bytes(self, pdu: bytes) -> int:
        """Function code, byte count and block; raises Mismatch for another byte count."""
        if len(pdu) > 1 and pdu[1] != self.block_bytes:
            raise Mismatch("byte_count", f"byte count {pdu[1]} instead of {self.block_bytes}")
        return 2 + self.block_bytes

    def decode(self, pdu: bytes) -> bytes:
        """The block."""
        return pdu[2:]


def refusal(query: Query[Any], code: int) -> DeviceRefused:
    """An exception response, told as what it is."""
    return DeviceRefused(
        unit_id=query.unit_id,
        function=query.function,
        address=query.address,
        code=code,
        hint=_HINTS.get(code, "not a code of the standard: see the device's manual"),
    )


def wrong(query: Query[Any], heard: bytes, kind: str, what: str, hint: str) -> WireError:
    """What was heard is no answer to the query."""
    return WireError(
        f"unit {query.unit_id} answered function {query.function} at address"
        f" {query.address} with {what}: {heard[:_FOREIGN_BYTES_MAX].hex(' ')}",
        kind=kind,
        hint=hint,
    )


def answer_of(query: Query[T], unit_id: int, pdu: bytes) -> T:
    """What a whole PDU from a unit says to the query; raises DeviceRefused, Mismatch."""
    if unit_id != query.unit_id:
        raise Mismatch("unit_id", f"unit id {unit_id} instead of {query.unit_id}")
    if not pdu:
        raise Mismatch("length", "no function code")
    function = pdu[0]
    if function != query.function:
        if function != query.function | 0x80:
            raise Mismatch("function", f"function {function} instead of {query.function}")
        if len(pdu) != 2:
            raise Mismatch("length", f"an exception of {len(pdu)} bytes instead of 2")
        raise refusal(query, pdu[1])
    size = query.answer_bytes(pdu)
    if size != len(pdu):
        raise Mismatch("byte_count", f"{len(pdu)} bytes instead of {size}")
    return query.decode(pdu)


class Exchange(Generic[T]):
    """One query and its answer, behind an MBAP header."""

    __slots__ = ("_buffer", "_takes_zero", "query", "transaction_id")

    def __init__(self, transaction_id: int, query: Query[T], *, takes_zero: bool = False) -> None:
        """`takes_zero`: this device's answers have 0 for a transaction id."""
        self.transaction_id = transaction_id
        self.query = query
        self._takes_zero = takes_zero
        self._buffer = b""

    def encode(self) -> bytes:
        """The query's ADU."""
        if isinstance(self.query, Request):
            return self.transaction_id.to_bytes(2, "big") + self.query.asks
        pdu = self.query.encode()
        return _HEADER.pack(self.transaction_id, 0, len(pdu) + 1, self.query.unit_id) + pdu

    def is_numbered(self, data: bytes) -> bool:
        """Whether an answer that begins so has the query's transaction id."""
        transaction_id = int.from_bytes(data[:2], "big")
        return transaction_id == self.transaction_id or (self._takes_zero and not transaction_id)

    def feed(self, data: bytes) -> T | None:
        """What was asked, once the answer is whole.

        Raises DeviceRefused for an exception response and WireError for everything that is not
        an answer to this query; its `kind` is what was wrong.
        """
        buffer = self._buffer = self._buffer + data if self._buffer else data
        query = self.query
        if (  # what nearly always comes, in one look; everything else is told apart below
            isinstance(query, Request)
            and buffer.startswith(query.head, 2)
            and len(buffer) == 9 + query.block_bytes
            and self.is_numbered(buffer)
        ):
            return self.query.decode(buffer[7:])
        if len(buffer) < 8:
            if len(buffer) >= 6:
                self._check_header(buffer)
            return None
        size = 6 + self._check_header(buffer)
        if len(buffer) == size:
            try:
                return answer_of(self.query, buffer[6], buffer[7:])
            except Mismatch as mismatch:
                self._refuse(mismatch.kind, mismatch.what)
        self._check_start(buffer, size)
        if len(buffer) > size:
            self._refuse("trailing", f"{len(buffer) - size} bytes nobody asked for")
        return None

    def _check_header(self, buffer: bytes) -> int:
        """The length field, once it and what stands before it are right."""
        if not self.is_numbered(buffer):
            transaction_id = int.from_bytes(buffer[:2], "big")
            self._refuse(
                "transaction_id",
                f"transaction id {transaction_id} instead of {self.transaction_id}",
            )
        if buffer[2:4] != b"\0\0":
            self._refuse("protocol_id", "a protocol id that is not Modbus")
        length = int.from_bytes(buffer[4:6], "big")
        if not 3 <= length <= ADU_BYTES_MAX - 6:
            self._refuse("length", "an impossible length field")
        return length

    def _check_start(self, buffer: bytes, size: int) -> None:
        """Tell what is wrong already, before the answer is whole or where it is too long."""
        query, function = self.query, buffer[7]
        if buffer[6] != query.unit_id:
            self._refuse("unit_id", f"unit id {buffer[6]} instead of {query.unit_id}")
        if function == query.function | 0x80:
            if size != 9:
                self._refuse("length", f"an exception of length {size - 6} instead of 3")
            return
        if function != query.function:
            self._refuse("function", f"function {function} instead of {query.function}")
        try:
            least = query.answer_bytes(buffer[7:size])
        except Mismatch as mismatch:
            self._refuse(mismatch.kind, mismatch.what)
        if least > size - 7:
            self._refuse("byte_count", f"length {size - 6} instead of {least + 1}")

    def _refuse(self, kind: str, what: str) -> NoReturn:
        hint = "the connection is closed and opened anew"
        raise wrong(self.query, self._buffer, kind, what, hint)
