from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.inference.manifest import Healthy
from gateway.inference.sensors import FLAT_TICKS_MIN, SensorFault, SensorWatch, learn


def test_learn_tells_range_noise_steps_flat_runs_and_deciles() -> None:
    values = np.column_stack([np.arange(101.0), [5.0] * 40 + [6.0] * 61, np.full(101, np.nan)])
    ramp, level, never = learn(values, np.ones(values.shape, np.bool_), 1.0)
    assert ramp is not None
    assert (ramp.low, ramp.high, ramp.noise, ramp.step_max, ramp.flat_max) == (0, 100, 1, 1, 0)
    assert ramp.deciles == pytest.approx([10, 20, 30, 40, 50, 60, 70, 80, 90])
    assert level is not None
    assert (level.noise, level.step_max, level.flat_max) == (0, 1, 60)
    assert never is None


def test_learn_takes_no_step_across_what_was_not_usable() -> None:
    values = np.array([[1.0], [1.5], [900.0], [90.0], [90.5]])
    usable = np.array([[True], [True], [False], [True], [True]])
    [found] = learn(values, usable, 1.0)
    assert found is not None
    assert (found.step_max, found.high) == (0.5, 90.5)


WINDOW = 10
FEATURES = 4


def healthy_values(ticks: int, seed: int = 1) -> np.ndarray:
    """Four inputs that move slowly, each with noise of its own."""
    rng = np.random.default_rng(seed)
    slow = np.cumsum(rng.normal(0, 0.02, (ticks, FEATURES)), axis=0)
    slow -= np.linspace(0, 1, ticks)[:, np.newaxis] * slow[-1]  # comes back to where it began
    return 50 + slow + rng.normal(0, 0.5, (ticks, FEATURES))


FACTS = learn(healthy_values(20_000), np.ones((20_000, FEATURES), np.bool_), 1.0)


def watch(
    values: np.ndarray, fresh: np.ndarray | None = None, facts: Sequence[Healthy | None] = FACTS
) -> list[dict[str, str]]:
    """What is wrong at each tick of (ticks, assets, features): "asset.feature" -> fault."""
    watch = SensorWatch(facts, window=WINDOW, invalid_max=2)
    watch.grow(values.shape[1], 0)
    watch.start(0)
    found = []
    for tick, row in enumerate(values, start=1):
        there = None if fresh is None or fresh[tick - 1].all() else fresh[tick - 1]
        watch.push(tick, row, there)
        watch.judge(tick)
        found.append(
            {
                f"{slot}.{feature}": SensorFault(int(fault)).word
                for slot, faults in enumerate(watch.faults)
                for feature, fault in enumerate(faults)
                if fault
            }
        )
    return found


def assets(ticks: int, count: int = 3) -> np.ndarray:
    return np.stack([healthy_values(ticks, seed=10 + i) for i in range(count)], axis=1)


def first_and_last(found: list[dict[str, str]], place: str) -> tuple[str, int, int]:
    ticks = [tick for tick, wrong in enumerate(found) if place in wrong]
    words = {wrong[place] for wrong in found if place in wrong}
    assert ticks == list(range(ticks[0], ticks[-1] + 1))
    return "/".join(sorted(words)), ticks[0], ticks[-1]


def test_healthy_inputs_have_no_verdict() -> None:
    assert not any(watch(assets(5000)))


def test_a_frozen_input_is_told_soon_and_until_the_window_is_free_of_it() -> None:
    values = assets(300)
    values[100:200, 1, 2] = values[100, 1, 2]
    found = watch(values)
    word, first, last = first_and_last(found, "1.2")
    assert word == "frozen"
    assert first <= 100 + 2 * FLAT_TICKS_MIN
    assert last == 200 - 1 + WINDOW
    assert {place for wrong in found for place in wrong} == {"1.2"}


def test_an_input_whose_noise_is_gone_is_flat() -> None:
    values = assets(200)
    values[100:150, 0, 1] = 50 + 1e-4 * np.random.default_rng(3).normal(size=50)
    assert first_and_last(watch(values), "0.1")[0] == "flat"


