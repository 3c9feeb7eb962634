"""Disks that fail, rot and fill up; files that are missing, foreign or of another plant."""

from __future__ import annotations

import errno
import logging
import random
from pathlib import Path

import numpy as np
import pytest

from gateway.errors import SpoolLocked
from gateway.frame import Frame, Lane, Turn
from gateway.spool.gap import Gap
from gateway.spool.group import Group
from gateway.spool.segment import HEADER_BYTES, RECORDS_START, SUMMARY_START
from gateway.spool.store import Store
from gateway.spool.verify import verify
from gateway.tag import TagTable
from tests.samples import make_tag
from tests.spool.simulated_disk import SimulatedDisk
from tests.spool.worlds import DIRECTORY, World, new_table, small_settings, values_of

CALLS = ("sync", "write", "create", "rename", "open", "sync_directory", "unlink", "make_directory")


def filled(
    seed: int = 1, commits: int = 60, bytes_max: int = 1000 * 8192, *, sync_derived: bool = False
) -> World:
    world = World(random.Random(seed), SimulatedDisk(), small_settings(bytes_max=bytes_max))
    world.open()
    for _ in range(commits):
        world.commit(1)
        if sync_derived:
            world.sync_derived()
    return world


def reopen(world: World) -> Store:
    world.store.close()
    return world.open()


def segment_paths(world: World, lane: Lane) -> list[Path]:
    return [segment.path for segment in world.store.catalog.segments[lane]]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_failing_calls_lose_and_repeat_nothing(code: int) -> None:
    for seed in range(25):
        rng = random.Random(seed)
        disk = SimulatedDisk()
        world = World(rng, disk, small_settings(bytes_max=rng.choice((8, 200)) * 8192))
        world.open()
        rate = rng.choice((0.02, 0.1, 0.4))
        for _ in range(25):
            disk.fail(lambda call, r=rng, p=rate: code if call in CALLS and r.random() < p else 0)
            world.commit_in_spite(rng.randint(1, 3), tries=rng.choice((1, 6)))
        disk.heal()
        world.check()
        if rng.random() < 0.5:
            disk.power_cut(rng)
        else:
            world.store.close()
            assert disk.files_open == 0, seed
        world.recover()
        world.check()
        assert world.store.stats.samples_lost_total == 0, seed
        assert world.store.stats.records_damaged_total == 0, seed


def test_a_file_whose_sync_failed_is_never_used_again() -> None:
    world = filled(commits=5)
    before = segment_paths(world, Lane.RAW)
    failures = iter([errno.EIO])
    world.disk.fail(lambda call: next(failures, 0) if call == "sync" else 0)
    world.commit(1)  # SimulatedFile itself refuses to be used after a failure
    assert segment_paths(world, Lane.RAW)[:-1] == before
    assert world.store.stats.error_last
    reopen(world)
    world.check()


def test_a_disk_that_fails_for_long_is_not_filled_with_empty_files() -> None:
    world = filled(commits=5)
    files = len(world.disk.paths())
    world.disk.fail(lambda call: errno.EIO if call == "sync" else 0)
    group = Group([Turn(5, {Lane.RAW: Frame.of(5, np.zeros(1, np.int32), np.ones(1))})])
    for _ in range(20):
        with pytest.raises(OSError, match="Input/output"):
            world.store.commit([group])
    assert len(world.disk.paths()) <= files + 1
    world.disk.heal()
    world.store.commit([group])
    assert group.sequence == world.store.applied(Lane.RAW)


def test_a_full_disk_costs_the_oldest_raw_samples_not_the_newest() -> None:
    world = World(random.Random(2), SimulatedDisk(size=12 * 2**20), small_settings(bytes_max=2**30))
    world.disk.size_total = 8 * 2**20 + 15 * 8192  # above the reserve
    world.open()
    for _ in range(150):
        world.commit(1)
    world.check()
    assert world.store.samples_begin(Lane.RAW) > 0
    assert world.store.samples_begin(Lane.EVENT) == 0
    world.disk.size_total = world.disk.bytes_used  # somebody else took the rest
    for _ in range(30):
        world.commit(1)
    world.check()


