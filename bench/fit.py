"""What commissioning costs: seconds and memory of `sluicegate models fit`, and of a backtest.

    python -m bench.fit [--hours 24] [--pumps 1] [--directory DIR]

Simulated pumps, eight tags each at 1 Hz, as a spool that a gateway wrote and as recordings in CSV
and Parquet. Each command runs as a process of its own on one core; memory is its peak resident set.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

from gateway.cli.export import export
from gateway.clock import SystemClock
from gateway.frame import FloatArray, Frame, Lane, Turn
from gateway.spool.config import SpoolSettings
from gateway.spool.log import SAMPLE_BYTES, TURN_BYTES, Spool
from gateway.tag import Tag, TagTable
from simulators.training import CONFIG, FEATURES, healthy, with_fault

FIELDS = FEATURES[:8]
UNITS = ("rpm", "m3/h", "bar", "bar", "A", "degC", "degC", "mm/s")
S = 10**9
ASSET = "pump-7"
# A flush takes longer than a commit of this many turns.
GROUP = 2000
CHUNK = 65_536  # samples, as the spool hands them to an export


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--pumps", type=int, default=1)
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        folder = Path(name)
        seconds = round(options.hours * 3600)
        write_history(folder, healthy(11, seconds, options.pumps)[:, :, :8])
        fault = with_fault(12, 3600, fault="bearing_wear", start_s=1800)[:, 0, :8]
        write_csv(folder / "fault.csv", fault, time.time_ns() // S)
        (folder / "sluicegate.toml").write_text(CONFIG)
        config = str(folder / "sluicegate.toml")
        fit = ("models", "fit", config, "--asset-class", "pump")
        span = f"{options.hours + 1}h"
        report("fit, spool", [*fit, "--from", span, "--out", str(folder / "a")])
        for kind in ("csv", "parquet"):
            recording = str(folder / f"history.{kind}")
            report(
                f"fit, {kind}",
                [*fit, "--recording", recording, "--out", str(folder / kind)],
            )
        size = sum(file.stat().st_size for file in (folder / "a").iterdir())
        print(f"bundle: {size / 1000:.0f} kB with its report")
        bundle = ["--bundle", str(folder / "a")]
        report("backtest, spool", ["backtest", config, "--from", span, *bundle])
        report("backtest, 1 h with a fault", ["backtest", config, str(folder / "fault.csv"),
                                              *bundle, "--asset", ASSET])  # fmt: skip


def report(name: str, arguments: Sequence[str]) -> None:
    """Run a command on one core; print what it took, and its last words."""
    began_s = time.monotonic()
    # Counted from its exec on: what a fork shares with us is none of its memory.
    program = (
        "import os, sys\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from gateway.cli.main import main\n"
        f"code = main({list(arguments)!r})\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    took_s = time.monotonic() - began_s
    assert process.returncode == 0, process.stderr
    peak_mb = int(process.stderr.split()[-1]) / 1024
    print(f"{name:28} {took_s:6.1f} s {peak_mb:6.0f} MB")
    for line in process.stdout.splitlines():
        if line.startswith(("found", "false alarms", "  found")) or "asset-days" in line:
            print(f"    {line.strip()}")


def write_history(folder: Path, values: FloatArray) -> None:
    """The same samples (time, pump, field) as a spool, a CSV and a Parquet file; they end now."""
    table = TagTable()
    assets = [ASSET, *(f"pump-{100 + i}" for i in range(1, values.shape[1]))]
    for asset, (field, unit) in product(assets, zip(FIELDS, UNITS, strict=True)):
        table.add(
            Tag(
                name=f"{asset}.{field}", asset=asset, asset_class="pump", field=field,
                measurement="pump", labels=(("asset", asset),), eng_unit=unit,
            )
        )  # fmt: skip
    ids = np.arange(len(table), dtype=np.int32)
    start_ns = (time.time_ns() // S - len(values)) * S
    frames = [Frame.of(start_ns + i * S, ids, row.ravel()) for i, row in enumerate(values)]
    asyncio.run(write_spool(folder / "data" / "spool", table, frames))
    whole = Frame.concatenate(frames)
    parts = [whole.rows(i, min(i + CHUNK, len(whole))) for i in range(0, len(whole), CHUNK)]
    for kind in ("csv", "parquet"):
        export(parts, table, kind, str(folder / f"history.{kind}"))


async def write_spool(directory: Path, table: TagTable, frames: Sequence[Frame]) -> None:
    settings = SpoolSettings(
        commit_period=10.0, commit_bytes=GROUP * (len(table) * SAMPLE_BYTES + TURN_BYTES)
    )
    async with Spool.open(directory, settings, table, SystemClock()) as spool:
        for i, frame in enumerate(frames):
            durable = spool.append(Turn(int(frame.t_ns[0]) + 2_000_000, {Lane.RAW: frame}))
            if i % GROUP == GROUP - 1:
                await durable
        await durable


def write_csv(path: Path, values: FloatArray, start_s: int) -> None:
    """A wide recording."""
    header = ",".join(["time", *(f"{f} [{u}]" for f, u in zip(FIELDS, UNITS, strict=True))])
    rows = (",".join(f"{value:.6g}" for value in row) for row in values)
    lines = (f"{start_s + i},{row}" for i, row in enumerate(rows))
    path.write_text("\n".join([header, *lines]) + "\n")


if __name__ == "__main__":
    main()
