"""Connection: one connection or serial line, one request at a time. After any fault it is closed.

A protocol on the transport, not streams: a serial read costs about half the CPU
(`bench/modbus_floor.py`). Who asks while it is busy waits for a turn, fair between unit ids
(`slots`). One deadline covers the whole of an answer, however it dribbles in. What comes unasked
closes the connection too, so that it can never be taken for the next answer. On a serial line,
where noise comes unasked, it is passed over: there an answer is known by what it says, because the
line was quiet before the request, and because nothing late could be taken for it (`late`).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar, cast

from gateway.errors import DeviceRefused, SourceLost, WireError
from gateway.sources.modbus.peer import Peer
from gateway.sources.modbus.rtu import LineExchange
from gateway.sources.modbus.slots import Slots
from gateway.sources.modbus.wire import Exchange, Query, Request

__all__ = [
    "LATE_ANSWER_S",
    "AnyExchange",
    "Connection",
    "ConnectionClosed",
    "Manner",
    "NewExchange",
    "ResponseTimeout",
    "Transport",
]

T = TypeVar("T")
AnyExchange: TypeAlias = Exchange[Any] | LineExchange[Any]
NewExchange: TypeAlias = Callable[[Query[Any]], AnyExchange]

# A peer that lost power says nothing: the kernel gives up on unacknowledged data, and on silence
# (3 probes, 2 s apart, after 4 s), within 10 s.
USER_TIMEOUT_MS = 8000
KEEPALIVE = ((socket.TCP_KEEPIDLE, 4), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 3))
# A device that was too late for one request is given so long to be over with it.
LATE_ANSWER_S = 0.1
SILENCE_S_MAX = 1.0


class ResponseTimeout(SourceLost):
    """A request got no whole answer in time; what comes later dies with the connection."""


class ConnectionClosed(SourceLost):
    """The peer closed the connection."""


class Transport(Protocol):
    """What a connection needs of what carries it."""

    def write(self, data: bytes) -> None: ...

    def abort(self) -> None: ...

    def get_extra_info(self, name: str) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How one talks on a kind of connection."""

    # How long the line must be silent before a request; 0: it is not a line.
    quiet_s: float = 0.0
    # The longest pause within an answer; 0: none but the deadline.
    gap_s: float = 0.0
    # An answer has the number of its request, so that a late one is known.
    is_numbered: bool = True
    # What arrives at once is a whole answer or none.
    is_datagram: bool = False


