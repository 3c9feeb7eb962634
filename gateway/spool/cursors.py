"""All sinks' cursors of a directory: loaded at the start, saved while they move."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from gateway.frame import Lane
from gateway.spool.cursor import BAD_SUFFIX, SUFFIX, Cursor
from gateway.spool.disk import Disk
from gateway.spool.stats import SpoolStats

__all__ = ["Cursors"]

log = logging.getLogger(__name__)


class Cursors:
    """Moved by the event loop, loaded and saved by the writer's thread.

    `samples_end` says where a lane ends: behind it, a cursor would miss what comes now.
    """

    def __init__(
        self, directory: Path, disk: Disk, stats: SpoolStats, samples_end: Callable[[Lane], int]
    ) -> None:
        self._directory = directory
        self._disk = disk
        self._stats = stats
        self._samples_end = samples_end
        self._by_name: dict[str, Cursor] = {}
        self.are_loaded = False
        # Of the lanes at the start, for those that are loaded when these have grown already.
        self.ends: Mapping[Lane, int] = {}

    def __getitem__(self, name: str) -> Cursor:
        """The cursor of this sink, a new one if there was none."""
        known = self._by_name.get(name)
        if known is not None:
            return known
        return self._by_name.setdefault(name, Cursor(self._directory / (name + SUFFIX)))

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[Cursor]:
        return iter(list(self._by_name.values()))

    def load(self, *, in_memory: bool, is_last_try: bool = False) -> None:
        """Load every cursor. Raises OSError, except in memory, where nothing is saved over them.

        A start that went on without them would send again what the sinks have. `is_last_try`: the
        disk is in use, so a file that it still refuses is damaged for good.
        """
        try:
            with contextlib.suppress(OSError) if in_memory else contextlib.nullcontext():
                self._make_directory()
                # The name of one that a killed process made may be in the kernel's cache only.
                self._disk.sync_directory(self._directory)
            for name in self._disk.names(self._directory):
                stem, _, suffix = name.rpartition(".")
                if "." + suffix == SUFFIX:
                    self._load_one(stem, is_last_try=is_last_try)
        except OSError as error:
            if not in_memory:
                raise
            log.warning("spool.cursors_unreadable error=%s", error)
        else:
            self.are_loaded = True

    def _load_one(self, name: str, *, is_last_try: bool) -> None:
        try:
            is_whole = self[name].load(self._disk, to_write=True, ends=self.ends)
        except OSError:
            if not is_last_try:
                raise
            self[name].forsake_file()
            is_whole = False
        if not is_whole:
            log.warning("spool.cursor_damaged sink=%s consequence=all is sent again", name)

    def check(self) -> bool:
        """Move back those that are ahead of their lane; whether there were any.

        They must be saved before the lane grows again: on disk they would be ahead no more, and
        what is new would be taken for delivered.
        """
        is_ahead = False
        for name, cursor in list(self._by_name.items()):
            for lane in Lane:
                place = cursor.place(lane)
                if place is not None and place > self._samples_end(lane):
                    log.warning("spool.cursor_ahead sink=%s lane=%s", name, lane.name.lower())
                    cursor.move(lane, self._samples_end(lane))
                    is_ahead = True
        return is_ahead

    def forgo(self) -> None:
        """What could not be loaded was of segments that are gone."""
        self.are_loaded = True

    def save(self, *, in_memory: bool, sync: bool = True) -> None:
        """Write those that moved; with `sync` all are durable then, also what was written before.

        One that cannot be saved stays for the next time. Raises OSError, also while those of the
        start could not be read: over them nothing is saved.
        """
        if not self.are_loaded:
            if in_memory:
                raise OSError(errno.EIO, "the cursors could not be read at the start")
            self.load(in_memory=False, is_last_try=True)
            self.check()
        cursors = list(self._by_name.values())
        moved = [cursor for cursor in cursors if cursor.is_dirty or (sync and cursor.is_unsynced)]
        if moved:
            self._make_directory()
        for cursor in moved:
            self._stats.fsyncs_total += cursor.save(self._disk, sync=sync)

    def _make_directory(self) -> None:
        try:
            self._disk.make_directory(self._directory)
        except (FileExistsError, NotADirectoryError):  # something else is called so
            self._disk.rename(self._directory, self._directory.with_suffix(BAD_SUFFIX))
            self._disk.make_directory(self._directory)
