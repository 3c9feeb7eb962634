"""What is not learned from, and why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gateway.inference.fit import FitError, FitSettings, Recording, fit
from gateway.inference.fit.clean import clean
from gateway.inference.fit.windows import runs_of


def recording(values: np.ndarray, asset: str = "a") -> Recording:
    n, features = values.shape
    return Recording(
        asset=asset,
        fields=tuple(f"f{k}" for k in range(features)),
        eng_units=("",) * features,
        period_s=1.0,
        t_ns=np.arange(n) * 10**9,
        values=values,
        usable=np.ones((n, features), np.bool_),
    )


def noise(rows: int, tags: int = 3, seed: int = 0) -> np.ndarray:
    return 10 + np.random.default_rng(seed).normal(size=(rows, tags))


def reasons(values: np.ndarray) -> dict[str, tuple[str, int, int]]:
    _, found = clean([recording(values)])
    return {s.reason: (s.field, s.start_ns // 10**9, s.end_ns // 10**9) for s in found}


def test_a_stuck_tag_is_left_out_where_it_is_stuck() -> None:
    values = noise(1000)
    values[300:500, 1] = values[300, 1]
    assert reasons(values) == {"stuck": ("f1", 300, 500)}


def test_a_drive_that_stands_still_at_zero_is_not_stuck() -> None:
    values = noise(1000)
    values[300:500, 1] = 0.0
    assert reasons(values) == {}


def test_a_set_point_is_not_stuck() -> None:
    values = noise(1000)
    values[:, 1] = np.repeat([50.0, 60.0, 55.0, 70.0, 65.0], 200)
    assert reasons(values) == {}


def test_a_sentinel_is_out_of_range_and_a_hole_is_missing() -> None:
    values = noise(1000)
    values[100:103, 2] = -9999.0
    values[700:750] = np.nan
    assert reasons(values) == {"out of range": ("f2", 100, 103), "missing": ("", 700, 750)}


def test_a_short_hole_is_bridged_and_a_long_one_ends_the_run() -> None:
    one = recording(noise(400))
    usable = one.usable.copy()
    usable[100:102, 0] = False
    usable[200:210, 1] = False
    runs = runs_of([replace(one, usable=usable)], 32)
    assert [(run.start, len(run.values)) for run in runs] == [(0, 202), (210, 190)]
    assert runs[0].values[101, 0] == runs[0].values[99, 0]


def test_a_break_in_time_ends_the_run() -> None:
    one = recording(noise(400))
    t_ns = one.t_ns.copy()
    t_ns[150:] += 3600 * 10**9
    runs = runs_of([replace(one, t_ns=t_ns)], 32)
    assert [(run.start, len(run.values)) for run in runs] == [(0, 150), (150, 250)]


@pytest.mark.parametrize("start", [3000, 2800])  # within one of the parts, and across two
def test_a_fault_in_the_history_is_left_out_and_later_found(start: int) -> None:
    values = noise(6000)
    values[:, 2] += 0.8 * values[:, 0]
    values[start : start + 400, 2] += 6  # 7 % of the history
    fitted = fit([recording(values)], FitSettings())
    unusual = [s for s in fitted.stretches if s.reason == "unusual"]
    assert len(unusual) == 1
    assert abs(unusual[0].start_ns / 1e9 - start) < 40
    assert abs(unusual[0].end_ns / 1e9 - start - 400) < 40
    history = fitted.histories[0]
    t_s = history.t_ns / 1e9
    inside = (t_s > start + 100) & (t_s < start + 390)
    assert (history.scores[inside] > 1).all()
    assert not history.learned[inside].any()
    assert (history.scores[~inside & history.learned] > 1).mean() < 0.01


def test_a_state_that_comes_back_is_not_left_out() -> None:
    values = noise(6000)
    for start in (700, 2500, 4300, 5600):
        values[start : start + 150] -= 8  # idle
    assert not fit([recording(values)], FitSettings()).stretches


def test_too_little_says_how_much_is_needed() -> None:
    with pytest.raises(FitError, match="160 are needed"):
        fit([recording(noise(100))], FitSettings())
