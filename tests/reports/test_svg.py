"""Drawings lose no peak, whatever they are given."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.reports.svg import Band, histogram, interval, over_time, spark

SECOND = 10**9


def test_a_peak_of_one_sample_in_a_million_is_drawn() -> None:
    values = np.zeros(1_000_000)
    values[777_777] = 100.0
    drawing = over_time(np.arange(1_000_000) * SECOND, values, limit=1.0)
    heights = [float(y) for y in re.findall(r"[ML]\d+ ([\d.]+)", drawing)]
    assert min(heights) < 20
    assert len(drawing) < 40_000


def test_what_is_not_known_is_a_gap() -> None:
    values = np.ones(1000)
    values[300:700] = np.nan
    drawing = over_time(np.arange(1000) * SECOND, values)
    assert drawing.count('class="a"') == 2
    assert "nothing is known" in over_time(np.arange(9) * SECOND, np.full(9, np.nan))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=True), min_size=1, max_size=40),
    st.sampled_from([None, 1.0]),
    st.integers(1, 10**17),
)
def test_any_series_is_a_well_formed_drawing(
    values: list[float], limit: float | None, step_ns: int
) -> None:
    t_ns = np.arange(len(values)) * np.int64(min(step_ns, 2**61 // len(values)))
    band = Band(int(t_ns[0]) - 5, int(t_ns[-1]) + 5, title='<&">')
    array = np.array(values)
    ET.fromstring(over_time(t_ns, array, limit=limit, bands=[band], marks=[band]))
    if np.isfinite(array).any():
        ET.fromstring(spark(array))
        ET.fromstring(histogram(np.abs(array), limit=1.0))


@given(*[st.floats(0, 1e6) for _ in range(4)])
def test_any_interval_is_a_well_formed_drawing(
    low: float, expected: float, high: float, wanted: float
) -> None:
    drawing = interval(low, expected, high, wanted, "a day")
    if drawing:
        ET.fromstring(drawing)
