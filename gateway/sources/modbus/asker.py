"""Asker: requests over one connection at a time, which is replaced when it fails."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TypeVar

from gateway.clock import Clock
from gateway.errors import DeviceRefused, SourceError, SourceLost, SourceUnavailable, WireError
from gateway.sources import SourceStats
from gateway.sources.modbus.client import (
    Connection,
    ConnectionClosed,
    ResponseTimeout,
    connect,
)
from gateway.sources.modbus.config import ModbusSettings
from gateway.sources.modbus.device import Device
from gateway.sources.modbus.peer import Peer
from gateway.sources.modbus.wire import Query, Request

__all__ = ["Asker", "Breaks"]

T = TypeVar("T")

# A unit may break the connection once in a scan and go on; the second time it has had its share.
BREAKS_MAX = 2


@dataclass(slots=True)
class Breaks:
    """How often the units broke the connection in one scan."""

    of_unit: dict[int, int] = field(default_factory=dict)
    last: dict[int, Connection] = field(default_factory=dict)  # that failed a unit id

    def count(self, unit_id: int, connection: Connection) -> bool:
        """One more; whether that was its share. One connection's end may fail several requests."""
        is_new = connection.is_open or self.last.get(unit_id) is not connection
        self.last[unit_id] = connection
        self.of_unit[unit_id] = self.of_unit.get(unit_id, 0) + is_new
        return self.is_enough(unit_id)

    def is_enough(self, unit_id: int) -> bool:
        return self.of_unit.get(unit_id, 0) >= BREAKS_MAX


class Asker:
    """Requests to a device."""

    def __init__(self, device: Device, clock: Clock, stats: SourceStats) -> None:
        self._device = device
        self._clock = clock
        self._stats = stats
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        self._opened = AsyncExitStack()  # holds the connection, one at a time
        self.answered_ns = 0  # when the last answer came; 0: there was none in this session
        self.busy_ns = 0  # from requests to their answers, all in all

    async def connect(self) -> None:
        """Open the connection, in place of the one there was; raises SourceUnavailable."""
        await self.close()
        opening = connect(self._device.settings, self._device.peer)
        self._connection = await self._opened.enter_async_context(opening)
        await asyncio.sleep(self._device.settings.connect_pause)

    async def move(self, settings: ModbusSettings, peer: Peer) -> None:
        """Go on at another address, between two scans; raises SourceUnavailable."""
        async with self._connecting:  # what is asked beside the scans may be connecting, too
            await self.close()
            self._device.use(settings, peer)
            await self.connect()

    async def close(self) -> None:
        self._connection = None
        await self._opened.aclose()

    async def ask(self, query: Query[T], timeout_s: float) -> T:
        """Ask something beside the scans, on their connection; raises what it does."""
        return await (await self._connected()).ask(query, timeout_s)

    async def _request(self, request: Request, breaks: Breaks) -> tuple[bytes, int, int]:
        """The block's bytes, and when it was asked for and there, in monotonic time."""
        settings = self._device.settings
        timeout_s = settings.response_timeout
        while True:
            if settings.request_pause:
                await self._pause()
            connection = self._connection
            if connection is None or connection.lost is not None:
                connection = await self._connected()
            began_ns = self._clock.monotonic_ns()
            try:
                block = await connection.read(request, timeout_s)
            except (ResponseTimeout, ConnectionClosed, WireError) as error:
                self._count(error)
                if connection is self._connection and not connection.is_open:
                    self._connection = None
                    if connection.lost is not error and isinstance(connection.lost, WireError):
                        self._count(connection.lost)  # no request on it was to blame
                if connection.is_used_up:
                    continue  # it is as if the request had found it closed
                is_last = breaks.count(request.unit_id, connection)
                if is_last or not isinstance(error, ConnectionClosed):
                    raise
            else:
                ended_ns = self._clock.monotonic_ns()
                self.answered_ns, self.busy_ns = ended_ns, self.busy_ns + ended_ns - began_ns
                return block, began_ns, ended_ns

    async def _pause(self) -> None:
        """Give the device the time between two requests that its settings ask for."""
        pause_s = self._device.settings.request_pause
        left_s = self.answered_ns / 1e9 + pause_s - self._clock.monotonic_s()
        await asyncio.sleep(max(0.0, left_s))

    async def _connected(self) -> Connection:
        """A connection that is open, the one there was or a new one."""
        if self._connection is not None and self._connection.lost is None:
            return self._connection
        async with self._connecting:  # of several that found it closed one opens the next
            return await self._connect_anew()

    async def _connect_anew(self) -> Connection:
        if self._connection is not None and self._connection.lost is None:
            return self._connection
        if self._connection is not None and isinstance(self._connection.lost, SourceError):
            self._count(self._connection.lost)  # while nobody was reading
        try:
            await self.connect()
        except SourceUnavailable as error:
            self._count(error)
            raise SourceLost(error.message, hint=error.hint) from error
        assert self._connection is not None
        return self._connection

    def _count(self, error: SourceError) -> None:
        match error:
            case WireError():
                kind = f"wire_{error.kind}"
            case DeviceRefused():
                kind = f"exception_{error.code}"
            case ResponseTimeout():
                kind = "timeout"
            case SourceUnavailable():
                kind = "connect"
            case _:
                kind = "reset"
        self._stats.errors_total[kind] += 1
