"""Broadcast: one snapshot a second, built once, for every page that is open.

Nothing is queued for a client: each waits for the next message, sends it, and waits again. One
that is slow misses messages, and the next it gets is the newest, so a hundred slow clients hold
no memory. With no client nothing is built.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Self

from gateway.ops.snapshot import Snapshots
from gateway.ops.view import GatewayView

__all__ = ["Broadcast"]

PERIOD_S = 1.0


class Broadcast:
    """Server-sent events (HTML Living Standard, 9.2), made once and given to all."""

    def __init__(
        self, view: GatewayView, period_s: float = PERIOD_S, *, takes_commands: bool = False
    ) -> None:
        self._snapshots = Snapshots(view, takes_commands=takes_commands)
        self._period_s = period_s
        self._whole: bytes | None = None  # kept for the clients that come within one period
        self._next: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._wanted = asyncio.Event()
        self._clients = 0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="page")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        await asyncio.wait([self._task])

    def close(self) -> None:
        """End what every client is waiting for."""
        self._task.cancel()
        if not self._next.done():
            self._next.set_result(b"")

    async def messages(self) -> AsyncGenerator[bytes, None]:
        """A whole at once, then what is newest each time the caller is ready, until `close`."""
        self._clients += 1
        self._wanted.set()
        try:
            if self._whole is None:
                self._snapshots.refresh()
                self._whole = _event("whole", self._snapshots.whole())
            yield self._whole
            while message := await asyncio.shield(self._next):
                yield message
        finally:
            self._clients -= 1
            if not self._clients:
                self._wanted.clear()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wanted.wait()
            await asyncio.sleep(self._period_s - loop.time() % self._period_s)
            if self._snapshots.refresh():
                self._whole = _event("whole", self._snapshots.whole())
                message = self._whole
            else:
                self._whole = None
                message = _event("tick", self._snapshots.tick())
            current, self._next = self._next, loop.create_future()
            current.set_result(message)


def _event(kind: str, data: bytes) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"
