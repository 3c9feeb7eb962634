"""Overlay: a disk whose new files can be in memory while the real one refuses.

A card that has become read-only must not end the forwarding of what is measured. With `use_memory`
set, files that are created stand in memory, bounded; what was on disk is still read from there.
The spool above is the same, byte for byte, so `settle` need only copy each file to disk once the
disk takes it. Until then nothing written here is durable, and nobody may be told that it is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from pathlib import Path

from gateway.spool.disk import Disk, File

__all__ = ["OverlayDisk"]

# Copied in pieces: a card that is slow again must not have a segment of dirty pages at once.
_COPY_BYTES = 256 * 1024


class _MemoryFile(File):
    """A file in memory; all who open it share its bytes."""

    def __init__(self, data: bytearray) -> None:
        super().__init__(-1)
        self.data = data

    def sync(self) -> None:
        """Nothing to wait for, and nothing made durable."""

    def is_linked(self) -> bool:
        return True

    def close(self) -> None:
        """The bytes stay for as long as the name does."""

    def _pwrite(self, data: memoryview, offset: int) -> int:
        self.data[offset : offset + len(data)] = data
        return len(data)

    def _pread(self, size: int, offset: int) -> bytes:
        return bytes(self.data[offset : offset + size])


class OverlayDisk(Disk):
    """A disk, and files in memory before it. Written by one thread, read by any."""

    def __init__(self, disk: Disk, bytes_max: int) -> None:
        self._disk = disk
        self._bytes_max = bytes_max
        self._files: dict[Path, bytearray] = {}
        self._lock = threading.Lock()
        self.use_memory = False

    @property
    def memory_bytes(self) -> int:
        with self._lock:
            return sum(map(len, self._files.values()))

    def is_in_memory(self, path: Path) -> bool:
        return path in self._files

    def settle(self, path: Path) -> None:
        """Copy a file from memory to the disk, durably. OSError leaves it in memory as well."""
        data = self._files[path]
        partial = path.with_name("settling.seg")
        file = self._disk.create(partial, len(data))
        try:
            for offset in range(0, len(data), _COPY_BYTES):
                file.write(bytes(data[offset : offset + _COPY_BYTES]), offset)
            file.sync()
        finally:
            file.close()
        self._disk.rename(partial, path)
        self._disk.sync_directory(path.parent)
        with self._lock:
            del self._files[path]

    def open(self, path: Path, *, write: bool = False) -> File:
        data = self._files.get(path)
        return self._disk.open(path, write=write) if data is None else _MemoryFile(data)

    def create(self, path: Path, size: int) -> File:
        if not self.use_memory:
            return self._disk.create(path, size)
        if size > self.bytes_free(path.parent):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        data = bytearray(size)
        with self._lock:
            self._files[path] = data
        return _MemoryFile(data)

    def read(self, path: Path, size: int, offset: int) -> bytes:
        data = self._files.get(path)
        if data is None:
            return self._disk.read(path, size, offset)
        return bytes(data[offset : offset + size])

    def make_durable(self, path: Path) -> None:
        if path not in self._files:
            self._disk.make_durable(path)

    def size(self, path: Path) -> int:
        data = self._files.get(path)
        return self._disk.size(path) if data is None else len(data)

    def names(self, directory: Path) -> list[str]:
        try:
            names = set(self._disk.names(directory))
        except OSError:
            if not self.use_memory:
                raise
            names = set()
        with self._lock:
            names |= {path.name for path in self._files if path.parent == directory}
        return sorted(names)

    def rename(self, old: Path, new: Path) -> None:
        with self._lock:
            data = self._files.pop(old, None)
            if data is not None:
                self._files[new] = data
        if data is None:
            self._disk.rename(old, new)

    def unlink(self, path: Path) -> None:
        with self._lock:
            data = self._files.pop(path, None)
        if data is None:
            self._disk.unlink(path)

    def make_directory(self, path: Path) -> None:
        with contextlib.suppress(OSError) if self.use_memory else contextlib.nullcontext():
            self._disk.make_directory(path)

    def sync_directory(self, path: Path) -> None:
        if not self.use_memory:
            self._disk.sync_directory(path)

    def bytes_free(self, directory: Path) -> int:
        if self.use_memory:
            return self._bytes_max - self.memory_bytes
        return self._disk.bytes_free(directory)

    def lock(self, path: Path) -> File:
        return self._disk.lock(path)
