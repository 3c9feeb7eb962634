"""Bytes that are whole but mean nothing, and files that cannot be read: said, and passed over."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import ManualClock
from gateway.errors import SpoolDamaged, SpoolError, SpoolLocked
from gateway.frame import Frame, Lane, Turn
from gateway.spool.boots import Boot, Boots, decode_boots
from gateway.spool.catalog import segment_path
from gateway.spool.checkpoint import Checkpoint, decode_checkpoint
from gateway.spool.columns import Columns, decode_columns, encode_columns
from gateway.spool.disk import Disk
from gateway.spool.gap import decode_gap
from gateway.spool.group import Group
from gateway.spool.inspect import find_cursors, look
from gateway.spool.moving import Mover, place_at
from gateway.spool.salvage import read_around
from gateway.spool.segment import HEAD_BYTES, RECORDS_START, TAGS, decode_header, scan, seed_of
from gateway.spool.store import Store
from gateway.spool.verify import verify
from tests.spool import worlds
from tests.spool.conftest import Opener, frame_of
from tests.spool.simulated_disk import SimulatedDisk
from tests.spool.worlds import DIRECTORY, World, new_table, small_settings, values_of

RAW_TAG = int(Lane.RAW) * worlds.TAGS


def sealed(head: bytes, payload: bytes) -> bytes:
    data = head + payload
    return data + struct.pack("<I", zlib.crc32(data))


@pytest.mark.parametrize("payload", [b"[[1]]", b'[["x", 1, 2, "exact"]]', b"\xff"])
def test_a_record_of_boots_that_means_nothing_is_damaged(payload: bytes) -> None:
    with pytest.raises(SpoolDamaged, match="cannot be read"):
        decode_boots(sealed(struct.pack("<4sB3xI", b"SlgB", 1, len(payload)), payload))


def test_a_damaged_record_of_boots_costs_no_start(caplog: pytest.LogCaptureFixture) -> None:
    disk = SimulatedDisk()
    disk.make_directory(DIRECTORY)
    file = disk.create(DIRECTORY / "boots", 16)
    file.write(b"nonsense", 0)
    file.close()
    boots = Boots(disk, DIRECTORY)
    boots.load()
    assert "spool.boots_damaged" in caplog.text
    assert boots.all() == {}


def test_a_checkpoint_that_is_no_archive_is_damaged() -> None:
    head = struct.pack("<4sB3xQQ", b"SlgP", 1, 7, 3)
    with pytest.raises(SpoolDamaged, match="cannot be read"):
        decode_checkpoint(sealed(head, b"abc"))


@pytest.mark.parametrize("facts", [[], {"reason": "age"}, {"reason": "age", "samples": "many"}])
def test_a_gap_that_means_nothing_is_damaged(facts: object) -> None:
    with pytest.raises(SpoolDamaged, match="gap record"):
        decode_gap(json.dumps(facts).encode())


def a_world() -> World:
    world = World(random.Random(3), SimulatedDisk(), small_settings())
    world.open()
    for _ in range(25):
        world.commit(1)
    world.sync_derived()
    world.store.account.begin("influx", tuple(Lane))
    world.store.save_cursors()
    return world


def reopened(world: World) -> Store:
    store = Store(DIRECTORY, world.settings, new_table(), ManualClock(), world.disk)
    store.open()
    return store


def raw_rows(store: Store) -> dict[int, int]:
    """Samples by sequence, of every raw record that can be read."""
    return {rows.sequence: len(rows.columns.frame) for rows in store.rows_backwards(Lane.RAW)}


@pytest.mark.parametrize("is_last", [True, False])
@pytest.mark.parametrize("bad", [(0, 4096), (4096, 4097), (6000, 6001), (4096, 8192)])
def test_a_bad_block_costs_the_records_in_it_and_no_more(
    bad: tuple[int, int], *, is_last: bool
) -> None:
    world = a_world()
    segment = world.store.catalog.segments[Lane.RAW][-1 if is_last else 0]
    index = world.store.catalog.contents(segment).index
    # Of pages, because that is what the kernel reads.
    begin, end = bad[0] // 4096 * 4096, -(-bad[1] // 4096) * 4096
    is_hit = (index["offset"] < end) & (index["end"] > begin)
    hit = set(index["sequence"][is_hit].tolist())
    before = raw_rows(world.store)
    world.store.close()
    world.disk.make_unreadable(segment.path, *bad)
    store = reopened(world)
    after = raw_rows(store)
    assert after == {sequence: n for sequence, n in before.items() if sequence not in hit}
    lost = sum(before[sequence] for sequence in hit)
    # Of records at the very end nobody knows any more that there were any.
    is_end_known = not (is_last and hit and max(hit) == max(before))
    if is_end_known:
        assert store.stats.samples_lost_total == lost
    store.close()


def test_a_whole_row_of_bad_blocks_does_not_keep_a_start_waiting(tmp_path: Path) -> None:
    class BadDisk(Disk):
        refused = 0

        def read(self, path: Path, size: int, offset: int) -> bytes:
            if offset + size > 2**20 and offset < 3 * 2**20:
                self.refused += 1
                raise OSError(errno.EIO, "bad")
            return super().read(path, size, offset)

    path, written = tmp_path / "segment", os.urandom(4 * 2**20)
    path.write_bytes(written)
    disk, bad = BadDisk(), set[int]()
    read = read_around(disk, path, len(written), bad)
    assert read[: 2**20] == written[: 2**20]
    assert not any(read[2**20 : 3 * 2**20])
    assert read[3 * 2**20 :] == written[3 * 2**20 :]
    assert bad == set(range(256, 768))
    assert disk.refused <= 13
    assert read_around(disk, path, len(written), bad) == read
    assert disk.refused <= 13, "what is known to be bad is not tried again"


@given(st.sets(st.integers(0, 40), max_size=20), st.integers(1, 41 * 4096))
def test_what_stands_before_and_behind_bad_blocks_is_read(unreadable: set[int], size: int) -> None:
    class BadDisk(Disk):
        def read(self, path: Path, size: int, offset: int) -> bytes:
            del path
            if unreadable & set(range(offset // 4096, -(-(offset + size) // 4096))):
                raise OSError(errno.EIO, "bad")
            return b"x" * size

    blocks, bad = set(range(-(-size // 4096))), set[int]()
    unreadable &= blocks
    # Between two bad ones, a good one may pass for one of their row.
    row = set(range(min(unreadable, default=0), max(unreadable, default=-1) + 1))
    try:
        read = read_around(BadDisk(), Path("/x"), size, bad)
    except OSError:
        assert row == blocks
        return
    assert len(read) == size
    assert {block for block in blocks if read[block * 4096]} == blocks - bad
    assert unreadable <= bad <= row


def test_a_file_of_which_nothing_can_be_read_is_told(tmp_path: Path) -> None:
    class DeadDisk(Disk):
        code = errno.EIO

        def read(self, path: Path, size: int, offset: int) -> bytes:
            del path, size, offset
            raise OSError(self.code, "dead")

    disk = DeadDisk()
    with pytest.raises(OSError, match="dead"):
        read_around(disk, tmp_path, 100_000, set())
    disk.code = errno.EACCES
    with pytest.raises(OSError, match="dead"):
        read_around(disk, tmp_path, 100_000, set())


@pytest.mark.parametrize("name", ["boots", "cursors/influx.cursor", "checkpoint"])
def test_no_file_that_cannot_be_read_keeps_the_spool_from_the_disk(name: str) -> None:
    world = a_world()
    world.store.settle_boots(5, Boot(1, 2, "exact"), 10**18)
    world.store.save_checkpoint(Checkpoint(world.store.applied(Lane.RAW) - 1, [], {}))
    world.store.close()
    world.disk.make_unreadable(DIRECTORY / name)
    store = Store(DIRECTORY, world.settings, new_table(), ManualClock(), world.disk)
    with contextlib.suppress(OSError):
        store.open()
    if not store.is_open:
        store.enter_memory()  # as the writer does after some seconds
        store.leave_memory()
    store.account.begin("influx", tuple(Lane))
    store.save_cursors()
    store.settle_boots(6, Boot(1, 3, "exact"), 2 * 10**18)
    store.close()
    again = reopened(world)
    assert again.boots[6] == Boot(1, 3, "exact")
    again.close()


def test_verdicts_that_could_not_be_read_at_first_are_kept() -> None:
    world = a_world()
    world.store.settle_boots(5, Boot(1, 2, "exact"), 10**18)
    world.store.close()
    world.disk.fail(lambda call: errno.EIO if call in ("read", "open") else 0)
    store = Store(DIRECTORY, world.settings, new_table(), ManualClock(), world.disk)
    with pytest.raises(OSError, match="Input/output"):
        store.open()
    store.enter_memory()
    store.settle_boots(6, Boot(1, 3, "exact"), 2 * 10**18)
    assert store.boots.all() == {6: Boot(1, 3, "exact")}
    world.disk.heal()
    store.leave_memory()
    store.close()
    again = reopened(world)
    assert again.boots.all() == {5: Boot(1, 2, "exact"), 6: Boot(1, 3, "exact")}
    again.close()


def test_a_boot_that_could_not_be_recorded_is_before_its_first_sample_is() -> None:
    world = a_world()
    world.disk.fail(lambda call: errno.ENOSPC if call == "create" else 0)
    with pytest.raises(OSError, match="No space"):
        world.store.begin_boot(7, 1234)
    turn = Turn(10**18, {Lane.RAW: frame_of(1.0)}, boot=7)
    with pytest.raises(OSError, match="No space"):
        world.store.commit([Group([turn])])
    world.disk.heal()
    world.store.commit([Group([turn])])
    world.disk.power_cut(random.Random(1))
    again = reopened(world)
    assert again.boots[7] == Boot(1234)
    assert again.samples_waiting == 1
    again.close()


def test_files_that_cannot_be_read_are_named_with_what_they_hold() -> None:
    world = a_world()
    world.store.close()
    opened = look(world.disk, DIRECTORY)
    assert [sink.sink for sink in opened.sinks if sink.lane == "raw"] == ["influx"]
    whole = verify(world.disk, DIRECTORY)
    opens = 0

    def fails(call: str) -> int:
        # Each file's head can be read, so that it is known; what is in it cannot.
        nonlocal opens
        opens += call == "open"
        return errno.EIO if call == "open" and opens > len(opened.lanes) * 3 else 0

    world.disk.fail(fails)
    verdict = verify(world.disk, DIRECTORY)
    world.disk.heal()
    assert verdict.findings
    assert verdict.samples <= whole.samples
    assert verify(world.disk, DIRECTORY).findings == []


def test_where_there_is_no_spool_there_is_nothing_to_find_and_nothing_to_move() -> None:
    disk = SimulatedDisk()
    assert find_cursors(disk, Path("/none")) == {}
    assert look(disk, Path("/none")).sinks == []
    with pytest.raises(SpoolError, match="no spool"), Mover.locked(Disk(), Path("/none")):
        pass


def test_a_read_only_file_system_can_still_be_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lock").touch()
    real = os.open

    def read_only(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR:
            raise OSError(errno.EROFS, "Read-only file system")
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", read_only)
    lock = Disk().lock(tmp_path / "lock")
    with pytest.raises(SpoolLocked):
        Disk().lock(tmp_path / "lock")
    lock.close()
    Disk().lock(tmp_path / "lock").close()


class _Unreadable(SimulatedDisk):
    """A disk on which some files cannot be read, by name and from some offset on."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: dict[str, int] = {}
        self.gone: set[str] = set()

    def read(self, path: Path, size: int, offset: int) -> bytes:
        if path.name in self.gone:
            raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
        if size + offset > self.hidden.get(path.name, 2**62):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return super().read(path, size, offset)


