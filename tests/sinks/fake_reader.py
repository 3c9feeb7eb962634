"""A spool's reader that has some frames and then nothing more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from gateway.frame import Frame, Lane
from gateway.spool.reader import Backlog, Batch


class FakeReader:
    """Gives some frames, one after the other, and then nothing more."""

    def __init__(self, frames: Iterable[Frame]) -> None:
        self._frames = list(frames)
        self.acknowledged = 0
        self.asked: list[int] = []
        self.done = asyncio.Event()
        self._stops: dict[int, tuple[asyncio.Event, asyncio.Event]] = {}

    def stop_at(self, acknowledged: int) -> tuple[asyncio.Event, asyncio.Event]:
        """Give nothing from so many acknowledged batches on: has come there, may go on."""
        return self._stops.setdefault(acknowledged, (asyncio.Event(), asyncio.Event()))

    async def next(self, samples_max: int) -> Batch:
        self.asked.append(samples_max)
        if self.acknowledged == len(self._frames):
            self.done.set()
            await asyncio.Event().wait()
        has_come, may_go_on = self._stops.get(self.acknowledged, (None, None))
        if has_come is not None and may_go_on is not None:
            has_come.set()
            await may_go_on.wait()
        return Batch(Lane.RAW, self._frames[self.acknowledged], self.acknowledged)

    async def acknowledge(self, batch: Batch) -> None:
        assert batch.position == self.acknowledged
        self.acknowledged += 1

    def backlog(self) -> Backlog:
        return Backlog(sum(map(len, self._frames[self.acknowledged :])), 1)
