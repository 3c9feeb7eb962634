"""Client: one connection or serial line, one request at a time. After any fault it is closed.

Who asks while it is busy waits for a turn, fair between unit ids (`slots`).

A protocol on the transport, not streams: a serial read costs about half the CPU
(`bench/modbus_floor.py`). One deadline covers connecting, and one the whole of an answer, however
it dribbles in. What comes unasked closes the connection too, so that it can never be taken for
the next answer. On a serial line, where noise comes unasked, it is passed over: there an answer is
known by what it says, and because the line was quiet before the request.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar, cast

from gateway.errors import DeviceRefused, SourceLost, SourceUnavailable, WireError
from gateway.sources.modbus import serial
from gateway.sources.modbus.config import ModbusRtuSettings, ModbusSettings, ModbusTcpSettings
from gateway.sources.modbus.line import quiet_s
from gateway.sources.modbus.peer import Peer
from gateway.sources.modbus.rtu import RtuExchange
from gateway.sources.modbus.slots import Slots
from gateway.sources.modbus.wire import Exchange, Query, Request

__all__ = ["Connection", "ConnectionClosed", "ResponseTimeout", "connect"]

T = TypeVar("T")
AnyExchange: TypeAlias = Exchange[Any] | RtuExchange[Any]
NewExchange: TypeAlias = Callable[[Query[Any]], AnyExchange]

# A peer that lost power says nothing: the kernel gives up on unacknowledged data, and on silence
# (3 probes, 2 s apart, after 4 s), within 10 s.
USER_TIMEOUT_MS = 8000
# A device that was too late for one request is given so long to be over with it.
LATE_ANSWER_S = 0.1
SILENCE_MAX_S = 1.0
KEEPALIVE = ((socket.TCP_KEEPIDLE, 4), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 3))


class ResponseTimeout(SourceLost):
    """A request got no whole answer in time; what comes later dies with the connection."""


class ConnectionClosed(SourceLost):
    """The peer closed the connection."""


class Connection(asyncio.Protocol):
    """An open connection."""

    def __init__(self, exchange: NewExchange, *, quiet_s: float = 0.0) -> None:
        """`quiet_s` is how long the line must be silent before a request; 0 is not a line."""
        self._new_exchange = exchange
        self._quiet_s = quiet_s
        self._heard_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._slots = Slots(1)
        self._exchange: AnyExchange | None = None
        self._waiting: asyncio.Future[Any] | None = None
        self.lost: Exception | None = None  # why it is closed

    def hear(self, more_s: float) -> None:
        """Take the line for busy from now on, so much longer than it would be."""
        self._heard_s = self._loop.time() + more_s

    @property
    def is_open(self) -> bool:
        return self.lost is None

    async def read(self, request: Request, timeout_s: float) -> bytes:
        """The block that answers `request`; raises what `ask` does."""
        return await self.ask(request, timeout_s)

    async def ask(self, query: Query[T], timeout_s: float) -> T:
        """What answers `query`, in `timeout_s` from when it is its turn.

        Raises DeviceRefused, ResponseTimeout, WireError, or ConnectionClosed; after all but the
        first the connection is closed.
        """
        if not self._slots.take_now():
            await self._slots.take(query.unit_id)
        try:
            if self._quiet_s and self.lost is None:
                await self._silence()
            if self.lost is not None:
                raise ConnectionClosed(f"the connection is closed: {self.lost}")
            return await self._ask(query, timeout_s)
        finally:
            self._slots.give()

    async def _ask(self, query: Query[T], timeout_s: float) -> T:
        self._exchange = exchange = self._new_exchange(query)
        waiting: asyncio.Future[T] = self._loop.create_future()
        self._waiting = waiting
        deadline = self._loop.call_later(timeout_s, self._time_out, timeout_s)
        try:
            self._transport.write(exchange.encode())
            return await waiting
        except asyncio.CancelledError:
            self.close(SourceLost("the read was cancelled"))
            if not waiting.cancelled():
                waiting.exception()  # it came together with the cancellation; nobody else looks
            raise
        finally:
            deadline.cancel()
            self._exchange = self._waiting = None

    async def _silence(self) -> None:
        """Return once nothing has been heard for long enough (Serial Line 1.02, 2.5.1.1)."""
        limit_s = self._loop.time() + SILENCE_MAX_S
        while (left_s := self._heard_s + self._quiet_s - self._loop.time()) > 0:
            if self._loop.time() > limit_s:
                self.close(WireError("the line is never quiet", kind="noise"))
            if self.lost is not None:
                return
            await asyncio.sleep(left_s)

    def close(self, reason: Exception) -> None:
        """End it; a read under way raises `reason`."""
        if self.lost is not None:
            return
        self.lost = reason
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(reason)
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have asyncio's interface, not its base class.
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock is None:
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        for option, value in KEEPALIVE:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)

    def data_received(self, data: bytes) -> None:
        exchange, waiting = self._exchange, self._waiting
        self._heard_s = self._loop.time()
        if exchange is None or waiting is None or waiting.done():
            if self._quiet_s:
                return  # noise, or a late answer: the next request waits until it is over
            what = f"the device sent {len(data)} bytes that nobody asked for"
            self.close(WireError(what, kind="unasked"))
            return
        try:
            answer = exchange.feed(data)
        except DeviceRefused as refused:
            waiting.set_exception(refused)
        except WireError as error:
            self.close(error)
        else:
            if answer is not None:
                waiting.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self.close(ConnectionClosed(f"the device closed the connection: {exc or 'end of stream'}"))

    def _time_out(self, timeout_s: float) -> None:
        assert self._exchange is not None
        assert self._waiting is not None
        if self._waiting.done():
            return  # the answer came in the same turn of the loop
        query = self._exchange.query
        self.close(
            ResponseTimeout(
                f"unit {query.unit_id} gave no answer within {timeout_s:g} s to function"
                f" {query.function} at address {query.address}",
                hint="check the unit id, or raise response_timeout",
            )
        )


@asynccontextmanager
async def connect(settings: ModbusSettings, peer: Peer) -> AsyncIterator[Connection]:
    """A connection until the block ends; raises SourceUnavailable.

    All connections to one device share a `peer`.
    """
    match settings:
        case ModbusTcpSettings():
            connection = await _connect(settings, peer)
        case ModbusRtuSettings():
            connection = _open_line(settings)
        case _:
            raise TypeError(f"no way to {type(settings).__name__}")
    try:
        yield connection
    finally:
        connection.close(SourceLost("closed"))


async def _connect(settings: ModbusTcpSettings, peer: Peer) -> Connection:
    loop = asyncio.get_running_loop()
    ids = peer.transaction_ids
    new: NewExchange = lambda query: Exchange(next(ids), query)  # noqa: E731 - shorter so
    if settings.framing == "rtu":
        new = RtuExchange
    try:
        async with asyncio.timeout(settings.connect_timeout):
            _, connection = await loop.create_connection(
                lambda: Connection(new),
                settings.host,
                settings.port,
                ssl=_tls(settings) if settings.tls else None,
            )
    except TimeoutError as error:
        raise SourceUnavailable(
            f"{settings.address} does not answer within {settings.connect_timeout:g} s",
            hint="check the address, the cable and the firewall",
        ) from error
    except ssl.SSLCertVerificationError as error:
        raise SourceUnavailable(
            f"{settings.address}: {error.verify_message}",
            hint="check the device's certificate, tls_ca and this clock",
        ) from error
    except (OSError, UnicodeError) as error:  # a host name that IDNA refuses is a UnicodeError
        raise SourceUnavailable(
            f"cannot connect to {settings.address}: {getattr(error, 'strerror', None) or error}",
            hint="check that the device is on and its Modbus TCP server enabled",
        ) from error
    return connection


def _tls(settings: ModbusTcpSettings) -> ssl.SSLContext:
    """Modbus/TCP Security 2.1: TLS 1.2 or later, each side with a certificate."""
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca or None)
        if settings.tls_certificate:
            context.load_cert_chain(settings.tls_certificate)
    except OSError as error:  # ssl.SSLError is one
        raise SourceUnavailable(
            f"cannot use tls_ca or tls_certificate: {error.strerror or error}",
            hint="they must be PEM files the service may read",
        ) from error
    return context


def _open_line(settings: ModbusRtuSettings) -> Connection:
    connection = Connection(
        lambda query: RtuExchange(query, has_echo=settings.echo), quiet_s=quiet_s(settings)
    )
    transport = serial.SerialTransport(serial.open_port(settings), connection)
    connection.connection_made(cast("asyncio.Transport", transport))
    # What was on its way when the line was given up must not be taken for the next answer.
    connection.hear(LATE_ANSWER_S)
    return connection
