"""What memory does while plants are watched for days: simulated days, in minutes.

    python -m bench.memory [--days 12] [--pumps 10] [--spool-mib 64]

Pumps at 1 Hz, ten tags each, through the stages, `models/pump`, windows of ten seconds and of an
hour, the spool and a sink that takes everything; the clock is turned by hand. The spool is small,
so that its oldest files are deleted all the time, as they are on a board after some weeks. The
slope is that of the resident memory over the second half, by simulated hours: a gateway that leaks
a little with each scan, commit, file or event shows it there.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil

from gateway.clock import ManualClock
from gateway.frame import Arrival, Frame, Lane
from gateway.inference.config import ModelSettings
from gateway.inference.engine import Engine
from gateway.spool.config import SpoolSettings
from gateway.spool.log import Spool
from gateway.stages.config import AggregateSettings
from gateway.turns import Turns
from simulators.training import FEATURES, healthy, pump_table

__all__ = ["live", "slope_mb_a_day"]

BUNDLE = Path(__file__).parent.parent / "models" / "pump"
HOUR_S, DAY_S = 3600, 86400
# How often what was written is waited for, and the sink takes what there is.
DRAIN_S = 30
MB = 1e6


async def live(folder: Path, hours: int, pumps: int = 10, spool_bytes: int = 64 << 20) -> list[int]:
    """Resident bytes after each simulated hour."""
    table, ids = pump_table(pumps)
    clock, process, resident = ManualClock(), psutil.Process(), []
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
                gc.collect()
                resident.append(process.memory_info().rss)
    return resident


def slope_mb_a_day(resident: Sequence[int]) -> float:
    """By least squares, over the second half."""
    later = np.array(resident[len(resident) // 2 :]) / MB
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
        live_ = live(Path(folder), hours, options.pumps, options.spool_mib << 20)
        resident = asyncio.run(live_)
    points = hours * HOUR_S * options.pumps * len(FEATURES)
    print(
        f"{points:,} samples in {hours} hours, simulated in {time.monotonic() - began_s:.0f} s:"
        f" {resident[0] / MB:.1f} MB after the first, {resident[-1] / MB:.1f} after the last,"
        f" {max(resident) / MB:.1f} at the most;"
        f" {slope_mb_a_day(resident):+.2f} MB a day over the second half"
    )
    print(
        "  by hours: " + " ".join(f"{each / MB:.1f}" for each in resident[:: max(1, hours // 24)])
    )


if __name__ == "__main__":
    main()
