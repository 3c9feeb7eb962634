from __future__ import annotations

import time

import pytest

from gateway.clock import ManualClock, SystemClock


def test_a_small_difference_of_the_wall_clock_is_not_a_step() -> None:
    clock = SystemClock()
    assert clock.follow_wall() == 0
    assert abs(clock.utc_ns() - time.time_ns()) < 100_000_000


@pytest.mark.parametrize("step_s", [3600, -3600, 157_680_000])
def test_a_step_of_the_wall_clock_is_adopted_once(
    monkeypatch: pytest.MonkeyPatch, step_s: int
) -> None:
    clock = SystemClock()
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + step_s * 10**9)
    assert clock.follow_wall() == pytest.approx(step_s * 10**9, abs=10**8)
    assert clock.follow_wall() == 0
    assert abs(clock.utc_ns() - time.time_ns()) < 100_000_000


def test_stamps_do_not_run_backwards_before_a_step_is_adopted(clock: ManualClock) -> None:
    before = clock.utc_ns()
    clock.step_wall(-3600)
    clock.advance(1)
    assert clock.utc_ns() == before + 10**9
    assert clock.follow_wall() == -3600 * 10**9
    assert clock.utc_ns() == before + 10**9 - 3600 * 10**9
