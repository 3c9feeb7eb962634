from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.inference.rings import NOWHERE, Rings

SECOND = 10**9


def hold(rings: Rings, cell: int, value: float, t_s: float, *, usable: bool = True) -> None:
    rings.hold(np.array([cell]), np.array([value]), np.array([usable]), round(t_s * SECOND))


def windows(rings: Rings) -> np.ndarray:
    out = np.zeros((rings.slots, rings.window, rings.features), np.float32)
    rings.gather(out)
    return out


def one_asset(window: int = 4, features: int = 1, age_max_s: float = 3) -> tuple[Rings, list[int]]:
    rings = Rings(window=window, features=features)
    slot = rings.add()
    return rings, [rings.connect(slot, f, round(age_max_s * SECOND)) for f in range(features)]


def test_a_window_is_the_last_ticks_oldest_first_wherever_the_ring_stands() -> None:
    rings, [cell] = one_asset(window=4)
    for tick in range(1, 12):
        hold(rings, cell, float(tick), tick - 0.5)
        rings.push(tick * SECOND)
        if tick >= 4:
            assert windows(rings)[0, :, 0].tolist() == [tick - 3, tick - 2, tick - 1, tick]
            assert rings.valid[0] == 4


def test_a_value_too_old_is_held_but_not_valid() -> None:
    rings, [cell] = one_asset(window=4, age_max_s=1)
    hold(rings, cell, 7.0, 1)
    counts = []
    for tick in range(1, 6):
        rings.push(tick * SECOND)
        counts.append(int(rings.valid[0]))
    assert counts == [1, 2, 2, 2, 1]
    assert windows(rings)[0, :, 0].tolist() == [7, 7, 7, 7]


def test_an_unusable_sample_makes_the_column_invalid_at_once() -> None:
    rings, [a, b] = one_asset(features=2)
    hold(rings, a, 1.0, 1)
    hold(rings, b, 2.0, 1)
    rings.push(1 * SECOND)
    hold(rings, b, 99.0, 1.5, usable=False)
    rings.push(2 * SECOND)
    assert rings.valid[0] == 1
    assert windows(rings)[0, -1].tolist() == [1, 2]


def test_nan_infinite_and_too_large_for_float32_are_not_usable() -> None:
    rings, [cell] = one_asset()
    hold(rings, cell, 1.0, 0)
    for tick, value in enumerate([np.nan, np.inf, -np.inf, 1e300], start=1):
        hold(rings, cell, value, tick)
        rings.push(tick * SECOND)
    assert rings.valid[0] == 0
    assert np.isfinite(windows(rings)).all()


def test_a_hole_is_filled_with_the_value_after_it_as_far_as_it_reaches() -> None:
    rings, [cell] = one_asset(window=6, age_max_s=0.5)
    for tick, value in {1: 10.0, 2: 11.0, 5: 20.0, 6: 21.0}.items():
        hold(rings, cell, value, tick)
        rings.push(tick * SECOND)
        if tick == 2:
            rings.push(3 * SECOND)
            rings.push(4 * SECOND)
            assert windows(rings)[0, -3:, 0].tolist() == [11, 11, 11]
    assert windows(rings)[0, :, 0].tolist() == [10, 11, 20, 20, 20, 21]
    assert rings.valid[0] == 4


def test_before_its_first_sample_a_window_is_not_zero() -> None:
    rings, [cell] = one_asset(window=4)
    rings.push(1 * SECOND)
    hold(rings, cell, 300.0, 1.5)
    rings.push(2 * SECOND)
    assert windows(rings)[0, :, 0].tolist() == [300] * 4
    assert rings.valid[0] == 1


def test_of_one_cell_the_last_sample_counts() -> None:
    rings, [cell] = one_asset()
    cells, values = np.array([cell, cell, cell]), np.array([1.0, 2.0, 3.0])
    rings.hold(cells, values, np.array([True, True, True]), SECOND)
    rings.push(SECOND)
    assert windows(rings)[0, -1, 0] == 3
    rings.hold(cells, values, np.array([True, True, False]), SECOND)
    rings.push(2 * SECOND)
    assert rings.valid[0] == 1


def test_growing_keeps_what_is_there() -> None:
    rings, [cell] = one_asset(window=3)
    for tick in range(1, 4):
        hold(rings, cell, float(tick), tick)
        rings.push(tick * SECOND)
    before = windows(rings)
    cells = [rings.connect(rings.add(), 0, 3 * SECOND) for _ in range(40)]
    assert rings.slots == 41
    np.testing.assert_array_equal(windows(rings)[:1], before)
    assert rings.valid[0] == 3
    assert not rings.valid[1:].any()
    hold(rings, cells[-1], 5.0, 4)
    rings.push(4 * SECOND)
    assert windows(rings)[-1, :, 0].tolist() == [5, 5, 5]


def test_a_clock_set_back_does_not_keep_old_values_for_ever() -> None:
    rings, [cell] = one_asset(window=2, age_max_s=1)
    hold(rings, cell, 1.0, 3600)
    rings.clock_stepped_back(0)
    for tick in range(5):
        rings.push(tick * SECOND)
    assert rings.valid[0] == 0


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6),
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["good", "bad", "none"])), max_size=40),
)
def test_rings_agree_with_a_plain_list_of_what_was_seen(
    window: int, script: list[tuple[int, str]]
) -> None:
    """The model: a list a cell, its holes filled when they end; age in ticks."""
    rings = Rings(window=window, features=2)
    slots = [rings.add() for _ in range(3)]
    cells = [rings.connect(slot, feature, SECOND) for slot in slots for feature in range(2)]
    seen = np.zeros((6, window))
    fresh_seen = np.zeros((6, window), np.bool_)
    value, usable, heard = np.zeros(6), np.zeros(6, np.bool_), np.full(6, -99)
    for tick, (which, what) in enumerate(script, start=1):
        if what != "none":
            hold(rings, cells[which], tick * 1.0, tick, usable=what == "good")
            usable[which] = what == "good"
            if what == "good":
                value[which], heard[which] = tick, tick
        rings.push(tick * SECOND)
        fresh = usable & (tick - heard <= 1)
        seen = np.column_stack([seen[:, 1:], value])
        fresh_seen = np.column_stack([fresh_seen[:, 1:], fresh])
        for c in np.flatnonzero(fresh):
            column = window - 2
            while column >= 0 and not fresh_seen[c, column]:
                seen[c, column] = value[c]
                column -= 1
        got = windows(rings).transpose(0, 2, 1).reshape(6, window)
        np.testing.assert_array_equal(got, seen)
        complete = fresh_seen.reshape(3, 2, window).all(axis=1)
        np.testing.assert_array_equal(rings.valid[:3], complete.sum(axis=1))


def test_what_no_model_watches_goes_nowhere() -> None:
    rings, [cell] = one_asset()
    hold(rings, cell, 1.0, 1)
    hold(rings, NOWHERE, 99.0, 1)
    rings.push(SECOND)
    assert windows(rings)[0, -1, 0] == 1