def an_unreadable_world(**changes: object) -> tuple[World, _Unreadable]:
    disk = _Unreadable()
    world = World(random.Random(3), disk, small_settings(**changes))
    world.open()
    for _ in range(60):
        world.commit(1)
    world.sync_derived()
    world.store.close()
    return world, disk


def test_a_segment_whose_records_cannot_be_read_counts_as_lost_and_is_named() -> None:
    world, disk = an_unreadable_world()
    whole = verify(disk, DIRECTORY)
    first = look(disk, DIRECTORY).lanes[Lane.RAW]
    segment = world.store.catalog.segments[Lane.RAW][0]
    disk.hidden[segment.path.name] = RECORDS_START
    verdict = verify(disk, DIRECTORY)
    samples = segment.summary.samples_end - segment.summary.samples_before
    assert samples > 0
    assert verdict.samples == whole.samples - samples
    assert segment.path.name in {finding.file for finding in verdict.findings}
    assert look(disk, DIRECTORY).lanes[Lane.RAW].samples <= first.samples
    disk.hidden.clear()
    assert verify(disk, DIRECTORY).findings == []


def test_a_segment_that_cannot_be_read_any_more_costs_a_running_gateway_its_samples() -> None:
    world, disk = an_unreadable_world()
    store = world.open()
    segment = store.catalog.segments[Lane.RAW][0]
    samples = segment.summary.samples_end - segment.summary.samples_before
    for others in store.catalog.segments.values():  # until its index is no longer in memory
        for other in others:
            if other is not segment:
                store.catalog.contents(other)
    assert store.catalog.known_contents(segment) is None
    disk.hidden[segment.path.name] = 0
    assert len(store.catalog.contents(segment).index) == 0
    assert store.stats.samples_lost_total == samples


