"""Bytes that are whole but mean nothing, and files that cannot be read: said, and passed over."""

from __future__ import annotations

import errno
import json
import os
import random
import struct
import zlib
from pathlib import Path

import pytest

from gateway.errors import SpoolDamaged, SpoolError, SpoolLocked
from gateway.frame import Lane
from gateway.spool.boots import Boots, decode_boots
from gateway.spool.checkpoint import decode_checkpoint
from gateway.spool.disk import Disk
from gateway.spool.gap import decode_gap
from gateway.spool.inspect import find_cursors, look
from gateway.spool.moving import Mover
from gateway.spool.verify import verify
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
