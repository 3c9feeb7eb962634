"""A process that does nothing but append numbered samples to a real spool, and say what is durable.

    python -m tests.faults.worker DIRECTORY FIRST [--count N] [--bytes-max N] [--starve-s S]

On stdout: "ready", then "durable N" once all samples up to N are, "state degraded ..." or
"state ok" when that changes, "tick MS" with the longest time that the event loop stood still.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import time
from pathlib import Path

import numpy as np

from gateway.clock import SystemClock
from gateway.frame import Frame, Lane, Turn
from gateway.spool import writer
from gateway.spool.config import SpoolSettings
from gateway.spool.log import Spool
from gateway.tag import TagTable
from tests.samples import make_tag

__all__ = ["EPOCH_NS", "SAMPLES", "make_settings", "make_table", "turn_of"]

EPOCH_NS = 1_767_225_600_000_000_000
SAMPLES = 20  # a turn
TICK_S = 0.005


def make_table() -> TagTable:
    table = TagTable()
    for i in range(SAMPLES):
        table.add(make_tag(f"pump.t{i}"))
    return table


def make_settings(bytes_max: int) -> SpoolSettings:
    """Small files and short periods, so that every kind of call is met often."""
    return SpoolSettings.model_construct(
        bytes_max=bytes_max, segment_bytes=65536, commit_period=0.01, commit_bytes=4096,
        pending_bytes_max=2**20, raw=True, age_max={}, lane_bytes_max={},
    )  # fmt: skip


def turn_of(first: int) -> Turn:
    """Samples first..first + SAMPLES: each number is value and time."""
    numbers = np.arange(first, first + SAMPLES)
    tag_ids = (numbers % SAMPLES).astype(np.int32)
    t_ns = EPOCH_NS + numbers * 1_000_000
    frame = Frame.of(t_ns, tag_ids, numbers.astype(np.float64))
    return Turn(int(t_ns[-1]), {Lane.RAW: frame})


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def tick() -> None:
    """Say how long the loop stood still at worst, each time it was longer than before."""
    worst_s = 0.05
    while True:
        began_s = time.monotonic()
        await asyncio.sleep(TICK_S)
        late_s = time.monotonic() - began_s - TICK_S
        if late_s > worst_s:
            worst_s = late_s
            say(f"tick {late_s * 1000:.0f}")


async def watch(spool: Spool) -> None:
    state = "ok"
    while True:
        await asyncio.sleep(TICK_S)
        if spool.stats.state != state:
            state = spool.stats.state
            say(f"state {state} {spool.stats.error_last}")


async def starve(seconds: float) -> None:
    """Have no file descriptor left for so long."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if seconds:
        open_now = sum(1 for _ in Path("/proc/self/fd").iterdir())  # noqa: ASYNC240 - not a disk
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_now - 1, hard))
        await asyncio.sleep(seconds)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        say("fed")


async def append(spool: Spool, first: int, count: int) -> None:
    """Append, and wait now and then, so that groups of different sizes are committed."""
    waiting: list[tuple[int, asyncio.Future[int]]] = []
    for number in range(first, first + count * SAMPLES, SAMPLES):
        await spool.wait_for_room()
        waiting.append((number + SAMPLES - 1, spool.append(turn_of(number))))
        if number // SAMPLES % 7 in (0, 3):
            for last, future in waiting:
                await future
                say(f"durable {last}")
            waiting.clear()
    for last, future in waiting:
        await future
        say(f"durable {last}")


async def run(given: argparse.Namespace) -> None:
    writer.RETRY_S = 0.05
    settings = make_settings(given.bytes_max)
    async with Spool.open(given.directory, settings, make_table(), SystemClock()) as spool:
        ticking = asyncio.create_task(tick())
        watching = asyncio.create_task(watch(spool))
        say("ready")
        starving = asyncio.create_task(starve(given.starve_s))
        await append(spool, given.first, given.count)
        await starving
        ticking.cancel()
        watching.cancel()
        stats = spool.stats
        say(f"done state={stats.state} lost={stats.samples_lost_total}")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("directory", type=Path)
    parser.add_argument("first", type=int)
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--bytes-max", type=int, default=64 * 2**20)
    parser.add_argument("--starve-s", type=float, default=0.0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    asyncio.run(run(parse(sys.argv[1:])))
