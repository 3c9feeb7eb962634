"""While a disk refuses for long, the spool goes on in memory: bounded, and not acknowledged."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import numpy as np
import pytest

from gateway.errors import SpoolError
from gateway.frame import Frame, Lane, Turn
from gateway.spool import writer
from gateway.spool.overlay import OverlayDisk
from gateway.spool.reader import SpoolReader
from tests.spool.conftest import Opener, Until, frame_of, raw_turn, replayed
from tests.spool.simulated_disk import SimulatedDisk

WRITING = ("write", "create", "sync", "rename", "unlink", "make_directory", "sync_directory")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "RETRY_S", 0.02)
    monkeypatch.setattr(writer, "MEMORY_AFTER_S", 0.05)
    monkeypatch.setattr(writer, "CURSOR_PERIOD_S", 0.02)


def make_read_only(disk: SimulatedDisk) -> None:
    disk.fail(lambda call: errno.EROFS if call in WRITING else 0)


async def read_all(reader: SpoolReader, count: int) -> list[float]:
    values: list[float] = []
    async with asyncio.timeout(5):
        while len(values) < count:
            batch = await reader.next(1000)
            values += batch.frame.values.tolist()
            await reader.acknowledge(batch)
    return values


async def test_sinks_go_on_while_the_card_is_read_only_and_nothing_is_acknowledged(
    open_spool: Opener, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    disk = SimulatedDisk()
    async with open_spool(disk=disk) as spool:
        reader = spool.reader("influx", [Lane.AGGREGATE, Lane.RAW])
        await spool.append(raw_turn(1, 1.0))
        assert await read_all(reader, 1) == [1.0]
        make_read_only(disk)
        futures = []
        for i in range(2, 30):
            turn = raw_turn(i, float(i))
            frames = turn.frames | {Lane.AGGREGATE: frame_of(100.0 + i, tag=10)}
            futures.append(spool.append(Turn(i, frames)))
            await asyncio.sleep(0.01)
        seen = await read_all(reader, 2 * 28)
        assert sorted(seen) == [*map(float, range(2, 30)), *(100.0 + i for i in range(2, 30))]
        assert not any(future.done() for future in futures)
        assert spool.has_room
        assert spool.stats.state == "degraded"
        assert spool.stats.memory_bytes > 0
        assert caplog.text.count("spool.in_memory") == 1
        assert len(await spool.history.query(["*"], 0, 2000)) == 29
        disk.heal()
        async with asyncio.timeout(5):
            await asyncio.gather(*futures)
        await until(lambda: spool.stats.state == "ok")
        await spool.append(raw_turn(30, 30.0))
        assert await read_all(reader, 1) == [30.0]
        assert spool.stats.memory_bytes == 0
    assert disk.files_open == 0
    async with open_spool(disk=disk) as spool:
        assert [v for _, values in replayed(spool) for v in values] == [*map(float, range(1, 31))]
        assert len(spool.tail(Lane.AGGREGATE, 1000)) == 28
        assert spool.stats.samples_lost_total == spool.stats.records_damaged_total == 0


@pytest.mark.parametrize("is_behind", [False, True])
async def test_a_full_memory_gives_up_the_oldest_and_counts_it(
    open_spool: Opener, until: Until, *, is_behind: bool
) -> None:
    disk = SimulatedDisk()
    bounds = {"pending_bytes_max": 2**20, "commit_bytes": 2**14}
    async with open_spool(disk=disk, **bounds) as spool:
        reader = spool.reader("influx", [Lane.RAW])
        await spool.append(raw_turn(1, 1.0))
        if not is_behind:
            await read_all(reader, 1)
        make_read_only(disk)
        rng = np.random.default_rng(1)
        futures, given = [], 0
        for i in range(2, 400):
            await spool.wait_for_room()
            frame = Frame.of(i, np.zeros(1000, np.int32), rng.standard_normal(1000))
            futures.append(spool.append(Turn(i, {Lane.RAW: frame})))
            given += 1000
            await asyncio.sleep(0)
            if i % 20 == 0:
                await asyncio.sleep(0.02)
        await until(lambda: spool.stats.pending_bytes == 0)
        assert spool.stats.memory_bytes <= 2**20
        waiting = reader.backlog().samples
        assert 0 < spool.stats.samples_lost_total < given
        assert waiting + spool.stats.samples_lost_total == given + is_behind
        disk.heal()
        await until(lambda: all(future.done() for future in futures))
        refused = [future for future in futures if future.exception() is not None]
        assert refused
        assert all(isinstance(future.exception(), SpoolError) for future in refused)
        # What was given up is the oldest.
        assert refused == futures[: len(refused)]
        values = await read_all(reader, waiting)
        assert len(values) == waiting
        # What stands on disk from before is read all the same.
        assert (values[0] == 1.0) == is_behind
    async with open_spool(disk=disk, **bounds) as spool:
        assert sum(len(values) for _, values in replayed(spool)) == 1 + waiting - is_behind
        # It was counted then, and is no damage now.
        assert spool.stats.samples_lost_total == spool.stats.records_damaged_total == 0


async def test_without_a_sink_too_what_is_given_up_is_counted_as_the_hole_in_the_history(
    open_spool: Opener, until: Until
) -> None:
    disk = SimulatedDisk()
    bounds = {"pending_bytes_max": 2**20, "commit_bytes": 2**14}
    async with open_spool(disk=disk, **bounds) as spool:
        await spool.append(raw_turn(1, 1.0))
        make_read_only(disk)
        rng = np.random.default_rng(1)
        futures = []
        for i in range(2, 400):
            await spool.wait_for_room()
            frame = Frame.of(i, np.zeros(1000, np.int32), rng.standard_normal(1000))
            futures.append(spool.append(Turn(i, {Lane.RAW: frame})))
            await asyncio.sleep(0.02 if i % 20 == 0 else 0)
        await until(lambda: spool.stats.pending_bytes == 0)
        disk.heal()
        await until(lambda: all(future.done() for future in futures))
        refused = sum(future.exception() is not None for future in futures)
        assert refused
        assert spool.stats.samples_given_up_total == 1000 * refused
        assert spool.stats.samples_lost_total == 0  # which is about sinks
    async with open_spool(disk=disk, **bounds) as spool:
        kept = sum(len(values) for _, values in replayed(spool))
        assert kept == 1 + 1000 * (len(futures) - refused)
        assert spool.stats.samples_given_up_total == 0


async def test_a_directory_that_cannot_be_made_does_not_keep_it_from_starting(
    open_spool: Opener,
) -> None:
    disk = SimulatedDisk()
    disk.fail(lambda call: errno.EACCES if call in (*WRITING, "names", "lock") else 0)
    async with open_spool(disk=disk) as spool:
        reader = spool.reader("influx", [Lane.RAW])
        future = spool.append(raw_turn(1, 1.0))
        assert await read_all(reader, 1) == [1.0]
        assert not future.done()
        disk.heal()  # it was empty: what is in memory may become the spool
        async with asyncio.timeout(5):
            await future
    async with open_spool(disk=disk) as spool:
        assert replayed(spool) == [(1, [1.0])]


async def test_a_spool_that_could_not_be_seen_is_not_mixed_with_what_is_in_memory(
    open_spool: Opener, until: Until
) -> None:
    disk = SimulatedDisk()
    async with open_spool(disk=disk) as spool:
        await spool.append(raw_turn(1, 1.0))
    disk.fail(lambda call: errno.EIO if call in (*WRITING, "names") else 0)
    async with open_spool(disk=disk) as spool:
        reader = spool.reader("influx", [Lane.RAW])
        future = spool.append(raw_turn(2, 2.0))
        assert await read_all(reader, 1) == [2.0]
        disk.heal()
        await until(lambda: "restart" in spool.stats.error_last)
        assert not future.done()
    async with open_spool(disk=disk) as spool:
        assert replayed(spool) == [(1, [1.0])]


def test_the_overlay_refuses_more_than_its_bound_and_copies_byte_for_byte(tmp_path: Path) -> None:
    disk = OverlayDisk(SimulatedDisk(), 10_000)
    disk.use_memory = True
    path = tmp_path / "raw-0000000001.seg"
    file = disk.create(path, 8192)
    file.write(b"abc", 100)
    with pytest.raises(OSError, match="No space"):
        disk.create(tmp_path / "raw-0000000002.seg", 4096)
    assert disk.names(tmp_path) == [path.name]
    assert disk.read(path, 3, 100) == b"abc"
    disk.settle(path)
    assert not disk.is_in_memory(path)
    assert disk.memory_bytes == 0
    assert disk.read(path, 3, 100) == b"abc"
    assert disk.size(path) == 8192


def make_cursors_unreadable(disk: SimulatedDisk, times: int) -> None:
    """The next `times` calls that list the directory of the cursors fail."""
    names = SimulatedDisk.names
    left = times

    def failing(self: SimulatedDisk, directory: Path) -> list[str]:
        nonlocal left
        if directory.name == "cursors" and left:
            left -= 1
            raise OSError(errno.EIO, "Input/output error")
        return names(self, directory)

    disk.names = failing.__get__(disk)  # type: ignore[method-assign]


async def fill_and_deliver(open_spool: Opener, disk: SimulatedDisk) -> None:
    async with open_spool(disk=disk) as spool:
        reader = spool.reader("influx", [Lane.RAW])
        for i in range(1, 6):
            await spool.append(raw_turn(i, float(i)))
        assert await read_all(reader, 5) == [1.0, 2.0, 3.0, 4.0, 5.0]


async def test_a_cursor_that_cannot_be_read_at_first_is_waited_for(
    open_spool: Opener, until: Until
) -> None:
    disk = SimulatedDisk()
    await fill_and_deliver(open_spool, disk)
    make_cursors_unreadable(disk, 1)
    async with open_spool(disk=disk) as spool:
        await until(lambda: spool.stats.state == "ok")
        reader = spool.reader("influx", [Lane.RAW])
        await spool.append(raw_turn(6, 6.0))
        assert await read_all(reader, 1) == [6.0]


async def test_nothing_is_saved_over_cursors_that_could_not_be_read(
    open_spool: Opener, until: Until
) -> None:
    disk = SimulatedDisk()
    await fill_and_deliver(open_spool, disk)
    path = next(path for path in disk.paths() if path.suffix == ".cursor")
    saved = bytes(disk.content(path))
    make_cursors_unreadable(disk, 10**6)
    async with open_spool(disk=disk) as spool:
        reader = spool.reader("influx", [Lane.RAW])
        await spool.append(raw_turn(6, 6.0))
        assert spool.stats.state == "ok"  # no reason to stand still for
        assert await read_all(reader, 6) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]  # as far as is known
        await asyncio.sleep(0.1)
        assert bytes(disk.content(path)) == saved
        make_cursors_unreadable(disk, 0)
        await until(lambda: bytes(disk.content(path)) != saved)
    async with open_spool(disk=disk) as spool:
        reader = spool.reader("influx", [Lane.RAW])
        await spool.append(raw_turn(7, 7.0))
        assert await read_all(reader, 1) == [7.0]
