"""Bytes that are whole but mean nothing, and files that cannot be read: said, and passed over."""

from __future__ import annotations

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

from gateway.errors import SpoolDamaged, SpoolError, SpoolLocked
from gateway.frame import Frame, Lane, Turn
from gateway.spool.boots import Boots, decode_boots
from gateway.spool.catalog import segment_path
from gateway.spool.checkpoint import decode_checkpoint
from gateway.spool.columns import Columns, decode_columns, encode_columns
from gateway.spool.disk import Disk
from gateway.spool.gap import decode_gap
from gateway.spool.inspect import find_cursors, look
from gateway.spool.moving import Mover, place_at
from gateway.spool.segment import HEAD_BYTES, RECORDS_START, TAGS, decode_header, scan, seed_of
from gateway.spool.verify import verify
from tests.spool.conftest import Opener, frame_of
from tests.spool.simulated_disk import SimulatedDisk
from tests.spool.worlds import DIRECTORY, World, small_settings


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
    world.store.cursor_of("influx", tuple(Lane))
    world.store.save_cursors()
    return world


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
