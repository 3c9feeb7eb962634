"""Hostile polls against the true registers: whatever goes wrong, no value is wrong.

A short run here; `SLUICEGATE_POLLS=1000000` is the long one.
"""

from __future__ import annotations

import os

import pytest

from tests.sources.modbus.worlds import KINDS, World, run

POLLS = int(os.environ.get("SLUICEGATE_POLLS", "20000"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.timeout(max(120, POLLS // 100))
def test_hostile_polls_give_no_wrong_value(kind: str) -> None:
    share = POLLS // len(KINDS)
    # Many short worlds rather than a long one: what is remembered of a device starts anew.
    worlds = max(1, share // 2500)
    right = 0
    for seed in range(worlds):
        world = World(kind, seed)
        run(world.poll(share // worlds))
        right += world.seen["right"]
        # Every fault there is was committed, and noticed.
        assert set(world.faults) == {"none", *world._menu()}
        assert world.seen["refused"] > 0
        assert world.seen["timeout"] > 0
    assert 0.2 * share < right < 0.9 * share
