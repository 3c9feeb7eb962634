"""Transports that asyncio's streams do not have: datagrams as a connection sees bytes."""

from __future__ import annotations

import asyncio
from typing import Any, cast

__all__ = ["Datagrams"]


class Datagrams(asyncio.DatagramProtocol):
    """A UDP socket to one peer, as transport of a connection: each write is a datagram.

    A port nobody listens at is told by the peer's kernel, and ends the connection.
    """

    def __init__(self, connection: asyncio.Protocol) -> None:
        self._connection = connection
        self._transport: asyncio.DatagramTransport

    def write(self, data: bytes) -> None:
        self._transport.sendto(data)

    def abort(self) -> None:
        self._transport.abort()

    def get_extra_info(self, name: str) -> Any:
        return self._transport.get_extra_info(name)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have asyncio's interface, not its base class.
        self._transport = cast("asyncio.DatagramTransport", transport)
        self._connection.connection_made(cast("asyncio.BaseTransport", self))

    def datagram_received(self, data: bytes, addr: object) -> None:
        del addr  # the kernel lets nobody else in: the socket is connected
        self._connection.data_received(data)

    def error_received(self, exc: Exception) -> None:
        self._connection.connection_lost(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)
