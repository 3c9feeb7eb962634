"""Six simulated hours: memory does not rise with what goes through (bench.memory: days)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

HOURS = 6
# Two hundred bytes a scan that nobody lets go of would be 2.9 MB from the second hour on; an arena
# that the allocator takes now and then is one.
GROWTH_MAX = 2_000_000
CHILD = """
import asyncio, json, pathlib, sys
from bench.memory import live
print(json.dumps(asyncio.run(live(pathlib.Path(sys.argv[1]), int(sys.argv[2])))))
"""


def test_memory_does_not_rise_with_what_goes_through(tmp_path: Path) -> None:
    # A process of its own: what other tests leave behind would hide what this one looks for.
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(HOURS)]
    alone = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    told = subprocess.run(command, check=True, capture_output=True, text=True, env=alone).stdout
    resident = json.loads(told)
    assert len(resident) == HOURS
    assert resident[-1] - resident[1] < GROWTH_MAX, resident
