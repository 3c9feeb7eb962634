"""Client: one TCP connection, one request at a time. Used once: after any fault it is closed.

A protocol on the transport, not streams: a serial read costs about half the CPU
(`bench/modbus_floor.py`). One deadline covers connecting, and one the whole of an answer, however
it dribbles in. What comes unasked closes the connection too, so that it can never be taken for
the next answer.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import cast

from gateway.errors import DeviceRefused, SourceLost, SourceUnavailable, WireError
from gateway.sources.modbus.wire import Exchange, Request

__all__ = ["Connection", "ConnectionClosed", "ResponseTimeout", "connect", "transaction_ids"]

# A peer that lost power says nothing: the kernel gives up on unacknowledged data, and on silence
# (3 probes, 2 s apart, after 4 s), within 10 s.
USER_TIMEOUT_MS = 8000
KEEPALIVE = ((socket.TCP_KEEPIDLE, 4), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 3))


class ResponseTimeout(SourceLost):
    """A request got no whole answer in time; what comes later dies with the connection."""


class ConnectionClosed(SourceLost):
    """The peer closed the connection."""


def transaction_ids(first: int) -> Iterator[int]:
    """Transaction ids from `first` on, 1-65535 round and round.

    One series serves all connections to a device, because some Modbus gateways hand the late
    answer of a serial line to whichever connection is open by then. 0 is left out: it is what a
    device answers that does not care.
    """
    transaction_id = first
    while True:
        transaction_id = transaction_id % 65535 + 1
        yield transaction_id


class Connection(asyncio.Protocol):
    """An open connection."""

    def __init__(self, ids: Iterator[int] | None = None) -> None:
        self._ids = transaction_ids(0) if ids is None else ids
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._exchange: Exchange | None = None
        self._waiting: asyncio.Future[bytes] | None = None
        self.lost: Exception | None = None  # why it is closed

    @property
    def is_open(self) -> bool:
        return self.lost is None

    async def read(self, request: Request, timeout_s: float) -> bytes:
        """The block that answers `request`.

        Raises DeviceRefused, ResponseTimeout, WireError, or ConnectionClosed; after all but the
        first the connection is closed.
        """
        if self.lost is not None:
            raise ConnectionClosed(f"the connection is closed: {self.lost}")
        assert self._waiting is None, "requests on a connection are serial"
        self._exchange = exchange = Exchange(next(self._ids), request)
        waiting: asyncio.Future[bytes] = self._loop.create_future()
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
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        for option, value in KEEPALIVE:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)

    def data_received(self, data: bytes) -> None:
        exchange, waiting = self._exchange, self._waiting
        if exchange is None or waiting is None or waiting.done():
            what = f"the device sent {len(data)} bytes that nobody asked for"
            self.close(WireError(what, kind="unasked"))
            return
        try:
            block = exchange.feed(data)
        except DeviceRefused as refused:
            waiting.set_exception(refused)
        except WireError as error:
            self.close(error)
        else:
            if block is not None:
                waiting.set_result(block)

    def connection_lost(self, exc: Exception | None) -> None:
        self.close(ConnectionClosed(f"the device closed the connection: {exc or 'end of stream'}"))

    def _time_out(self, timeout_s: float) -> None:
        assert self._exchange is not None
        assert self._waiting is not None
        if self._waiting.done():
            return  # the answer came in the same turn of the loop
        request = self._exchange.request
        self.close(
            ResponseTimeout(
                f"unit {request.unit_id} gave no answer within {timeout_s:g} s to function"
                f" {request.function} at address {request.address}",
                hint="check the unit id, or raise response_timeout",
            )
        )


@asynccontextmanager
async def connect(
    host: str, port: int, timeout_s: float, ids: Iterator[int] | None = None
) -> AsyncIterator[Connection]:
    """A connection until the block ends; raises SourceUnavailable.

    `ids` numbers the requests; connections to one device should share it.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            _, connection = await loop.create_connection(lambda: Connection(ids), host, port)
    except TimeoutError as error:
        raise SourceUnavailable(
            f"{host}:{port} does not answer within {timeout_s:g} s",
            hint="check the address, the cable and the firewall",
        ) from error
    except (OSError, UnicodeError) as error:  # a host name that IDNA refuses is a UnicodeError
        raise SourceUnavailable(
            f"cannot connect to {host}:{port}: {getattr(error, 'strerror', None) or error}",
            hint="check that the device is on and its Modbus TCP server enabled",
        ) from error
    try:
        yield connection
    finally:
        connection.close(SourceLost("closed"))
