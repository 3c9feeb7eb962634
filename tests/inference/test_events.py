from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.inference.events import UPDATE_PERIOD_NS, AnomalyEvent, EventRule, Watch

HOP_NS = 3 * 10**9
NAN = float("nan")
RULE = EventRule(open_after=2, close_after=3, close_below=0.9)

rules = st.builds(
    EventRule,
    open_after=st.integers(1, 4),
    close_after=st.integers(1, 4),
    close_below=st.sampled_from([0.5, 0.9, 1.0]),
)
scores = st.lists(st.sampled_from([NAN, 0.0, 0.6, 0.95, 1.0, 1.5, 8.0]), max_size=60)


def run(rule: EventRule, script: list[float], watch: Watch | None = None) -> list[AnomalyEvent]:
    watch = watch or Watch(rule, "m", "a")
    events = [watch.step(i * HOP_NS, score, lambda: "x") for i, score in enumerate(script)]
    return [event for event in events if event is not None]


def test_an_event_opens_after_so_many_in_a_row_and_starts_with_the_first() -> None:
    [event] = run(RULE, [0.2, 1.2, 0.5, 1.1, 1.4])
    assert event.is_open
    assert event.start_ns == 3 * HOP_NS
    assert (event.peak, event.score_last, event.duration_s) == (1.4, 1.4, 3.0)


def test_an_event_closes_after_so_many_in_a_row_and_keeps_its_start() -> None:
    opened, closed = run(RULE, [1.0, 1.0, 0.95, 0.1, 0.1, 0.95, 0.1, 0.1, 0.1, 2.0])
    assert opened.start_ns == closed.start_ns == 0
    assert not closed.is_open
    assert closed.end_ns == 8 * HOP_NS


def test_between_close_below_and_one_nothing_changes() -> None:
    assert len(run(RULE, [1.0, 1.0] + [0.95] * 50)) == 1
    assert run(RULE, [0.95] * 50) == []


def test_what_is_not_known_neither_opens_nor_closes() -> None:
    assert run(RULE, [1.0, NAN, 1.0, NAN, 1.0]) == []
    assert len(run(RULE, [1.0, 1.0] + [0.1, 0.1, NAN] * 20)) == 1


def test_a_rising_peak_is_reported_once_a_minute_at_most() -> None:
    script = [1.0 + i / 100 for i in range(100)]  # five minutes
    events = run(RULE, script)
    assert [b.end_ns - a.end_ns >= UPDATE_PERIOD_NS for a, b in pairwise(events)] == [True] * 4


def test_top_names_what_made_the_peak() -> None:
    watch = Watch(RULE, "m", "a")
    for i, (score, top) in enumerate([(1.1, "a"), (3.0, "b"), (2.0, "c")]):
        event = watch.step(i * HOP_NS, score, lambda top=top: top)
        if event is not None:
            assert event.top == "b"
    assert watch.top == "b"


@given(rules, scores)
def test_records_tell_a_story_that_holds_together(rule: EventRule, script: list[float]) -> None:
    events = run(rule, script)
    is_open = False
    for event in events:
        span = script[event.start_ns // HOP_NS : event.end_ns // HOP_NS + 1]
        assert event.start_ns <= event.end_ns
        assert event.peak == max(score for score in span if score == score)  # noqa: PLR0124 - not NaN
        assert span[0] >= 1
        if event.is_open and not is_open:  # opening
            assert len(span) == rule.open_after
            assert all(score >= 1 for score in span)
        if not event.is_open:
            assert is_open
            assert all(score < rule.close_below for score in span[-rule.close_after :])
        is_open = event.is_open
    for a, b in pairwise(events):
        if a.is_open:
            assert a.start_ns == b.start_ns
        else:
            assert b.start_ns > a.end_ns


@given(rules, scores)
def test_an_event_opens_exactly_when_a_row_of_high_scores_says_so(
    rule: EventRule, script: list[float]
) -> None:
    """Against the definition, evaluated on the whole history at each step."""
    watch = Watch(rule, "m", "a")
    is_open, since = False, 0  # scores before `since` belong to an event that is over
    for i, score in enumerate(script):
        watch.step(i * HOP_NS, score, str)
        if not is_open and i + 1 - since >= rule.open_after:
            row = script[i + 1 - rule.open_after : i + 1]
            if all(s >= 1 for s in row):
                is_open, since = True, i + 1
        elif is_open and i + 1 - since >= rule.close_after:
            row = script[i + 1 - rule.close_after : i + 1]
            if all(s < rule.close_below for s in row):
                is_open, since = False, i + 1
        assert watch.is_open == is_open


@given(rules, scores, st.data())
def test_restored_from_the_newest_record_a_replay_arrives_where_it_was(
    rule: EventRule, script: list[float], data: st.DataObject
) -> None:
    """Whatever is replayed, if only the rows and the last minute of updates are in it."""
    watch = Watch(rule, "m", "a")
    records = run(rule, script, watch)
    minute = UPDATE_PERIOD_NS // HOP_NS + 1
    needed = max(rule.open_after, rule.close_after) + minute
    start = data.draw(st.integers(0, max(0, len(script) - needed)))
    again = Watch(rule, "m", "a")
    if records:
        again.restore(records[-1])
    for i in range(start, len(script)):
        again.step(i * HOP_NS, script[i], lambda: "x")
    assert again.is_open == watch.is_open
    future = [1.0, 2.0, 9.0, 0.1, 0.1, 0.1, 0.1, 1.0, 1.0, 1.0, 1.0]
    for i, score in enumerate(future, start=len(script)):
        now = [w.step(i * HOP_NS, score, lambda: "x") for w in (watch, again)]
        assert now[0] == now[1]


@pytest.mark.parametrize("is_open", [True, False])
def test_a_clock_set_back_does_not_silence_a_restored_watch(is_open: bool) -> None:
    watch = Watch(RULE, "m", "a")
    watch.restore(
        AnomalyEvent(
            model="m", asset="a", start_ns=10**18, end_ns=10**18 + HOP_NS, is_open=is_open,
            peak=2.0, score_last=1.0, top="x",
        )
    )  # fmt: skip
    watch.clock_stepped_back(0)
    script = [0.1] * 3 if is_open else [1.0] * 2
    assert [e.is_open for e in run(RULE, script, watch)] == [not is_open]


def test_a_restored_event_closes_with_the_start_and_the_peak_it_had() -> None:
    watch = Watch(RULE, "m", "a")
    opened, risen = run(RULE, [1.0, 1.0] + [7.0] * 30, watch)
    again = Watch(RULE, "m", "a")
    again.restore(risen)
    closed = [again.step((40 + i) * HOP_NS, 0.1, lambda: "y") for i in range(3)][-1]
    assert closed is not None
    assert (closed.start_ns, closed.peak, closed.top) == (opened.start_ns, 7.0, "x")
