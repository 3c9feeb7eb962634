"""A store on a simulated disk, and what a test knows of what should be in it.

Every sample has a value of its own, so that what is found can be told apart from anything else.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gateway.clock import ManualClock
from gateway.frame import Frame, Lane, Turn
from gateway.spool.config import SpoolSettings
from gateway.spool.group import Group
from gateway.spool.store import Store
from gateway.tag import TagTable
from tests.samples import make_tag
from tests.spool.simulated_disk import SimulatedDisk

__all__ = ["DERIVED", "World", "small_settings", "values_of"]

DERIVED = (Lane.EVENT, Lane.SCORE, Lane.AGGREGATE)
LAZY = (Lane.SCORE, Lane.AGGREGATE)  # durable with the next flush that is due
TAGS = 12  # a lane
DIRECTORY = Path("/spool")


def small_settings(**changes: object) -> SpoolSettings:
    """Bounds that shrink under test: segments of 4 KiB, 16 of them or more."""
    return SpoolSettings.model_construct(
        **({"bytes_max": 40 * 8192, "segment_bytes": 8192, "commit_period": 0.01} | changes)
    )


def new_table() -> TagTable:
    table = TagTable()
    for lane in Lane:
        for i in range(TAGS):
            table.add(make_tag(f"{lane.name.lower()}.t{i}", lane=lane))
    return table


def values_of(store: Store, lane: Lane) -> list[float]:
    """Everything that can be read of a lane, in order."""
    newest_first = [rows.frame(store.table).values.tolist() for rows in store.rows_backwards(lane)]
    return [value for values in reversed(newest_first) for value in values]


@dataclass
class World:
    """Lives of one store: what it promised, and what it may also have kept."""

    rng: random.Random
    disk: SimulatedDisk
    settings: SpoolSettings = field(default_factory=small_settings)
    clock: ManualClock = field(default_factory=ManualClock)
    store: Store = field(init=False)
    promised: dict[Lane, list[float]] = field(default_factory=lambda: {lane: [] for lane in Lane})
    group_of: dict[float, int] = field(default_factory=dict)  # by value: which group it was in
    tried: list[list[Turn]] = field(default_factory=list)  # groups of the commit under way
    groups: int = 0
    value_last: int = 0
    synced: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(Lane, 0))  # samples

    def open(self) -> Store:
        self.table = new_table()
        self.store = Store(DIRECTORY, self.settings, self.table, self.clock, self.disk)
        self.store.open()
        return self.store

    def commit(self, groups: int) -> None:
        """Commit some random groups, and remember the promise."""
        self.tried = [self._random_turns() for _ in range(groups)]
        self.store.commit([Group(list(turns)) for turns in self.tried])
        self.keep_promise()

    def commit_in_spite(self, groups: int, tries: int) -> None:
        """The same on a disk that fails now and then; it is well after some tries."""
        self.tried = [self._random_turns() for _ in range(groups)]
        waiting = [Group(list(turns)) for turns in self.tried]
        for left in range(tries, -1, -1):
            if not left:
                self.disk.heal()
            try:
                self.store.commit(waiting)
                break
            except OSError:
                continue
        self.keep_promise()

    def keep_promise(self) -> None:
        for turns in self.tried:
            self._promise(turns)
        self.tried = []

    def recover(self) -> None:
        """Open after a crash; what is there of the commit under way counts from now on."""
        self.open()
        for lane in Lane:
            promised, end = self.promised[lane], self.store.samples_end(lane)
            if lane in LAZY:  # made again from the raw lane, which is not modelled here
                assert end >= self.synced[lane], lane
                del promised[end:]
            for turns in self.tried:
                values = [value for turn in turns for value in _values(turn, lane)]
                promised += values if len(promised) + len(values) <= end else []
        self.tried = []
        self.synced = {lane: self.store.samples_end(lane) for lane in Lane}

    def sync_derived(self) -> None:
        self.store.sync_derived()
        self.synced = {lane: self.store.samples_end(lane) for lane in Lane}

    def check(self) -> None:
        """All that was promised is there, in order, but for whole old segments; nothing else is."""
        for lane in Lane:
            there = values_of(self.store, lane)
            assert there == self.promised[lane][len(self.promised[lane]) - len(there) :], lane
            assert len(self.promised[lane]) - len(there) <= self.store.samples_begin(lane)
            assert self.store.samples_end(lane) == len(self.promised[lane])
        self._check_causes()

    def _check_causes(self) -> None:
        """Every derived record names the raw record of its group, and that one is there."""
        raw = {rows.sequence: rows for rows in self.store.rows_backwards(Lane.RAW)}
        oldest = min(raw, default=0)
        for lane in DERIVED:
            for rows in self.store.rows_backwards(lane):
                if rows.raw_sequence < oldest:
                    continue  # its raw record was deleted to make room
                cause = raw[rows.raw_sequence]
                groups = {self.group_of[v] for v in rows.columns.frame.values.tolist()}
                assert {self.group_of[v] for v in cause.columns.frame.values.tolist()} in (
                    groups,
                    set(),
                )
            assert self.store.applied(lane) <= self.store.applied(Lane.RAW)

    def _promise(self, turns: list[Turn]) -> None:
        for turn in turns:
            for lane in Lane:
                self.promised[lane] += _values(turn, lane)

    def _random_turns(self) -> list[Turn]:
        rng = self.rng
        self.groups += 1
        turns = []
        for _ in range(rng.randint(1, 3)):
            frames = {}
            for lane in Lane:
                if rng.random() < (0.9 if lane is Lane.RAW else 0.3):
                    frames[lane] = self._random_frame(lane, rng.choice((1, 3, 20, 60)))
            self.clock.advance(rng.random())
            turns.append(Turn(self.clock.utc_ns(), frames))
        return turns

    def _random_frame(self, lane: Lane, n: int) -> Frame:
        values = np.arange(self.value_last + 1, self.value_last + n + 1, dtype=np.float64)
        self.value_last += n
        self.group_of.update(dict.fromkeys(values.tolist(), self.groups))
        tags = [lane * TAGS + self.rng.randrange(TAGS) for _ in range(n)]
        t_ns = self.clock.utc_ns() + np.arange(n, dtype=np.int64)
        return Frame.of(t_ns, np.array(tags, np.int32), values)


def _values(turn: Turn, lane: Lane) -> list[float]:
    frame = turn.frames.get(lane)
    return frame.values.tolist() if frame is not None else []
