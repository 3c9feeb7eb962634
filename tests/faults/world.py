"""A deterministic world: spool, sink and clock on a simulated disk and network. A seed a life.

    python -m tests.faults.world --first 17 --seeds 1        # what one seed does
    python -m tests.faults.world --seeds 1000000 --processes 2

A world commits groups while the disk fails, lies and loses its power, and while the server is
down, slow, or cut off before or after it stored. Derived samples are made again from the raw lane
after a crash, as the pipeline does it. In the end the faults stop, and then:

* it always opened, and every group is durable that was said to be;
* the server has every sample of such groups exactly once by series and time, with its value, also
  where the time was not known when it was taken (`timekeeping`), but for those that were counted
  as lost, to the sample where nobody's memory was lost;
* nothing else is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import random
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from gateway.clock import ManualClock
from gateway.frame import Frame, Lane, Turn
from gateway.sinks.deadletters import DeadLetters
from gateway.sinks.delivery import Delivery, Link
from gateway.spool import reader as reader_module
from gateway.spool.group import Group
from gateway.spool.reader import SpoolReader
from gateway.spool.store import Store
from tests.faults.loop import ManualLoop
from tests.faults.seeds import main, run
from tests.faults.server import Server
from tests.faults.timekeeping import Timekeeping
from tests.spool.simulated_disk import PowerCut, SimulatedDisk
from tests.spool.worlds import DIRECTORY, TAGS, new_table, small_settings

__all__ = ["World", "run_seed", "run_seeds"]

DERIVED = (Lane.EVENT, Lane.SCORE, Lane.AGGREGATE)
WRITES = frozenset(("write", "sync", "create", "rename", "sync_directory", "unlink"))
# A segment of 8 KiB holds some fifteen records, or one where an eighth of the disk is less.
BYTES_MAX = tuple(n * 8192 for n in (6, 8, 16, 200))
SIZES = (1, 1, 2, 3, 7, 19)
RETRIES_MAX = 6
DRAIN_S = 3600.0
TABLE = new_table()
# A task a world and no state between worlds: one loop a process will do.
LOOP = ManualLoop()


class World:
    """Lives of one spool and one sink, by seed."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        random.seed(seed)  # the jitter of retries
        self.disk = SimulatedDisk()
        self.disk.fills_sectors = seed % 2 == 0
        self.clock = ManualClock()
        # Few lives are long: in these every file is written several times over.
        self.is_long = rng.random() < 0.04
        bytes_max = BYTES_MAX[0] if self.is_long else rng.choice(BYTES_MAX)
        # In memory there is room for a few segments of a block, so that it runs over.
        self.settings = small_settings(bytes_max=bytes_max, raw=True, pending_bytes_max=7 * 8192)
        if rng.random() < 0.2:
            self.disk.short_writes = random.Random(seed)
        self.lies = rng.random() < 0.2
        self.time = Timekeeping(rng, self.clock, has_chip=rng.random() < 0.6)
        self.server = Server(rng, TAGS, self.time)
        self.store: Store
        self.delivering: list[asyncio.Task[None]] = []
        self.value_last = 0
        self.replays = 0
        self.turns: dict[int, Turn] = {}  # all there ever were, by the time they were stamped with
        self.durable: set[int] = set()  # those whose group was said to be durable
        self.forgiven: set[int] = set()
        self.lost = 0  # counted by lives that ended
        self.crashes = 0
        self.kills = 0
        self.lied = False
        self.saved: dict[Lane, int] = {}  # places of the cursor when it was saved last

    # What happens.

    def live(self) -> None:
        """Some lives, and a last one in which nothing fails."""
        rng, disk = self.rng, self.disk
        for _ in range(rng.randint(1, 3)):
            if rng.random() < 0.8:
                steps_max = 1500 if self.is_long else rng.choice((30, 100, 250))
                disk.cut_at = disk.steps + rng.randint(1, steps_max)
            try:
                self.begin()
                for _ in range(rng.randint(1, 40 if self.is_long else 6)):
                    self.act()
                self.end()
            except PowerCut:
                self.crash()
        disk.cut_at = disk.liar = None
        disk.heal()
        self.server.heal()
        self.time.tell(self.value_last + 1)
        self.begin()
        self.check_durable()
        self.drain()
        self.check_delivered()
        self.end()

    def begin(self) -> None:
        """Open, whatever it takes, derive again what is missing, and deliver."""
        self.store = Store(DIRECTORY, self.settings, TABLE, self.clock, self.disk)
        self.persist(self.store.open)
        self.check_cursor()
        self.time.begin(self.store, self.value_last + 1)
        self.persist(partial(self.time.record, self.store))
        # Before anything is deleted for room, as the pipeline does.
        reader = SpoolReader("db", tuple(Lane), self.store, TABLE, None)  # type: ignore[arg-type] - see loop
        self.replay()
        deliver = partial(
            Delivery,
            sink=self.server,
            settings=SimpleNamespace(
                samples_max=self.rng.choice((5, 50, 1000)), retry_max=8.0, backfill_share=0.5
            ),
            clock=self.clock,
            link=Link(dead_letters=DeadLetters(Path("/nowhere/letters"))),
            table=TABLE,
        )
        self.reader = reader
        reader_module.LIVE_AFTER_SAMPLES = 0  # a world has a few hundred in all
        current = deliver(reader=reader)
        self.delivering = [LOOP.create_task(current.run())]
        if self.rng.random() < 0.5:
            rest = deliver(reader=reader.backfill, ahead=current)
            self.delivering.append(LOOP.create_task(rest.run()))

    def end(self) -> None:
        """As at SIGTERM, or as if the plug were pulled while nothing goes on."""
        chance = self.rng.random()
        if chance < 0.4:
            with contextlib.suppress(OSError):  # the writer does so every two seconds
                self.store.save_cursors(sync=False)
            self.crash()
            return
        self.forget()
        if chance < 0.7:
            self.kills += 1
            self.disk.killed()
            return
        with contextlib.suppress(OSError):
            self.store.save_cursors()
            self.remember_cursor()
        self.store.close()
        assert self.disk.files_open == 0, "a file was left open"

    def crash(self) -> None:
        self.crashes += 1
        self.forget()
        self.disk.power_cut(self.rng)
        self.time.power_on()

    def forget(self) -> None:
        """The process ends: its tasks, and its counters."""
        for task in self.delivering:
            task.cancel()
        if self.delivering:
            LOOP.run_for(0.0)
        self.delivering.clear()
        stats = self.store.stats
        self.lost += stats.samples_lost_total
        if not self.lied:
            assert stats.records_damaged_total == 0, "torn is not rotten"

    def act(self) -> None:
        """One thing that a gateway does, or that is done to it."""
        rng = self.rng
        chance = rng.random()
        if chance < 0.5:
            self.commit(rng.choice((1, 1, 2, 3)))
        elif chance < 0.75:
            self.keep_house(chance)
        elif chance < 0.85:
            self.server.misbehave()
        elif chance < 0.88:
            self.break_disk()
        elif chance < 0.9:
            self.refuse_for_long()
        elif self.lies and chance < 0.93:
            self.lied = self.server.is_deceived = True
            self.disk.liar = rng
        elif not self.time.has_chip:
            self.hear(rng.random())
        self.deliver(rng.choice((0.0, 0.3, 2.0, 20.0)))

    def keep_house(self, chance: float) -> None:
        """What the writer does beside its commits."""
        if chance < 0.6:
            self.persist(self.store.tidy)
        elif chance < 0.65:
            self.persist(self.store.save_cursors)
            self.remember_cursor()
        elif chance < 0.7:
            self.persist(partial(self.store.save_cursors, sync=False))
        else:
            self.persist(self.store.sync_derived)

    def hear(self, chance: float) -> None:
        """Somebody tells the time, or the operator would rather not wait."""
        if self.time.boot and chance < 0.2:
            self.persist(partial(self.time.give_up, self.store))
            return
        if self.time.boot:
            self.time.tell(self.value_last + 1)
        if chance < 0.8:
            self.persist(partial(self.time.settle, self.store))

    def break_disk(self) -> None:
        rng, disk = self.rng, self.disk
        code = rng.choice((errno.EIO, errno.ENOSPC))
        calls = WRITES if rng.random() < 0.5 else (rng.choice(sorted(WRITES)),)
        share = rng.choice((0.1, 0.5, 1.0))
        disk.fail(lambda call: code if call in calls and rng.random() < share else 0)

    def refuse_for_long(self) -> None:
        """The card takes nothing for so long that the spool goes on in memory."""
        rng, store = self.rng, self.store
        self.disk.fail(lambda call: errno.EROFS if call in WRITES else 0)
        store.enter_memory()
        held: list[tuple[Group, list[Turn]]] = []
        for _ in range(rng.choice((1, 2, 4, 4, 4, 4, 4, 60))):
            turns = self.random_turns()
            group = Group(list(turns))
            store.commit([group])
            group.forget_turns()
            held.append((group, turns))
            self.deliver(rng.choice((0.0, 0.3, 20.0)))
        if rng.random() < 0.2:
            raise PowerCut
        self.disk.heal()
        if rng.random() < 0.3:
            self.break_disk()
        self.persist(store.leave_memory)
        for group, turns in held:
            if store.is_kept(group.sequence):
                self.durable.update(turn.now_ns for turn in turns)

    def persist(self, work: Callable[[], object]) -> None:
        """Try until the disk is well, as the writer's thread does."""
        for left in range(self.rng.randrange(RETRIES_MAX), -1, -1):
            if not left:
                self.disk.heal()
            try:
                work()
            except OSError:
                continue
            return
        raise AssertionError("a disk that is well was refused")

    def commit(self, groups: int) -> None:
        made = [self.random_turns() for _ in range(groups)]
        self.put(made)

    def put(self, made: list[list[Turn]]) -> None:
        waiting = [Group(turns) for turns in made]
        self.persist(lambda: self.store.commit(waiting))
        self.durable.update(turn.now_ns for turns in made for turn in turns)

    def deliver(self, seconds: float) -> None:
        """Let the sink work; a power cut may meet it while it reads."""
        self.clock.advance(seconds)
        LOOP.run_for(seconds)
        assert self.delivering
        for task in self.delivering:
            if task.done():
                task.result()

    def drain(self) -> None:
        for _ in range(20):
            if self.store.samples_waiting:  # `Gateway._follow_clock`
                self.time.settle(self.store)
            self.deliver(DRAIN_S)
            if not self.reader.backlog().samples:
                return
        raise AssertionError("faults stopped, and it did not drain")

    def replay(self) -> None:
        """What the derived lanes lack is made again from the raw lane (`Turns.recover`)."""
        store = self.store
        self.forgive()
        lacking: list[Turn] = []
        missing: dict[Lane, list[Frame]] = {lane: [] for lane in DERIVED}

        def seam() -> None:
            frames = {lane: Frame.concatenate(made) for lane, made in missing.items() if made}
            if frames:
                self.replays += 1
                lacking.append(Turn(now_ns + 100 * self.replays, frames, boot, sequence))
            for made in missing.values():
                made.clear()

        now_ns = boot = sequence = 0
        since_ns = min(store.last_turn_ns, store.derived_turn_ns)
        for rows in store.rows_since(Lane.RAW, since_ns):
            if rows.boot != boot:
                seam()
            boot, sequence = rows.boot, rows.sequence
            for now_ns in rows.columns.now_ns.tolist():
                turn = self.turns[now_ns]
                self.durable.add(now_ns)  # though nobody was told
                for lane in DERIVED:
                    if lane in turn.frames and sequence > store.applied(lane):
                        missing[lane].append(turn.frames[lane])
        seam()
        for turn in lacking:
            self.turns[turn.now_ns] = Turn(turn.now_ns, {})
            self.put([[turn]])

    def forgive(self) -> None:
        """What is derived from raw records that were deleted, if of no sample, is not made again.

        Within a minute of retention the derived lanes may not have been synced.
        """
        oldest = next(iter(self.store.rows_since(Lane.RAW, 0)), None)
        if oldest is None:
            return
        first_ns = int(oldest.columns.now_ns[0])
        before = [*itertools.takewhile(lambda now_ns: now_ns != first_ns, self.turns)]
        durable = [now_ns for now_ns in before if now_ns in self.durable]
        for lane in (Lane.SCORE, Lane.AGGREGATE) if durable else ():
            self.forgiven |= self._values(lane, durable) - self.read(lane)

    # What is there.

    def check_durable(self) -> None:
        """Every raw sample that was promised can be read, but for what was deleted or damaged."""
        there = self.read(Lane.RAW)
        promised = self.promised(Lane.RAW)
        assert not there - self.written(Lane.RAW), "raw samples that nobody wrote"
        missing = promised - there
        if not self.lied:
            gone = self.store.samples_begin(Lane.RAW)
            assert len(missing) <= gone, f"{len(missing) - gone} acknowledged samples are missing"
            assert self.store.stats.records_damaged_total == 0, "torn is not rotten"

    def remember_cursor(self) -> None:
        cursor = self.store.cursors["db"]
        self.saved = {lane: cursor.place(lane) or 0 for lane in Lane}

    def check_cursor(self) -> None:
        """Whatever was torn, a place that was saved is not sent again from the beginning."""
        if self.lied or not self.saved:
            return
        assert "db" in self.store.cursors, "a cursor that was saved is gone"
        places = self.store.cursors["db"]
        for lane, place in self.saved.items():
            # A derived lane may end before it, and the cursor is moved back with it.
            self.saved[lane] = least = min(place, self.store.samples_end(lane))
            assert (places.place(lane) or 0) >= least, "a cursor went back"

    def check_delivered(self) -> None:
        """The server has all that was promised, once, but for what was counted."""
        written = set().union(*(self.written(lane) for lane in Lane))
        stored = self.server.stored
        assert stored.keys() <= written, "the server has what nobody sent"
        promised = set().union(*(self.promised(lane) for lane in Lane))
        missing = promised - stored.keys() - self.forgiven
        counted = self.lost + self.store.stats.samples_lost_total
        if self.lied:
            return
        assert len(missing) <= counted, f"{len(missing)} not delivered, {counted} counted"

    def read(self, lane: Lane) -> set[int]:
        return {
            value
            for rows in self.store.rows_backwards(lane)
            for value in rows.columns.frame.values.astype(np.int64).tolist()
        }

    def promised(self, lane: Lane) -> set[int]:
        return self._values(lane, sorted(self.durable))

    def written(self, lane: Lane) -> set[int]:
        return self._values(lane, sorted(self.turns))

    def _values(self, lane: Lane, times: list[int]) -> set[int]:
        frames = [self.turns[now_ns].frames.get(lane) for now_ns in times]
        return {
            int(value) for frame in frames if frame is not None for value in frame.values.tolist()
        }

    # What is written.

    def random_turns(self) -> list[Turn]:
        rng = self.rng
        turns = []
        for _ in range(rng.choice((1, 1, 2))):
            frames = {
                lane: self.random_frame(lane, rng.choice(SIZES))
                for lane in Lane
                if rng.random() < (0.9 if lane is Lane.RAW else 0.2)
            }
            turns.append(self.turn_of(frames))
        return turns

    def turn_of(self, frames: dict[Lane, Frame]) -> Turn:
        self.clock.advance(0.25)
        turn = Turn(self.clock.utc_ns() + self.time.offset_ns, frames, self.time.boot)
        self.turns[turn.now_ns] = turn
        return turn

    def random_frame(self, lane: Lane, n: int) -> Frame:
        """Every sample has a value of its own, which also gives its tag and time."""
        values = np.arange(self.value_last + 1, self.value_last + n + 1)
        self.value_last += n
        tag_ids = (lane * TAGS + values % TAGS).astype(np.int32)
        t_ns = self.server.t_ns_of(values) + self.time.offset_ns
        return Frame.of(t_ns, tag_ids, values.astype(np.float64))


def run_seed(seed: int) -> None:
    """One world, from beginning to end; AssertionError where a promise was broken."""
    world = World(seed)
    try:
        world.live()
    finally:
        for task in world.delivering:
            task.cancel()
        LOOP.run_for(0.0)
        LOOP.restart()


def run_seeds(first: int, count: int, processes: int = 1) -> list[str]:
    """Worlds first..first + count; what went wrong, and the command that shows it again."""
    return run(run_seed, "tests.faults.world", TABLE, first, count, processes)


if __name__ == "__main__":
    sys.exit(main(run_seeds, "worlds"))
