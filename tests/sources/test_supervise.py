from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest

from gateway.clock import ManualClock
from gateway.errors import SourceLost, SourceUnavailable
from gateway.frame import Arrival, IdArray
from gateway.sources import SourceStats
from gateway.sources import supervise as module
from gateway.sources.supervise import supervise
from gateway.tag import Quality
from tests.samples import make_frame


class FakeSource:
    """Does what a script says: an exception to raise, or an arrival to give."""

    def __init__(self, script: list[object], *, is_proven: bool = False) -> None:
        self.name = "plc"
        self.stats = SourceStats()
        self.is_proven = is_proven
        self.closed = 0
        self._script = script

    @property
    def tag_ids(self) -> IdArray:
        return np.array([4, 7], np.int32)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[FakeSource]:
        if self._script and isinstance(self._script[0], SourceUnavailable):
            raise self._script.pop(0)  # type: ignore[misc] - it is one
        try:
            yield self
        finally:
            self.closed += 1

    async def read(self) -> Arrival:
        if not self._script:
            await asyncio.Event().wait()
        step = self._script.pop(0)
        if isinstance(step, Exception):
            raise step
        assert isinstance(step, Arrival)
        return step


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses are noted, and cost nothing."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(0)

    monkeypatch.setattr(module, "sleep", sleep)
    return pauses


async def run(source: FakeSource, done: Callable[[list[Arrival]], bool]) -> list[Arrival]:
    put: list[Arrival] = []
    enough = asyncio.Event()

    async def take(arrival: Arrival) -> None:
        put.append(arrival)
        if done(put):
            enough.set()

    task = asyncio.create_task(supervise(source, take, ManualClock()))
    async with asyncio.timeout(5):
        await enough.wait()
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return put


GOOD = Arrival(make_frame([(1.0, 4, 1.0)]))


async def test_a_lost_source_has_all_its_tags_bad_and_comes_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    down = [SourceUnavailable("no route") for _ in range(3)]
    source = FakeSource([GOOD, SourceLost("reset"), *down, GOOD])
    put = await run(source, lambda got: len(got) == 6)
    assert put[0] is GOOD
    assert put[5] is GOOD
    for arrival in put[1:5]:
        assert arrival.frame.tag_ids.tolist() == [4, 7]
        assert set(arrival.frame.quality.tolist()) == {Quality.BAD_NO_COMMUNICATION}
    assert source.stats.connected
    assert source.stats.error_last == ""
    assert caplog.text.count("source.lost") == 1
    assert caplog.text.count("source.connected") == 2


async def test_pauses_grow_up_to_a_bound_and_start_anew_after_a_success(
    quick: list[float],
) -> None:
    down = [SourceUnavailable("no route") for _ in range(12)]
    await run(FakeSource([*down, GOOD, SourceLost("reset"), GOOD]), lambda got: len(got) == 15)
    assert quick[0] <= module.RETRY_FIRST_S
    assert max(quick[:12]) > module.RETRY_MAX_S / 4
    assert max(quick) <= module.RETRY_MAX_S
    assert quick[12] <= module.RETRY_FIRST_S


async def test_a_defect_of_one_source_is_logged_and_survived(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = FakeSource([GOOD, ValueError("planted"), GOOD])
    await run(source, lambda got: len(got) == 3)
    assert source.stats.errors_total["defect"] == 1
    assert "source.defect" in caplog.text
    assert source.closed == 2


async def test_a_session_that_is_proven_counts_as_connected_before_its_first_frame() -> None:
    source = FakeSource([SourceLost("gone")], is_proven=True)
    await run(source, lambda got: len(got) == 1)
    assert source.stats.sessions_total == 2
    assert source.stats.connected
