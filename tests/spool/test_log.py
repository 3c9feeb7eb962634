"""Appending: when a future is done, what is kept when the process or the disk is not."""

from __future__ import annotations

import asyncio
import errno
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from gateway.errors import SpoolError, SpoolLocked
from gateway.frame import EMPTY_FRAME, Frame, Lane, Turn
from gateway.spool import log as spool_log
from gateway.spool import writer
from gateway.spool.disk import Disk
from gateway.spool.group import Group
from gateway.spool.store import Store
from tests.spool.conftest import Opener, Until, frame_of, raw_turn, replayed
from tests.spool.simulated_disk import SimulatedDisk


async def test_what_is_durable_is_replayed_turn_by_turn(open_spool: Opener) -> None:
    async with open_spool() as spool:
        assert spool.last_turn_ns == 0
        first = spool.append(raw_turn(10, 1.0, 2.0))
        assert spool.append(raw_turn(20)) is first  # a group has one future
        assert spool.append(raw_turn(30, 3.0)) is first
        sequence = await first
        assert await spool.append(raw_turn(40, 4.0)) > sequence
        assert spool.last_turn_ns == 40
    async with open_spool() as spool:
        assert spool.last_turn_ns == 40
        assert replayed(spool) == [(10, [1.0, 2.0]), (20, []), (30, [3.0]), (40, [4.0])]
        assert replayed(spool, 30) == [(30, [3.0]), (40, [4.0])]
        assert [s for s, _ in spool.replay(0)][:3] == [sequence] * 3
        assert spool.applied(Lane.RAW) == [s for s, _ in spool.replay(0)][-1]


async def test_a_commit_costs_a_flush_of_the_raw_lane_and_an_event_one_more(
    open_spool: Opener,
) -> None:
    disk = SimulatedDisk()
    async with open_spool(disk=disk) as spool:
        frames = {Lane.EVENT: frame_of(1, tag=12), Lane.SCORE: frame_of(1, tag=11)}
        turn = Turn(5, frames | {Lane.RAW: frame_of(1.0)})
        await spool.append(turn)
        disk.synced.clear()
        await spool.append(turn)
        assert [name.split("-")[0] for name in disk.synced] == ["raw", "event"]
        turn = Turn(6, {Lane.SCORE: frames[Lane.SCORE], Lane.RAW: frame_of(1.0)})
        disk.synced.clear()
        await spool.append(turn)
        assert [name.split("-")[0] for name in disk.synced] == ["raw"]
        disk.synced.clear()
    assert [name.split("-")[0] for name in disk.synced] == ["score"]


async def test_without_a_raw_lane_what_is_derived_is_synced_at_once(open_spool: Opener) -> None:
    disk = SimulatedDisk()
    async with open_spool(disk=disk, raw=False) as spool:
        turn = Turn(5, {Lane.SCORE: frame_of(1, tag=11)})
        await spool.append(turn)
        disk.synced.clear()
        await spool.append(turn)
        assert [name.split("-")[0] for name in disk.synced] == ["score"]


async def test_derived_lanes_say_how_far_they_got(open_spool: Opener) -> None:
    async with open_spool() as spool:
        first = await spool.append(
            Turn(5, {Lane.RAW: frame_of(1.0), Lane.AGGREGATE: frame_of(9.0, tag=10)})
        )
        second = await spool.append(raw_turn(6, 2.0))
        assert spool.applied(Lane.AGGREGATE) == first < second
        assert spool.applied(Lane.SCORE) == 0
        # Derived alone, as recovery appends it: a raw record without rows stands for its cause.
        third = await spool.append(Turn(6, {Lane.SCORE: frame_of(1.0, tag=11)}))
        assert spool.applied(Lane.SCORE) == third > second
    async with open_spool() as spool:
        assert [spool.applied(lane) for lane in Lane] == [0, third, first, third]
        assert replayed(spool) == [(5, [1.0]), (6, [2.0]), (6, [])]


async def test_silent_turns_cost_no_commit_and_ride_with_the_next(open_spool: Opener) -> None:
    async with open_spool() as spool:
        await spool.append(raw_turn(1, 1.0))
        commits = spool.stats.commits_total
        for now_ns in (2, 3, 4):
            await spool.append(raw_turn(now_ns))  # done, though nothing is written
        assert spool.stats.commits_total == commits
        assert spool.stats.pending_bytes == 0
        await spool.append(raw_turn(5, 5.0))
        assert spool.stats.commits_total == commits + 1
    async with open_spool() as spool:
        assert [now_ns for now_ns, _ in replayed(spool)] == [1, 2, 3, 4, 5]


async def test_a_plant_silent_for_long_is_written_now_and_then(
    open_spool: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_log, "SILENT_TURNS_MAX", 10)
    async with open_spool() as spool:
        for now_ns in range(1, 12):
            future = spool.append(raw_turn(now_ns))
        await future
        assert spool.last_turn_ns == 11


