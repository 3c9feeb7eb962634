"""History: the spool asked by tag and time. The embedded historian behind the page and the CLI.

Segments and records that cannot hold an answer are passed over by the times they span; the rest
is decoded, newest first, until there is enough. Reading happens in a thread of its own, so that a
question about a month keeps neither the event loop nor a sink waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

import numpy as np

from gateway.frame import Frame, Lane
from gateway.settings import matches_any
from gateway.spool.catalog import Catalog, Rows
from gateway.spool.dictionary import Dictionary
from gateway.spool.disk import Disk
from gateway.spool.recovery import find_segments
from gateway.spool.stats import Damage, SpoolStats
from gateway.tag import TagTable

__all__ = ["History"]

# 21 bytes each: what an answer may cost in memory unless the caller says otherwise.
SAMPLES_MAX = 100_000

Refresh = Callable[[], None]


class History:
    """Stored samples. `query` for the event loop, `query_now` where waiting is no harm."""

    def __init__(
        self,
        catalog: Catalog,
        table: TagTable,
        executor: Executor | None = None,
        refresh: Refresh | None = None,
    ) -> None:
        self._catalog = catalog
        self._table = table
        self._executor = executor
        self._refresh = refresh

    @staticmethod
    def open_readonly(directory: Path, table: TagTable, disk: Disk | None = None) -> History:
        """A spool that a gateway in another process may be writing to. Takes no lock."""
        disk = disk or Disk()
        damage = Damage(SpoolStats())
        catalog = Catalog(disk, damage)

        def refresh() -> None:
            with contextlib.suppress(FileNotFoundError):
                names = disk.names(directory)
                catalog.segments.update(find_segments(disk, directory, names, damage).segments)

        return History(catalog, table, refresh=refresh)

    async def query(
        self,
        names: Sequence[str],
        start_ns: int,
        end_ns: int,
        lane: Lane = Lane.RAW,
        samples_max: int = SAMPLES_MAX,
    ) -> Frame:
        """Samples with start_ns <= t_ns < end_ns of tags that `names` (names, patterns) match.

        Oldest first; of more than `samples_max` those that were stored last. The table gets the
        tags that it does not have.
        """
        found = await asyncio.get_running_loop().run_in_executor(
            self._executor, self._find, names, start_ns, end_ns, lane, samples_max
        )
        return self._join(found, samples_max)

    def query_now(
        self,
        names: Sequence[str],
        start_ns: int,
        end_ns: int,
        lane: Lane = Lane.RAW,
        samples_max: int = SAMPLES_MAX,
    ) -> Frame:
        """The same at once; only in the table's thread."""
        return self._join(self._find(names, start_ns, end_ns, lane, samples_max), samples_max)

    def _find(
        self, names: Sequence[str], start_ns: int, end_ns: int, lane: Lane, samples_max: int
    ) -> list[Rows]:
        """Matching rows a record, newest record first; `samples_max` or some more if there are."""
        if self._refresh is not None:
            self._refresh()
        found: list[Rows] = []
        samples = 0
        for segment in reversed(self._catalog.segments[lane]):
            summary = segment.summary
            if summary.t_ns_max < start_ns or summary.t_ns_min >= end_ns:
                continue
            contents = self._catalog.contents(segment)
            wanted = _Wanted(contents.dictionary, names)
            index = contents.index
            overlaps = (index["t_ns_max"] >= start_ns) & (index["t_ns_min"] < end_ns)
            for row in index[overlaps][::-1]:
                if samples >= samples_max:
                    return found
                rows = self._catalog.read(segment, row, contents)
                if rows is None:
                    continue
                frame = rows.columns.frame
                keep = (frame.t_ns >= start_ns) & (frame.t_ns < end_ns)
                keep &= wanted.of(frame)
                if keep.any():
                    columns = rows.columns._replace(frame=frame.where(keep))
                    found.append(rows._replace(columns=columns))
                    samples += len(columns.frame)
        return found

    def _join(self, found: Sequence[Rows], samples_max: int) -> Frame:
        frame = Frame.concatenate([rows.frame(self._table) for rows in reversed(found)])
        frame = frame.rows(max(0, len(frame) - samples_max), len(frame))
        return _sorted(frame)


class _Wanted:
    """Which local ids of a segment's dictionary are asked for."""

    def __init__(self, dictionary: Dictionary, names: Sequence[str]) -> None:
        self._dictionary = dictionary
        self._exact = {name for name in names if not set("*?[") & set(name)}
        self._patterns = tuple(name for name in names if name not in self._exact)
        self._mask = np.empty(0, np.bool_)

    def of(self, frame: Frame) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        known = len(self._mask)
        if len(self._dictionary) > known:  # the segment is being written to
            more = [self._matches(i) for i in range(known, len(self._dictionary))]
            self._mask = np.concatenate([self._mask, np.array(more, np.bool_)])
        local = frame.tag_ids
        mask = np.append(self._mask, False)
        rows: np.ndarray[tuple[int], np.dtype[np.bool_]] = mask[
            np.minimum(local.view(np.uint32), len(mask) - 1)
        ]
        return rows

    def _matches(self, local_id: int) -> bool:
        tag = self._dictionary[local_id]
        if tag is None:
            return False
        return tag.name in self._exact or matches_any(tag.name, self._patterns)


def _sorted(frame: Frame) -> Frame:
    """The rows by time; those of one time as they were stored."""
    order = np.argsort(frame.t_ns, kind="stable")
    exact: Mapping[int, int | str] = frame.exact
    if exact:
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        exact = {int(place[row]): value for row, value in exact.items()}
    return Frame(
        frame.t_ns[order],
        frame.tag_ids[order],
        frame.values[order],
        frame.quality[order],
        exact,
    )
