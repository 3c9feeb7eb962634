"""What the simulators' tests share: waiting for a condition, with a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture
def until() -> Until:
    """Waits until a condition holds; fails after ten seconds."""

    async def wait(condition: Callable[[], bool]) -> None:
        give_up_s = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < give_up_s, "the condition never held"
            await asyncio.sleep(0.01)

    return wait