def test_what_is_recycled_or_unreadable_while_it_is_verified_is_told_apart() -> None:
    world, disk = an_unreadable_world()
    raw = [segment.path for segment in world.store.catalog.segments[Lane.RAW]]
    strange = segment_path(DIRECTORY, Lane.RAW, 9999)
    disk.put(strange, b"\xff" * 8192)
    assert [f.file for f in verify(disk, DIRECTORY).findings] == [strange.name]
    disk.hidden[strange.name] = 0
    [finding] = verify(disk, DIRECTORY).findings
    assert (finding.file, finding.records, finding.samples) == (strange.name, 1, 0)
    assert "error" in finding.what
    disk.gone.add(strange.name)
    assert verify(disk, DIRECTORY).findings == []
    assert raw


def test_a_place_in_time_is_found_over_a_damaged_record() -> None:
    world, disk = an_unreadable_world()
    store = world.open()
    rows = list(store.rows_since(Lane.RAW, 0))
    damaged = rows[len(rows) // 2]
    t_ns = int(damaged.columns.frame.t_ns.min())
    before = place_at(store.catalog, Lane.RAW, t_ns)
    store.close()
    opened = World(random.Random(4), disk, world.settings)
    store = opened.open()
    for segment in store.catalog.segments[Lane.RAW]:
        for row in store.catalog.contents(segment).index:
            if row["samples_before"] <= before < row["samples_end"]:
                disk.flip_bit(
                    random.Random(1), segment.path, int(row["offset"]) + 60, int(row["end"])
                )
                where = int(row["samples_before"])
    # Whoever reads it counts what is damaged: nothing behind it is left out for it.
    assert place_at(store.catalog, Lane.RAW, t_ns) == where


def a_payload() -> bytes:
    frame = Frame.of(
        np.arange(50, dtype=np.int64) * 10**9,
        np.arange(50, dtype=np.int32) % 3,
        np.random.default_rng(1).normal(size=50),
        exact={3: 2**60},
    )
    return encode_columns(Columns(np.array([1]), np.array([50]), frame))


@pytest.mark.parametrize("size", range(0, 60, 3))
def test_columns_that_are_cut_are_refused(size: int) -> None:
    payload = a_payload()
    with pytest.raises(SpoolDamaged):
        decode_columns(payload[:size], 1, 50)
    with pytest.raises(SpoolDamaged):
        decode_columns(payload[: -2 - size], 1, 50)  # the last byte only ends the deflate


def test_an_exact_value_of_no_row_is_refused() -> None:
    payload = a_payload()
    with pytest.raises(SpoolDamaged):
        decode_columns(payload, 1, 2)


def test_turns_that_do_not_add_up_to_their_samples_are_refused() -> None:
    frame = Frame.of(5, np.array([1, 2], np.int32), np.array([1.0, 2.0]))
    payload = encode_columns(Columns(np.array([1, 2]), np.array([1, 2]), frame))
    with pytest.raises(SpoolDamaged):
        decode_columns(payload, 2, 3)
    payload = encode_columns(Columns(np.array([1, 2]), np.array([2, 1]), frame))
    with pytest.raises(SpoolDamaged, match="add up"):
        decode_columns(payload, 2, 2)


def test_a_lock_that_the_file_system_does_not_have_is_an_error_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="No locks"):
        Disk().lock(tmp_path / "lock")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_ids_of_tags_whose_record_is_lost_become_no_other_tags(open_spool: Opener) -> None:
    """Else the samples stored under them would be another tag's: a wrong value."""
    disk = SimulatedDisk()
    async with open_spool(disk=disk) as spool:
        for value, tag in ((1.0, 3), (2.0, 4), (3.0, 3), (4.0, 4)):
            await spool.append(Turn(int(value), {Lane.RAW: frame_of(value, tag=tag)}))
    [path] = [path for path in disk.paths() if path.name.startswith("raw-")]
    header = decode_header(disk.read(path, HEAD_BYTES, 0))
    assert header is not None
    data = disk.read(path, 2**16, 0)
    named = [
        found
        for found in scan(data, seed_of(header.lane, header.number))
        if found.record.kind == TAGS
    ]
    for found in named:
        disk.flip_bit(random.Random(1), path, found.offset + 80, found.offset + 90)
    async with open_spool(disk=disk) as spool:
        await spool.append(Turn(9, {Lane.RAW: frame_of(7.0, tag=5)}))
        found = await spool.history.query(["pump.*"], 0, 10**18)
        assert found.values.tolist() == [7.0]
        assert found.tag_ids.tolist() == [5]
        assert spool.stats.samples_lost_total == 4


