"""Held-back history that alarms too often moves the limits; too little of it moves nothing."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.inference.events import EventRule
from gateway.inference.fit.calibrate import alarms, judged, scale_of_alarms

RULE = EventRule(open_after=2, close_after=3, close_below=0.9)
DAY = 8640  # scores of one day, every ten seconds


def days(peaks: list[float]) -> np.ndarray:
    """Calm scores with bursts of ten seconds times ten, evenly over ten days."""
    scores = np.full(10 * DAY, 0.4)
    for place, peak in zip(np.linspace(DAY, 9 * DAY, len(peaks)).astype(int), peaks, strict=True):
        scores[place : place + 10] = peak
    return scores


def scale(scores: np.ndarray, per_day: float) -> float:
    return scale_of_alarms([scores], RULE, wanted_per_day=per_day, step_s=10)


def test_where_rare_moments_alarm_too_often_the_count_decides() -> None:
    scores = days([1.1 + 0.05 * k for k in range(40)])  # 4 a day
    found = scale(scores, per_day=1)
    assert alarms(scores / found, RULE) in {9, 10}
    told = judged([scores / found], RULE, wanted_per_day=1, step_s=10)
    assert "more than was asked for" not in told.in_words


def test_equal_moments_all_go_and_a_fault_beyond_them_stays_one() -> None:
    scores = days([1.3] * 40)
    found = scale(scores, per_day=1)
    assert found == pytest.approx(1.3, rel=1e-3)
    assert alarms(scores / found, RULE) == 0
    assert alarms(days([2.6]) / found, RULE) == 1


@pytest.mark.parametrize("count", [0, 3, 7, 13])
def test_a_count_that_chance_explains_or_too_small_to_tell_changes_nothing(count: int) -> None:
    assert scale(days([1.5] * count), per_day=1) == 1.0
