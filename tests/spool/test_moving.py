"""A cursor is moved exactly as far as was said, durably, and never under a running gateway."""

from __future__ import annotations

import random

import pytest

from gateway.errors import SpoolLocked
from gateway.frame import Lane
from gateway.spool.moving import Mover, place_at
from tests.spool.simulated_disk import PowerCut, SimulatedDisk
from tests.spool.worlds import DIRECTORY, World


def stopped(seed: int = 1) -> tuple[World, int]:
    """A spool at rest whose sink has had half of the raw lane; and how many samples that are."""
    world = World(random.Random(seed), SimulatedDisk())
    store = world.open()
    for _ in range(20):
        world.commit(1)
    half = store.samples_end(Lane.RAW) // 2
    store.account.begin("influx", [Lane.RAW]).move(Lane.RAW, half)
    store.save_cursors()
    store.close()
    return world, half


def test_it_refuses_while_a_gateway_writes() -> None:
    world = World(random.Random(1), SimulatedDisk())
    world.open()
    with pytest.raises(SpoolLocked, match="stop it first"), Mover.locked(world.disk, DIRECTORY):
        pass


@pytest.mark.parametrize("to", ["oldest", "newest"])
def test_the_ends_are_all_that_is_stored_or_nothing(to: str) -> None:
    world, half = stopped()
    end = len(world.promised[Lane.RAW])
    with Mover.locked(world.disk, DIRECTORY) as mover:
        assert mover.lanes_of("influx") == (Lane.RAW,)
        (move,) = mover.plan("influx", [Lane.RAW], to)
        assert move.samples_again == (half if to == "oldest" else 0)
        assert move.samples_given_up == (end - half if to == "newest" else 0)
        mover.move("influx", [move])
    store = world.open()
    assert store.account.begin("influx", [Lane.RAW]).place(Lane.RAW) == move.target


def test_a_time_leaves_out_only_what_is_older() -> None:
    world, _ = stopped()
    store = world.open()
    rows = list(store.rows_since(Lane.RAW, 0))
    stored = [t for each in rows for t in each.columns.frame.t_ns.tolist()]
    for t_ns in (stored[0], stored[len(stored) // 3], stored[-1], stored[-1] + 1):
        place = place_at(store.catalog, Lane.RAW, t_ns)
        assert all(t < t_ns for t in stored[:place])
        assert place == len(stored) or stored[place] >= t_ns


def test_a_power_cut_leaves_the_old_place_or_the_new_one() -> None:
    for seed in range(40):
        world, half = stopped(seed)
        rng = random.Random(seed)
        calls = rng.randint(0, 4)

        def cut(_call: str) -> int:
            nonlocal calls
            calls -= 1
            if calls < 0:
                raise PowerCut
            return 0

        with Mover.locked(world.disk, DIRECTORY) as mover:
            moves = mover.plan("influx", [Lane.RAW], "oldest")
            world.disk.fail(lambda call: cut(call) if call in ("write", "sync") else 0)
            try:
                mover.move("influx", moves)
                done = True
            except PowerCut:
                done = False
            world.disk.heal()
        world.disk.power_cut(rng)
        place = world.open().cursors["influx"].place(Lane.RAW)
        assert place in ({moves[0].target} if done else {half, moves[0].target})


def test_a_sink_that_never_read_may_be_told_where_to_begin() -> None:
    world, _ = stopped()
    with Mover.locked(world.disk, DIRECTORY) as mover:
        (move,) = mover.plan("new", [Lane.EVENT], "newest")
        assert move.place is None
        assert move.samples_given_up == len(world.promised[Lane.EVENT])
        mover.move("new", [move])
    assert world.open().cursors["new"].place(Lane.EVENT) == len(world.promised[Lane.EVENT])
