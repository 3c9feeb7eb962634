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

    async def next(self, samples_max: int) -> Batch:
        self.asked.append(samples_max)
        if self.acknowledged == len(self._frames):
            self.done.set()
            await asyncio.Event().wait()
        return Batch(Lane.RAW, self._frames[self.acknowledged], self.acknowledged)

    async def acknowledge(self, batch: Batch) -> None:
        assert batch.position == self.acknowledged
        self.acknowledged += 1

    def backlog(self) -> Backlog:
        return Backlog(sum(map(len, self._frames[self.acknowledged :])), 1)
