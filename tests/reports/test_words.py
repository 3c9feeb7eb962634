from __future__ import annotations

import math

import pytest

from gateway.reports.words import duration, rate, utc


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"), (0.25, "0.25 s"), (90, "90 s"), (150, "2.5 min"), (7199, "120 min"),
        (7200, "2 h"), (86400, "24 h"), (30 * 86400, "30 days"), (1e9, "11,574 days"),
        (math.nan, "-"),
    ],
)  # fmt: skip
def test_durations_are_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("per_day", "said"),
    [
        (1 / 7, "1 a week"), (2, "2 a day"), (48, "2 an hour"), (1 / 30.44, "1 a month"),
        (0.001, "0.365 a year"), (0, "none"), (math.inf, "any number"),
    ],
)  # fmt: skip
def test_rates_are_as_people_say_them(per_day: float, said: str) -> None:
    assert rate(per_day) == said


def test_times_are_utc() -> None:
    assert utc(1_769_860_800 * 10**9 + 999_999_999) == "2026-01-31 12:00:00"
