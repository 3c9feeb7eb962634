"""A plant in real time: how many steps are due, without drift, and running beside a block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

__all__ = ["Pace", "beside"]

# Real time between two looks: steps that are shorter are taken several at once.
_LOOK_S_MIN = 0.02
# After a pause (a suspended machine) at most so many steps are made up; the rest never happened.
_STEPS_MAX = 1000


class Pace:
    """Yields the number of steps that are due, each time at least one."""

    def __init__(self, step_s: float, speed: float) -> None:
        self._period_s = step_s / speed if speed > 0 else 0.0

    async def __aiter__(self) -> AsyncIterator[int]:
        if self._period_s <= 0:
            await asyncio.Event().wait()
        loop = asyncio.get_running_loop()
        start_s, done = loop.time(), 0
        while True:
            next_s = start_s + (done + 1) * self._period_s
            await asyncio.sleep(max(next_s - loop.time(), _LOOK_S_MIN))
            due = int((loop.time() - start_s) / self._period_s) - done
            if due > _STEPS_MAX:
                start_s += (due - _STEPS_MAX) * self._period_s
                due = _STEPS_MAX
            if due > 0:
                done += due
                yield due


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[None]:
    """Runs `work` while the block lasts. If it fails, so does the block.

    What the block itself raises leaves as it is, not as a group of one.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(work, name=name)
            try:
                yield
            finally:
                task.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from None
