"""Healthy Modbus devices beside ones that cycle through every wire fault.

    python -m bench.modbus_soak [--minutes 10] [--devices 20]

So many healthy devices at 10 Hz (`sluicegate simulate fleet`, which counts and times what it is
asked), and as many that misbehave: each behind a proxy, each with another fault every few seconds,
all answers spoiled while it lasts. One gateway reads both. Afterwards

    no scan of a healthy device may be missing, as the device counts and as the spool has them
    no value of a misbehaving one may be good and wrong
    memory and descriptors of the gateway may not have grown since the first quarter

Flipped bits are left out: Modbus TCP has no checksum, and nobody could tell them from a value.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import io
import json
import logging
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

import psutil

from simulators.device import FAULTS, MisbehavingDevice, truth
from simulators.proxy import FaultProxy, fault_proxy
from tests.rig import SLUICEGATE, Process, free_port, sluicegate

__all__ = ["ModbusSoak", "soak"]

PERIOD_S = 0.1
REGISTERS = 20
UNITS = range(1, 3)
# Of what the gateway holds in the first quarter; connections come and go, and buffers with them.
GROWTH_MB_MAX, DESCRIPTORS_MAX = 8.0, 5
JUDGED_FROM_S = 60.0
UNDETECTABLE = {"flipped_bit"}
OF_WIRE: dict[str, Callable[[FaultProxy], object]] = {
    "dribble": lambda proxy: proxy.dribble(0.02),
    "slow": lambda proxy: proxy.delay(0.3),
    "stall": lambda proxy: proxy.stall(),
    "cut": lambda proxy: proxy.cut_after(13),
    "reset": lambda proxy: proxy.cut(),
    "away": lambda proxy: proxy.drop_link(),
}


@dataclass(slots=True)
class ModbusSoak:
    """What came of a run; `faults` is empty when everything is as promised."""

    faults: list[str] = field(default_factory=list)
    scans_healthy: int = 0
    late_ms: dict[str, float] = field(default_factory=dict)
    faults_played: Counter[str] = field(default_factory=Counter)
    errors_by_kind: Counter[str] = field(default_factory=Counter)  # as the gateway counts them
    values_checked: int = 0  # good ones, of those that misbehave
    rss_mb: tuple[float, float] = (0.0, 0.0)  # most in the first quarter, most afterwards
    descriptors: tuple[int, int] = (0, 0)


async def soak(
    devices: int,
    seconds: float,
    folder: Path,
    *,
    fault_s: float = 4.0,
    period_s: float = PERIOD_S,
) -> ModbusSoak:
    """Run it and count. Memory and descriptors are judged in runs of a minute and more."""
    logging.getLogger("pymodbus").setLevel(logging.CRITICAL)  # it tells of every fault we play
    result = ModbusSoak()
    options = ["--devices", str(devices), "--registers", str(REGISTERS)]
    options += ["--period", str(period_s), "--write-config", str(folder)]
    async with AsyncExitStack() as stack:
        fleet = stack.enter_context(sluicegate("fleet", ["simulate", "fleet", *options], folder))
        config = Path(json.loads(await asyncio.to_thread(fleet.wait_for, '"ready"'))["config"])
        bad: list[tuple[MisbehavingDevice, FaultProxy]] = []
        for number in range(devices):
            device = MisbehavingDevice(UNITS, seed=number)
            port = await stack.enter_async_context(device.serving())
            proxy = await stack.enter_async_context(fault_proxy("127.0.0.1", port, seed=number))
            bad.append((device, proxy))
        page = f"127.0.0.1:{free_port()}"
        _complete(config, page, [proxy.port for _, proxy in bad])
        gateway = Process("gateway", [*SLUICEGATE, "run", str(config)], folder)
        stack.callback(gateway.kill)
        await asyncio.to_thread(gateway.wait_for, "gateway.ready")
        playing = [
            asyncio.create_task(_play(number, *each, fault_s, result))
            for number, each in enumerate(bad)
        ]
        await _watch(gateway, seconds, result)
        for task in playing:
            task.cancel()
        result.errors_by_kind = _errors(page)
        stopped_s = await asyncio.to_thread(gateway.stop)
        if stopped_s > 10:
            result.faults.append(f"stopping took {stopped_s:.0f} s")
        await asyncio.to_thread(fleet.stop)
        told = json.loads(fleet.output().strip().splitlines()[-1])
        if " ERROR " in gateway.output():
            said = next(line for line in gateway.output().splitlines() if " ERROR " in line)
            result.faults.append(f"the gateway logged an error: {said}")
    result.late_ms = told["lateness_ms"]
    if told["scans_missing"]:
        result.faults.append(f"{told['scans_missing']} scans of healthy devices did not come")
    await asyncio.to_thread(_count_healthy, config, devices, result)
    await asyncio.to_thread(_check_values, config, devices, result)
    return result


def _complete(config: Path, page: str, ports: list[int]) -> None:
    """The misbehaving devices, in the fleet's configuration."""
    rows = ["asset,tag,unit_id,table,address,data_type"]
    rows += [
        f"{{asset}},u{unit}r{address},{unit},holding_register,{address},uint16"
        for unit in UNITS
        for address in range(REGISTERS)
    ]
    text = [config.read_text().replace("127.0.0.1:8080", page)]
    text.append('\n[[asset]]\nname = "bad-*"\nclass = "bad"\n')
    for number, port in enumerate(ports):
        name = f"bad-{number}"
        (config.parent / f"{name}.csv").write_text("\n".join(rows).format(asset=name) + "\n")
        text.append(
            f'[[source]]\nname = "{name}"\ntype = "modbus-tcp"\nhost = "127.0.0.1"\nport = {port}\n'
            f'map = "{name}.csv"\nscan_classes = {{ default = "500ms" }}\n'
            'response_timeout = "250ms"\nconnect_timeout = "250ms"\n'
        )
    config.write_text("\n".join(text))


