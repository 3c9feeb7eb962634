"""Moving: a sink's cursor set back, so that it sends again, or forward, so that it gives up.

Only while no gateway writes to the spool: a running one has the cursors in memory and would
overwrite what is changed here. So the lock is held from the first look to the last sync.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gateway.errors import SpoolError, SpoolLocked
from gateway.frame import Lane
from gateway.owners import give_to_owner
from gateway.spool.catalog import Catalog
from gateway.spool.cursor import SUFFIX, Cursor
from gateway.spool.disk import Disk
from gateway.spool.inspect import open_catalog

__all__ = ["Move", "Mover", "place_at"]


@dataclass(frozen=True, slots=True)
class Move:
    """What becomes of one lane of one sink."""

    lane: Lane
    place: int | None  # where it stands; None: never read
    target: int
    begin: int  # of what the lane still has
    end: int

    @property
    def samples_again(self) -> int:
        """That would be sent once more."""
        return max(self._now - self.target, 0)

    @property
    def samples_given_up(self) -> int:
        """That would never be sent."""
        return max(self.target - self._now, 0)

    @property
    def _now(self) -> int:
        return self.begin if self.place is None else min(max(self.place, self.begin), self.end)


class Mover:
    """The cursors of a spool that nobody else writes to."""

    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk = disk
        self._directory = directory
        self._catalog, _ = open_catalog(disk, directory)

    @staticmethod
    @contextlib.contextmanager
    def locked(disk: Disk, directory: Path) -> Iterator[Mover]:
        """Hold the spool; SpoolLocked while a gateway does, SpoolError where there is none."""
        try:
            lock = disk.lock(directory / "lock")
        except FileNotFoundError as error:
            raise SpoolError(
                f"there is no spool in {directory}",
                hint="name the configuration that the gateway runs with",
            ) from error
        except SpoolLocked as error:
            raise SpoolLocked(
                f"a gateway writes to the spool in {directory}",
                hint="stop it first, with systemctl stop sluicegate: cursors are in its memory",
            ) from error
        give_to_owner(directory / "lock")  # where there was none, root has made it
        try:
            yield Mover(disk, directory)
        finally:
            lock.close()

    def lanes_of(self, sink: str) -> tuple[Lane, ...]:
        """The lanes that the sink has read; none if it has no cursor, or no whole one."""
        cursor = self._cursor(sink)
        return tuple(lane for lane in Lane if cursor.place(lane) is not None)

    def plan(self, sink: str, lanes: Sequence[Lane], to: str | int) -> list[Move]:
        """What would become of the lanes; `to` is "oldest", "newest" or a time in ns."""
        cursor = self._cursor(sink)
        moves = []
        for lane in lanes:
            begin, end = self._catalog.samples_begin(lane), self._catalog.samples_end(lane)
            if isinstance(to, int):
                target = place_at(self._catalog, lane, to)
            else:
                target = begin if to == "oldest" else end
            moves.append(Move(lane, cursor.place(lane), target, begin, end))
        return moves

    def move(self, sink: str, moves: Sequence[Move]) -> None:
        """Make the moves durable."""
        cursor = self._cursor(sink)
        for move in moves:
            cursor.move(move.lane, move.target)
        if not cursor.is_dirty:
            return
        self._disk.make_directory(cursor.path.parent)
        cursor.save(self._disk)
        give_to_owner(cursor.path.parent, cursor.path)

    def _cursor(self, sink: str) -> Cursor:
        cursor = Cursor(self._directory / "cursors" / (sink + SUFFIX))
        with contextlib.suppress(FileNotFoundError):
            cursor.load(self._disk, to_write=True)
        return cursor


def place_at(catalog: Catalog, lane: Lane, t_ns: int) -> int:
    """The first place of a lane behind which nothing stored is older than its neighbours say.

    It is that of the first sample stored with a time of `t_ns` or later. Samples from before that
    came late, and were stored behind it, come with it.
    """
    for segment in catalog.segments[lane]:
        if catalog.span_ns(segment)[1] < t_ns:
            continue
        contents = catalog.contents(segment)
        index = contents.index
        for row in index[
            (catalog.times(index, "t_ns_max") >= t_ns)
            & (index["samples_end"] > index["samples_before"])
        ]:
            rows = catalog.read(segment, row, contents)
            if rows is None:
                return int(row["samples_before"])  # damaged: whoever reads it counts it
            late = rows.columns.frame.t_ns >= t_ns
            if late.any():
                return int(row["samples_before"]) + int(np.argmax(late))
    return catalog.samples_end(lane)
