"""A plant, a gateway and a real database for some minutes, counted against each other.

    python -m bench.soak [--seconds 600] [--kills 20] [--servers 20] [--tags 100] [--rate 500]

Two runs. First undisturbed: every scan that a PLC answered and every message that the broker
acknowledged must be in VictoriaMetrics, none twice. Then with `kill -9` of the gateway at random
moments, each time started again: the same, but for the scans of at most the last second before a
kill, and with every aggregate equal to the samples it is made of.

A PLC's `scan_count` rises with each read of it, a message's `<topic>_seq` with each message of
its topic; so what is missing or doubled has a number.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from simulators.broker import open_broker
from simulators.config import GatewayOptions, write_config
from simulators.greenhouse import TOPICS, GreenhouseSettings, run_greenhouse
from simulators.line import LineSettings, run_line
from tests.rig import SLUICEGATE, Process, free_port
from tests.servers import Victoria

__all__ = ["Soak", "SoakSettings", "metrics", "report", "soak"]

WINDOW_MS = 10_000
DRAIN_S = 90.0
# The last window ends up to ten seconds after the last sample, and waits two for late ones.
QUIET_S = 14.0
# A killed gateway loses what was not yet committed, half a second, and the scan under way.
SCANS_LOST_PER_KILL_MAX = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakSettings:
    """How large a plant, how long, how often killed."""

    seconds: float = 600.0
    kills: int = 0
    servers: int = 20
    tags: int = 100  # a server
    rate: float = 500.0  # messages a second in all
    bays: int = 50
    seed: int = 1


@dataclass(slots=True)
class Soak:
    """What came of a run; `faults` is empty when everything is as promised."""

    faults: list[str] = field(default_factory=list)
    scans: int = 0
    scans_lost: int = 0  # answered by a PLC, and not in the database
    messages: int = 0
    samples: int = 0
    aggregates: int = 0
    resent: int = 0  # rows sent more than once, equal in series, time and value
    cpu_s: float = 0.0
    seconds: float = 0.0
    rss_mb_max: float = 0.0
    drain_s: float = 0.0
    stop_s: float = 0.0


async def soak(settings: SoakSettings, folder: Path) -> Soak:
    """Run a plant and count."""
    result = Soak()
    database = Victoria(folder / "vm")
    await asyncio.to_thread(database.start)
    try:
        async with AsyncExitStack() as stack:
            broker = await stack.enter_async_context(open_broker())
            async with AsyncExitStack() as plants:
                line = await plants.enter_async_context(
                    run_line(
                        LineSettings(
                            servers=settings.servers,
                            tags_per_server=settings.tags,
                            units="shared",
                            step_s=1.0,
                        )
                    )
                )
                bays = GreenhouseSettings(
                    host=broker.host, port=broker.port, bays=settings.bays, rate=settings.rate
                )
                port = free_port()
                tail = f'[[sink]]\nname = "vm"\ntype = "influxdb2"\nurl = "{database.url}"\n'
                options = GatewayOptions(
                    listen=f"127.0.0.1:{port}", tail=f'{tail}bucket = "soak"\n'
                )
                config = write_config(
                    folder / "gateway", line=line, greenhouse=bays, options=options
                )
                gateway = Process("gateway", [*SLUICEGATE, "run", str(config)], folder)
                stack.callback(gateway.kill)
                # A broker keeps messages for those who have subscribed once.
                await asyncio.to_thread(gateway.wait_for, "connected source=greenhouse")
                greenhouse = await plants.enter_async_context(run_greenhouse(bays))
                await _disturb(settings, gateway, result)
            # Nothing is served or published any more; the gateway has what it will ever have.
            began_s = time.monotonic()
            await _drained(port, result)
            result.drain_s = time.monotonic() - began_s
            result.stop_s = await asyncio.to_thread(gateway.stop)
        _count_scans(line.truth(), database, settings, result)
        _count_messages(greenhouse.truth(), database, result)
        _count_aggregates(database, result)
        if "Traceback" in gateway.output() or " ERROR " in gateway.output():
            bad = [line for line in gateway.output().splitlines() if "ERROR" in line]
            result.faults.append(f"the gateway logged errors: {bad[:3]}")
    finally:
        await asyncio.to_thread(database.stop)
    return result


async def _disturb(settings: SoakSettings, gateway: Process, result: Soak) -> None:
    """Let it run, killed now and then, and look at what it takes."""
    rng = random.Random(settings.seed)
    began_s = time.monotonic()
    moments = sorted(rng.uniform(0.05, 0.95) * settings.seconds for _ in range(settings.kills))
    for moment in [*moments, settings.seconds]:
        while time.monotonic() - began_s < moment:
            await asyncio.sleep(min(0.5, max(0.0, moment - (time.monotonic() - began_s))))
            _look(gateway, result)
        if moment < settings.seconds:
            await asyncio.to_thread(gateway.kill)
            await asyncio.sleep(rng.uniform(0.0, 1.5))
            gateway.start()
    result.seconds = time.monotonic() - began_s
    result.cpu_s = sum(psutil.Process(gateway.pid).cpu_times()[:2])


def _look(gateway: Process, result: Soak) -> None:
    rss = psutil.Process(gateway.pid).memory_info().rss / 1e6
    result.rss_mb_max = max(result.rss_mb_max, rss)


async def _drained(port: int, result: Soak) -> None:
    """Wait until the database has everything and every window is closed."""
    deadline = time.monotonic() + DRAIN_S
    quiet_since = time.monotonic()
    before = -1.0
    while time.monotonic() - quiet_since < QUIET_S:
        await asyncio.sleep(0.5)
        now = await asyncio.to_thread(metrics, port)
        read = now['sluicegate_source_scans_total{source="greenhouse"}']
        lag = now['sluicegate_sink_lag_samples{sink="vm"}']
        if lag or read != before:
            quiet_since = time.monotonic()
        before = read
        if time.monotonic() > deadline:
            result.faults.append(f"not drained after {DRAIN_S:.0f} s: {lag:.0f} samples wait")
            return


def metrics(port: int) -> dict[str, float]:
    """What a gateway says of itself on its page's port."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def _series(database: Victoria, name: str) -> Iterator[tuple[str, list[tuple[int, float]]]]:
    """(asset, [(ms, value)]) of each series of a metric."""
    for series in database.export(f'{{__name__="{name}"}}'):
        pairs = zip(series["timestamps"], series["values"], strict=True)
        yield series["metric"]["asset"], sorted(pairs)


