"""Turns and spool together: whatever the disk did, the aggregates are those of a quiet life."""

from __future__ import annotations

import asyncio
import errno
import random
from pathlib import Path

import pytest

from gateway.clock import ManualClock
from gateway.frame import EMPTY_FRAME, Arrival, Frame, Lane
from gateway.spool import writer
from gateway.spool.log import Spool
from gateway.stages.config import AggregateSettings
from gateway.tag import TagTable
from gateway.turns import Turns
from tests.samples import make_frame, make_tag
from tests.spool.simulated_disk import SimulatedDisk
from tests.spool.worlds import small_settings

S = 10**9
START = 1_000_000
SECONDS_FED = 30
SECONDS = SECONDS_FED + 20  # until the last window is closed
SETTINGS = small_settings(
    bytes_max=2**24, segment_bytes=2**14, commit_period=0.001, commit_bytes=2**18,
    pending_bytes_max=2**24, raw=True,
)  # fmt: skip
WRITES = ("write", "sync", "create", "rename", "sync_directory", "unlink")


def new_turns() -> tuple[TagTable, Turns]:
    table = TagTable()
    for i in range(3):
        table.add(make_tag(f"pump.t{i}"))
    aggregates = AggregateSettings(every="5s", statistics=("mean", "count"))  # type: ignore[arg-type]
    return table, Turns(table, [aggregates], deadband_report_s=60.0, engine=None)


def arrivals_of(second: int, *, redelivered: bool) -> list[Arrival]:
    if second >= SECONDS_FED:
        return []
    rng = random.Random(second)
    late = rng.choice((0, 0, 0, 3.5))  # a tag has no two samples of one time
    rows = [(float(START + second - late), tag, float(rng.randint(0, 9))) for tag in range(3)]
    # One message a tag; the broker sends again what was not acknowledged.
    return [Arrival(make_frame([row]), lambda: None, redelivered) for row in rows]


def told(table: TagTable, frames: list[Frame]) -> dict[tuple[str, int], float]:
    """What a database holds in the end: the last value of each series and time."""
    whole = Frame.concatenate(frames)
    rows = zip(whole.tag_ids.tolist(), whole.t_ns.tolist(), whole.values.tolist(), strict=True)
    return {(table[tag].name, t_ns): value for tag, t_ns, value in rows}


async def live(disk: SimulatedDisk, first: int, rng: random.Random) -> int:
    """Feed seconds from `first` on until the disk refuses; the first that is not acknowledged."""
    table, turns = new_turns()
    acknowledged = first
    async with Spool.open(Path("/s"), SETTINGS, table, ManualClock(), disk) as spool:
        for missing in turns.recover(spool):
            spool.append(missing)
        for second in range(first, SECONDS):
            arrivals = arrivals_of(second, redelivered=True)
            future = spool.append(turns.turn(arrivals, (START + second) * S))
            if rng.random() < 0.7 or second == SECONDS - 1:
                while not future.done() and spool.stats.state == "ok":  # noqa: ASYNC110
                    await asyncio.sleep(0.0005)
                if not future.done():
                    break
                acknowledged = second + 1
                if rng.random() < 0.3:
                    spool.save_checkpoint(turns.checkpoint().after(future.result()))
    return acknowledged


async def test_after_any_failure_the_aggregates_are_those_of_a_life_without_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer, "RETRY_S", 0.01)
    table, turns = new_turns()
    quiet = [
        turns.turn(arrivals_of(second, redelivered=False), (START + second) * S)
        for second in range(SECONDS)
    ]
    truth = told(table, [turn.frames.get(Lane.AGGREGATE, EMPTY_FRAME) for turn in quiet])
    assert len(truth) > 30
    lives = 0
    for seed in range(12):
        rng = random.Random(seed)
        disk = SimulatedDisk()
        second = 0
        while second < SECONDS:
            last_step = disk.steps + rng.randint(1, 100)

            def refuses(call: str, disk: SimulatedDisk = disk, last: int = last_step) -> int:
                return errno.EIO if call in WRITES and disk.steps > last else 0

            disk.fail(refuses)
            second = await live(disk, second, rng)
            disk.power_cut(rng)
            lives += 1
        table, turns = new_turns()
        async with Spool.open(Path("/s"), SETTINGS, table, ManualClock(), disk) as spool:
            for missing in turns.recover(spool):
                await spool.append(missing)
            assert told(table, [spool.tail(Lane.AGGREGATE, 10**6)]) == truth, seed
            assert spool.stats.records_damaged_total == 0
    assert lives > 50
