"""A spool on the real disk, in a temporary folder."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import numpy as np
import pytest

from gateway.clock import SystemClock
from gateway.frame import Frame, Lane, Turn
from gateway.spool.disk import Disk
from gateway.spool.log import Spool
from gateway.tag import TagTable
from tests.samples import make_tag
from tests.spool.worlds import small_settings

Opener = Callable[..., AbstractAsyncContextManager[Spool]]
Until = Callable[[Callable[[], object]], Awaitable[None]]


@pytest.fixture
def table() -> TagTable:
    """Ids 0..9 are raw tags; 10, 11 and 12 belong to the aggregate, score and event lanes."""
    table = TagTable()
    for i in range(10):
        table.add(make_tag(f"pump.t{i}"))
    table.add(make_tag("pump.t0@10s.mean", lane=Lane.AGGREGATE))
    table.add(make_tag("pump.pump.score", lane=Lane.SCORE))
    table.add(make_tag("pump.pump.event", lane=Lane.EVENT))
    return table


@pytest.fixture
def open_spool(tmp_path: Path, table: TagTable) -> Opener:
    def opener(
        *, table: TagTable = table, disk: Disk | None = None, **changes: object
    ) -> AbstractAsyncContextManager[Spool]:
        bounds = {"bytes_max": 2**26, "segment_bytes": 2**16, "commit_bytes": 2**18}
        settings = small_settings(**(bounds | {"pending_bytes_max": 2**24, "raw": True} | changes))
        return Spool.open(tmp_path / "spool", settings, table, SystemClock(), disk)

    return opener


@pytest.fixture
def until() -> Until:
    """Wait for a condition, five seconds at most."""

    async def wait(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - nothing tells of a counter
                await asyncio.sleep(0.005)

    return wait


def frame_of(*values: float, tag: int = 0, t_ns: int = 1000) -> Frame:
    n = len(values)
    return Frame.of(t_ns, np.full(n, tag, np.int32), np.array(values, np.float64))


def raw_turn(now_ns: int, *values: float) -> Turn:
    return Turn(now_ns, {Lane.RAW: frame_of(*values)} if values else {})


def replayed(spool: Spool, since_ns: int = 0) -> list[tuple[int, list[float]]]:
    return [
        (turn.now_ns, turn.frames[Lane.RAW].values.tolist()) for _, turn in spool.replay(since_ns)
    ]
