"""The real disk, in a temporary folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gateway.errors import SpoolLocked
from gateway.spool.disk import Disk


@pytest.fixture
def disk() -> Disk:
    return Disk()


def test_a_created_file_is_zeros_and_really_takes_its_blocks(disk: Disk, tmp_path: Path) -> None:
    path = tmp_path / "file"
    disk.create(path, 1_000_000).close()
    assert path.read_bytes() == bytes(1_000_000)
    assert path.stat().st_blocks * 512 >= 1_000_000
    assert disk.size(path) == 1_000_000


def test_what_is_written_is_read_back_at_any_offset(disk: Disk, tmp_path: Path) -> None:
    path = tmp_path / "file"
    file = disk.create(path, 5000)
    file.write(b"hello", 4000)
    file.sync()
    assert file.read(7, 3999) == b"\0hello\0"
    file.close()
    assert disk.read(path, 100, 4996) == bytes(4)
    assert disk.read(path, 100, 9999) == b""


def test_short_writes_and_reads_are_carried_on(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = disk.create(tmp_path / "file", 100)
    pwrite, pread = os.pwrite, os.pread
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, bytes(data[:3]), at))
    monkeypatch.setattr(os, "pread", lambda fd, size, at: pread(fd, min(size, 4), at))
    file.write(b"0123456789", 5)
    assert file.read(12, 4) == b"\x000123456789\0"
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    with pytest.raises(OSError, match="no bytes"):
        file.write(b"x", 0)
    file.close()


def test_nothing_is_left_of_a_file_that_could_not_be_created(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="full"):
        disk.create(tmp_path / "file", 4096)
    assert disk.names(tmp_path) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def test_names(disk: Disk, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    disk.make_directory(folder)
    disk.make_directory(folder)
    disk.create(folder / "old", 10).close()
    disk.rename(folder / "old", folder / "new")
    disk.sync_directory(folder)
    assert disk.names(folder) == ["new"]
    disk.unlink(folder / "new")
    assert disk.names(folder) == []
    with pytest.raises(FileNotFoundError):
        disk.unlink(folder / "new")
    assert disk.bytes_free(folder) > 0


def test_a_deleted_file_is_known_to_be_deleted(disk: Disk, tmp_path: Path) -> None:
    file = disk.create(tmp_path / "file", 10)
    assert file.is_linked()
    disk.unlink(tmp_path / "file")
    assert not file.is_linked()
    file.close()


def test_a_lock_is_held_until_it_is_closed(disk: Disk, tmp_path: Path) -> None:
    lock = disk.lock(tmp_path / "lock")
    with pytest.raises(SpoolLocked, match="another process"):
        disk.lock(tmp_path / "lock")
    lock.close()
    disk.lock(tmp_path / "lock").close()
