"""What the spool costs: CPU and bytes a sample written, CPU a sample read, time to open.

    python bench/spool.py [--directory DIR] [--samples 2000000] [--open-mib 512]

Two loads. *Scans*: 2,000 tags a second as scans of 100, float32 measurements with 1 % noise, so a
commit of half a second holds ten scans; and the same in commits of 50 and of 200. *Messages*: 500
messages a second of five tags each, two decimals, a time of their own each; 250 in a commit. CPU is
that of the whole process, writer's thread and event loop included; the frames are made beforehand.
Commits follow one another without the half second between them, so wall time says nothing here, and
is not reported.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil

from gateway.clock import SystemClock
from gateway.frame import Frame, Lane, Turn
from gateway.spool.config import SpoolSettings
from gateway.spool.history import History
from gateway.spool.log import SAMPLE_BYTES, TURN_BYTES, Spool
from gateway.tag import Tag, TagTable

START_NS = 1_767_225_600 * 10**9
S = 10**9
GROUPS_MADE = 50  # different ones; they are used over and over


def make_table(tags: int) -> TagTable:
    table = TagTable()
    for i in range(tags):
        asset = f"pump-{i // 10}"
        table.add(
            Tag(
                name=f"{asset}.t{i % 10}",
                asset=asset,
                asset_class="pump",
                field=f"t{i % 10}",
                measurement="pump",
                labels=(("asset", asset), ("site", "plant")),
                source="plc",
                eng_unit="bar",
                eu_low=0.0,
                eu_high=16.0,
                scale=0.1,
            )
        )
    return table


def scans(rng: np.random.Generator, count: int = 10) -> list[list[Turn]]:
    """Groups of so many scans of 100 tags."""
    level = rng.uniform(1, 1000, 2000)
    groups = []
    t_ns = START_NS
    for _ in range(GROUPS_MADE):
        turns = []
        for scan in range(count):
            t_ns += S // 20
            ids = np.arange(100, dtype=np.int32) + scan % 20 * 100
            noisy = level[ids] * (1 + 0.01 * rng.standard_normal(100))
            frame = Frame.of(t_ns + int(rng.integers(5_000_000)), ids, as_float32(noisy))
            turns.append(Turn(t_ns, {Lane.RAW: frame}))
        groups.append(turns)
    return groups


def messages(rng: np.random.Generator) -> list[list[Turn]]:
    """Groups of 250 messages of five tags."""
    groups = []
    t_ns = START_NS
    for _ in range(GROUPS_MADE):
        turns = []
        for _ in range(250):
            t_ns += int(rng.integers(1_000_000, 3_000_000))
            ids = np.arange(5, dtype=np.int32) + 5 * int(rng.integers(100))
            values = np.round(rng.uniform(0, 100, 5), 2)
            turns.append(Turn(t_ns, {Lane.RAW: Frame.of(t_ns, ids, values)}))
        groups.append(turns)
    return groups


def as_float32(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32).astype(np.float64)


async def measure(
    name: str, directory: Path, groups: Sequence[Sequence[Turn]], samples_wanted: int
) -> None:
    """Write, drain and replay one load, and print what it cost."""
    table = make_table(2000)
    samples_group = sum(len(turn.frames[Lane.RAW]) for turn in groups[0])
    settings = SpoolSettings(
        commit_period=10.0, commit_bytes=samples_group * SAMPLE_BYTES + len(groups[0]) * TURN_BYTES
    )
    clock = SystemClock()
    async with Spool.open(directory / name, settings, table, clock) as spool:
        samples = 0
        began_s = time.process_time()
        while samples < samples_wanted:
            for turns in groups:
                for turn in turns:
                    durable = spool.append(turn)
                await durable
                samples += samples_group
        report(name, "write", began_s, samples)
        stats = spool.stats
        print(
            f"{name:10} {stats.bytes_written_total / samples:6.2f} bytes a sample,"
            f" {stats.bytes_written_total / stats.commits_total:7.0f} a commit"
        )
        reader = spool.reader("bench", [Lane.RAW])
        began_s = time.process_time()
        while reader.backlog().samples:
            await reader.acknowledge(await reader.next(20_000))
        report(name, "drain", began_s, samples)
    async with Spool.open(directory / name, settings, table, clock) as spool:
        began_s = time.process_time()
        replayed = sum(len(turn.frames[Lane.RAW]) for _, turn in spool.replay(0))
        report(name, "replay", began_s, replayed)
        began_s = time.process_time()
        found = await spool.history.query(["pump-3.t3"], START_NS, START_NS + 3600 * S)
        report(name, "query", began_s, samples)
        assert len(found)


async def measure_history(directory: Path, seconds: int = 3600) -> None:
    """An hour of 100 tags at 1 Hz, a record a second as a gateway writes it; then questions."""
    rng = np.random.default_rng(3)
    table = make_table(100)
    ids = np.arange(100, dtype=np.int32)
    level = rng.uniform(1, 1000, 100)
    settings = SpoolSettings(commit_bytes=4096, commit_period=0.001)
    async with Spool.open(directory / "history", settings, table, SystemClock()) as spool:
        for second in range(seconds):
            t_ns = START_NS + second * S
            values = as_float32(level * (1 + 0.01 * rng.standard_normal(100)))
            await spool.append(Turn(t_ns, {Lane.RAW: Frame.of(t_ns, ids, values)}))
        end_ns = START_NS + seconds * S
        for what in ("first", "again"):
            began_s = time.process_time()
            found = await spool.history.query(["pump-3.t3"], START_NS, end_ns)
            cpu_ms = (time.process_time() - began_s) * 1000
            print(f"history    {cpu_ms:6.0f} ms CPU: one tag of 100, an hour of it, {what}")
            assert len(found) == seconds
        began_s = time.process_time()
        plot = await spool.history.plot(["pump-3.*"], START_NS, end_ns, Lane.RAW, 3200)
        cpu_ms = (time.process_time() - began_s) * 1000
        print(f"history    {cpu_ms:6.0f} ms CPU: a plot of ten tags of 100, an hour of it")
        assert plot.samples == 10 * seconds
        began_s = time.process_time()
        samples = sum(len(frame) for frame in spool.history.stream(["*"], START_NS, end_ns))
        report("history", "stream", began_s, samples)
        assert samples == 100 * seconds
        began_s = time.process_time()
        assert not len(await spool.history.query(["nothing"], START_NS, end_ns))
        cpu_ms = (time.process_time() - began_s) * 1000
        print(f"history    {cpu_ms:6.1f} ms CPU: a tag that is not there")


def report(name: str, what: str, began_s: float, samples: int) -> None:
    cpu_us = (time.process_time() - began_s) / samples * 1e6
    print(f"{name:10} {cpu_us:6.3f} us CPU a sample: {what}")


async def measure_open(directory: Path, mib: int) -> None:
    """Fill that much with what does not compress, and open it again; records of 1,000 samples."""
    rng = np.random.default_rng(2)
    table = make_table(1000)
    settings = SpoolSettings(bytes_max=(mib + 64) * 2**20, commit_bytes=2**20, commit_period=0.001)
    ids = np.arange(1000, dtype=np.int32)
    clock = SystemClock()
    async with Spool.open(directory / "open", settings, table, clock) as spool:
        t_ns = START_NS
        while spool.stats.bytes_used < mib * 2**20:
            for _ in range(100):
                t_ns += S
                await spool.wait_for_room()
                frame = Frame.of(t_ns, ids, rng.standard_normal(1000))
                durable = spool.append(Turn(t_ns, {Lane.RAW: frame}))
            await durable
        records = spool.stats.records_total
    rss = psutil.Process().memory_info().rss
    began_s = time.perf_counter()
    async with Spool.open(directory / "open", settings, make_table(1000), clock) as spool:
        opened_s = time.perf_counter() - began_s
        grown = (psutil.Process().memory_info().rss - rss) / 2**20
        print(
            f"open       {opened_s * 1000:6.0f} ms for {spool.stats.bytes_used / 2**20:.0f} MiB in"
            f" {records} records, {grown:.1f} MiB of memory"
        )
    began_s = time.perf_counter()
    history = History.open_readonly(directory / "open", TagTable())
    frame = history.query_now(["pump-3.t3"], t_ns - 60 * S, t_ns + 1)
    print(f"open       {(time.perf_counter() - began_s) * 1000:6.0f} ms for one minute of one tag")
    assert len(frame) == 61


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, help="a folder on the disk to measure")
    parser.add_argument("--samples", type=int, default=2_000_000)
    parser.add_argument("--open-mib", type=int, default=512)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="spool-bench-") as folder:
        rng = np.random.default_rng(1)
        asyncio.run(measure("scans", Path(folder), scans(rng), options.samples))
        for count in (50, 200):
            made = scans(rng, count)
            asyncio.run(measure(f"scans-{count}", Path(folder), made, options.samples))
        asyncio.run(measure("messages", Path(folder), messages(rng), options.samples))
        asyncio.run(measure_history(Path(folder)))
        if options.open_mib:
            asyncio.run(measure_open(Path(folder), options.open_mib))


if __name__ == "__main__":
    main()
