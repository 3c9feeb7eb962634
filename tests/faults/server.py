"""A database in memory that may be down, late, or cut off before or after it stored."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from gateway.errors import SinkUnavailable
from gateway.frame import Frame
from gateway.sinks import Receipt, SinkStats
from tests.faults.timekeeping import Timekeeping

__all__ = ["Server"]

MOODS = ("up", "down", "late", "lost_answer", "lost_request", "half")
EPOCH_NS = 1_767_000_000_000_000_000


class Server:
    """A sink whose far end keeps each value once; it is the sample's name, too."""

    name = "db"

    def __init__(self, rng: random.Random, tags: int, time: Timekeeping) -> None:
        self.stats = SinkStats()
        self.stored: dict[int, int] = {}  # value -> how often it came
        self.requests = 0
        self._rng = rng
        self._tags = tags
        self._time = time
        self.is_deceived = False  # the disk lied: what a value's time was may be forgotten
        self._mood = rng.choice(("up", "up", "down"))

    def misbehave(self) -> None:
        self._mood = self._rng.choice(MOODS)

    def heal(self) -> None:
        self._mood = "up"

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        yield

    @staticmethod
    def t_ns_of(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        return EPOCH_NS + values.astype(np.int64) * 1000

    async def write(self, frame: Frame) -> Receipt:
        """Answer, in a way; what is stored does not depend on whether the answer arrives."""
        self.requests += 1
        mood = self._mood
        if mood == "down":
            raise SinkUnavailable("connection refused")
        if mood == "late":
            await asyncio.sleep(5.0)
        elif mood != "up":
            await asyncio.sleep(0.1)
        if mood == "lost_request":
            raise SinkUnavailable("connection reset")
        self._store(frame.rows(0, len(frame) // 2) if mood == "half" else frame)
        if mood in ("lost_answer", "half"):
            raise SinkUnavailable("connection reset", is_server_fault=self._rng.random() < 0.5)
        return Receipt(accepted=range(len(frame)))

    def _store(self, frame: Frame) -> None:
        values = frame.values.astype(np.int64)
        # The same series and time for the same value, always: so sending twice changes nothing.
        if self._time.has_chip or not self.is_deceived:
            self._time.check(frame, self.t_ns_of(values))
        assert (frame.tag_ids % self._tags == values % self._tags).all(), "a value of a wrong tag"
        for value in values.tolist():
            self.stored[value] = self.stored.get(value, 0) + 1