def test_what_cannot_be_read_at_the_end_is_not_written_over() -> None:
    world = a_world()
    segment = world.store.catalog.segments[Lane.RAW][-1]
    before = raw_rows(world.store)
    world.store.close()
    world.disk.make_unreadable(segment.path, 4096, 8192)
    store = reopened(world)
    assert store.stats.records_damaged_total > 0
    store.commit([Group([Turn(10**18, {Lane.RAW: frame_of(1.0, tag=RAW_TAG)})])])
    newest = store.catalog.segments[Lane.RAW][-1]
    assert newest.path != segment.path
    store.close()
    world.disk.make_readable(segment.path)  # it was out of sorts that day only
    again = reopened(world)
    assert values_of(again, Lane.RAW)[-1] == 1.0
    kept = raw_rows(again)
    # What came to light again is not believed beside what was written since.
    assert len(kept) == len({*kept} & {*before}) + 1
    again.close()


def test_a_write_that_fails_past_the_page_cache_is_answered_with_a_new_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = new_table()
    store = Store(tmp_path / "spool", small_settings(raw=True), table, ManualClock(), Disk())
    store.open()
    store.commit([Group([Turn(10**18, {Lane.RAW: frame_of(1.0, tag=RAW_TAG)})])])
    pwrite, refused = os.pwrite, 0

    def refuse_once(descriptor: int, data: memoryview, offset: int) -> int:
        nonlocal refused
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT and not refused:
            refused += 1
            raise OSError(errno.EIO, "bad")
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", refuse_once)
    store.commit([Group([Turn(10**18 + 1, {Lane.RAW: frame_of(2.0, tag=RAW_TAG)})])])
    assert refused
    store.commit([Group([Turn(10**18 + 2, {Lane.RAW: frame_of(3.0, tag=RAW_TAG)})])])
    assert values_of(store, Lane.RAW) == [1.0, 2.0, 3.0]
    store.close()
    store = Store(tmp_path / "spool", small_settings(raw=True), table, ManualClock(), Disk())
    store.open()
    assert values_of(store, Lane.RAW) == [1.0, 2.0, 3.0]
    assert store.stats.records_damaged_total == 0
    store.close()


