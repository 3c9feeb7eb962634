"""`kill -9` at random moments: nothing that was acknowledged is missing, and it always starts."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.faults.processes import check, fork_worker, last_durable

KILLS = int(os.environ.get("SLUICEGATE_KILLS", "60"))


@pytest.mark.timeout(60 + KILLS)
@pytest.mark.system
def test_a_worker_killed_again_and_again_loses_nothing_it_said_was_durable(tmp_path: Path) -> None:
    rng = random.Random(1)
    last = -1
    acknowledged = 0
    for _ in range(KILLS):
        lines, _ = fork_worker(tmp_path / "spool", last + 1, rng.choice((0.0, 0.02, 0.15)))
        assert lines[0] == "ready", lines
        durable = last_durable(lines, last)
        acknowledged += durable - last
        last = check(tmp_path / "spool", durable)
    assert acknowledged > KILLS * 20
