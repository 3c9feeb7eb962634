"""Channel: the bounded way from the sources into the pipeline.

Bounded in samples. Above the high mark `has_room` is false until the pipeline has taken what
waits: Modbus skips scans and counts them, MQTT leaves QoS 1 with the broker and drops QoS 0,
counted. `put` waits at the bound itself, so that nothing put is ever lost.
"""

from __future__ import annotations

import asyncio

from gateway.frame import Arrival
from gateway.stats import stat, stats

__all__ = ["Channel", "ChannelStats"]

# Half a second of 200,000 samples/s, more than a small board can work off: 2 MB of arrays.
SAMPLES_MAX = 100_000
HIGH_MARK = 0.8  # the last fifth is for what was already being read when the mark was passed


@stats
class ChannelStats:
    """How full the channel is, and how often it was too full."""

    samples_waiting: int = stat("samples read and not yet taken up by the pipeline")
    samples_waiting_max: int = stat("the most samples that waited at once, since the start")
    full_total: int = stat("times so many waited that sources were told to pause")


class Channel:
    """Many sources put, one pipeline gathers."""

    def __init__(self, samples_max: int = SAMPLES_MAX) -> None:
        self._samples_max = samples_max
        self._high = int(samples_max * HIGH_MARK)
        self._arrivals: list[Arrival] = []
        self._samples = 0
        self._above_high = False
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self.stats = ChannelStats()

    def has_room(self) -> bool:
        """Whether sources may read more from their devices."""
        return not self._above_high

    async def put(self, arrival: Arrival) -> None:
        """Hand one arrival on; waits while the channel is full."""
        while self._samples >= self._samples_max:
            self._room.clear()
            await self._room.wait()
        self._arrivals.append(arrival)
        self._samples += len(arrival.frame)
        self._arrived.set()
        if self._samples >= self._high and not self._above_high:
            self._above_high = True
            self.stats.full_total += 1
        self.stats.samples_waiting = self._samples
        self.stats.samples_waiting_max = max(self.stats.samples_waiting_max, self._samples)

    async def gather(self, turn_s: float, idle_s: float) -> list[Arrival]:
        """Everything that arrived; waits up to `idle_s` for the first, then `turn_s` for more."""
        if not self._arrivals:
            try:
                async with asyncio.timeout(idle_s):
                    await self._arrived.wait()
            except TimeoutError:
                return []
        if self.has_room():
            await asyncio.sleep(turn_s)
        return self.take()

    def take(self) -> list[Arrival]:
        """Everything that has arrived, at once."""
        arrivals, self._arrivals = self._arrivals, []
        self._samples = 0
        self._above_high = False
        self._arrived.clear()
        self._room.set()
        self.stats.samples_waiting = 0
        return arrivals