def test_a_start_that_fails_elsewhere_does_not_cost_the_record_of_boots() -> None:
    world = a_world()
    world.store.settle_boots(7, Boot(1, 2, "exact"), 10**18)
    world.store.close()
    world.disk.make_unreadable(DIRECTORY / "cursors" / "influx.cursor")
    store = Store(DIRECTORY, world.settings, new_table(), ManualClock(), world.disk)
    with pytest.raises(OSError, match="Input/output"):
        store.open()
    store.begin_boot(9, -5)
    on_disk = decode_boots(bytes(world.disk.content(DIRECTORY / "boots")))
    assert on_disk == {7: Boot(1, 2, "exact"), 9: Boot(-5)}
    store.close()


def test_verdicts_are_kept_however_often_leaving_memory_fails() -> None:
    world = a_world()
    world.store.settle_boots(7, Boot(1, 2, "exact"), 10**18)
    world.store.close()
    store = Store(DIRECTORY, world.settings, new_table(), ManualClock(), world.disk)
    world.disk.fail(lambda call: errno.EIO if call in ("read", "create") else 0)
    store.enter_memory()
    store.begin_boot(9, -5)
    for _ in range(3):
        with pytest.raises(OSError, match="Input/output"):
            store.leave_memory()
    world.disk.heal()
    store.leave_memory()
    assert store.boots.all() == {7: Boot(1, 2, "exact"), 9: Boot(-5)}
    store.close()