def _numbers(asset: str, pairs: list[tuple[int, float]], result: Soak) -> set[int]:
    """The numbers in a series, each at one time only."""
    distinct = set(pairs)
    result.resent += len(pairs) - len(distinct)
    doubled = [number for number, n in Counter(int(v) for _, v in distinct).items() if n > 1]
    if doubled:
        result.faults.append(f"{asset}: numbers {doubled[:5]} are there twice")
    return {int(value) for _, value in distinct}


def _count_scans(
    truth: dict[str, Any], database: Victoria, settings: SoakSettings, result: Soak
) -> None:
    stored = {a: _numbers(a, pairs, result) for a, pairs in _series(database, "plc_scan_count")}
    for plc in truth["servers"]:
        served = plc["scan_count"]
        lost = set(range(1, served + 1)) - stored.get(plc["name"], set())
        result.scans += served
        result.scans_lost += len(lost)
        allowed = SCANS_LOST_PER_KILL_MAX * settings.kills
        if len(lost) > allowed:
            result.faults.append(f"{plc['name']}: {len(lost)} of {served} scans are not stored")
    if not settings.kills and result.resent:
        result.faults.append(f"{result.resent} rows were sent twice without need")


def _count_messages(truth: dict[str, Any], database: Victoria, result: Soak) -> None:
    result.messages = truth["acknowledged"]
    for kind in TOPICS:
        stored = {
            asset: _numbers(asset, pairs, result)
            for asset, pairs in _series(database, f"bay_{kind}_seq")
        }
        for topic, counts in truth["topics"].items():
            _, asset, of_kind = topic.rsplit("/", 2)
            if of_kind != kind:
                continue
            missing = set(range(1, counts["sequence"] + 1)) - stored.get(asset, set())
            if missing:
                found = f"{len(missing)} of {counts['sequence']} messages are not stored"
                result.faults.append(f"{topic}: {found}: {sorted(missing)[:5]}")


def _count_aggregates(database: Victoria, result: Soak) -> None:
    """Every count says how many samples of its window are stored."""
    names = ["plc_scan_count", *(f"bay_{kind}_seq" for kind in TOPICS)]
    for name in names:
        measurement, tag = name.split("_", 1)
        raw = dict(_series(database, name))
        counted = dict(_series(database, f"{measurement}_aggregate_{tag}_count"))
        for asset, pairs in raw.items():
            truth = Counter(ms // WINDOW_MS * WINDOW_MS for ms, _ in set(pairs))
            result.samples += len(set(pairs))
            said: dict[int, int] = {}
            for ms, value in counted.get(asset, []):
                said[ms] = max(said.get(ms, 0), int(value))  # a correction overwrites
            wrong = {ms: (n, said.get(ms)) for ms, n in truth.items() if said.get(ms) != n} | {
                ms: (0, n) for ms, n in said.items() if n and ms not in truth
            }
            result.aggregates += len(said)
            if wrong:
                shown = list(wrong.items())[:3]
                result.faults.append(f"{asset}.{tag}: counts differ (stored, said): {shown}")


def report(title: str, result: Soak) -> str:
    """The figures, as rows for RESULTS.md."""
    cpu = result.cpu_s / max(result.seconds, 1e-9) * 100
    return "\n".join(
        (
            f"{title}",
            f"  scans served {result.scans}, not stored {result.scans_lost}",
            f"  messages acknowledged by the broker {result.messages}",
            f"  aggregates compared {result.aggregates}, rows sent again {result.resent}",
            f"  CPU {cpu:.1f} % of a core, peak RSS {result.rss_mb_max:.0f} MB",
            f"  drained in {result.drain_s:.1f} s, stopped in {result.stop_s:.2f} s",
            *(f"  FAULT {fault}" for fault in result.faults),
        )
    )


def main() -> int:
    """Both runs; 1 when anything is not as promised."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kill-seconds", type=float, default=200.0)
    parser.add_argument("--servers", type=int, default=20)
    parser.add_argument("--tags", type=int, default=100)
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    plant = {"servers": given.servers, "tags": given.tags, "rate": given.rate, "seed": given.seed}
    failed = False
    for title, seconds, kills in (
        ("undisturbed", given.seconds, 0),
        (f"{given.kills} kills", given.kill_seconds, given.kills),
    ):
        if not seconds:
            continue
        with tempfile.TemporaryDirectory(prefix="sluicegate-soak-") as folder:
            settings = SoakSettings(seconds=seconds, kills=kills, **plant)
            result = asyncio.run(soak(settings, Path(folder)))
        print(report(f"{title}, {seconds:.0f} s", result), flush=True)
        failed = failed or bool(result.faults)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
