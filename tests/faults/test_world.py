"""Many small worlds by seed: acknowledged means delivered in the end, once, or counted."""

from __future__ import annotations

import os

import pytest

from tests.faults.world import run_seeds

SEEDS = int(os.environ.get("SLUICEGATE_WORLDS", "100000"))

# Of the millions that were run, beyond those of each run of the tests: what they found once.
FOUND = {913310: "a verdict about the time after a replay's beginning was worked out"}


@pytest.mark.parametrize("seed", FOUND)
def test_what_a_world_found_once_stays_mended(seed: int) -> None:
    assert not run_seeds(seed, 1)


@pytest.mark.timeout(900 + SEEDS // 50)
def test_in_every_world_what_was_acknowledged_is_delivered_once_or_counted() -> None:
    failures = run_seeds(0, SEEDS, processes=2)
    assert not failures, f"{len(failures)} of {SEEDS} worlds:\n" + "\n".join(failures[:3])