def test_an_input_that_stands_still_in_good_health_may_do_so() -> None:
    trained = healthy_values(20_000)
    trained[:, 3] = np.repeat(trained[::1000, 3], 1000)  # a set point
    facts = learn(trained, np.ones(trained.shape, np.bool_), 1.0)
    values = assets(3000)
    values[:, :, 3] = 50.0
    assert not any(watch(values, facts=facts))


def test_an_input_that_jumps_back_and_forth_is_told_and_a_step_is_not() -> None:
    values = assets(300)
    values[100, 0, 0] += 80  # one spike
    values[200:, 1, 1] += 80  # the process goes elsewhere
    found = watch(values)
    word, first, last = first_and_last(found, "0.0")
    assert (word, first) == ("jumping", 101)
    assert last <= 101 + WINDOW
    assert not any("1.1" in wrong for wrong in found)


def test_an_input_that_shakes_wildly_far_from_its_healthy_range_is_left_to_the_model() -> None:
    values = assets(300)
    wild = np.random.default_rng(5).normal(0, 12, 200)
    values[100:, 0, 0] += np.linspace(0, 60, 200) + np.linspace(0, 1, 200) * wild
    found = watch(values)
    assert not any("0.0" in wrong for wrong in found[200:])


def test_a_whole_asset_that_jumps_is_the_machine_s_doing() -> None:
    values = assets(200)
    values[100:103, 0] += 80
    assert not any(watch(values))


def test_an_input_far_outside_is_told_unless_the_others_are_outside_too() -> None:
    values = assets(200)
    values[100:, 0, 0] = 9999 + healthy_values(100)[:, 0]
    values[100:, 1] = 9999 + healthy_values(100)
    found = watch(values)
    assert first_and_last(found, "0.0")[:2] == ("out of range", 100)
    assert {place for wrong in found for place in wrong} == {"0.0"}


def test_an_input_that_leaves_by_many_times_its_range_is_left_to_the_model() -> None:
    values = assets(400)
    away = values[100:, 0, 0] - 50
    values[100:, 0, 0] = 50 + away * np.linspace(1, 5, 300) + np.linspace(0, 30, 300)
    assert not any(watch(values))


def test_a_missing_input_is_told_and_a_silent_asset_is_not() -> None:
    values, fresh = assets(200), np.ones((200, 3, FEATURES), np.bool_)
    fresh[100:150, 0, 3] = False
    fresh[100:150, 1] = False
    found = watch(values, fresh)
    word, first, last = first_and_last(found, "0.3")
    assert (word, first, last) == ("missing", 102, 149 + WINDOW)
    assert {place for wrong in found for place in wrong} == {"0.3"}


def test_a_silent_asset_is_not_told_although_a_deadband_is_believed_longer() -> None:
    """After a restart the quiet tag of a deadband still counts, and the others do not yet."""
    values, fresh = assets(200), np.ones((200, 3, FEATURES), np.bool_)
    fresh[100:150, 0, 1:] = False
    assert not any(watch(values, fresh))


def test_without_facts_only_what_is_missing_is_told() -> None:
    values, fresh = assets(200), np.ones((200, 3, FEATURES), np.bool_)
    values[100:, 0, 0] = 7
    fresh[100:, 1, 1] = False
    found = watch(values, fresh, facts=[None] * FEATURES)
    assert {place for wrong in found for place in wrong} == {"1.1"}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), start=st.integers(0, 150))
def test_verdicts_follow_from_a_bounded_past(seed: int, start: int) -> None:
    """Begun later, after `memory` ticks all is as if it had been watched all along."""
    rng = np.random.default_rng(seed)
    values, fresh = assets(320), rng.random((320, 3, FEATURES)) > 0.01
    for _ in range(8):
        at, asset, feature = rng.integers(0, 300), rng.integers(3), rng.integers(FEATURES)
        values[at : at + rng.integers(1, 60), asset, feature] = rng.choice([50.0, 9999.0, 1.0])
    whole, part = watch(values, fresh), watch(values[start:], fresh[start:])
    memory = SensorWatch(FACTS, window=WINDOW, invalid_max=2).memory
    assert part[memory:] == whole[start + memory :]