async def _play(
    number: int, device: MisbehavingDevice, proxy: FaultProxy, fault_s: float, result: ModbusSoak
) -> None:
    """One fault after the other, a healthy while between; each device begins with another."""
    names = [name for name in (*FAULTS, *OF_WIRE) if name not in UNDETECTABLE]
    start = number * len(names) // 20 % len(names)
    for name in islice(cycle(names), start, None):
        if name in OF_WIRE:
            OF_WIRE[name](proxy)
        else:
            device.switch(name)
        result.faults_played[name] += 1
        await asyncio.sleep(fault_s)
        device.faults.clear()
        proxy.heal()
        await asyncio.sleep(fault_s / 4)


async def _watch(gateway: Process, seconds: float, result: ModbusSoak) -> None:
    process = psutil.Process(gateway.pid)
    began_s = time.monotonic()
    most = {True: (0.0, 0), False: (0.0, 0)}
    while (passed_s := time.monotonic() - began_s) < seconds:
        assert gateway.process.poll() is None, gateway.output()[-4000:]
        is_early = passed_s < seconds / 4
        rss_mb, descriptors = most[is_early]
        most[is_early] = (
            max(rss_mb, process.memory_info().rss / 1e6),
            max(descriptors, process.num_fds()),
        )
        await asyncio.sleep(0.5)
    result.rss_mb = (most[True][0], most[False][0])
    result.descriptors = (most[True][1], most[False][1])
    if seconds < JUDGED_FROM_S:
        return
    if result.rss_mb[1] > result.rss_mb[0] + GROWTH_MB_MAX:
        early, late = result.rss_mb
        result.faults.append(f"memory grew from {early:.0f} to {late:.0f} MB")
    if result.descriptors[1] > result.descriptors[0] + DESCRIPTORS_MAX:
        result.faults.append(f"descriptors grew from {result.descriptors}")


def _errors(page: str) -> Counter[str]:
    with urllib.request.urlopen(f"http://{page}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: Counter[str] = Counter()
    for labels, value in re.findall(
        r"^sluicegate_source_errors_total\{(.*)\} (\S+)$", text, re.MULTILINE
    ):
        kind = re.search(r'kind="([^"]*)"', labels)
        found[kind.group(1) if kind else "?"] += round(float(value))
    return found


def _rows(config: Path, tags: str) -> list[dict[str, str]]:
    command = [*SLUICEGATE, "query", str(config), tags, "--from", "2h"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [row for row in csv.DictReader(io.StringIO(text)) if row["quality"] == "good"]


def _count_healthy(config: Path, devices: int, result: ModbusSoak) -> None:
    """Register 0 of a healthy device counts its reads."""
    for number in range(1, devices + 1):
        counted = [int(float(row["value"])) for row in _rows(config, f"device-{number}.r0")]
        result.scans_healthy += len(counted)
        if counted != list(range(1, len(counted) + 1)):
            result.faults.append(f"scans of device-{number} are missing in the spool")


def _check_values(config: Path, devices: int, result: ModbusSoak) -> None:
    for number in range(devices):
        for row in _rows(config, f"bad-{number}.*"):
            field_name = row["tag"].rsplit(".", 1)[1]
            unit, address = map(int, field_name[1:].split("r"))
            result.values_checked += 1
            if float(row["value"]) != truth(unit, address):
                result.faults.append(f"{row['tag']} is {row['value']} at {row['time']}")
                return


def report(result: ModbusSoak, devices: int, seconds: float) -> str:
    late = ", ".join(f"{name} {ms:.1f}" for name, ms in result.late_ms.items())
    played = sum(result.faults_played.values())
    kinds = ", ".join(f"{kind} {n}" for kind, n in sorted(result.errors_by_kind.items()))
    memory, descriptors = result.rss_mb, result.descriptors
    lines = [
        f"{devices} healthy devices beside {devices} that misbehave, {seconds:.0f} s",
        f"healthy: {result.scans_healthy:,} scans, none missing unless said; late, ms: {late}",
        f"misbehaving: {played} faults of {len(result.faults_played)} kinds",
        f"their good values: {result.values_checked:,}, all right unless said",
        f"counted by the gateway: {kinds}",
        f"memory {memory[0]:.0f} -> {memory[1]:.0f} MB",
        f"descriptors {descriptors[0]} -> {descriptors[1]}",
    ]
    return "\n".join([*lines, *(f"NOT AS PROMISED: {fault}" for fault in result.faults)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--devices", type=int, default=20)
    options = parser.parse_args()
    seconds = options.minutes * 60
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(soak(options.devices, seconds, Path(folder)))
    print(report(result, options.devices, seconds))
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(main())
