"""`sluicegate run` as a process: what systemd, an operator and a power cut do to it."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import socket
import subprocess
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.ops.test_metrics import parse_all
from tests.rig import SLUICEGATE, get_json, sluicegate, wait_until
from tests.system.conftest import Plant, page_of

pytestmark = pytest.mark.system


def query(config: Path, *arguments: str) -> list[dict[str, str]]:
    command = [*SLUICEGATE, "query", str(config), *arguments]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return list(csv.DictReader(io.StringIO(text)))


def good_sources(page: str) -> bool:
    health = get_json(f"{page}/healthz")
    return health["status"] == "ok"


def numbers(config: Path, plc: str) -> list[int]:
    rows = query(config, f"{plc}.scan_count", "--from", "10m")
    return [int(float(row["value"])) for row in rows if row["quality"] == "good"]


def test_a_plant_is_read_stored_and_queried_with_no_server(plant: Plant, tmp_path: Path) -> None:
    with sluicegate("gateway", ["run", str(plant.config)], tmp_path) as gateway:
        page = page_of(gateway)
        wait_until(lambda: good_sources(page))
        wait_until(lambda: len(numbers(plant.config, "plc-1")) >= 3)
        rows = query(plant.config, "pump-1.*", "--from", "1m")
        assert {"pump-1.flow", "pump-1.vibration", "pump-1.model"} <= {row["tag"] for row in rows}
        assert {row["eng_unit"] for row in rows if row["tag"] == "pump-1.flow"} == {"m3/h"}
        aggregates = wait_until(
            lambda: query(plant.config, "pump-1.flow@10s.*", "--lane", "aggregate")
        )
        assert {row["tag"].rsplit(".")[-1] for row in aggregates} == {
            "mean", "min", "max", "last", "count", "std",
        }  # fmt: skip
        assert gateway.stop() < 5.0
        assert gateway.process.returncode == 0
        assert "ERROR" not in gateway.output()


def test_every_metric_says_what_it_is_and_is_in_the_documentation(
    plant: Plant, tmp_path: Path
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
    section = page.split("## `/metrics`\n")[1].split("\n## ")[0]
    table, alerts = section.split("Worth an alert")
    listed = re.findall(r"`((?:sluicegate|process)_\w*\*?)", table)
    folder = json.dumps(str(tmp_path / "sent"))
    sink = f'\n[[sink]]\ntype = "file"\nname = "folder"\ndirectory = {folder}\n'
    plant.config.write_text(plant.config.read_text() + sink)
    with sluicegate("gateway", ["run", str(plant.config)], tmp_path) as gateway:
        address = page_of(gateway)
        wait_until(lambda: good_sources(address))
        with urllib.request.urlopen(f"{address}/metrics", timeout=5) as answer:
            kinds, helps, values = parse_all(answer.read().decode())
    names = {name for name, _ in values}
    assert names == kinds.keys() == helps.keys()
    assert all(re.fullmatch(r"\S.{3,}[^\s.]", words) for words in helps.values())
    assert {name for name in names if not any(fnmatch(name, each) for each in listed)} == set()
    assert set(re.findall(r"sluicegate_\w+", alerts)) <= names


def test_sigterm_loses_no_scan(plant: Plant, tmp_path: Path) -> None:
    for _ in range(2):
        with sluicegate("gateway", ["run", str(plant.config)], tmp_path) as gateway:
            wait_until(partial(good_sources, page_of(gateway)))
            assert gateway.stop() < 5.0
    for server in get_json(f"{plant.control}/truth")["servers"]:
        stored = numbers(plant.config, server["name"])
        # At most the scan that was under way when it was told to stop.
        assert stored == list(range(1, len(stored) + 1)) or _one_gap(stored)
        assert server["scan_count"] - len(stored) <= 2


def _one_gap(stored: list[int]) -> bool:
    return len(set(range(1, stored[-1] + 1)) - set(stored)) <= 1 and len(set(stored)) == len(stored)


def test_a_device_that_goes_away_makes_its_tags_bad_and_comes_back(
    plant: Plant, tmp_path: Path
) -> None:
    with sluicegate("gateway", ["run", str(plant.config)], tmp_path) as gateway:
        page = page_of(gateway)
        wait_until(lambda: good_sources(page))
        _ask("POST", f"{plant.control}/fault?asset=plc-1&name=device_offline")
        wait_until(lambda: any("plc-1" in text for text in get_json(f"{page}/healthz")["warnings"]))
        bad = wait_until(
            lambda: [
                row
                for row in query(plant.config, "plc-1.scan_count", "--from", "1m")
                if row["quality"] == "bad_no_communication"
            ]
        )
        assert bad
        assert get_json(f"{page}/healthz")["failures"] == []
        _ask("DELETE", f"{plant.control}/fault?asset=plc-1")
        wait_until(lambda: good_sources(page), timeout_s=60)
        # Its neighbour was read all the time.
        stored = numbers(plant.config, "plc-2")
        assert stored == list(range(1, len(stored) + 1))


def test_systemd_is_told_and_the_watchdog_fed(plant: Plant, tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(20)
        environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000000"}
        with sluicegate("gateway", ["run", str(plant.config)], tmp_path, **environment) as gateway:
            assert manager.recv(1000) == b"READY=1"
            assert [manager.recv(1000) for _ in range(3)] == [b"WATCHDOG=1"] * 3
            gateway.process.terminate()
            while (message := manager.recv(1000)) != b"STOPPING=1":
                assert message == b"WATCHDOG=1"
            assert gateway.process.wait(10) == 0


def test_two_gateways_do_not_share_a_spool(plant: Plant, tmp_path: Path) -> None:
    with sluicegate("gateway", ["run", str(plant.config)], tmp_path) as gateway:
        page_of(gateway)
        second = subprocess.run(
            [*SLUICEGATE, "run", str(plant.config)], capture_output=True, text=True, timeout=30,
            check=False,
        )  # fmt: skip
        assert second.returncode != 0
        assert "another" in second.stderr
        assert "Traceback" not in second.stderr


def test_a_wrong_configuration_exits_78_and_says_where(tmp_path: Path) -> None:
    path = tmp_path / "sluicegate.toml"
    path.write_text('[gateway]\nname = "line1"\n[[source]]\ntype = "modbus"\nname = "plc"\n')
    found = subprocess.run(
        [*SLUICEGATE, "run", str(path)], capture_output=True, text=True, timeout=30, check=False
    )
    assert found.returncode == 78
    assert "line 4" in found.stderr
    assert "modbus-tcp" in found.stderr
    assert "Traceback" not in found.stderr


def test_the_spool_being_deleted_underneath_does_not_stop_reading(
    plant: Plant, tmp_path: Path
) -> None:
    with sluicegate("gateway", ["run", str(plant.config)], tmp_path) as gateway:
        page = page_of(gateway)
        wait_until(lambda: good_sources(page))
        for path in sorted((tmp_path / "gateway" / "data" / "spool").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        scans = get_json(f"{plant.control}/truth")["servers"][0]["scan_count"]
        wait_until(
            lambda: get_json(f"{plant.control}/truth")["servers"][0]["scan_count"] > scans + 2
        )
        assert gateway.process.poll() is None


def _ask(method: str, url: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=5):
        pass


def test_a_full_disk_is_said_and_outlived(plant: Plant, tmp_path: Path) -> None:
    """On a file system of its own, filled to the brim while the gateway runs."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], check=True)
    try:
        text = plant.config.read_text()
        plant.config.write_text(
            text.replace(str(tmp_path / "gateway" / "data"), str(disk / "data"))
        )
        with sluicegate("gateway", ["run", str(plant.config)], tmp_path) as gateway:
            page = page_of(gateway)
            wait_until(lambda: good_sources(page))
            # Each lane has its first segment by then; the next ones are megabytes away.
            wait_until(lambda: query(plant.config, "pump-1.flow@10s.mean", "--lane", "aggregate"))
            filler = disk / "filler"
            with contextlib.suppress(OSError), filler.open("wb") as file:
                while True:
                    file.write(bytes(1 << 20))
            stored = len(numbers(plant.config, "plc-1"))
            # The segments were written beforehand: they go on taking what comes.
            wait_until(lambda: len(numbers(plant.config, "plc-1")) >= stored + 3)
            assert gateway.process.poll() is None
            filler.unlink()
            assert gateway.stop() < 5.0
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_long_windows_go_on_from_their_checkpoint(plant: Plant, tmp_path: Path) -> None:
    plant.config.write_text(plant.config.read_text() + '\n[[aggregate]]\nevery = "1h"\n')
    checkpoint = tmp_path / "gateway" / "data" / "spool" / "checkpoint"
    with sluicegate("gateway", ["run", str(plant.config)], tmp_path) as gateway:
        wait_until(partial(good_sources, page_of(gateway)))
        wait_until(checkpoint.exists)
        wait_until(lambda: len(numbers(plant.config, "plc-1")) >= 4)
        gateway.process.kill()
    with sluicegate("gateway", ["run", str(plant.config)], tmp_path) as gateway:
        wait_until(partial(good_sources, page_of(gateway)))
        before = checkpoint.read_bytes()
        assert gateway.stop() < 5.0
        assert "pipeline.recovered" in gateway.output()
        assert "checkpoint" not in gateway.output()  # that it could not be used
    assert checkpoint.read_bytes() != before


