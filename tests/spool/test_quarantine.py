"""What cannot be believed is set aside, bounded, and goes first when room is wanted."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from gateway.frame import Lane
from gateway.spool.quarantine import FOLDER, Quarantine
from tests.spool.simulated_disk import SimulatedDisk
from tests.spool.worlds import DIRECTORY, World, values_of


def a_world() -> World:
    world = World(random.Random(1), SimulatedDisk())
    world.open()
    for _ in range(20):
        world.commit(2)
    world.store.close()
    return world


def set_aside(disk: SimulatedDisk) -> list[str]:
    return disk.names(DIRECTORY / FOLDER)


def put(disk: SimulatedDisk, path: Path, data: bytes) -> None:
    file = disk.create(path, len(data))
    file.write(data, 0)
    file.sync()
    file.close()


def test_a_file_that_is_no_segment_is_kept_to_be_looked_at(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = a_world()
    stranger = DIRECTORY / "raw-0000000900.seg"
    put(world.disk, stranger, b"what a broken file system put here" * 100)
    store = world.open()
    assert values_of(store, Lane.RAW) == world.promised[Lane.RAW]
    assert set_aside(world.disk) == ["000001.raw-0000000900.seg"]
    assert store.stats.quarantine_bytes == 3400
    assert "spool.quarantined file=raw-0000000900.seg" in caplog.text
    store.close()
    assert world.open().stats.quarantine_bytes == 3400  # known again at the next start


def test_it_is_bounded_and_the_oldest_goes() -> None:
    disk = SimulatedDisk()
    disk.make_directory(DIRECTORY)
    quarantine = Quarantine(disk, DIRECTORY, bytes_max=16_000)
    for number in range(5):
        path = DIRECTORY / f"raw-{number:010d}.seg"
        put(disk, path, bytes(400))
        assert quarantine.take([path]) == []
    assert set_aside(disk) == ["000004.raw-0000000003.seg", "000005.raw-0000000004.seg"]
    assert quarantine.bytes_used == 800
    large = DIRECTORY / "raw-0000000009.seg"
    put(disk, large, bytes(2000))
    assert quarantine.take([large]) == [large]
    assert len(set_aside(disk)) == 2


@pytest.mark.parametrize("call", ["rename", "make_directory", "size"])
def test_what_the_disk_does_not_move_is_given_back(call: str) -> None:
    disk = SimulatedDisk()
    disk.make_directory(DIRECTORY)
    path = DIRECTORY / "raw-0000000001.seg"
    put(disk, path, bytes(400))
    disk.fail(lambda this: errno.EIO if this == call else 0)
    quarantine = Quarantine(disk, DIRECTORY, bytes_max=16_000)
    assert quarantine.take([path, DIRECTORY / "raw-0000000002.seg"])[0] == path
    assert quarantine.bytes_used == 0


def test_samples_come_before_it() -> None:
    world = a_world()
    put(world.disk, DIRECTORY / "raw-0000000900.seg", b"x" * 4000)
    store = world.open()
    assert set_aside(world.disk)
    while not store.stats.lanes[Lane.RAW].segments or set_aside(world.disk):
        world.commit(2)
        assert store.samples_begin(Lane.RAW) == 0, "samples went before what cannot be believed"
    assert store.pool.quarantine.bytes_used == 0
