"""What memory does while plants are watched for days: simulated days, in minutes.

    python -m bench.memory [--days 12] [--pumps 10] [--spool-mib 64]

Pumps at 1 Hz, ten tags each, through the stages, `models/pump`, windows of ten seconds and of an
hour, the spool and a sink that takes everything; the clock is turned by hand. The spool is small,
so that its oldest files are deleted all the time, as they are on a board after some weeks. The
slope is that of the process's own memory over the second half, by simulated hours: a gateway that
leaks a little with each scan, commit, file or event shows it there.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gateway.clock import ManualClock
from gateway.frame import Arrival, Frame, Lane
from gateway.inference.config import ModelSettings
from gateway.inference.engine import Engine
from gateway.spool.config import SpoolSettings
from gateway.spool.log import Spool
from gateway.stages.config import AggregateSettings
from gateway.turns import Turns
from simulators.training import FEATURES, healthy, pump_table

__all__ = ["Held", "live", "slope_mb_a_day"]

BUNDLE = Path(__file__).parent.parent / "models" / "pump"
HOUR_S, DAY_S = 3600, 86400
# How often what was written is waited for, and the sink takes what there is.
DRAIN_S = 30
MB = 1e6
KIB = 1024
_LIBC = ctypes.CDLL(None)
SMAPS = Path("/proc/self/smaps_rollup")


class Held(NamedTuple):
    """What this process holds: its own bytes, and how many blocks of them are Python's objects.

    Not the resident size: half of that is the code of libraries, of which the kernel keeps as much
    in memory as it has room for, so that it rises and falls with what else the machine does.
    """

    bytes: int
    blocks: int

    @classmethod
    def now(cls) -> Held:
        gc.collect()
        if hasattr(_LIBC, "malloc_trim"):  # glibc's: what is free goes back, wherever it lies
            _LIBC.malloc_trim(0)
        lines = (line.split() for line in SMAPS.read_text().splitlines())
        kib = {
            words[0]: int(words[1]) for words in lines if len(words) == len(("name:", "1", "kB"))
        }
        return cls((kib["Anonymous:"] + kib["Swap:"]) * KIB, sys.getallocatedblocks())


async def live(
    folder: Path, hours: int, pumps: int = 10, spool_bytes: int = 64 << 20
) -> list[Held]:
    """What is held after each simulated hour."""
    table, ids = pump_table(pumps)
    clock, held = ManualClock(), []
    aggregates = [AggregateSettings(every=10), AggregateSettings(every=HOUR_S)]
    settings = SpoolSettings(
        bytes_max=spool_bytes,
        segment_bytes=min(1 << 20, spool_bytes // 32),
        commit_period=0.001,
        # So that raw is not all that is deleted.
        age_max={"score": DAY_S / 2, "aggregate": DAY_S / 2, "event": DAY_S},
    )
    model = ModelSettings(name="pump", bundle=BUNDLE)
    async with Spool.open(folder, settings, table, clock) as spool:
        with Engine([model], table, Path()) as engine:
            turns = Turns(table, aggregates, 60.0, engine)
            reader = spool.reader("sink", list(Lane))
            # The same hour again and again: simulating pumps is dearer than watching them.
            values = healthy(7, HOUR_S, pumps).reshape(HOUR_S, -1)
            for _ in range(hours):
                for second, row in enumerate(values):
                    clock.advance(1.0)
                    now_ns = clock.utc_ns()
                    arrival = Arrival(Frame.of(now_ns - 10**8, ids.ravel(), row))
                    durable = spool.append(turns.turn([arrival], now_ns))
                    if second % DRAIN_S == 0:
                        await durable
                        while reader.backlog().samples:
                            await reader.acknowledge(await reader.next(20_000))
                held.append(Held.now())
    return held


def slope_mb_a_day(held: Sequence[Held]) -> float:
    """By least squares, over the second half."""
    later = np.array([each.bytes for each in held[len(held) // 2 :]]) / MB
    return float(np.polyfit(np.arange(len(later)) / 24, later, 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--days", type=float, default=12.0)
    parser.add_argument("--pumps", type=int, default=10)
    parser.add_argument("--spool-mib", type=int, default=64)
    options = parser.parse_args()
    hours = max(4, round(24 * options.days))  # fewer have no slope
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        held = asyncio.run(live(Path(folder), hours, options.pumps, options.spool_mib << 20))
    points = hours * HOUR_S * options.pumps * len(FEATURES)
    megabytes = [each.bytes / MB for each in held]
    print(
        f"{points:,} samples in {hours} hours, simulated in {time.monotonic() - began_s:.0f} s:"
        f" {megabytes[0]:.1f} MB after the first, {megabytes[-1]:.1f} after the last,"
        f" {max(megabytes):.1f} at the most; {slope_mb_a_day(held):+.2f} MB and"
        f" {(held[-1].blocks - held[len(held) // 2].blocks) * 48 / len(held):+.0f} objects a day"
        " over the second half"
    )
    each_hours = max(1, hours // 24)
    print("  by hours: " + " ".join(f"{each:.1f}" for each in megabytes[::each_hours]))


if __name__ == "__main__":
    main()