def test_damage_is_counted_once_however_often_opening_fails() -> None:
    world = a_world()
    segment = world.store.catalog.segments[Lane.RAW][0]
    world.store.settle_boots(7, Boot(1, 2, "exact"), 10**18)
    world.store.close()
    world.disk.make_unreadable(segment.path, 4096, 8192)
    world.disk.make_unreadable(DIRECTORY / "boots")
    store = Store(DIRECTORY, world.settings, new_table(), ManualClock(), world.disk)
    for _ in range(3):
        with pytest.raises(OSError, match="Input/output"):
            store.open()
    assert store.stats.samples_lost_total == 0
    store.close()


@pytest.mark.parametrize("kind", ["a pipe for a segment", "a file for the cursors", "a folder"])
async def test_what_is_in_the_way_of_files_keeps_nobody_from_going_on(
    open_spool: Opener, tmp_path: Path, kind: str
) -> None:
    async with open_spool() as spool:
        reader = spool.reader("influx", [Lane.RAW])
        await spool.append(Turn(5, {Lane.RAW: frame_of(1.0, 2.0)}))
        await reader.acknowledge(await reader.next(10))
    directory = tmp_path / "spool"
    cursor = directory / "cursors" / "influx.cursor"
    if kind == "a pipe for a segment":
        os.mkfifo(directory / "raw-0000000099.seg")
    elif kind == "a file for the cursors":
        cursor.unlink()
        cursor.parent.rmdir()
        cursor.parent.write_text("x")
    else:
        cursor.unlink()
        cursor.mkdir()
    async with open_spool() as spool:
        reader = spool.reader("influx", [Lane.RAW])
        await spool.append(Turn(6, {Lane.RAW: frame_of(3.0)}))
        values = []
        while reader.backlog().samples:
            batch = await reader.next(10)
            values += batch.frame.values.tolist()
            await reader.acknowledge(batch)
        assert values in ([3.0], [1.0, 2.0, 3.0])  # without its cursor a sink begins anew
    async with open_spool() as spool:
        assert spool.reader("influx", [Lane.RAW]).backlog().samples == 0
        assert spool.stats.cursors_error == ""