def test_files_stay_within_their_bound_and_raw_goes_first() -> None:
    world = World(random.Random(3), SimulatedDisk(), small_settings(bytes_max=24 * 8192))
    world.open()
    for _ in range(300):
        world.commit(1)
        world.store.tidy()
        assert world.disk.bytes_used <= 24 * 8192
        assert world.store.stats.bytes_used <= 24 * 8192
    world.check()
    begins = [world.store.samples_begin(lane) for lane in Lane]
    ends = [world.store.samples_end(lane) for lane in Lane]
    assert len(segment_paths(world, Lane.RAW)) == 1
    assert begins[Lane.RAW] > 0.9 * ends[Lane.RAW]
    assert begins[Lane.EVENT] == 0 or begins[Lane.AGGREGATE] > 0
    numbers = [path.name for path in world.disk.paths()]
    assert len(numbers) == len(set(numbers)) <= 24


def test_a_record_that_fits_no_segment_gets_a_file_of_its_own() -> None:
    world = filled(commits=3)
    rng = np.random.default_rng(1)
    values = rng.standard_normal(20_000)
    t_ns = rng.integers(0, 2**62, 20_000)
    frame = Frame.of(t_ns, np.full(20_000, 3 * 12, np.int32), values)
    world.store.commit([Group([Turn(9, {Lane.RAW: frame})])])
    world.commit(2)
    reopen(world)
    rows = [r for r in world.store.rows_backwards(Lane.RAW) if len(r.columns.frame) == 20_000]
    assert rows[0].columns.frame.values.tobytes() == values.tobytes()
    assert rows[0].columns.frame.t_ns.tolist() == t_ns.tolist()


def test_rotten_bits_cost_what_is_counted_and_the_rest_is_served() -> None:
    for seed in range(30):
        world = filled(seed, commits=25, sync_derived=True)
        rng = random.Random(seed)
        world.store.close()
        lane = rng.choice((Lane.RAW, Lane.AGGREGATE))
        segments = world.store.catalog.segments[lane]
        for segment in rng.sample(segments, min(len(segments), rng.randint(1, 3))):
            # At the very end damage cannot be told from a write that was torn.
            end = segment.summary.end - 8
            if segment.can_grow:
                assert segment.contents is not None
                end = int(segment.contents.index["end"][:-1].max(initial=0))
            if end > RECORDS_START:
                world.disk.flip_bit(rng, segment.path, rng.choice((0, RECORDS_START)), end)
        store = world.open()
        there = values_of(store, lane)
        promised = world.promised[lane]
        rest = iter(promised)
        assert all(value in rest for value in there), seed  # in order, nothing else
        lost = len(promised) - len(there)
        assert store.stats.samples_lost_total == lost, seed
        assert (store.stats.records_damaged_total > 0) >= (lost > 0), seed
        assert values_of(store, lane) == there
        assert store.stats.samples_lost_total == lost, "counted twice"
        world.commit(1)


@pytest.mark.parametrize("start", [0, SUMMARY_START])
def test_a_sector_lost_at_a_segments_start_costs_no_samples(start: int) -> None:
    world = filled()
    world.store.close()
    for path in segment_paths(world, Lane.RAW):
        world.disk.content(path)[start : start + 512] = bytes(512)
    store = world.open()
    world.check()
    assert store.stats.samples_lost_total == 0
    world.commit(3)
    reopen(world)
    world.check()


def test_a_missing_segment_is_counted_to_the_sample() -> None:
    world = filled()
    gone = world.store.catalog.segments[Lane.RAW][2]
    lost = gone.summary.samples_end - gone.summary.samples_before
    world.store.close()
    world.disk.unlink(gone.path)
    store = world.open()
    assert store.stats.samples_lost_total == lost > 0
    assert len(values_of(store, Lane.RAW)) == len(world.promised[Lane.RAW]) - lost


def test_foreign_files_keep_nothing_from_starting() -> None:
    world = filled()
    world.store.close()
    raw = segment_paths(world, Lane.RAW)
    rng = random.Random(1)
    world.disk.put(DIRECTORY / "raw-0000000900.seg", rng.randbytes(5000))
    world.disk.put(DIRECTORY / "raw-999999999999999999.seg", b"")
    world.disk.put(DIRECTORY / "raw-99999999999999999999999.seg", b"too long a number")
    world.disk.put(DIRECTORY / "event-0000000901.seg", bytes(world.disk.content(raw[1])))
    world.disk.put(DIRECTORY / "notes.txt", b"hello")
    world.disk.put(DIRECTORY / "spare.seg", b"too short")
    world.disk.put(DIRECTORY / "cursors" / "influx.cursor", rng.randbytes(1024))
    world.disk.put(DIRECTORY / "cursors" / "other.cursor", b"")
    world.open()
    world.check()
    world.commit(3)
    reopen(world)
    world.check()


