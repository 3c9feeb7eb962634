"""The real disk, in a temporary folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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


appends = st.lists(
    st.one_of(st.integers(1, 700), st.integers(4000, 4200), st.integers(30_000, 34_000), st.none()),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize("can_be_direct", [True, False])
@given(sizes=appends, start=st.integers(0, 1500), seed=st.integers(0, 2**16))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_appended_is_there_and_harms_nothing_before_or_far_behind_it(
    tmp_path: Path, sizes: list[int | None], start: int, seed: int, *, can_be_direct: bool
) -> None:
    rng, path = random.Random(seed), tmp_path / "file"
    expected = bytearray(rng.randbytes(512 * 1024))
    path.write_bytes(expected)
    refused = contextlib.nullcontext() if can_be_direct else without_direct_io()
    with refused:
        file, end = Disk().open(path, write=True), start
        for size in sizes:
            if size is None:  # another process goes on
                file.close()
                file = Disk().open(path, write=True)
                continue
            data = rng.randbytes(size)
            if rng.random() < 0.3:
                file.write(data, end)
            else:
                file.append(data, end)
            expected[end : end + size] = data
            end += size
            assert file.read(end, 0) == expected[:end]
            assert Disk().read(path, end, 0) == expected[:end]  # as a reader sees it
        file.close()
    behind = end + -end % 512
    assert path.read_bytes()[behind:] == expected[behind:]


def test_a_small_append_gives_the_device_its_sectors_and_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, pwrite, given = tmp_path / "file", os.pwrite, []

    def record(descriptor: int, data: memoryview, offset: int) -> int:
        is_direct = bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)
        given.append((is_direct, offset, len(data)))
        return pwrite(descriptor, data, offset)

    Disk().create(path, 64 * 1024).close()
    file = Disk().open(path, write=True)
    monkeypatch.setattr(os, "pwrite", record)
    file.append(bytes(400), 4096)
    file.append(bytes(400), 4496)
    file.append(bytes(40_000), 4896)
    file.close()
    assert given == [(True, 4096, 512), (True, 4096, 1024), (False, 4896, 40_000)]


@contextlib.contextmanager
def without_direct_io() -> Iterator[None]:
    """As on a file system that takes the flag and refuses the write."""
    pwrite = os.pwrite

    def refuse(descriptor: int, data: memoryview, offset: int) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "not here")
        return pwrite(descriptor, data, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", refuse)
        yield


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


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_called_like_a_file_and_is_none_is_an_error_at_once(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "raw-0000000001.seg"
    if kind == "pipe":
        os.mkfifo(path)  # whoever opens it would wait for its other end
    else:
        path.mkdir()
    for write in (False, True):
        with pytest.raises(OSError, match=path.name):
            Disk().open(path, write=write)
