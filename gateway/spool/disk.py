"""Disk: the few file calls the spool is made of, so that a simulated disk can stand in for them.

Offsets are absolute: readers and the writer share no file position. Every call may raise
OSError, and none hides one. After a failed `sync` a `File` is to be closed and never used again:
the kernel has dropped the error and may call pages clean that never reached the disk.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import stat
from pathlib import Path

from gateway.errors import SpoolLocked

__all__ = ["Disk", "File"]

# Zeros are written in pieces, so that a small board need not hold a segment of them in memory.
_ZEROS = bytes(256 * 1024)
# What most devices can write by itself; where it is more, `AppendFile` leaves it to the kernel.
SECTOR_BYTES = 512
# More than this is eight pages, of which the kernel rewrites one in vain: it may as well.
DIRECT_BYTES_MAX = 32 * 1024


class File:
    """One open file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Write all of `data`, however many calls that takes."""
        rest = memoryview(data)
        while rest:
            written = self._pwrite(rest, offset)
            if written <= 0:
                raise OSError(errno.EIO, "the disk accepted no bytes")
            rest = rest[written:]
            offset += written

    def append(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Write behind what there is. Up to the end of its last sector zeros may follow."""
        self.write(data, offset)

    def read(self, size: int, offset: int) -> bytes:
        """`size` bytes, fewer only at the end of the file."""
        data = self._pread(size, offset)
        while data and len(data) < size:
            more = self._pread(size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def sync(self) -> None:
        """Return once what was written will survive a power cut."""
        os.fdatasync(self._descriptor)

    def forget_cache(self) -> None:
        """Have what is read next come from the disk, not from pages that never reached it."""
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def is_linked(self) -> bool:
        """Whether the file still has a name; writing to one without is writing to nowhere."""
        return os.fstat(self._descriptor).st_nlink > 0

    def close(self) -> None:
        os.close(self._descriptor)

    def _pwrite(self, data: memoryview, offset: int) -> int:
        return os.pwrite(self._descriptor, data, offset)

    def _pread(self, size: int, offset: int) -> bytes:
        return os.pread(self._descriptor, size, offset)


class AppendFile(File):
    """One that is appended to a little at a time, past the page cache.

    Through it a commit of 400 bytes writes a page of 4 KiB, and the next commit writes that page
    again: eight times what was committed (docs/decisions/0013-sectors-not-pages.md). Where a file
    system has no direct I/O, or its sectors are larger, nothing is different from a `File`.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        # Pages of its own, because the device reads from where it is told to.
        self._sectors = mmap.mmap(-1, SECTOR_BYTES + DIRECT_BYTES_MAX)
        self._is_direct = True
        # The beginning of the sector that the next append goes on in, and where that sector is.
        self._partial, self._partial_offset = b"", -1

    def write(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        self._partial_offset = -1
        super().write(data, offset)

    def append(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        if not self._is_direct or len(data) > DIRECT_BYTES_MAX:
            self.write(data, offset)
            return
        start = offset - offset % SECTOR_BYTES
        if start != self._partial_offset:
            self._partial = self.read(offset - start, start)
        end = len(self._partial) + len(data)
        whole, rest = end - end % SECTOR_BYTES, -end % SECTOR_BYTES
        self._sectors[: end + rest] = b"".join((self._partial, data, bytes(rest)))
        self._partial, self._partial_offset = self._sectors[whole:end], -1
        with memoryview(self._sectors)[: end + rest] as sectors:
            if not self._write_direct(sectors, start):
                self.write(data, offset)
                return
        self._partial_offset = start + whole

    def _write_direct(self, sectors: memoryview, offset: int) -> bool:
        """False where that cannot be done here, and need not be tried again."""
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
            super().write(sectors, offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._is_direct = False
        finally:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags)
        return self._is_direct


class Disk:
    """A file system."""

    def open(self, path: Path, *, write: bool = False) -> File:
        if write:
            return AppendFile(_descriptor_of(path, os.O_RDWR))
        return File(_descriptor_of(path, os.O_RDONLY))

    def create(self, path: Path, size: int) -> File:
        """A new file of `size` zeros, on disk already; nothing is left of it when that fails.

        Zeros are really written: blocks that are merely allocated cost a journal commit each time
        one is first used (20 kB reach the card for a commit of 1 kB, instead of 9.4 kB).
        """
        file = File(_descriptor_of(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC))
        try:
            for offset in range(0, size, len(_ZEROS)):
                file.write(_ZEROS[: size - offset], offset)
            file.sync()
        except OSError:
            file.close()
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        return file

    def read(self, path: Path, size: int, offset: int) -> bytes:
        """Bytes of a file that is not open, fewer only at its end."""
        file = self.open(path)
        try:
            return file.read(size, offset)
        finally:
            file.close()

    def make_durable(self, path: Path) -> None:
        """Have what is read of a file next be what a power cut would leave of it.

        Whoever wrote it may have been killed before its sync, or the sync may have failed: then
        the kernel shows what is not on disk, and calls it clean.
        """
        file = self.open(path)
        try:
            with contextlib.suppress(OSError):
                file.sync()
            file.forget_cache()
        finally:
            file.close()

    def size(self, path: Path) -> int:
        return path.stat().st_size

    def names(self, directory: Path) -> list[str]:
        return sorted(path.name for path in directory.iterdir())

    def rename(self, old: Path, new: Path) -> None:
        old.rename(new)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def make_directory(self, path: Path) -> None:
        """The directory with its parents, so that its name survives a power cut."""
        if not path.is_dir():
            path.mkdir(mode=0o750, parents=True, exist_ok=True)
            self.sync_directory(path.parent)

    def sync_directory(self, path: Path) -> None:
        """Return once names created, changed or removed in it will survive a power cut."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def bytes_free(self, directory: Path) -> int:
        """What an ordinary user may still write."""
        facts = os.statvfs(directory)
        return facts.f_bavail * facts.f_frsize

    def lock(self, path: Path) -> File:
        """Hold `path` until the file is closed; SpoolLocked when another process holds it."""
        try:
            descriptor = _descriptor_of(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            descriptor = _descriptor_of(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise SpoolLocked(
                f"another process writes to the spool in {path.parent}",
                hint="stop the other gateway, or give this one another gateway.data_dir",
            ) from error
        except OSError:
            os.close(descriptor)
            raise
        return File(descriptor)


def _descriptor_of(path: Path, flags: int) -> int:
    """A regular file; OSError for what is called like one and is a folder, a pipe or a device.

    A pipe would have whoever opens it wait for its other end.
    """
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return descriptor
