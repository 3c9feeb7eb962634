"""Slots: how many requests may be on a connection at once, and whose turn is next.

Who waits gets a slot round robin by unit id, in order of arrival within one: a unit id with many
requests, or one that takes its whole time-out, costs the others one slot each time.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque

__all__ = ["WAITING_MAX", "Slots"]

# Scans, a write and a person's question at once are a handful; more is a program out of hand.
WAITING_MAX = 1024


class Slots:
    """A number of slots, handed from one to the next."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: OrderedDict[int, deque[asyncio.Future[None]]] = OrderedDict()
        self._waiting_count = 0

    def take_now(self) -> bool:
        """Take a slot if one is free; nobody is passed by, for while one is free nobody waits."""
        if self._free:
            self._free -= 1
            return True
        return False

    async def take(self, unit_id: int) -> None:
        """Wait for a slot. Raises OverflowError when too many do."""
        if self._waiting_count >= WAITING_MAX:
            raise OverflowError(f"{WAITING_MAX} requests wait for the connection")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(unit_id, deque()).append(turn)
        self._waiting_count += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give()  # it came together with the cancellation
            raise

    def give(self) -> None:
        """Give a slot back, to who waits longest in the unit id whose turn it is."""
        while self._waiting:
            unit_id, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            self._waiting_count -= 1
            if turns:
                self._waiting[unit_id] = turns  # at the end: the others come first
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
