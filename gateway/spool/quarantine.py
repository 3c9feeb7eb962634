"""Quarantine: files in which nothing can be believed, set aside for somebody to look at.

They would have been segments: swapped by a broken file system, overwritten, without a head. What
they held is counted as lost, so nothing depends on them; the oldest goes when there is no room.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

from gateway.spool.disk import Disk

__all__ = ["Quarantine"]

log = logging.getLogger(__name__)

FOLDER = "quarantine"
# Of `bytes_max`: enough for what one accident leaves, and never what crowds out samples.
SHARE = 1 / 16


class Quarantine:
    """The folder `quarantine` of a spool."""

    def __init__(self, disk: Disk, directory: Path, bytes_max: int) -> None:
        self._disk = disk
        self._directory = directory
        self._folder = directory / FOLDER
        self._bytes_max = round(bytes_max * SHARE)
        self._sizes: dict[Path, int] = {}  # oldest first

    @property
    def bytes_used(self) -> int:
        return sum(self._sizes.values())

    def load(self) -> None:
        """Find what was set aside in earlier lives."""
        self._sizes.clear()
        with contextlib.suppress(OSError):
            for name in self._disk.names(self._folder):
                path = self._folder / name
                self._sizes[path] = self._disk.size(path)

    def take(self, paths: Sequence[Path]) -> list[Path]:
        """Set files aside; those that have no room, or that the disk keeps, are given back.

        Their names must be gone before a segment may have them: the directory is synced.
        """
        rest: list[Path] = []
        for path in paths:
            try:
                self._set_aside(path)
            except FileNotFoundError:
                continue
            except OSError:
                rest.append(path)
        if len(rest) < len(paths):
            with contextlib.suppress(OSError):
                self._disk.sync_directory(self._folder)
                self._disk.sync_directory(self._directory)
        return rest

    def _set_aside(self, path: Path) -> None:
        size = self._disk.size(path)
        if size > self._bytes_max:
            raise OSError(f"{path.name} has no room in quarantine")
        while self.bytes_used + size > self._bytes_max and self.drop_oldest():
            pass
        self._disk.make_directory(self._folder)
        last = max((int(p.name.partition(".")[0]) for p in self._sizes if _is_ours(p)), default=0)
        kept = self._folder / f"{last + 1:06d}.{path.name}"
        self._disk.rename(path, kept)
        self._sizes[kept] = size
        log.warning("spool.quarantined file=%s kept_as=%s", path.name, kept.name)

    def drop_oldest(self) -> bool:
        """Make room; False if there is nothing to drop. Raises OSError."""
        oldest = next(iter(self._sizes), None)
        if oldest is None:
            return False
        with contextlib.suppress(FileNotFoundError):
            self._disk.unlink(oldest)
        del self._sizes[oldest]
        return True


def _is_ours(path: Path) -> bool:
    return path.name.partition(".")[0].isdecimal()
