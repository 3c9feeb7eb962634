"""The simulated disk cuts the power at any step of any life of a spool."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gateway.frame import Lane
from tests.spool.simulated_disk import PowerCut, SimulatedDisk, SimulatedFile
from tests.spool.worlds import World, small_settings

SEEDS = 300
SEEDS_LONG = 20  # lives in which every file is written several times over


def live_and_die(seed: int, *, lives: int = 4, steps: int = 100, commits: int = 12) -> World:
    rng = random.Random(seed)
    disk = SimulatedDisk()
    world = World(rng, disk, small_settings(bytes_max=rng.choice((6, 8, 200)) * 8192))
    if rng.random() < 0.3:
        disk.short_writes = random.Random(seed)
    for _ in range(lives):
        disk.cut_at = disk.steps + rng.randint(1, rng.choice((steps // 10, steps)))
        try:
            world.recover()
            world.check()
            for _ in range(rng.randint(1, commits)):
                world.commit(rng.randint(1, 3))
                if rng.random() < 0.2:
                    world.store.tidy()
                if rng.random() < 0.2:
                    world.sync_derived()
        except PowerCut:
            disk.power_cut(rng)
        else:
            disk.cut_at = None
            if rng.random() < 0.5:
                world.store.close()
                assert disk.files_open == 0
            else:
                disk.power_cut(rng)
        # Torn is not rotten: nobody was told that it was durable, so nothing counts as lost.
        assert world.store.stats.records_damaged_total == 0
        assert world.store.stats.samples_lost_total == 0
    disk.cut_at = None
    world.recover()
    world.check()
    return world


def test_what_was_promised_survives_any_power_cut_and_nothing_else_appears() -> None:
    for seed in range(SEEDS):
        with reported(seed):
            live_and_die(seed)


def test_it_survives_when_files_are_written_a_second_time() -> None:
    evicted = 0
    for seed in range(SEEDS_LONG):
        with reported(seed):
            world = live_and_die(seed, steps=3000, commits=220)
        evicted += world.store.samples_begin(Lane.RAW) > 0
    assert evicted > SEEDS_LONG // 2


@pytest.mark.parametrize("broken", ["sync", "sync_directory"])
def test_a_sync_that_is_left_out_would_be_found(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def left_out(*_: object) -> None:
        pass

    owner = SimulatedFile if broken == "sync" else SimulatedDisk
    monkeypatch.setattr(owner, broken, left_out)
    with pytest.raises(AssertionError):  # noqa: PT012 - one of many seeds
        for seed in range(200):
            live_and_die(seed)


@contextmanager
def reported(seed: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise AssertionError(f"seed {seed}") from error
