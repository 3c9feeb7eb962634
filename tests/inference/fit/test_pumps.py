"""A class fitted from some simulated pumps watches others: other seeds, builds and days."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.inference.events import EventRule
from gateway.inference.fit import FitSettings, Fitted, Recording, fit
from gateway.inference.fit.calibrate import alarms, states
from gateway.inference.fit.fit import Scorer
from gateway.inference.onnx_wire import objections
from simulators.training import FEATURES, healthy, with_fault

WANTED_PER_DAY = 4.0  # high enough to be counted in simulated days, low enough to mean something
FAULT_START_S = 600


def recordings(values: np.ndarray) -> list[Recording]:
    return [
        Recording(
            asset=f"pump-{k}",
            fields=FEATURES,
            eng_units=("",) * len(FEATURES),
            period_s=1.0,
            t_ns=1_700_000_000 * 10**9 + np.arange(len(values)) * 10**9,
            values=values[:, k],
            usable=np.ones(values[:, k].shape, np.bool_),
        )
        for k in range(values.shape[1])
    ]


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return fit(
        recordings(healthy(11, 3 * 3600, 4)), FitSettings(false_alarms_per_day=WANTED_PER_DAY)
    )


@pytest.fixture(scope="module")
def scorer(fitted: Fitted) -> Scorer:
    return Scorer(fitted.model, fitted.window, len(FEATURES))


@pytest.fixture(scope="module")
def rule(fitted: Fitted) -> EventRule:
    return EventRule(
        open_after=fitted.open_after,
        close_after=fitted.close_after,
        close_below=fitted.close_below,
    )


def test_the_bundle_is_small_and_of_allowed_operators(fitted: Fitted) -> None:
    assert len(fitted.model) < 150_000
    assert objections(fitted.model) == []


def test_pumps_never_seen_alarm_no_oftener_than_was_asked(scorer: Scorer, rule: EventRule) -> None:
    days = healthy(77, 6 * 3600, 8)
    count = sum(alarms(scorer.over(days[:, k])[0].astype(np.float64), rule) for k in range(8))
    # 8 asked for in two days; 16 or more would have a chance of 1 in 120.
    assert count < 2 * 2 * WANTED_PER_DAY


@pytest.mark.parametrize(
    ("fault", "within_s"),
    [
        ("bearing_wear", 60),
        ("cavitation", 60),
        ("closing_valve", 60),
        ("drifting_sensor", 60),
        ("stuck_sensor", 900),  # it shows when the operating point moves, and not before
    ],
)
def test_a_fault_of_a_pump_never_seen_is_found(
    scorer: Scorer, rule: EventRule, fitted: Fitted, fault: str, within_s: float
) -> None:
    record = with_fault(500, FAULT_START_S + within_s, 4, fault=fault, start_s=FAULT_START_S)
    for pump in range(4):
        opened = states(scorer.over(record[:, pump])[0].astype(np.float64), rule)
        after = opened[FAULT_START_S - fitted.window :]
        assert after.any(), f"pump {pump}"


def test_a_drifting_sensor_is_blamed_by_name(scorer: Scorer) -> None:
    record = with_fault(
        501, 900, 3, fault="drifting_sensor", start_s=300, tag="discharge_pressure", severity=0.4
    )
    for pump in range(3):
        scores, shares = scorer.over(record[:, pump])
        assert FEATURES[int(np.argmax(shares[np.argmax(scores)]))] == "discharge_pressure"


def test_what_is_caught_is_mostly_blamed_by_name(fitted: Fitted) -> None:
    caught = [one for one in fitted.injections if one.caught]
    assert sum(one.blamed == one.field for one in caught) >= 0.7 * len(caught)


def test_a_score_does_not_change_when_later_rows_do(scorer: Scorer, fitted: Fitted) -> None:
    rows = healthy(5, 300, 1)[:, 0]
    other = rows.copy()
    other[200:] *= 3
    same = 200 - fitted.window + 1
    assert np.array_equal(scorer.over(rows)[0][:same], scorer.over(other)[0][:same])
    assert scorer.over(rows)[0][-1] != scorer.over(other)[0][-1]


def test_time_is_no_feature(scorer: Scorer) -> None:
    """The same rows score the same whenever, and after whatever, they come."""
    rows = healthy(5, 200, 1)[:, 0]
    later = np.concatenate([healthy(6, 500, 1)[:, 0], rows])
    tail = len(scorer.over(rows)[0])
    assert np.array_equal(scorer.over(later)[0][-tail:], scorer.over(rows)[0])


def test_what_was_put_in_is_reported_as_caught_or_missed(fitted: Fitted) -> None:
    large = [one for one in fitted.injections if one.kind == "step" and one.size >= 5]
    assert len(large) == len(FEATURES)
    assert sum(one.caught for one in large) >= 0.8 * len(large)
    assert all(np.isfinite(one.delay_s) and one.blamed for one in large if one.caught)
    assert any(not one.caught for one in fitted.injections)  # it says what it cannot see


def test_how_sure_the_rate_is_follows_from_how_much_was_seen(fitted: Fitted) -> None:
    sure = fitted.calibration
    assert sure.wanted_per_day == WANTED_PER_DAY
    assert sure.low_per_day <= sure.expected_per_day <= sure.high_per_day
    # 12 hours without an alarm leave up to ln(20) * 2 a day; with some, more.
    assert sure.high_per_day > 5.9
    assert "held-back" in sure.in_words
