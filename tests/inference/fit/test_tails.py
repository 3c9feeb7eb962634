from __future__ import annotations

import math

import numpy as np
import pytest

from gateway.inference.events import EventRule
from gateway.inference.fit.calibrate import alarms, judged, states
from gateway.inference.fit.tails import independent, return_level, student_limit


@pytest.mark.parametrize(
    ("probability", "freedom", "limit"),
    [  # tables of Student's t; with one degree of freedom it is Cauchy's
        (0.05, 1, 6.3138),
        (0.01, 5, 3.3649),
        (0.001, 30, 3.3852),
        (1e-6, 1, 1 / math.tan(math.pi * 1e-6)),
        (2.866516e-7, 1e7, 5.0),  # five sigma
    ],
)
def test_limits_agree_with_the_tables(probability: float, freedom: float, limit: float) -> None:
    assert student_limit(probability, freedom) == pytest.approx(limit, rel=1e-3)


def test_a_series_is_worth_its_length_over_its_memory() -> None:
    random = np.random.default_rng(0)
    noise = random.normal(size=20_000)
    slow = np.zeros(20_000)
    for k in range(1, len(slow)):
        slow[k] = 0.9 * slow[k - 1] + noise[k]
    worth = independent(np.stack([noise, slow], axis=1))
    assert worth[0] > 15_000
    assert worth[1] == pytest.approx(20_000 / 19, rel=0.3)  # (1 + 0.9) / (1 - 0.9)


@pytest.mark.parametrize("heavy", [False, True])
def test_what_blocks_exceed_once_in_ten_thousand_is_drawn_from_five_hundred(heavy: bool) -> None:
    random = np.random.default_rng(1)
    draw = (
        random.standard_t(5, size=(500, 16, 100)) if heavy else random.normal(size=(500, 16, 100))
    )
    levels = return_level(np.abs(draw).max(axis=1), 1e-4)
    true = 19.7 if heavy else 4.52  # of t with 5 degrees of freedom, and of the normal
    assert 0.6 * true < np.median(levels) < 1.2 * true


def test_events_counted_are_those_the_engine_opens() -> None:
    rule = EventRule(open_after=3, close_after=2, close_below=0.7)
    scores = np.array([0, 1, 1, 0, 1, 1.2, 1.1, 0.8, 0.6, 0.8, 0.6, 0.6, 0, 1, 1, 1.0])
    opened = states(scores, rule)
    assert np.flatnonzero(opened).tolist() == [6, 7, 8, 9, 10, 15]
    assert alarms(scores, rule) == 2


def test_a_rate_nobody_saw_is_called_an_extrapolation() -> None:
    rule = EventRule(open_after=1, close_after=1, close_below=1.0)
    calm = judged([np.zeros(86_400)], rule, wanted_per_day=1 / 7, step_s=1.0)
    assert calm.low_per_day == 0
    assert calm.high_per_day == pytest.approx(-math.log(0.05), rel=1e-3)
    assert "extrapolation" in calm.in_words
    loud = np.zeros(86_400)
    loud[1000::20_000] = 2
    found = judged([loud], rule, wanted_per_day=1 / 7, step_s=1.0)
    assert found.low_per_day == pytest.approx(1.970, rel=1e-2)  # five seen, Garwood
    assert found.high_per_day == pytest.approx(10.513, rel=1e-2)
    assert "more than was asked" in found.in_words
