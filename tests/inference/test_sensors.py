from __future__ import annotations

import numpy as np
import pytest

from gateway.inference.sensors import learn


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
