"""Times are taken as they are written, and what is none is named."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.recordings.times import NotATime, times_of_numbers, times_of_texts

# Hypothesis wants them without a zone.
EARLIEST = datetime(1970, 1, 2)  # noqa: DTZ001 - see above
LATEST = datetime(2261, 1, 1)  # noqa: DTZ001 - see above
MOMENT = 1_769_860_800 * 10**9  # 2026-01-31T12:00:00Z


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31T12:00:00", "2026-01-31 12:00:00", "2026-01-31T12:00:00Z", "2026-01-31T12:00",
        "2026-01-31T13:00:00+01:00", "2026-01-31 08:30:00-03:30", "20260131T120000Z",
        "2026-01-31T12:00:00.000000000Z", "2026-01-31T12:00:00,000",
        "1769860800", "1769860800.0", "1769860800000", "1769860800000000", "1769860800000000000",
    ],
)  # fmt: skip
def test_every_usual_form_is_the_same_moment(text: str) -> None:
    assert times_of_texts([text, text]).tolist() == [MOMENT, MOMENT]


def test_nanoseconds_are_kept() -> None:
    assert times_of_texts(["2026-01-31T12:00:00.123456789Z"])[0] == MOMENT + 123_456_789
    assert times_of_texts(["2026-01-31T12:00:00.123456789+00:00"])[0] == MOMENT + 123_456_789
    assert times_of_texts(["1769860800123456789"])[0] == MOMENT + 123_456_789


def test_forms_may_change_within_a_file() -> None:
    texts = ["2026-01-31T12:00:00Z", "2026-01-31 13:00:01+01:00", " 2026-01-31T12:00:02 "]
    assert (times_of_texts(texts) - MOMENT).tolist() == [0, 10**9, 2 * 10**9]


@given(
    st.datetimes(EARLIEST, LATEST),
    st.integers(-14 * 60, 14 * 60),
)
def test_what_python_writes_is_read_back(moment: datetime, minutes: int) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    expected = (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
    assert times_of_texts([aware.isoformat()])[0] == expected
    assert times_of_texts([aware.isoformat()] * 3)[2] == expected


@pytest.mark.parametrize(
    ("texts", "index"),
    [
        (["2026-01-31T12:00:00", "yesterday"], 1),
        (["2026-01-31T12:00:00", ""], 1),
        (["31.01.2026 12:00"], 0),
        (["2026-13-31T12:00:00"], 0),
        (["1769860800", "now"], 1),
        (["1769860800", "1_000"], 1),
        (["9999999999999999999999"], 0),
        (["2999-01-31T12:00:00"], 0),
        (["nan"], 0),
        (["NaT-01-31T12:00:00"], 0),
    ],
)
def test_what_is_no_time_is_named_by_its_place(texts: list[str], index: int) -> None:
    with pytest.raises(NotATime) as refused:
        times_of_texts(texts)
    assert refused.value.index == index
    assert refused.value.mend


@given(st.lists(st.text(max_size=20), min_size=1, max_size=4))
def test_no_text_is_more_than_refused(texts: list[str]) -> None:
    with contextlib.suppress(NotATime):
        assert len(times_of_texts(texts)) == len(texts)


def test_numbers_of_a_file_are_good_to_a_microsecond() -> None:
    times = times_of_numbers(np.array([1769860800.25, 1769860800.000001]))
    assert (times - MOMENT).tolist() == [250_000_000, 1000]
