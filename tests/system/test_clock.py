"""A board without a clock chip, as a process: libfaketime plays the part of its wall clock."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.rig import get_json, sluicegate, wait_until
from tests.system.conftest import Plant, page_of

pytestmark = pytest.mark.system


def library() -> str:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    assert found, "libfaketime is missing: tests/install-packages installs it"
    return str(found[0])


def lines(folder: Path) -> list[dict[str, Any]]:
    files = sorted(folder.glob("*"))
    said = [line for file in files for line in file.read_text().splitlines()]
    return [json.loads(line) for line in said if line.endswith("}")]


def test_a_board_that_boots_in_1970_sends_right_times_once_it_knows_them(
    plant: Plant, tmp_path: Path
) -> None:
    wall, out = tmp_path / "wall", tmp_path / "out"
    sink = f'\n[[sink]]\nname = "file"\ntype = "file"\ndirectory = "{out}"\nformat = "jsonl"\n'
    plant.config.write_text(plant.config.read_text() + sink + 'lanes = ["raw"]\n')
    wall.write_text("@1970-01-01 00:00:30")
    faked = {
        "LD_PRELOAD": library(),
        "FAKETIME_TIMESTAMP_FILE": str(wall),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "TZ": "UTC",
    }
    began = datetime.now(tz=UTC)
    with sluicegate("gateway", ["run", str(plant.config)], tmp_path, **faked) as gateway:
        page = page_of(gateway)

        def warning() -> str:
            said: list[str] = get_json(f"{page}/healthz")["warnings"]
            return next((each for each in said if each.startswith("clock:")), "")

        def waiting() -> int:
            return int(warning().split(" samples wait")[0].split()[-1]) if warning() else 0

        seen = wait_until(lambda: waiting() > 200 and waiting())
        assert not lines(out)
        wall.write_text("+0")
        gateway.wait_for("clock.trusted")
        sent = wait_until(lambda: len(lines(out)) > seen + 100 and lines(out))
        wait_until(lambda: not warning())
        assert gateway.stop() < 5.0
    rows = lines(out)
    # What was read while it was 1970 is there, at the time at which it was read.
    times = [datetime.fromisoformat(row["time"]) for row in rows]
    assert began <= min(times) <= max(times) <= datetime.now(tz=UTC)
    keys = [(row["tag"], row["time"]) for row in rows]
    assert len(set(keys)) == len(keys)
    assert len(sent) <= len(rows)
