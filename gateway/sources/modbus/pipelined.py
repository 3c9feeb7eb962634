"""Pipelined: several requests at once on one connection, for devices that allow it.

An answer is matched by its transaction id, which no other request of the connection has, and then
checked like any other. A number that nobody asked for, a length that lies, a wrong unit id or
function closes the connection with all that is on it, and all that came in the same breath. A
request without an answer is given up by itself as long as others are answered: its number is not
used again, and what comes late under it is left out. Where nothing at all was heard since it was
sent, the connection is dead and closed. An answer that came in pieces may have been filled up from
another one; that shows by what follows it, and so for a moment it is waited for.

What no client can tell is a device that answers under the number of another request that is under
way: hence one at a time, unless a device is known to do it right.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, TypeVar

from gateway.errors import DeviceRefused, SourceLost, WireError
from gateway.sources.modbus.connection import (
    Connection,
    ConnectionClosed,
    Manner,
    NewExchange,
    no_answer,
)
from gateway.sources.modbus.peer import Peer
from gateway.sources.modbus.slots import Slots
from gateway.sources.modbus.wire import ADU_BYTES_MAX, Exchange, Query

__all__ = ["PipelinedConnection"]

T = TypeVar("T")

# Requests without an answer, times the requests that may be on the connection: then it is given up.
GIVEN_UP_MAX = 4
_HEAD_BYTES = 6
# What a device sends in pieces it sends on within this; an answer is in one piece nearly always.
PIECES_WAIT_S = 0.05


@dataclass(slots=True)
class _Pending:
    exchange: Exchange[Any]
    answer: asyncio.Future[Any]
    sent_s: float


class PipelinedConnection(Connection):
    """An open connection with up to `in_flight` requests on it."""

    def __init__(self, exchange: NewExchange, manner: Manner, peer: Peer, in_flight: int) -> None:
        super().__init__(exchange, manner, peer)
        self._slots = Slots(in_flight)
        self._given_up_max = GIVEN_UP_MAX * in_flight
        self._pending: dict[int, _Pending] = {}  # by transaction id
        self._given_up: set[int] = set()
        self._buffer = b""
        self._held: list[tuple[_Pending, Any]] = []  # answers that came in pieces
        self._releasing: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        if self._wire_log.is_on:
            self._wire_log.heard(data)
        self._heard_s = self._loop.time()
        buffer = self._buffer + data if self._buffer else data
        start, heard, is_pieced = 0, list[tuple[_Pending, Any]](), bool(self._buffer)
        while len(buffer) - start >= _HEAD_BYTES and self.lost is None:
            length = int.from_bytes(buffer[start + 4 : start + 6], "big")
            if not self._is_header(buffer[start : start + _HEAD_BYTES], length):
                return
            end = start + _HEAD_BYTES + length
            if end > len(buffer):
                break
            self._take(buffer[start:end], heard)
            start = end
        if self.lost is not None:
            return
        self._buffer = buffer[start:]
        # Only now: an answer that was cut short and filled up from the next shows by what follows.
        is_followed = len(self._buffer) >= _HEAD_BYTES
        if heard or is_followed:
            self._let_go()
        if not heard:
            return
        has_others = len(self._pending) > 1 or bool(self._given_up)
        self._held = heard
        if is_pieced and len(heard) == 1 and has_others and not is_followed:
            self._releasing = self._loop.call_later(PIECES_WAIT_S, self._look_again)
        else:
            self._let_go()

    def _look_again(self) -> None:
        """Nothing more has come for a while, or too little to tell."""
        if self._buffer:
            self._releasing = self._loop.call_later(PIECES_WAIT_S, self._look_again)
        else:
            self._let_go()

    def _let_go(self) -> None:
        """Give the answers that are held to those who wait for them."""
        if self._releasing is not None:
            self._releasing.cancel()
            self._releasing = None
        held, self._held = self._held, []
        for pending, answer in held:
            if pending.answer.done():
                continue  # too late for it
            if isinstance(answer, DeviceRefused):
                pending.answer.set_exception(answer)
            else:
                pending.answer.set_result(answer)

    async def _ask(self, query: Query[T], timeout_s: float) -> T:
        if self.lost is not None:
            raise ConnectionClosed(f"the connection is closed: {self.lost}")
        exchange = self._new_exchange(query)
        assert isinstance(exchange, Exchange), "only what has a number can be told apart"
        while exchange.transaction_id in self._given_up or exchange.transaction_id in self._pending:
            exchange = self._new_exchange(query)
            assert isinstance(exchange, Exchange)
        number = exchange.transaction_id
        answer: asyncio.Future[T] = self._loop.create_future()
        self._pending[number] = _Pending(exchange, answer, self._loop.time())
        deadline = self._loop.call_later(timeout_s, self._give_up, number, timeout_s)
        try:
            self._send(exchange.encode())
            return await answer
        except asyncio.CancelledError:
            self.close(SourceLost("the read was cancelled"))
            if not answer.cancelled():
                answer.exception()  # it came together with the cancellation; nobody else looks
            raise
        finally:
            deadline.cancel()
            self._pending.pop(number, None)

    def _is_header(self, head: bytes, length: int) -> bool:
        """Whether an answer may begin so; closes the connection where not."""
        number = int.from_bytes(head[:2], "big")
        if number not in self._pending and number not in self._given_up:
            self._doubt(head, "transaction_id", f"transaction id {number}, not asked for")
        elif head[2:4] != b"\0\0":
            self._doubt(head, "protocol_id", "a protocol id that is not Modbus")
        elif not 3 <= length <= ADU_BYTES_MAX - _HEAD_BYTES:
            self._doubt(head, "length", "an impossible length field")
        return self.lost is None

    def _take(self, frame: bytes, heard: list[tuple[_Pending, Any]]) -> None:
        """One whole answer, of which the number is known."""
        number = int.from_bytes(frame[:2], "big")
        if number in self._given_up:
            self._given_up.discard(number)
            self._peer.passed_over_total["late"] += 1
            return
        pending = self._pending[number]
        if pending.answer.done() or any(pending is each for each, _ in (*self._held, *heard)):
            self._doubt(frame, "transaction_id", f"transaction id {number} twice")
            return
        try:
            heard.append((pending, pending.exchange.feed(frame)))
        except DeviceRefused as refused:
            heard.append((pending, refused))
        except WireError as error:
            pending.answer.set_exception(error)
            self.close(error)

    def _doubt(self, heard: bytes, kind: str, what: str) -> None:
        self.close(WireError(f"the device answered with {what}: {heard[:16].hex(' ')}", kind=kind))

    def _give_up(self, number: int, timeout_s: float) -> None:
        pending = self._pending.get(number)
        if pending is None or pending.answer.done():
            return  # the answer came in the same turn of the loop
        error = no_answer(pending.exchange.query, timeout_s)
        pending.answer.set_exception(error)
        self._given_up.add(number)
        # Part of an answer would be filled up from the next one.
        is_dead = self._heard_s <= pending.sent_s or bool(self._buffer)
        if is_dead or len(self._given_up) > self._given_up_max:
            self.close(error)

    def _fail_all(self, reason: Exception) -> None:
        """What caused it has its own reason already; the others may be asked again at once."""
        self._held.clear()
        if self._releasing is not None:
            self._releasing.cancel()
        alone = len(self._pending) == 1
        for pending in self._pending.values():
            if not pending.answer.done():
                error = reason if alone else ConnectionClosed(f"the connection is closed: {reason}")
                pending.answer.set_exception(error)
