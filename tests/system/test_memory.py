"""Six simulated hours: memory does not rise with what goes through (bench.memory: days)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.memory import Held

pytestmark = pytest.mark.system

HOURS = 6
# From the second hour on: what is held of the files of a spool that still fills is a tenth of this;
# an object or forty bytes that nobody lets go of after each scan would be 14,400 and 576 kB.
BLOCKS_MAX = 6000
GROWTH_MAX = 500_000
CHILD = """
import asyncio, json, pathlib, sys
from bench.memory import live
print(json.dumps(asyncio.run(live(pathlib.Path(sys.argv[1]), int(sys.argv[2])))))
"""


def test_memory_does_not_rise_with_what_goes_through(tmp_path: Path) -> None:
    # A process of its own: what other tests leave behind would hide what this one looks for.
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(HOURS)]
    # One arena of the allocator: how many there are depends on which threads met in it.
    own = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    own["PYTHONPATH"] = str(Path(__file__).parents[2])
    told = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | own
    ).stdout
    held = [Held(*each) for each in json.loads(told)]
    assert len(held) == HOURS
    assert held[-1].blocks - held[1].blocks < BLOCKS_MAX, held
    assert held[-1].bytes - held[1].bytes < GROWTH_MAX, held