def test_questions_by_the_dozen_take_no_thread_each_and_cost_no_scan(
    plant: Plant, tmp_path: Path
) -> None:
    """A pool that grows with what is asked runs out of threads, or of memory."""
    with sluicegate("gateway", ["run", str(plant.config)], tmp_path) as gateway:
        page = page_of(gateway)
        wait_until(lambda: good_sources(page))
        wait_until(lambda: len(numbers(plant.config, "plc-1")) >= 3)
        process = psutil.Process(gateway.pid)
        threads = process.num_threads()
        question = f"{page}/api/history?tag=pump-1.flow&start=1h&points=1000"

        def ask(_: int) -> int:
            try:
                with urllib.request.urlopen(question, timeout=10) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                return error.code

        most = threads
        with ThreadPoolExecutor(40) as pool:
            answers = [pool.submit(ask, number) for number in range(400)]
            while not all(answer.done() for answer in answers):
                most = max(most, process.num_threads())
        assert {answer.result() for answer in answers} <= {200, 503}
        assert 200 in {answer.result() for answer in answers}
        assert most <= threads + 8  # a pool of asyncio's, and no more
        assert gateway.stop() < 10.0
    stored = numbers(plant.config, "plc-1")
    assert stored == list(range(stored[0], stored[-1] + 1))
