"""Disk: the few file calls the spool is made of, so that a simulated disk can stand in for them.

Offsets are absolute: readers and the writer share no file position. Every call may raise
OSError, and none hides one. After a failed `sync` a `File` is to be closed and never used again:
the kernel has dropped the error and may call pages clean that never reached the disk.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from gateway.errors import SpoolLocked

__all__ = ["Disk", "File"]

# Zeros are written in pieces, so that a small board need not hold a segment of them in memory.
_ZEROS = bytes(256 * 1024)


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


class Disk:
    """A file system."""

    def open(self, path: Path, *, write: bool = False) -> File:
        return File(os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC))

    def create(self, path: Path, size: int) -> File:
        """A new file of `size` zeros, on disk already; nothing is left of it when that fails.

        Zeros are really written: blocks that are merely allocated cost a journal commit each time
        one is first used (20 kB reach the card for a commit of 1 kB, instead of 9.4 kB).
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        file = File(os.open(path, flags, 0o640))
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

    def read_durable(self, path: Path, size: int) -> bytes:
        """The beginning of a file as a power cut would leave it.

        Whoever wrote it may have been killed before its sync, or the sync may have failed: then
        the kernel shows what is not on disk, and calls it clean.
        """
        file = self.open(path)
        try:
            with contextlib.suppress(OSError):
                file.sync()
            file.forget_cache()
            return file.read(size, 0)
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
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
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