async def test_events_are_committed_at_once_and_so_is_much(open_spool: Opener) -> None:
    async with open_spool(commit_period=10.0) as spool, asyncio.timeout(5):
        waiting = spool.append(raw_turn(1, 1.0))
        await spool.append(Turn(2, {Lane.EVENT: frame_of(1.0, tag=12)}))
        assert waiting.done()
        much = np.zeros(20_000)
        await spool.append(raw_turn(3, *much))


async def test_closing_commits_what_waits(open_spool: Opener) -> None:
    async with open_spool(commit_period=10.0) as spool:
        future = spool.append(raw_turn(1, 1.0))
    assert future.done()
    assert not future.cancelled()
    async with open_spool() as spool:
        assert replayed(spool) == [(1, [1.0])]


async def test_a_cancelled_waiter_takes_nothing_from_the_others(open_spool: Opener) -> None:
    async with open_spool(commit_period=0.05) as spool:

        async def wait() -> None:
            await spool.append(raw_turn(1, 1.0))

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await spool.append(raw_turn(2, 2.0))
    async with open_spool() as spool:
        assert replayed(spool) == [(1, [1.0]), (2, [2.0])]


async def test_another_process_is_refused(open_spool: Opener) -> None:
    async with open_spool():
        with pytest.raises(SpoolLocked, match="another process"):
            async with open_spool():
                pass
    async with open_spool():
        pass


async def test_strings_and_large_integers_survive(open_spool: Opener) -> None:
    exact = {0: "läuft\nweiter", 2: 2**64 - 1, 3: -(2**63)}
    frame = Frame.of(7, np.arange(4, dtype=np.int32), np.array([np.nan, 1, 2, 3]), 0x41, exact)
    async with open_spool() as spool:
        await spool.append(Turn(1, {Lane.RAW: frame}))
        await spool.append(Turn(2, {Lane.RAW: EMPTY_FRAME}))
        await spool.append(Turn(3, {Lane.RAW: frame}))
    async with open_spool() as spool:
        for _, turn in spool.replay(0):
            back = turn.frames[Lane.RAW]
            if len(back):
                assert dict(back.exact) == exact
                assert back.quality.tolist() == [0x41] * 4


async def test_the_tail_is_the_newest_samples_in_order(open_spool: Opener) -> None:
    async with open_spool() as spool:
        for i in range(10):
            await spool.append(Turn(i, {Lane.EVENT: frame_of(i, i + 0.5, tag=12)}))
        assert spool.tail(Lane.EVENT, 3).values.tolist() == [8.5, 9.0, 9.5]
        assert len(spool.tail(Lane.EVENT, 1000)) == 20
        assert len(spool.tail(Lane.SCORE, 10)) == 0


