"""A model is learned from a plant that runs, watches it, and what it said can be replayed.

Everything is a command that a user types: simulate, run, models fit, run again, backtest.
"""

from __future__ import annotations

import csv
import io
import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.rig import SLUICEGATE, get_json, sluicegate, wait_until
from tests.system.conftest import Plant, page_of

pytestmark = pytest.mark.system

# Five plant seconds a second, scanned at five hertz: a healthy history of minutes takes one.
SPEED, SCAN, HEALTHY_S = 5, "200ms", 30
FAULTY = "pump-1"
# What a worn bearing does: it shakes, heats, and draws current.
OF_A_BEARING = {"vibration", "bearing_temperature", "motor_current", "motor_temperature"}


@pytest.fixture
def fast_plant(tmp_path: Path) -> Iterator[Plant]:
    folder = str(tmp_path / "gateway")
    arguments = ["simulate", "line", "--servers", "2", "--seed", "7", "--write-config", folder]
    # A filler that stops for the first time after the history would be an event of its own.
    arguments += ["--steady", "--speed", str(SPEED), "--scan-period", SCAN, "--slow-period", SCAN]
    with sluicegate("line", arguments, tmp_path) as process:
        yield Plant(process, tmp_path)


def command(*arguments: str) -> str:
    done = subprocess.run([*SLUICEGATE, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def seconds_stored(config: Path) -> float:
    text = command("query", str(config), f"{FAULTY}.flow", "--from", "10m", "--format", "json")
    return len(text.splitlines()) * 0.2


def scores_of(text: str) -> dict[int, str]:
    rows = csv.DictReader(io.StringIO(text))
    return {int(row["time_ns"]): row["score"] for row in rows if row["asset"] == FAULTY}


def test_a_plant_is_commissioned_watched_and_replayed(fast_plant: Plant, tmp_path: Path) -> None:
    config = fast_plant.config
    bundle = config.parent / "bundles" / "pump"
    with sluicegate("gateway", ["run", str(config)], tmp_path) as gateway:
        wait_until(lambda: seconds_stored(config) >= HEALTHY_S, 90, 2)
        said = command(
            "models", "fit", str(config), "--asset-class", "pump", "--from", "10m",
            "--out", str(bundle), "--exclude", "alarm", "--window", "32",
        )  # fmt: skip
        assert "pump-1, pump-2, pump-3, pump-4" in said
        assert "bottles: it only ever rises" in said
        assert gateway.stop() < 10.0
    key = command("models", "key", str(config)).strip()
    with config.open("a") as file:
        file.write(
            f'\n[[model]]\nname = "health"\nbundle = "bundles/pump"\ntrusted_keys = ["{key}"]\n'
        )
    assert "watches 4 assets" in command("check", str(config))
    assert "signed by " + key in command("models", "list", str(config))

    with sluicegate("gateway", ["run", str(config)], tmp_path) as gateway:
        page = page_of(gateway)
        wait_until(lambda: get_json(f"{page}/healthz")["status"] == "ok")
        request = f"{fast_plant.control}/fault?asset={FAULTY}&name=bearing_wear&severity=2"
        urllib.request.urlopen(urllib.request.Request(request, method="POST"), timeout=5)
        line = gateway.wait_for(f"anomaly.opened asset={FAULTY} model=health", 60)
        blamed = line.split("because_of=")[1]
        assert any(field in blamed for field in OF_A_BEARING), line
        assert gateway.stop() < 10.0

    scores = tmp_path / "scores.csv"
    out = ("--json", "--scores", str(scores), "--out", str(tmp_path / "report.html"))
    told = json.loads(command("backtest", str(config), "--from", "10m", *out))
    assert FAULTY in {alarm["asset"] for alarm in told["alarms"]}
    live = json_lines(command(
        "query", str(config), f"{FAULTY}.health.score", "--lane", "score", "--from", "10m",
        "--format", "json",
    ))  # fmt: skip
    again = scores_of(scores.read_text())
    compared = [
        (row["value"], float(again[time_ns]))
        for row in live
        if row["quality"] == "good" and again.get(time_ns := ns_of(row["time"]))
    ]
    # The first windows of the second run hold what the first run's rings had; the rest is equal.
    assert len(compared) >= 10
    assert all(a == b for a, b in compared)


def json_lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def ns_of(text: object) -> int:
    return int(np.datetime64(str(text).removesuffix("Z"), "ns").view("int64"))
