"""`make demo` ends quietly whenever it is told to, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.rig import free_port, wait_until

pytestmark = pytest.mark.system


def holds(pid: int, number: signal.Signals) -> bool:
    """Whether a process lets a signal wait (proc_pid_status(5), SigBlk)."""
    status = Path(f"/proc/{pid}/status").read_text()
    [blocked] = [line.split()[1] for line in status.splitlines() if line.startswith("SigBlk:")]
    return bool(int(blocked, 16) >> (number - 1) & 1)


@pytest.mark.parametrize(
    ("number", "pause_s"),
    [(signal.SIGTERM, 0.0), *((signal.SIGINT, pause_s) for pause_s in (0.0, 0.1, 0.3, 0.6, 2.0))],
)
def test_the_demo_ends_quietly_from_its_first_line_on(
    tmp_path: Path, number: signal.Signals, pause_s: float
) -> None:
    environment = os.environ | {"DEMO_PORT": str(free_port())}
    command = [sys.executable, "-m", "simulators.demo"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=-1, stderr=-1, text=True
    ) as demo:
        try:
            # Before its first line there is Python alone: some twenty milliseconds.
            wait_until(lambda: holds(demo.pid, number), period_s=0.001)
            # While it makes a process it holds all signals, too; that is after the imports.
            assert "uvloop" not in Path(f"/proc/{demo.pid}/maps").read_text()
            time.sleep(pause_s)
        finally:
            demo.send_signal(number)
        said, complaints = demo.communicate(timeout=60)
    assert complaints == ""
    assert demo.returncode == 0
    assert said.endswith("stopped; nothing is left running\n")
    here = [each for each in psutil.process_iter(["cwd"]) if each.info["cwd"] == str(tmp_path)]
    assert here == []
