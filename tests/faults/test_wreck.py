"""Wrecked directories by seed: each opens, serves what is whole, counts what is not."""

from __future__ import annotations

import os

import pytest

from tests.faults.wreck import run_wrecks

SEEDS = int(os.environ.get("SLUICEGATE_WRECKS", "10000"))


@pytest.mark.timeout(900 + SEEDS // 50)
def test_every_wrecked_directory_opens_and_its_loss_is_counted_to_the_sample() -> None:
    failures = run_wrecks(0, SEEDS, processes=2)
    assert not failures, f"{len(failures)} of {SEEDS} directories:\n" + "\n".join(failures[:3])