def test_an_unreadable_file_does_not_keep_the_others_from_being_served() -> None:
    world = filled()
    world.store.close()
    world.disk.make_unreadable(segment_paths(world, Lane.EVENT)[0])
    store = world.open()
    assert store.stats.records_damaged_total > 0
    assert values_of(store, Lane.RAW)
    assert len(world.disk.paths()) > 10  # it may only be out of sorts today


def test_a_lost_end_of_the_raw_lane_gives_no_sequence_away_twice() -> None:
    world = filled(commits=10)
    applied = max(world.store.applied(lane) for lane in Lane if lane is not Lane.RAW)
    world.store.close()
    for path in segment_paths(world, Lane.RAW):
        world.disk.unlink(path)
    store = world.open()
    assert store.applied(Lane.AGGREGATE) > 0
    group = Group([Turn(5, {Lane.RAW: Frame.of(5, np.full(1, 36, np.int32), np.ones(1))})])
    store.commit([group])
    assert group.sequence > applied


def test_opening_reads_a_kilobyte_of_each_full_segment() -> None:
    world = filled(commits=300)
    world.store.close()
    files = len(world.disk.paths())
    assert files > 40
    world.disk.bytes_read = 0
    world.open()
    whole_files = 5  # the last of each lane, and the one that replay begins in
    records = 1024  # the newest turn, looked up once more
    assert world.disk.bytes_read <= files * 1024 + whole_files * 8192 + records


def test_a_second_process_is_refused_and_the_first_one_is_not_disturbed() -> None:
    world = filled(commits=2)
    other = Store(DIRECTORY, small_settings(), new_table(), world.clock, world.disk)
    with pytest.raises(SpoolLocked):
        other.open()
    world.commit(2)
    world.check()


def test_another_configuration_reads_what_this_one_wrote() -> None:
    world = filled(commits=4)
    world.store.close()
    table = TagTable()
    table.add(make_tag("other.tag"))
    table.add(make_tag("raw.t3", eng_unit="bar"))  # the same name, another definition
    store = Store(DIRECTORY, world.settings, table, world.clock, world.disk)
    store.open()
    assert values_of(store, Lane.RAW) == world.promised[Lane.RAW]
    names = {
        table[tag_id].name
        for rows in store.rows_backwards(Lane.RAW)
        for tag_id in rows.frame(table).tag_ids.tolist()
    }
    assert names <= {f"raw.t{i}" for i in range(12)}
    assert table[1].eng_unit == "bar"
    # What is written now is told by its present definition, in the same segment.
    store.commit(
        [Group([Turn(9, {Lane.RAW: Frame.of(9, np.array([0, 1], np.int32), np.ones(2))})])]
    )
    store.close()
    later = TagTable()
    store = Store(DIRECTORY, world.settings, later, world.clock, world.disk)
    store.open()
    newest = next(store.rows_backwards(Lane.RAW))
    assert [later[i].name for i in newest.frame(later).tag_ids.tolist()] == ["other.tag", "raw.t3"]
    units = [newest.dictionary[i] for i in newest.columns.frame.tag_ids.tolist()]
    assert [tag.eng_unit for tag in units if tag] == ["", "bar"]


def test_without_a_raw_lane_the_derived_ones_are_kept_all_the_same() -> None:
    world = World(random.Random(4), SimulatedDisk(), small_settings(raw=False))
    world.open()
    for _ in range(10):
        world.commit(2)
    reopen(world)
    assert values_of(world.store, Lane.AGGREGATE) == world.promised[Lane.AGGREGATE]
    assert values_of(world.store, Lane.RAW) == []
    assert world.store.last_turn_ns == 0
    assert world.store.applied(Lane.AGGREGATE) == 0


def test_a_rotten_segment_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    world = filled()
    world.store.close()
    data = world.disk.content(segment_paths(world, Lane.RAW)[1])
    for offset in range(RECORDS_START + HEADER_BYTES, len(data), 97):
        data[offset] ^= 4
    with caplog.at_level(logging.ERROR):
        store = world.open()
        values_of(store, Lane.RAW)
    assert store.stats.records_damaged_total > 2
    assert caplog.text.count("spool.damaged") <= 2


