"""A lane whose end is gone is not taken for a whole one while others know better."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from gateway.frame import Lane
from gateway.spool.segment import scan
from gateway.spool.verify import CUT, verify
from tests.spool.simulated_disk import SimulatedDisk
from tests.spool.worlds import DIRECTORY, World, small_settings, values_of


def a_world(delivered: int, lane: Lane = Lane.RAW) -> World:
    """A closed spool with one segment a lane; a sink has had all of a lane but `delivered` more."""
    settings = small_settings(raw=True, segment_bytes=2**16, bytes_max=2**22)
    world = World(random.Random(5), SimulatedDisk(), settings)
    world.open()
    for _ in range(20):
        world.commit(1)
    world.sync_derived()
    cursor = world.store.account.begin("influx", tuple(Lane))
    cursor.move(lane, world.store.samples_end(lane) - delivered)
    world.store.save_cursors()
    world.store.close()
    return world


def last_of(world: World, lane: Lane = Lane.RAW) -> Path:
    return world.store.catalog.segments[lane][-1].path


def without_end(world: World, records: int, lane: Lane = Lane.RAW) -> tuple[int, int]:
    """Zeros where the last records were, as an older copy has them; records and samples gone."""
    segment = world.store.catalog.segments[lane][-1]
    data = bytes(world.disk.content(segment.path))
    gone = scan(data, segment.seed)[-records:]
    world.disk.put(segment.path, data[: gone[0].offset].ljust(len(data), b"\0"))
    return len(gone), sum(found.record.samples for found in gone)


@pytest.mark.parametrize("delivered", [0, 5])
def test_what_a_cursor_proves_is_found_and_counted_once(
    delivered: int, caplog: pytest.LogCaptureFixture
) -> None:
    world = a_world(delivered)
    records, samples = without_end(world, 6)
    finding = verify(world.disk, DIRECTORY).findings[0]
    assert finding.file == last_of(world).name
    assert finding.samples == samples - delivered
    # The last derived record follows from one of the last raw records.
    assert 0 < finding.records <= records
    store = world.open()
    assert store.stats.samples_lost_total == samples - delivered
    assert store.stats.records_damaged_total == finding.records
    assert f"samples_lost={samples - delivered}" in caplog.text
    store.save_cursors()
    store.close()
    assert world.open().stats.samples_lost_total == 0


def test_what_derived_lanes_name_is_found_without_a_cursor() -> None:
    world = a_world(delivered=0)
    world.disk.unlink(DIRECTORY / "cursors" / "influx.cursor")
    named = max(world.store.applied(lane) for lane in Lane if lane is not Lane.RAW)
    without_end(world, 8)
    (finding,) = verify(world.disk, DIRECTORY).findings
    assert (finding.sequence_last, finding.samples) == (named, 0)
    assert finding.records == finding.sequence_last - finding.sequence_first + 1


@pytest.mark.parametrize("cut_by", [1, 700, 2**16 - 4096])
def test_a_file_that_was_longer_is_found_though_nobody_knows_what_it_held(cut_by: int) -> None:
    world = a_world(delivered=0)
    world.disk.unlink(DIRECTORY / "cursors" / "influx.cursor")
    data = bytes(world.disk.content(last_of(world)))
    world.disk.put(last_of(world), data[: len(data) - cut_by])
    assert CUT in [finding.what for finding in verify(world.disk, DIRECTORY).findings]


def test_a_file_cut_within_a_record_is_found_whatever_its_length() -> None:
    world = a_world(delivered=0)
    segment = world.store.catalog.segments[Lane.RAW][-1]
    data = bytes(world.disk.content(segment.path))
    starts = {found.offset for found in scan(data, segment.seed)}
    for end in range(8192, segment.summary.end, 4096):
        assert end not in starts, "nothing could tell"
        world.disk.put(segment.path, data[:end])
        found = [finding.what for finding in verify(world.disk, DIRECTORY).findings]
        assert CUT in found, end


def test_a_cursor_beyond_what_waited_for_its_flush_proves_nothing() -> None:
    world = a_world(delivered=0, lane=Lane.SCORE)
    without_end(world, 2, Lane.SCORE)
    assert verify(world.disk, DIRECTORY).findings == []
    assert world.open().stats.records_damaged_total == 0


def test_a_spool_that_was_emptied_but_for_its_cursors_is_no_loss() -> None:
    world = a_world(delivered=0)
    for path in world.disk.paths():
        if path.suffix == ".seg":
            world.disk.unlink(path)
    assert verify(world.disk, DIRECTORY).findings == []
    store = world.open()
    assert store.stats.samples_lost_total == 0
    world.promised = {lane: [] for lane in Lane}
    world.commit(1)
    assert values_of(store, Lane.RAW) == world.promised[Lane.RAW]
