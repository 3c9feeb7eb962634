"""Client: one TCP connection, one request at a time. Used once: after any fault it is closed.

A protocol on the transport, not streams: a serial read costs half the CPU. One deadline covers
connecting, and one the whole of an answer, however it dribbles in.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from gateway.errors import DeviceRefused, SourceLost, SourceUnavailable, WireError
from gateway.sources.modbus.wire import Exchange, Request

__all__ = ["Connection", "ResponseTimeout", "connect"]

# A peer that lost power says nothing: the kernel gives up on unacknowledged data, and on silence
# (3 probes, 2 s apart, after 4 s), within 10 s.
USER_TIMEOUT_MS = 8000
KEEPALIVE = ((socket.TCP_KEEPIDLE, 4), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 3))


class ResponseTimeout(SourceLost):
    """A request got no whole answer in time; what comes later dies with the connection."""


class Connection(asyncio.Protocol):
    """An open connection."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._waiting: asyncio.Future[bytes] | None = None
        self._transaction_id = 0
        self._lost: Exception | None = None

    @property
    def is_open(self) -> bool:
        return self._lost is None

    async def read(self, request: Request, timeout_s: float) -> bytes:
        """The block that answers `request`.

        Raises DeviceRefused, ResponseTimeout, WireError, or SourceLost when the peer closed;
        after all but the first the connection is closed.
        """
        if self._lost is not None or self._transport is None:
            raise SourceLost(f"the connection is closed: {self._lost}")
        assert self._waiting is None, "requests on a connection are serial"
        loop = asyncio.get_running_loop()
        self._transaction_id = self._transaction_id % 65535 + 1
        self._exchange = Exchange(self._transaction_id, request)
        self._waiting = loop.create_future()
        deadline = loop.call_later(timeout_s, self._time_out, request, timeout_s)
        try:
            self._transport.write(self._exchange.encode())
            return await self._waiting
        except asyncio.CancelledError:
            self.close(SourceLost("the read was cancelled"))
            raise
        finally:
            deadline.cancel()
            self._exchange = self._waiting = None

    def close(self, reason: Exception) -> None:
        """End it; a read under way raises `reason`."""
        if self._lost is None:
            self._lost = reason
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(reason)
        if self._transport is not None:
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
            what = f"{len(data)} bytes that nobody asked for"
            self.close(WireError(f"the device sent {what}", kind="unasked"))
            return
        try:
            block = exchange.feed(data)
        except DeviceRefused as error:
            waiting.set_exception(error)
        except WireError as error:
            self.close(error)
        else:
            if block is not None:
                waiting.set_result(block)

    def connection_lost(self, exc: Exception | None) -> None:
        self.close(SourceLost(f"the device closed the connection: {exc or 'end of stream'}"))

    def _time_out(self, request: Request, timeout_s: float) -> None:
        self.close(
            ResponseTimeout(
                f"unit {request.unit_id} gave no answer within {timeout_s:g} s to function"
                f" {request.function} at address {request.address}"
            )
        )


@asynccontextmanager
async def connect(host: str, port: int, timeout_s: float) -> AsyncIterator[Connection]:
    """A connection until the block ends; raises SourceUnavailable."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            _, connection = await loop.create_connection(Connection, host, port)
    except TimeoutError as error:
        raise SourceUnavailable(
            f"{host}:{port} does not answer within {timeout_s:g} s",
            hint="check the address, the cable and the firewall",
        ) from error
    except (OSError, UnicodeError) as error:
        raise SourceUnavailable(
            f"cannot connect to {host}:{port}: {getattr(error, 'strerror', None) or error}",
            hint="check that the device is on and its Modbus TCP server enabled",
        ) from error
    try:
        yield connection
    finally:
        connection.close(SourceLost("closed"))