def test_a_bound_that_was_lowered_is_kept_to_without_waiting_for_new_samples() -> None:
    world = filled()
    world.store.close()
    world.settings = small_settings(bytes_max=10 * 8192)
    store = world.open()
    assert store.stats.bytes_used > 10 * 8192
    store.tidy()
    assert store.stats.bytes_used <= 10 * 8192
    assert world.disk.bytes_used <= 10 * 8192
    world.check()


def gaps_of(store: Store, lane: Lane) -> list[Gap]:
    segments = store.catalog.segments[lane]
    return [gap for segment in segments for gap in store.catalog.contents(segment).gaps]


def test_what_is_deleted_leaves_a_gap_record_that_counts_it() -> None:
    world = filled(bytes_max=24 * 8192, commits=10)
    table, clock = world.table, world.clock
    world.store.account.begin("sink", [Lane.RAW])
    for _ in range(200):
        world.commit(1)
        world.store.tidy()
    store = reopen(world)
    gaps = gaps_of(store, Lane.RAW)
    begin = store.samples_begin(Lane.RAW)
    assert gaps
    assert {gap.reason for gap in gaps} == {"space"}
    # The oldest gap records may have been deleted themselves; those there are follow each other.
    assert [g.sequence_first for g in gaps[1:]] == [g.sequence_last + 1 for g in gaps[:-1]]
    assert sum(gap.samples for gap in gaps) <= begin
    assert all(gap.undelivered == gap.samples for gap in gaps)  # the sink has read nothing
    assert all(gap.t_ns_min <= gap.t_ns_max <= clock.utc_ns() for gap in gaps)
    assert len(table) == 4 * 12


def test_a_deletion_that_a_new_segment_causes_is_on_record_as_well() -> None:
    world = filled(bytes_max=24 * 8192, commits=200)  # never tidied: there is no spare in time
    world.commit(1)
    gaps = gaps_of(world.store, Lane.RAW)
    assert gaps
    segments = world.store.catalog.segments[Lane.RAW]
    assert gaps[-1].sequence_last + 1 == segments[0].first_sequence
    assert [g.sequence_first for g in gaps[1:]] == [g.sequence_last + 1 for g in gaps[:-1]]


def test_a_lane_keeps_no_more_than_its_own_bytes_and_age() -> None:
    world = World(
        random.Random(1),
        SimulatedDisk(),
        small_settings(
            bytes_max=1000 * 8192, lane_bytes_max={"raw": 3 * 8192}, age_max={"aggregate": 100.0}
        ),
    )
    world.open()
    for _ in range(400):
        world.commit(1)
        world.store.tidy()
        assert world.store.stats.lanes[Lane.RAW].bytes_used <= 4 * 8192
    world.check()
    segments = world.store.catalog.segments
    oldest_ns = segments[Lane.AGGREGATE][0].summary.t_ns_max
    assert oldest_ns >= world.clock.utc_ns() - 100 * 10**9 or len(segments[Lane.AGGREGATE]) == 1
    assert len(segments[Lane.SCORE]) > len(segments[Lane.AGGREGATE])
    assert {gap.reason for gap in gaps_of(world.store, Lane.RAW)} == {"lane"}
    assert {gap.reason for gap in gaps_of(world.store, Lane.AGGREGATE)} == {"age"}


def test_a_derived_batch_that_cannot_be_synced_is_written_again_in_its_place() -> None:
    world = filled(commits=5)
    places = {lane: world.store.samples_end(lane) for lane in Lane}
    there = {lane: values_of(world.store, lane) for lane in Lane}
    failures = iter([errno.EIO])
    world.disk.fail(lambda call: next(failures, 0) if call == "sync" else 0)
    with pytest.raises(OSError, match="Input/output"):
        world.store.sync_derived()
    world.store.sync_derived()
    assert {lane: values_of(world.store, lane) for lane in Lane} == there
    assert {lane: world.store.samples_end(lane) for lane in Lane} == places
    world.disk.power_cut(random.Random(1))
    world.open()
    world.check()


