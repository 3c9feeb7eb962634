"""What a plant of 100 samples a second costs a card, at the block layer. Needs root: a loop device.

    sudo python bench/wear.py [--seconds 120] [--rate 100] [--commit-period 0.98]

One scan a second, float32 with 1 % noise, aggregates every ten seconds, and a sink that takes
everything at once. Reported: bytes and flushes that reached the device in that time, the journal of
ext4 included, as a day of them; and what the gateway counts itself (`sluicegate spool show`).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from bench.spool import START_NS, S, as_float32, make_table
from gateway.clock import SystemClock
from gateway.frame import Arrival, Frame, Lane
from gateway.spool.config import SpoolSettings
from gateway.spool.log import Spool
from gateway.spool.reader import SpoolReader
from gateway.stages.config import AggregateSettings
from gateway.turns import Turns

DAY_S = 86_400
SECTOR = 512
DISK_BYTES = 1024**3
WARM_UP_S = 75


def counted(device: str) -> tuple[int, int]:
    """Bytes written and flushes of a block device (Documentation/block/stat.rst)."""
    fields = Path(f"/sys/block/{Path(device).name}/stat").read_text().split()
    return int(fields[6]) * SECTOR, int(fields[15])


async def deliver(reader: SpoolReader) -> None:
    while True:
        await reader.acknowledge(await reader.next(20_000))


async def run(
    directory: Path, device: str, rate: int, seconds: int, settings: SpoolSettings
) -> None:
    rng = np.random.default_rng(1)
    table = make_table(rate)
    ids = np.arange(rate, dtype=np.int32)
    level = rng.uniform(1, 1000, rate)
    aggregates = [AggregateSettings.model_validate({"every": 10.0})]
    turns = Turns(table, aggregates, 60.0, None)
    async with Spool.open(directory, settings, table, SystemClock()) as spool:
        reading = asyncio.create_task(deliver(spool.reader("db", list(Lane))))
        for second in range(WARM_UP_S + seconds):
            if second == WARM_UP_S:  # each lane has its first file by now
                os.sync()
                bytes_before, flushes_before = counted(device)
                own_before = spool.stats.bytes_written_total, spool.stats.fsyncs_total
            values = as_float32(level * (1 + 0.01 * rng.standard_normal(rate)))
            t_ns = START_NS + second * S
            spool.append(turns.turn([Arrival(Frame.of(t_ns, ids, values))], t_ns))
            await asyncio.sleep(1.0)
        os.sync()
        bytes_after, flushes_after = counted(device)
        own = spool.stats.bytes_written_total, spool.stats.fsyncs_total
        reading.cancel()
    day = DAY_S / seconds
    flushes = flushes_after - flushes_before
    print(f"wear    {(bytes_after - bytes_before) * day / 1e9:6.3f} GB a day reach the device")
    print(f"wear    {flushes / seconds:6.2f} flushes a second reach it")
    print(f"wear    {(own[0] - own_before[0]) * day / 1e9:6.3f} GB a day by our own count,", end="")
    print(f" {(own[1] - own_before[1]) / seconds:.2f} flushes a second")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--rate", type=int, default=100)
    parser.add_argument("--options", default="defaults", help="to mount with, such as lazytime")
    usual_s = SpoolSettings().commit_period
    parser.add_argument("--commit-period", type=float, default=usual_s, help="seconds")
    given = parser.parse_args()
    settings = SpoolSettings(commit_period=given.commit_period)
    with tempfile.TemporaryDirectory(prefix="wear-bench-") as folder:
        image, mount = Path(folder) / "disk.img", Path(folder) / "disk"
        mount.mkdir()
        with image.open("wb") as file:
            file.truncate(DISK_BYTES)
        done = subprocess.run(
            ["losetup", "--find", "--show", image], check=True, capture_output=True, text=True
        )
        device = done.stdout.strip()
        try:
            subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0", device], check=True)
            subprocess.run(["mount", "-o", given.options, device, mount], check=True)
            try:
                asyncio.run(run(mount / "spool", device, given.rate, given.seconds, settings))
            finally:
                subprocess.run(["umount", mount], check=True)
        finally:
            subprocess.run(["losetup", "--detach", device], check=True)


if __name__ == "__main__":
    main()