class Connection(asyncio.Protocol):
    """An open connection."""

    def __init__(self, exchange: NewExchange, manner: Manner, peer: Peer) -> None:
        self._new_exchange = exchange
        self._manner = manner
        self._peer = peer
        self._wire_log = peer.wire_log
        self._slots = Slots(1)
        self._loop = asyncio.get_running_loop()
        self._heard_s = 0.0
        self._transport: Transport
        self._exchange: AnyExchange | None = None
        self._waiting: asyncio.Future[Any] | None = None
        self._gap: asyncio.TimerHandle | None = None
        # One timer for all requests, which looks whether the deadline of the last has passed: a
        # timer a request costs as much as the request.
        self._watch: asyncio.TimerHandle | None = None
        self._deadline_s = 0.0
        self._asked: tuple[Query[Any], float] | None = None  # under way, and its time
        self._has_answered = False
        self.lost: Exception | None = None  # why it is closed
        # Whether the peer closed it in order, having answered: some do so after each answer.
        self.is_used_up = False

    def hear(self, more_s: float) -> None:
        """Take the line for busy from now on, so much longer than it would be."""
        self._heard_s = self._loop.time() + more_s

    @property
    def is_open(self) -> bool:
        return self.lost is None

    def read(self, request: Request, timeout_s: float) -> Awaitable[bytes]:
        """The block that answers `request`; raises what `ask` does."""
        return self.ask(request, timeout_s)

    async def ask(self, query: Query[T], timeout_s: float) -> T:
        """What answers `query`, in `timeout_s` from when it is its turn.

        Raises DeviceRefused, ResponseTimeout, WireError, or ConnectionClosed; after all but the
        first the connection is closed, unless several requests may be on it at once.
        """
        if not self._slots.take_now():
            await self._slots.take(query.unit_id)
        try:
            if self._manner.is_numbered:
                return await self._ask(query, timeout_s)
            return await self._ask_unnumbered(query, timeout_s)
        finally:
            self._slots.give()

    def close(self, reason: Exception) -> None:
        """End it; a read under way raises `reason`."""
        if self.lost is not None:
            return
        self.lost = reason
        self._wire_log.closed(reason)
        self._fail_all(reason)
        if self._watch is not None:
            self._watch.cancel()
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport | Transport) -> None:
        # uvloop's transports have asyncio's interface, not its base class.
        self._transport = cast("Transport", transport)
        self._wire_log.opened()
        sock = transport.get_extra_info("socket")
        if sock is None or self._manner.is_datagram:
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        for option, value in KEEPALIVE:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)

    def data_received(self, data: bytes) -> None:
        if self._wire_log.is_on:
            self._wire_log.heard(data)
        exchange, waiting = self._exchange, self._waiting
        if waiting is None or waiting.done():
            self._take_unasked(data)
            return
        assert exchange is not None, "there is one as long as somebody waits"
        manner = self._manner
        if manner.quiet_s:
            self._heard_s = self._loop.time()
        if manner.is_datagram and self._is_late(exchange, data):
            return
        try:
            answer = exchange.feed(data)
        except DeviceRefused as refused:
            self._has_answered = True
            waiting.set_exception(refused)
        except WireError as error:
            self.close(error)
        else:
            if answer is not None:
                self._has_answered = True
                if isinstance(exchange, LineExchange) and exchange.glitches:
                    self._peer.passed_over_total["noise"] += exchange.glitches
                waiting.set_result(answer)
            else:
                self._await_more(waiting, len(data))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_used_up = exc is None and self._has_answered and self.lost is None
        self.close(ConnectionClosed(f"the device closed the connection: {exc or 'end of stream'}"))

    async def _ask(self, query: Query[T], timeout_s: float) -> T:
        if self.lost is not None:
            raise ConnectionClosed(f"the connection is closed: {self.lost}")
        self._exchange = exchange = self._new_exchange(query)
        waiting: asyncio.Future[T] = self._loop.create_future()
        self._waiting = waiting
        self._asked = query, timeout_s
        self._deadline_s = deadline_s = self._loop.time() + timeout_s
        if self._watch is None or self._watch.when() > deadline_s:
            self._look_at(deadline_s)
        try:
            self._send(exchange.encode())
            return await waiting
        except asyncio.CancelledError:
            self.close(SourceLost("the read was cancelled"))
            if not waiting.cancelled():
                waiting.exception()  # it came together with the cancellation; nobody else looks
            raise
        finally:
            self._exchange = self._waiting = self._asked = None

    def _look_at(self, deadline_s: float) -> None:
        """Have it looked then whether an answer is overdue."""
        if self._watch is not None:
            self._watch.cancel()
        self._watch = self._loop.call_at(deadline_s, self._look)

    def _look(self) -> None:
        self._watch = None
        if self._asked is None or self.lost is not None:
            return
        if self._loop.time() < self._deadline_s:
            self._look_at(self._deadline_s)
        else:
            self._time_out(*self._asked)

    async def _ask_unnumbered(self, query: Query[T], timeout_s: float) -> T:
        """Ask so that nothing late can be taken for the answer."""
        late, deadline_s = self._peer.late, self._loop.time() + timeout_s
        if isinstance(query, Request) and late.is_doubtful(query, self._loop.time()):
            try:
                await self._ask_and_note(late.probe(query), timeout_s)
            except DeviceRefused:
                # It may itself have been late; then what was asked now follows at once.
                self._heard_s = self._loop.time()
                await self._silence(LATE_ANSWER_S)
            late.over(query.unit_id)
            # One deadline for both; but what is left may be nothing at all.
            timeout_s = max(deadline_s - self._loop.time(), timeout_s / 2)
        return await self._ask_and_note(query, timeout_s)

    async def _ask_and_note(self, query: Query[T], timeout_s: float) -> T:
        """Ask once the line is quiet, and remember what was left unanswered."""
        late = self._peer.late
        if self._manner.quiet_s:
            await self._silence(self._manner.quiet_s)
        if self.lost is not None:
            raise ConnectionClosed(f"the connection is closed: {self.lost}")
        try:
            answer = await self._ask(query, timeout_s)
        except DeviceRefused:
            if late.is_expected(query.unit_id):
                late.expect(query, self._loop.time())
            raise
        except BaseException:
            late.expect(query, self._loop.time())
            raise
        if late:
            late.over(query.unit_id)
        return answer

    async def _silence(self, quiet_s: float) -> None:
        """Return once nothing has been heard for long enough (Serial Line 1.02, 2.5.1.1)."""
        limit_s = self._loop.time() + SILENCE_S_MAX
        while (left_s := self._heard_s + quiet_s - self._loop.time()) > 0:
            if self._loop.time() > limit_s:
                self.close(WireError("the line is never quiet", kind="noise"))
            if self.lost is not None:
                return
            await asyncio.sleep(left_s)

    def _send(self, data: bytes) -> None:
        if self._wire_log.is_on:
            self._wire_log.sent(data)
        self._transport.write(data)

    def _take_unasked(self, data: bytes) -> None:
        if self._manner.quiet_s:
            # Noise, or a late answer: the next request waits until it is over.
            self._heard_s = self._loop.time()
            self._peer.passed_over_total["noise"] += 1
            return
        if self._manner.is_datagram and self._manner.is_numbered:
            # A network may double a datagram; its number makes it harmless.
            self._peer.passed_over_total["late"] += 1
            return
        what = f"the device sent {len(data)} bytes that nobody asked for"
        self.close(WireError(what, kind="unasked"))

    def _fail_all(self, reason: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(reason)

    def _is_late(self, exchange: AnyExchange, datagram: bytes) -> bool:
        """Whether it answers an earlier request, which its number shows."""
        is_late = isinstance(exchange, Exchange) and not exchange.is_numbered(datagram)
        self._peer.passed_over_total["late"] += is_late
        return is_late

    def _await_more(self, waiting: asyncio.Future[Any], heard: int) -> None:
        """An answer has begun: have it go on in time, if it may be in parts at all."""
        if self._manner.is_datagram:
            self.close(WireError(f"{heard} bytes are no whole answer", kind="length"))
        elif self._manner.gap_s:
            if self._gap is not None:
                self._gap.cancel()
            self._gap = self._loop.call_later(self._manner.gap_s, self._break_off, waiting)

    def _break_off(self, waiting: asyncio.Future[Any]) -> None:
        if not waiting.done():
            what = f"an answer stopped in the middle, and nothing came for {self._manner.gap_s:g} s"
            self.close(WireError(what, kind="gap"))

    def _time_out(self, query: Query[Any], timeout_s: float) -> None:
        if self._waiting is None or self._waiting.done():
            return  # the answer came in the same turn of the loop
        self.close(no_answer(query, timeout_s))


def no_answer(query: Query[Any], timeout_s: float) -> ResponseTimeout:
    """What a request raises that nothing answered in time."""
    return ResponseTimeout(
        f"unit {query.unit_id} gave no answer within {timeout_s:g} s to function"
        f" {query.function} at address {query.address}",
        hint="check the unit id, or raise response_timeout",
    )
