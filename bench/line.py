"""What the whole gateway costs, end to end: `python -m bench.line`.

Each figure is taken from a gateway process of its own: simulated devices and a broker on one
side, VictoriaMetrics on the other, raw and aggregate lanes forwarded, the page on. CPU is the
gateway process's own time, all threads, between two moments of steady running, divided by what
its counters say it read in between.

    Modbus   20 servers, 5 scans a second of 100 registers in one request, 100 tags;
             and the plant's own map: 2 requests, floats, counters, texts   us a tag
    MQTT     QoS 1, JSON of 3 to 5 values, as fast as asked for    us a message
    start    from `exec` to the first sample on disk              s
    memory   the demo's plant with the model, and without         MB
    engine   windows a second beside a bare ONNX Runtime loop     %
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psutil

from bench.soak import metrics
from simulators.broker import open_broker
from simulators.config import GatewayOptions, write_config
from simulators.greenhouse import GreenhouseSettings, run_greenhouse
from simulators.line import LineSettings, run_line
from tests.rig import ROOT, SLUICEGATE, Process, free_port
from tests.servers import Victoria

WARM_S = 12.0
MEASURE_S = 20.0


class Running:
    """A gateway process and its counters."""

    def __init__(self, config: Path, folder: Path, port: int) -> None:
        self.port = port
        self.began_s = time.monotonic()
        self.process = Process("gateway", [*SLUICEGATE, "run", str(config)], folder)

    async def count(self, name: str) -> float:
        """Sum of a metric over its labels."""
        found = await asyncio.to_thread(metrics, self.port)
        return sum(value for key, value in found.items() if key.split("{")[0] == name)

    async def cpu_per(self, name: str) -> tuple[float, float]:
        """Microseconds of CPU for each of what a counter counts, and how many a second."""
        await asyncio.sleep(WARM_S)
        process = psutil.Process(self.process.pid)
        count, cpu_s, began_s = await self.count(name), _cpu_s(process), time.monotonic()
        await asyncio.sleep(MEASURE_S)
        count, cpu_s = await self.count(name) - count, _cpu_s(process) - cpu_s
        return cpu_s / count * 1e6, count / (time.monotonic() - began_s)

    def rss_mb(self) -> float:
        """Resident memory at its highest so far."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in text.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1000

    async def first_sample_s(self) -> float:
        """Seconds from the start of the process to the first sample on disk."""
        while True:
            try:
                if await self.count("sluicegate_spool_samples_total"):
                    return time.monotonic() - self.began_s
            except OSError:
                pass
            await asyncio.sleep(0.01)


def _write_plain_map(folder: Path, number: int) -> None:
    rows = (f"plc-{number},r{i},1,input_register,{i},uint16" for i in range(100))
    header = "asset,tag,unit_id,table,address,data_type"
    (folder / f"plc-{number}.csv").write_text("\n".join((header, *rows)) + "\n")
    config = folder / "sluicegate.toml"
    unused = ', slow = "200ms"', '[[asset]]\nname = "pump-*"\nclass = "pump"\n'
    text = config.read_text()
    for part in unused:
        text = text.replace(part, "")
    config.write_text(text)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


@asynccontextmanager
async def gateway(
    *,
    line: LineSettings | None = None,
    rate: float = 0.0,
    bays: int = 50,
    scan_period: str = "1s",
    bundle: Path | None = None,
    plain: bool = False,
    aggregate: str = "10s",
) -> AsyncIterator[Running]:
    """A plant, a database, and a gateway between them.

    `plain`: the maps are replaced by 100 registers in a row, each a tag.
    """
    with tempfile.TemporaryDirectory(prefix="sluicegate-bench-") as name:
        folder = Path(name)
        database = Victoria(folder / "vm")
        await asyncio.to_thread(database.start)
        async with AsyncExitStack() as stack:
            stack.callback(database.stop)
            plant = await stack.enter_async_context(run_line(line)) if line else None
            greenhouse = None
            if rate:
                broker = await stack.enter_async_context(open_broker())
                greenhouse = GreenhouseSettings(
                    host=broker.host, port=broker.port, bays=bays, rate=rate
                )
            port = free_port()
            options = GatewayOptions(
                listen=f"127.0.0.1:{port}",
                aggregate=aggregate,
                scan_period=scan_period,
                slow_period=scan_period,
                bundle=bundle,
                tail=f'[[sink]]\nname = "vm"\ntype = "influxdb2"\nurl = "{database.url}"\n'
                'bucket = "bench"\nlanes = ["raw", "aggregate"]\n',
            )
            config = write_config(
                folder / "gateway", line=plant, greenhouse=greenhouse, options=options
            )
            if plain and plant is not None:
                for number in range(len(plant.plcs)):
                    _write_plain_map(config.parent, number + 1)
            running = Running(config, folder, port)
            stack.callback(running.process.stop)
            if greenhouse is not None:
                await asyncio.to_thread(running.process.wait_for, "connected source=greenhouse")
                await stack.enter_async_context(run_greenhouse(greenhouse))
            yield running


async def main() -> None:
    """Every figure, one after the other."""
    twenty = LineSettings(servers=20, tags_per_server=100, units="shared", step_s=1.0)
    for name, plain in (("one request a scan", True), ("the plant's own map", False)):
        for aggregate in ("", "10s"):
            async with gateway(
                line=twenty, scan_period="200ms", plain=plain, aggregate=aggregate
            ) as running:
                cost, rate = await running.cpu_per("sluicegate_pipeline_samples_total")
            what = f"Modbus, {name}{', aggregates' if aggregate else ''}"
            _say(what, f"{cost:.2f} us a tag", f"{rate:.0f} tags/s")
    for asked in (500.0, 2000.0):
        async with gateway(rate=asked) as running:
            cost, rate = await running.cpu_per("sluicegate_source_messages_total")
            _say(f"MQTT QoS 1, {asked:.0f}/s", f"{cost:.1f} us a message", f"{rate:.0f}/s")
    small = LineSettings()
    for name, bundle in (("without a model", None), ("with a model", ROOT / "models" / "pump")):
        async with gateway(line=small, rate=12, bays=4, bundle=bundle) as running:
            first_s = await running.first_sample_s()
            await asyncio.sleep(40)
            _say(f"demo plant {name}", f"{running.rss_mb():.0f} MB at most", "")
            _say(f"demo plant {name}", f"{first_s:.2f} s to the first sample on disk", "")
    async with gateway(line=LineSettings(servers=20, tags_per_server=100), rate=500) as running:
        await asyncio.sleep(40)
        _say("2,000 tags, 500 messages/s", f"{running.rss_mb():.0f} MB at most", "")
    command = [sys.executable, "-m", "bench.engine"]
    print(await asyncio.to_thread(subprocess.check_output, command, text=True))


def _say(what: str, figure: str, at: str) -> None:
    print(f"{what:36s} {figure:34s} {at}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
