"""A model is replaced in a running gateway: no score is missing, a bad bundle changes nothing.

Both bundles are the shipped pump model, under two versions.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.rig import SLUICEGATE, sluicegate, wait_until
from tests.system.conftest import Plant, page_of

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

SHIPPED = Path(__file__).parents[2] / "models" / "pump"
ASSET = "pump-1"


def bundle(folder: Path, version: str) -> Path:
    shutil.copytree(SHIPPED, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    manifest = folder / "bundle.toml"
    manifest.write_text(manifest.read_text().replace('version = "2.0.0"', f'version = "{version}"'))
    return folder


def models(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*SLUICEGATE, "models", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def done(*arguments: str) -> str:
    said = models(*arguments)
    assert said.returncode == 0, said.stderr
    return said.stdout


def score_times_s(config: Path) -> np.ndarray:
    command = [*SLUICEGATE, "query", str(config), f"{ASSET}.health.score", "--lane", "score"]
    text = subprocess.run(
        [*command, "--from", "10m", "--format", "json"], capture_output=True, text=True, check=True
    ).stdout
    times = [json.loads(line)["time"].removesuffix("Z") for line in text.splitlines()]
    return np.array(times, "datetime64[ns]").view(np.int64) / 1e9


def at_work(page: str) -> dict[str, Any]:
    """What the page knows of the model."""
    with urllib.request.urlopen(f"{page}/events", timeout=5) as stream:
        line = next(line for line in stream if line.startswith(b"data:"))
    [found] = json.loads(line.removeprefix(b"data:"))["tick"]["models"]
    return found


def test_a_bundle_is_tried_promoted_and_gone_back_from_without_a_gap(
    plant: Plant, tmp_path: Path
) -> None:
    config = plant.config
    bundle(config.parent / "first", "first")
    second = bundle(tmp_path / "second", "second")
    broken = bundle(tmp_path / "broken", "broken")
    (broken / "model.onnx").write_bytes((broken / "model.onnx").read_bytes()[:-1000])
    with config.open("a") as file:
        file.write('\n[[model]]\nname = "health"\nbundle = "first"\n')
    with sluicegate("gateway", ["run", str(config)], tmp_path) as gateway:
        page = page_of(gateway)

        wait_until(lambda: len(score_times_s(config)) > 5, 60, 1)
        refused = models("shadow", str(config), "health", str(broken))
        assert refused.returncode != 0
        assert "sha256" in refused.stderr
        assert at_work(page)["version"] == "first"
        done("shadow", str(config), "health", str(second))
        wait_until(lambda: at_work(page)["shadow_windows_total"] > 0, 60)
        known = at_work(page)
        assert (known["version"], known["shadow_version"]) == ("first", "second")
        assert known["shadow_agreed_total"] > 0
        done("promote", str(config), "health")
        wait_until(lambda: at_work(page)["version"] == "second", 30)
        before = len(score_times_s(config))
        wait_until(lambda: len(score_times_s(config)) > before + 3, 60, 1)
        assert at_work(page)["standby_version"] == "first"
        done("roll-back", str(config), "health")
        wait_until(lambda: at_work(page)["version"] == "first", 30)
        before = len(score_times_s(config))
        wait_until(lambda: len(score_times_s(config)) > before + 3, 60, 1)
        assert gateway.stop() < 10.0
    steps = np.diff(score_times_s(config))
    assert steps.max() <= 1.0 + 1e-6  # a score each second, all the while
