"""What a killed process wrote is with a kernel that may never bring it to the disk."""

from __future__ import annotations

import errno
import random

import pytest

from gateway.frame import Lane
from tests.spool.simulated_disk import PowerCut, SimulatedDisk
from tests.spool.worlds import World, values_of


@pytest.mark.parametrize("seed", range(30))
def test_what_is_served_after_a_kill_is_still_there_after_a_power_cut(seed: int) -> None:
    """Served is acknowledged: a duplicate of it is dropped, and the broker told to forget it."""
    rng = random.Random(seed)
    disk = SimulatedDisk()
    world = World(rng, disk)
    world.open()
    world.commit(2)
    disk.cut_at = disk.steps + rng.randint(1, 12)
    with pytest.raises(PowerCut):  # noqa: PT012 - one of many commits
        for _ in range(20):
            world.commit(1)
    disk.killed()
    served = values_of(world.open(), Lane.RAW)
    disk.power_cut(rng)
    assert values_of(world.open(), Lane.RAW) == served
    assert world.store.stats.records_damaged_total == 0


@pytest.mark.parametrize("seed", range(10))
def test_pages_of_a_failed_sync_are_not_believed_by_the_next_process(seed: int) -> None:
    disk = SimulatedDisk()
    world = World(random.Random(seed), disk)
    world.open()
    world.commit(2)
    before = values_of(world.store, Lane.RAW)
    disk.fail(lambda call: errno.EIO if call in ("sync", "create") else 0)
    with pytest.raises(OSError, match="Input/output"):
        world.commit(1)
    disk.killed()
    disk.heal()
    assert values_of(world.open(), Lane.RAW) == before