@pytest.mark.parametrize("seed", range(8))
def test_a_cursor_that_a_killed_process_left_in_the_cache_outlives_a_power_cut(seed: int) -> None:
    world = filled()
    world.store.account.begin("sink", [Lane.RAW]).move(Lane.RAW, 3)
    world.disk.fail(lambda call: errno.EIO if call == "sync_directory" else 0)
    with pytest.raises(OSError, match="Input/output"):
        world.store.save_cursors()  # its file is there, but the name is not on disk for certain
    world.disk.is_locked = False  # killed
    once = iter([errno.EIO])
    world.disk.fail(lambda call: next(once, 0) if call == "sync_directory" else 0)
    world.open()
    world.disk.power_cut(random.Random(seed))
    world.open()
    assert world.store.cursors["sink"].place(Lane.RAW) == 3


def test_a_cursor_ahead_of_its_lane_stays_moved_back_through_a_second_power_cut() -> None:
    """Were it not, what the lane gets next would be taken for delivered."""
    world = World(random.Random(1), SimulatedDisk())
    world.open()
    world.commit(1)
    end = world.store.samples_end(Lane.RAW)
    world.store.account.begin("influx", tuple(Lane)).move(Lane.RAW, end + 1)
    world.store.save_cursors()
    world.store.close()
    reopen(world)
    world.commit(3)
    assert world.store.samples_end(Lane.RAW) > end + 1
    world.disk.power_cut(world.rng)
    assert world.open().cursors["influx"].place(Lane.RAW) == end


def test_a_gap_that_was_kept_without_the_frames_behind_it_does_not_pass_for_them() -> None:
    """A power cut tears a derived batch behind its first record: what it held is made again."""
    world = World(
        random.Random(1),
        SimulatedDisk(),
        small_settings(bytes_max=1000 * 8192, lane_bytes_max={"aggregate": 2 * 8192}),
    )
    world.open()
    while not gaps_of(world.store, Lane.AGGREGATE):
        world.commit(1)
        world.store.tidy()
    *_, segment = world.store.catalog.segments[Lane.AGGREGATE]
    assert segment.contents is not None
    last = segment.contents.index[-1]
    applied, begin, end = int(last["raw_sequence"]), int(last["offset"]), segment.summary.end
    assert world.store.applied(Lane.AGGREGATE) == applied
    world.store.close()
    world.disk.content(segment.path)[begin:end] = bytes(end - begin)
    assert gaps_of(world.open(), Lane.AGGREGATE)  # it stands before the frames it came with
    assert world.store.applied(Lane.AGGREGATE) < applied


def bring(world: World, number: int, lane: Lane = Lane.RAW) -> tuple[Path, int]:
    """A whole segment of another spool, whose sequences begin with 1; and its samples."""
    other = World(random.Random(9), SimulatedDisk(), world.settings)
    store = other.open()
    store._writers[lane]._shared.number_last = number - 1
    for second in range(3):
        frame = Frame.of(second, np.full(5, 36, np.int32), np.arange(5.0))
        store.commit([Group([Turn(second, {Lane.RAW: frame})])])
    store.close()
    path = DIRECTORY / f"{lane.name.lower()}-{number:010d}.seg"
    world.disk.put(path, bytes(other.disk.content(path)))
    return path, 15


@pytest.mark.parametrize("number", [99, 2_000_000_000])
def test_a_segment_of_another_spool_denies_nothing_that_is_there(number: int) -> None:
    world = filled(commits=60)
    world.store.close()
    path, samples = bring(world, number)
    names = [known.name for known in segment_paths(world, Lane.RAW)]
    assert len(names) > 2
    (finding,) = verify(world.disk, DIRECTORY).findings
    assert (finding.file, finding.samples) == (path.name, samples)
    store = world.open()
    world.check()
    assert [known.name for known in segment_paths(world, Lane.RAW)] == names
    assert store.stats.samples_lost_total == samples, "what is not served is counted"
    kept = [known for known in world.disk.paths() if known.parent.name == "quarantine"]
    assert [known.name.partition(".")[2] for known in kept] == [path.name]
    world.commit(1)
    reopen(world)
    world.check()
    assert world.store.stats.samples_lost_total == 0, "once"


def test_of_two_histories_the_longer_one_is_served_and_the_other_kept() -> None:
    world = filled(commits=60)
    world.store.close()
    for number in (97, 98, 99):
        bring(world, number)
    world.open()
    world.check()
    quarantined = [known for known in world.disk.paths() if known.parent.name == "quarantine"]
    assert len(quarantined) == 3
