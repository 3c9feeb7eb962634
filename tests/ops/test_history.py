"""/api/history: a question is checked before the disk is asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.frame import Frame, Lane
from gateway.ops.history import SAMPLES_MAX, BadQuestion, Question, answer, read_question
from tests.ops.fake_view import FakeView

NOW = 1_767_225_600 * 10**9


def test_without_times_it_is_the_last_quarter_of_an_hour() -> None:
    question = read_question([("tag", "a.x"), ("tag", "a.y")], NOW)
    assert question == Question(
        names=["a.x", "a.y"], start_ns=NOW - 900 * 10**9, end_ns=NOW, lane=Lane.RAW
    )


@pytest.mark.parametrize(
    ("start", "expected_ns"),
    [
        ("2h", NOW - 7200 * 10**9),
        ("2025-12-31T23:00:00", NOW - 3600 * 10**9),
        ("2025-12-31T23:00:00Z", NOW - 3600 * 10**9),
        ("2026-01-01T00:30:00+01:00", NOW - 1800 * 10**9),
    ],
)
def test_times_are_ago_or_iso(start: str, expected_ns: int) -> None:
    assert read_question([("tag", "a.x"), ("start", start)], NOW).start_ns == expected_ns


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ([], "name 1 to 32 tags"),
        ([("tag", "x")] * 33, "name 1 to 32 tags"),
        ([("tag", "x" * 513)], "at most 512"),
        ([("tag", "x"), ("lane", "cooked")], "lane is one of"),
        ([("tag", "x"), ("start", "yesterday")], "duration ago"),
        ([("tag", "x"), ("start", "1h"), ("end", "2h")], "before"),
        ([("tag", "x"), ("limit", "7")], "no such parameter: limit"),
        ([("tag", "x"), ("points", "3")], "points is a whole number"),
        ([("tag", "x"), ("points", "9" * 5000)], "points is a whole number"),
        ([("tag", "x"), ("start", "9" * 400 + "d")], "duration ago"),
    ],
)
def test_a_bad_question_is_told_what_is_wrong(
    parameters: list[tuple[str, str]], reason: str
) -> None:
    with pytest.raises(BadQuestion, match=reason):
        read_question(parameters, NOW)


@given(
    st.lists(
        st.tuples(st.sampled_from(["tag", "start", "end", "lane", "x"]), st.text(max_size=30)),
        max_size=5,
    )
)
def test_any_question_is_read_or_refused(parameters: list[tuple[str, str]]) -> None:
    try:
        question = read_question(parameters, NOW)
    except BadQuestion:
        return
    assert question.start_ns < question.end_ns


async def test_the_answer_has_a_series_a_tag_in_order(view: FakeView) -> None:
    view.stored = Frame.of(
        np.array([1, 2, 3, 4], np.int64),
        np.array([0, 1, 0, 1], np.int32),
        np.array([1.5, np.nan, 2.5, np.nan]),
        np.array([0, 0, 0x81, 0], np.uint8),
        {1: 2**60 + 1, 3: "run"},
    )
    question = read_question([("tag", "pump-1.*"), ("lane", "aggregate")], NOW)
    found = await answer(view, question)
    assert view.asked == [(("pump-1.*",), NOW - 900 * 10**9, NOW, Lane.AGGREGATE, SAMPLES_MAX)]
    first, second = found["series"]
    assert first["tag"] == "pump-1.pressure"
    assert first["eng_unit"] == "bar"
    assert first["t_ns"].tolist() == [1, 3]
    assert first["value"].tolist() == [1.5, 2.5]
    assert first["quality"].tolist() == [0, 0x81]
    assert second["value"] == [str(2**60 + 1), "run"]
    assert found["truncated"] is False


async def test_more_than_it_may_say_is_marked(view: FakeView) -> None:
    view.stored = Frame.of(1, np.zeros(SAMPLES_MAX, np.int32), np.zeros(SAMPLES_MAX))
    assert (await answer(view, read_question([("tag", "x")], NOW)))["truncated"] is True


async def test_with_points_the_answer_is_what_a_plot_shows(view: FakeView) -> None:
    t_ns = NOW - 900 * 10**9 + np.arange(900) * 10**9
    values = np.sin(np.arange(900.0))
    values[417] = 50.0
    view.stored = Frame.of(t_ns, np.zeros(900, np.int32), values)
    found = await answer(view, read_question([("tag", "pump-1.pressure"), ("points", "40")], NOW))
    assert view.asked == [(("pump-1.pressure",), NOW - 900 * 10**9, NOW, Lane.RAW, 40)]
    (series,) = found["series"]
    assert series["eng_unit"] == "bar"
    assert len(series["t_ns"]) <= 40
    assert series["value"].max() == 50.0
    assert series["buckets"]["count"].tolist() == [90] * 10
    assert (found["bucket_s"], found["samples"], found["truncated"]) == (90.0, 900, False)