async def test_a_disk_that_fails_degrades_the_spool_which_mends_by_itself(
    open_spool: Opener,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(writer, "RETRY_S", 0.02)
    disk = SimulatedDisk()
    async with open_spool(disk=disk, pending_bytes_max=2000) as spool:
        await spool.append(raw_turn(1, 1.0))
        disk.fail(lambda call: errno.EROFS if call in ("write", "create", "open") else 0)
        future = spool.append(raw_turn(2, 2.0))
        await until(lambda: spool.stats.state == "degraded")
        for i in range(3, 7):
            spool.append(raw_turn(i, float(i)))
        assert not spool.has_room
        waiting = asyncio.create_task(spool.wait_for_room())
        await asyncio.sleep(0.1)  # some tries more
        assert not future.done()
        assert not waiting.done()
        assert caplog.text.count("spool.degraded") == 1
        disk.heal()
        async with asyncio.timeout(5):
            await future
            await waiting
        await spool.append(raw_turn(7, 7.0))
        assert spool.stats.state == "ok"
        assert spool.stats.pending_bytes == 0
    assert disk.files_open == 0
    async with open_spool(disk=disk) as spool:
        assert [value for _, values in replayed(spool) for value in values] == [
            *map(float, range(1, 8))
        ]


async def test_a_disk_that_is_away_at_the_start_is_waited_for(
    open_spool: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "RETRY_S", 0.02)
    disk = SimulatedDisk()
    async with open_spool(disk=disk) as spool:
        await spool.append(raw_turn(1, 1.0))
    disk.fail(lambda call: errno.EIO if call in ("make_directory", "lock", "names") else 0)
    async with open_spool(disk=disk) as spool:
        assert spool.stats.state == "degraded"
        assert replayed(spool) == []
        reader = spool.reader("influx", [Lane.RAW])
        future = spool.append(raw_turn(2, 2.0))
        disk.heal()
        async with asyncio.timeout(5):
            await future
            batch = await reader.next(10)
        assert batch.frame.values.tolist() == [1.0, 2.0]
    async with open_spool(disk=disk) as spool:
        assert replayed(spool) == [(1, [1.0]), (2, [2.0])]


async def test_closing_does_not_wait_for_a_disk_that_refuses(
    open_spool: Opener, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    disk = SimulatedDisk()
    async with asyncio.timeout(5), open_spool(disk=disk) as spool:
        await spool.append(raw_turn(1, 1.0))
        disk.fail(lambda call: errno.EIO if call in ("sync", "create") else 0)
        future = spool.append(raw_turn(2, 2.0))
        await until(lambda: spool.stats.state == "degraded")
    assert future.cancelled()
    assert "spool.closed_undurable samples=1" in caplog.text


async def test_a_group_that_cannot_be_written_does_not_stop_the_others(
    open_spool: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_spool() as spool:
        unknown_tag = Turn(1, {Lane.RAW: frame_of(1.0, tag=99)})
        bad = spool.append(unknown_tag)
        with pytest.raises(SpoolError):
            await bad
        await spool.append(raw_turn(2, 2.0))
        assert spool.stats.samples_lost_total == 1
        assert "spool.group_refused" in caplog.text
    async with open_spool() as spool:
        assert replayed(spool) == [(2, [2.0])]


async def test_a_folder_deleted_while_in_use_is_made_anew(
    open_spool: Opener, tmp_path: Path
) -> None:
    async with open_spool() as spool:
        await spool.append(raw_turn(1, 1.0))
        shutil.rmtree(tmp_path / "spool")
        async with asyncio.timeout(5):
            await spool.append(raw_turn(2, 2.0))
        assert spool.stats.state == "ok"
        with pytest.raises(SpoolLocked):  # it is held as before
            Disk().lock(tmp_path / "spool" / "lock")
    async with open_spool() as spool:
        assert replayed(spool) == [(2, [2.0])]


async def test_a_slow_disk_does_not_hold_the_loop_and_costs_one_sync_for_all_that_waits(
    open_spool: Opener,
) -> None:
    class Slow(SimulatedDisk):
        def step(self, call: str) -> None:
            super().step(call)
            if call == "sync":
                time.sleep(0.1)

    disk = Slow()
    async with open_spool(disk=disk, commit_bytes=500) as spool:
        loop = asyncio.get_running_loop()
        await spool.append(raw_turn(0, 1.0))
        syncs = disk.syncs
        began_s = loop.time()
        futures = [spool.append(raw_turn(i, float(i))) for i in range(1, 200)]
        assert loop.time() - began_s < 0.1
        await asyncio.gather(*futures)
        assert len(set(futures)) > 100
        assert disk.syncs - syncs <= 8  # a batch or two, and a new segment


PROGRAM = """
import asyncio, sys
from pathlib import Path
import numpy as np
from gateway.clock import SystemClock
from gateway.frame import Frame, Lane, Turn
from gateway.spool.config import SpoolSettings
from gateway.spool.disk import Disk
from gateway.spool.log import Spool
from gateway.tag import Tag, TagTable

async def main():
    table = TagTable()
    table.add(Tag(name="a.x", asset="a", asset_class="p", field="x", measurement="p"))
    settings = SpoolSettings(commit_period=0.005, segment_bytes=65536)
    i = 0
    async with Spool.open(Path(sys.argv[1]), settings, table, SystemClock()) as spool:
        while True:
            frame = Frame.of(i, np.zeros(50, np.int32), np.full(50, float(i)))
            future = spool.append(Turn(i + 1, {Lane.RAW: frame}))
            if i % 3 == 0:
                await future
                print(i, flush=True)
            i += 1

asyncio.run(main())
"""


def test_what_was_said_to_be_durable_survives_a_kill(tmp_path: Path, open_spool: Opener) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "spool")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    said = [int(process.stdout.readline()) for _ in range(30)]
    process.send_signal(signal.SIGKILL)
    said += [int(line) for line in process.stdout.read().split()]
    process.wait()

    async def check() -> None:
        async with open_spool() as spool:
            values = [values[0] for _, values in replayed(spool)]
            assert values == [float(i) for i in range(len(values))]
            assert len(values) > said[-1]
            await spool.append(raw_turn(10**6, 1.0))

    asyncio.run(check())


async def test_a_group_that_can_never_be_written_costs_itself_and_is_counted(
    open_spool: Opener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A defect of ours, say; its neighbours in the same flush are kept."""
    real = Store.commit

    def commit(store: Store, groups: Sequence[Group]) -> None:
        if any(666.0 in turn.frames[Lane.RAW].values for g in groups for turn in g.turns):
            raise RuntimeError("a defect")
        real(store, groups)

    disk = SimulatedDisk()
    async with open_spool(disk=disk, commit_bytes=1) as spool:
        await spool.append(raw_turn(5, 0.0))
        monkeypatch.setattr(Store, "commit", commit)
        values = (1.0, 666.0, 2.0)
        futures = [spool.append(raw_turn(10 * n, v)) for n, v in enumerate(values, 1)]
        told = await asyncio.gather(*futures, return_exceptions=True)
        assert [isinstance(one, SpoolError) for one in told] == [False, True, False]
        assert spool.stats.samples_lost_total == 1
        assert "spool.group_refused" in caplog.text
        await spool.append(raw_turn(50, 3.0))
    async with open_spool(disk=disk) as spool:
        assert [values for _, values in replayed(spool)] == [[0.0], [1.0], [2.0], [3.0]]
