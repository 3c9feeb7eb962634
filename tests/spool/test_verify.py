"""Verifying names what is damaged, and counts what is lost as the spool itself would."""

from __future__ import annotations

import random

import pytest

from gateway.frame import Lane
from gateway.spool.catalog import segment_path
from gateway.spool.inspect import look
from gateway.spool.segment import RECORDS_START, scan
from gateway.spool.verify import verify
from tests.spool.simulated_disk import SimulatedDisk
from tests.spool.worlds import DIRECTORY, World, small_settings, values_of


def a_world(seed: int, commits: int = 25, **changes: object) -> World:
    world = World(random.Random(seed), SimulatedDisk(), small_settings(**changes))
    world.open()
    for _ in range(commits):
        world.commit(1)
    world.sync_derived()
    world.store.save_cursors()
    return world


def test_a_whole_spool_is_found_whole() -> None:
    world = a_world(1)
    verdict = verify(world.disk, DIRECTORY)
    assert verdict.findings == []
    assert verdict.samples == sum(map(len, world.promised.values()))
    world.store.close()
    world.recover()
    assert verify(world.disk, DIRECTORY).findings == []


def test_it_changes_nothing_and_takes_no_lock() -> None:
    world = a_world(2)
    before = {path: bytes(world.disk.content(path)) for path in world.disk.paths()}
    verify(world.disk, DIRECTORY)
    look(world.disk, DIRECTORY)
    assert {path: bytes(world.disk.content(path)) for path in world.disk.paths()} == before
    assert world.disk.is_locked  # by the one that writes
    world.commit(1)


@pytest.mark.parametrize("seed", range(150))
def test_what_rots_is_counted_to_the_sample(seed: int) -> None:
    rng = random.Random(seed)
    world = a_world(seed)
    world.store.close()
    for _ in range(rng.randint(1, 4)):
        lane = rng.choice(list(Lane))
        segments = world.store.catalog.segments[lane]
        if not segments:
            continue
        segment = rng.choice(segments)
        if rng.random() < 0.15 and len(segments) > 2:
            inner = rng.choice(segments[1:-1])
            if inner.path in world.disk.paths():
                world.disk.unlink(inner.path)
        elif segment.path in world.disk.paths() and segment.summary.end > RECORDS_START:
            world.disk.flip_bit(rng, segment.path, RECORDS_START, segment.summary.end)
    verdict = verify(world.disk, DIRECTORY)
    world.open()
    store = world.store
    readable = {lane: len(values_of(store, lane)) for lane in Lane}
    there = {lane: store.samples_end(lane) - store.samples_begin(lane) for lane in Lane}
    assert verdict.samples == sum(readable.values())
    assert verdict.samples_lost == sum(there.values()) - sum(readable.values())
    assert bool(verdict.findings) == bool(verdict.records_damaged or verdict.samples_lost)


def test_a_finding_says_which_record_and_from_when() -> None:
    world = a_world(3)
    segment = world.store.catalog.segments[Lane.RAW][0]
    data = bytes(world.disk.content(segment.path))
    record = next(found for found in scan(data, segment.seed)[2:] if found.record.samples > 0)
    rotten = bytearray(data)
    rotten[record.end - 9 - (-record.record.payload_bytes) % 8] ^= 1
    world.disk.put(segment.path, bytes(rotten))
    (finding,) = verify(world.disk, DIRECTORY).findings
    assert finding.file == segment.path.name
    assert (finding.records, finding.samples) == (1, record.record.samples)
    assert finding.sequence_first == finding.sequence_last == record.record.sequence
    assert (finding.t_ns_min, finding.t_ns_max) == (record.record.t_ns_min, record.record.t_ns_max)


def test_a_file_of_which_nothing_is_left_is_named() -> None:
    world = a_world(4)
    path = segment_path(DIRECTORY, Lane.RAW, 9999)
    world.disk.put(path, bytes(8192))
    (finding,) = verify(world.disk, DIRECTORY).findings
    assert finding.file == path.name
    assert "nothing" in finding.what


def test_a_cursor_of_which_no_slot_is_whole_is_named() -> None:
    world = a_world(5)
    world.store.account.begin("influx", [Lane.RAW])
    world.store.save_cursors()
    path = world.store.cursors["influx"].path
    world.disk.put(path, bytes(1024))
    (finding,) = verify(world.disk, DIRECTORY).findings
    assert finding.file == "influx.cursor"


def test_deletions_on_purpose_are_shown_and_are_no_damage() -> None:
    world = a_world(6, commits=150, bytes_max=16 * 8192)
    world.store.account.begin("influx", [Lane.RAW])
    assert verify(world.disk, DIRECTORY).findings == []
    report = look(world.disk, DIRECTORY)
    raw = report.lanes[Lane.RAW]
    assert raw.gaps
    assert {gap.reason for gap in raw.gaps} == {"space"}
    # What is on record and what is there continue one another.
    assert raw.gaps[-1].sequence_last < raw.sequence_first
    assert raw.samples == len(values_of(world.store, Lane.RAW))


def test_what_a_running_gateway_recycles_meanwhile_is_no_damage() -> None:
    world = a_world(7, commits=60, bytes_max=16 * 8192)
    oldest = world.store.catalog.segments[Lane.RAW][0].path.name
    read = world.disk.read
    seen: list[str] = []

    def slow(path, size, offset):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        if path.name == oldest and size > 2048 and not seen:
            seen.append(path.name)
            while oldest in {p.name for p in world.disk.paths()}:
                world.commit(1)
            return bytes(size)  # another life's bytes
        return read(path, size, offset)

    world.disk.read = slow  # type: ignore[method-assign]
    verdict = verify(world.disk, DIRECTORY)
    assert seen
    assert verdict.findings == []
