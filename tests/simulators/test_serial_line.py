"""The plant and the misbehaving device on serial lines, read by the gateway as commands."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.rig import SLUICEGATE, sluicegate, wait_until

pytestmark = pytest.mark.system


def rows(config: Path, tag: str) -> list[dict[str, object]]:
    query = [*SLUICEGATE, "query", str(config), tag, "--from", "5m", "--format", "json"]
    text = subprocess.run(query, check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("framing", ["rtu", "ascii"])
def test_the_line_is_read_over_serial_lines(framing: str, tmp_path: Path) -> None:
    folder = tmp_path / "gateway"
    arguments = ["simulate", "line", "--servers", "1", "--pumps", "1", "--serial", framing]
    with sluicegate("line", [*arguments, "--write-config", str(folder)], tmp_path) as line:
        ready = json.loads(line.wait_for('"ready"'))
        assert ready["servers"][0]["device"].startswith("/dev/")
        config = folder / "sluicegate.toml"
        config.write_text(config.read_text().replace("127.0.0.1:8080", "127.0.0.1:0"))
        with sluicegate("gateway", ["run", str(config)], tmp_path) as gateway:
            gateway.wait_for("source.connected source=plc-1")
            wait_until(lambda: len(rows(config, "pump-1.speed")) >= 4, 60, 0.5)
            assert gateway.stop() < 10.0
        counted = [int(row["value"]) for row in rows(config, "plc-1.scan_count")]  # type: ignore[call-overload] - a number
        assert counted == list(range(counted[0], counted[-1] + 1))
        assert {row["quality"] for row in rows(config, "pump-1.speed")} == {"good"}


@pytest.mark.parametrize("framing", ["rtu", "ascii"])
def test_a_device_that_misbehaves_is_one_on_a_serial_line_too(framing: str, tmp_path: Path) -> None:
    arguments = ["simulate", "device", "--framing", framing, "--serial"]
    with sluicegate("device", arguments, tmp_path) as device:
        port = json.loads(device.wait_for('"ready"'))["device"]
        read = [
            *SLUICEGATE,
            "read",
            f"{framing}://{port}?baud_rate=115200&parity=none",
            "holding_register:5",
        ]
        read += ["--unit", "2"]
        done = subprocess.run(read, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "2035" in done.stdout  # 7 * 5 + 1000 * 2
