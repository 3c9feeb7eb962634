"""The unit is valid, shut tight, and what the gateway needs works inside it."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from gateway.cli.main import EX_CONFIG
from gateway.config.schema import GatewaySettings
from gateway.ops.systemd import TICKS_PER_TIMEOUT, Notifier, Watchdog

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "systemd" / "sluicegate.service"
README = ROOT / "deploy" / "systemd" / "README.md"


@pytest.fixture(scope="module")
def service() -> dict[str, str]:
    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign] - keys keep their case
    parser.read(UNIT)
    return dict(parser["Service"])


def test_its_exposure_is_at_most_two() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", UNIT],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    found = re.search(r"Overall exposure level for sluicegate.service: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= 2.0
    assert done.returncode == 0


def assert_verified(unit: Path) -> None:
    """That systemd finds nothing to say about it."""
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode == 0


def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path, service: dict[str, str]) -> None:
    program = service["ExecStart"].split()[0]
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(program, "/bin/true"))
    assert_verified(unit)


def test_the_drop_in_for_serial_lines_is_understood(
    tmp_path: Path, service: dict[str, str]
) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(service["ExecStart"].split()[0], "/bin/true"))
    drop_in = tmp_path / f"{UNIT.name}.d" / "serial.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(UNIT.with_name("serial.conf").read_text())
    assert_verified(unit)
    assert "serial.conf" in README.read_text()


def test_it_agrees_with_the_program(service: dict[str, str]) -> None:
    assert int(service["RestartPreventExitStatus"]) == EX_CONFIG
    data_dir = GatewaySettings(name="x").data_dir
    assert data_dir == Path("/var/lib") / service["StateDirectory"]
    watchdog_s = float(service["WatchdogSec"])
    # A fault right after a tick is acted on within 30 s.
    assert watchdog_s <= 30
    watchdog = Watchdog(Notifier(watchdog_s=watchdog_s), list)
    assert watchdog.period_s * TICKS_PER_TIMEOUT == watchdog_s
    assert float(service["TimeoutStopSec"]) > 5


def test_the_readme_installs_what_the_unit_runs(service: dict[str, str]) -> None:
    text = README.read_text()
    program, command, config = service["ExecStart"].split()
    assert command == "run"
    assert f"venv {Path(program).parents[1]}\n" in text
    assert f"{program} check {config}\n" in text
    assert "deploy/systemd/sluicegate.service /etc/systemd/system/" in text


INSIDE = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1
if libc.prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0) != 0:
    sys.exit(77)
import mmap
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)
except PermissionError:
    pass
else:
    sys.exit("writable code is not refused here")
import aiohttp, numpy, onnxruntime, orjson, uvloop
session = onnxruntime.InferenceSession(sys.argv[1])
(answer,) = session.run(None, {"x": numpy.ones((2, 3), numpy.float32)})
assert answer.tolist() == [[6.0] * 3] * 2, answer
async def main():
    async with aiohttp.ClientSession():
        return numpy.linalg.norm(numpy.ones((64, 64)) @ numpy.ones((64, 64)))
print(uvloop.run(main()))
"""


def test_everything_native_works_without_writable_code(tmp_path: Path) -> None:
    """MemoryDenyWriteExecute=yes, by the kernel's own means (prctl(2), Linux 6.3)."""
    two = helper.make_tensor("w", TensorProto.FLOAT, [3, 3], [2.0] * 9)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [two],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    done = subprocess.run(
        [sys.executable, "-c", INSIDE, tmp_path / "model.onnx"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == 4096.0
