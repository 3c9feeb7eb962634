"""An outage, time compressed: what it leaves on disk, how it drains, and what is current then.

    python bench/drain.py [--hours 3] [--rate 1000]

So many hours of `rate` samples a second (100 tags in ten scans a second, float32 with 1 % noise)
are written to a spool as fast as it takes them; then a real VictoriaMetrics is started, and one
sink drains the spool as the gateway does, while the plant goes on at that rate. Reported: bytes a
sample, samples a second, CPU a sample of this process, its memory, and how long a sample that is
written during the drain takes to be in the database. One tag is then counted there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
import urllib.parse
import urllib.request
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil

from bench.spool import START_NS, S, as_float32, make_table
from gateway.clock import SystemClock
from gateway.frame import Frame, Lane, Turn
from gateway.sinks.config import Influx2Settings
from gateway.sinks.deadletters import DeadLetters
from gateway.sinks.delivery import Delivery, Link
from gateway.sinks.influxdb import InfluxSink, build
from gateway.spool.config import SpoolSettings
from gateway.spool.log import Spool
from gateway.tag import TagTable
from tests.servers import Victoria, running

TAGS = 100
SCANS_A_SECOND = 10
LATE_S = 60.0
# Of noise; none comes twice in a record.
PATTERNS = 997


class Plant:
    """Scans of all tags, one after the other."""

    def __init__(self, rate: int) -> None:
        rng = np.random.default_rng(1)
        self._ids = np.arange(TAGS, dtype=np.int32)
        self._values = [
            as_float32(rng.uniform(1, 1000, TAGS) * (1 + 0.01 * rng.standard_normal(TAGS)))
            for _ in range(PATTERNS)
        ]
        self._step_ns = S * TAGS // rate
        self.scans = 0

    def turn(self) -> Turn:
        self.scans += 1
        t_ns = START_NS + self.scans * self._step_ns
        values = self._values[self.scans % PATTERNS]
        return Turn(t_ns, {Lane.RAW: Frame.of(t_ns, self._ids, values)})


def in_database(server: Victoria, t_ns: int) -> bool:
    """Whether the sample of one tag and time can be queried."""
    second = t_ns / S
    form = {"match[]": "pump_t0{asset='pump-0'}", "start": second, "end": second}
    with urllib.request.urlopen(
        f"{server.url}/api/v1/export?{urllib.parse.urlencode(form)}", timeout=30
    ) as answer:
        return any(json.loads(line)["values"] for line in answer)


def count_in_database(server: Victoria) -> int:
    """Samples of one tag."""
    form = {
        "query": "count_over_time(pump_t0{asset='pump-0'}[200d])",
        "time": START_NS // S + 10**7,
    }
    with urllib.request.urlopen(
        f"{server.url}/api/v1/query?{urllib.parse.urlencode(form)}", timeout=60
    ) as answer:
        [series] = json.load(answer)["data"]["result"]
        return int(series["value"][1])


async def fill(spool: Spool, plant: Plant, samples: int) -> None:
    for _ in range(samples // TAGS):
        await spool.wait_for_room()
        durable = spool.append(plant.turn())
    await durable


async def go_on(spool: Spool, plant: Plant, server: Victoria, late_s: list[float]) -> None:
    """The plant while the spool drains; now and then a sample is looked for in the database."""
    began_s = time.monotonic()
    looked_s = began_s
    while True:
        for _ in range(SCANS_A_SECOND // 2):
            turn = plant.turn()
            durable = spool.append(turn)
        await asyncio.sleep(0.5)
        if time.monotonic() - looked_s < 5:
            continue
        looked_s = time.monotonic()
        await durable
        while not await asyncio.to_thread(in_database, server, turn.now_ns):
            await asyncio.sleep(0.1)
            if time.monotonic() - looked_s > LATE_S:
                break
        late_s.append(time.monotonic() - looked_s)


async def drain(
    spool: Spool, plant: Plant, table: TagTable, sink: InfluxSink, server: Victoria, folder: Path
) -> None:
    process = psutil.Process()
    reader = spool.reader(sink.name, [Lane.RAW])
    deliver = partial(
        Delivery,
        sink=sink,
        settings=SimpleNamespace(samples_max=20_000, retry_max=60.0, backfill_share=0.5),
        clock=SystemClock(),
        table=table,
        link=Link(dead_letters=DeadLetters(folder / "letters.jsonl")),
    )
    waiting = reader.backlog().samples
    rss_before = rss_max = process.memory_info().rss
    late_s: list[float] = []
    began_s, cpu_began_s = time.monotonic(), time.process_time()
    async with sink.session(), asyncio.TaskGroup() as tasks:
        current = deliver(reader=reader)
        rest = deliver(reader=reader.backfill, ahead=current)
        running_ones = [tasks.create_task(each.run()) for each in (current, rest)]
        running_ones.append(tasks.create_task(go_on(spool, plant, server, late_s)))
        while reader.backlog().samples > 5000:
            await asyncio.sleep(0.2)
            rss_max = max(rss_max, process.memory_info().rss)
        wall_s, cpu_s = time.monotonic() - began_s, time.process_time() - cpu_began_s
        for task in running_ones:
            task.cancel()
    sent = sink.stats.samples_total
    print(f"drain   {sent / wall_s:8.0f} samples a second ({waiting} waited, {wall_s:.0f} s)")
    print(f"drain   {cpu_s / sent * 1e6:8.2f} us CPU a sample, writing and reading included")
    print(
        f"drain   {rss_before / 2**20:8.0f} MiB of memory before, {rss_max / 2**20:.0f} at the most"
    )
    await asyncio.sleep(5)  # until the database shows what it has taken
    there = await asyncio.to_thread(count_in_database, server)
    print(f"drain   {there} samples of one tag in the database, {sent // TAGS} sent")
    if late_s:
        print(f"drain   {max(late_s):8.1f} s from written to found in the database, at the most")


async def measure(hours: float, rate: int, folder: Path) -> None:
    table, plant = make_table(TAGS), Plant(rate)
    settings = SpoolSettings(bytes_max=4 * 2**30)
    async with Spool.open(folder / "spool", settings, table, SystemClock()) as spool:
        samples = round(hours * 3600 * rate)
        spool.reader("db", [Lane.RAW])
        await fill(spool, plant, samples)
        size = spool.stats.bytes_written_total
        print(f"outage  {hours:g} h at {rate} samples a second: {size / 2**20:.0f} MiB,", end=" ")
        print(f"{size / samples:.2f} bytes a sample")
        with running(Victoria(folder / "vm")) as server:
            facts = {"type": "influxdb2", "name": "db", "url": server.url, "bucket": "b"}
            sink = build(Influx2Settings.model_validate(facts), table)
            await drain(spool, plant, table, sink, server, folder)


async def bench(hours: float = 3.0, rate: int = 1000) -> None:
    """All of it, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="drain-bench-") as folder:
        await measure(hours, rate, Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--rate", type=int, default=1000)
    given = parser.parse_args()
    asyncio.run(bench(given.hours, given.rate))


if __name__ == "__main__":
    main()
