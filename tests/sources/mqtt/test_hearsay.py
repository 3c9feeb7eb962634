"""The time by hearsay: what waited in the broker is not believed, what is live is."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sources.mqtt.hearsay import (
    AGREE_NS,
    CONFIRMED_AFTER_NS,
    PERIOD_NS,
    TOPICS_MAX,
    Hearsay,
)

S = 10**9
TRUE_OFFSET_NS = 1_900_000_000 * S


def test_one_message_is_not_believed_and_a_second_one_is_half_a_minute_on() -> None:
    hearsay = Hearsay()
    assert hearsay.hear(TRUE_OFFSET_NS + 10 * S, 10 * S) is None
    assert hearsay.hear(TRUE_OFFSET_NS + 29 * S, 29 * S) is None
    assert hearsay.hear(TRUE_OFFSET_NS + 40 * S, 40 * S) == TRUE_OFFSET_NS


def test_of_two_that_agree_the_one_that_waited_less_is_right() -> None:
    hearsay = Hearsay()
    hearsay.hear(TRUE_OFFSET_NS - S, 0)
    assert hearsay.hear(TRUE_OFFSET_NS + 31 * S, 31 * S) == TRUE_OFFSET_NS
    late_ns = 40 * S + S // 2
    assert hearsay.hear(TRUE_OFFSET_NS + 40 * S, late_ns) == TRUE_OFFSET_NS


def test_a_payload_is_looked_into_once_a_second() -> None:
    hearsay = Hearsay()
    assert [hearsay.is_due("clock", ms * 10**6) for ms in (0, 1, 999, 1000, 1500, 2000)] == [
        True, False, False, True, False, True,
    ]  # fmt: skip
    assert PERIOD_NS == S
    # Somebody who says more does not keep it from being looked into.
    assert hearsay.is_due("other", 2000 * 10**6)
    topics = [f"sensor/{i}" for i in range(2 * TOPICS_MAX)]
    assert all(hearsay.is_due(topic, 2000 * 10**6) for topic in topics)


def test_a_time_from_the_future_is_forgotten_when_nobody_says_it_any_more() -> None:
    hearsay = Hearsay()
    hearsay.hear(TRUE_OFFSET_NS + 1000 * S, 0)
    said = [hearsay.hear(TRUE_OFFSET_NS + s * S, s * S) for s in range(1, 7 * 3600, 10)]
    assert said[0] is None
    assert said[-1] == TRUE_OFFSET_NS


def test_a_crystal_that_is_too_fast_is_followed_all_the_same() -> None:
    hearsay, believed = Hearsay(), 0
    for minute in range(5 * 24 * 60):
        now_ns = round(minute * 60 * S * 1.0001)  # 100 ppm
        offset_ns = hearsay.hear(TRUE_OFFSET_NS + minute * 60 * S, now_ns)
        believed = believed if offset_ns is None else offset_ns
        true_ns = TRUE_OFFSET_NS + minute * 60 * S - now_ns
        assert minute < 2 or abs(believed - true_ns) < 5 * S


@given(
    backlog_s=st.integers(10, 100_000),
    period_s=st.floats(0.1, 60),
    faster=st.floats(1.1, 10_000),
    seed=st.integers(0, 2**16),
)
def test_what_is_believed_is_right_however_much_was_queued(
    backlog_s: int, period_s: float, faster: float, seed: int
) -> None:
    """A backlog, drained at some speed, and then live messages that take up to a second."""
    rng, hearsay = random.Random(seed), Hearsay()
    now_s, published_s = 1000.0, 1000.0 - backlog_s
    said = []
    for _ in range(3000):
        now_s += period_s / faster
        if published_s + period_s > now_s:  # all caught up
            now_s = published_s + period_s + rng.random()
        published_s += period_s
        now_ns = round(now_s * S)
        if hearsay.is_due("clock", now_ns):
            said.append(hearsay.hear(TRUE_OFFSET_NS + round(published_s * S), now_ns))
    for offset_ns in said:
        assert offset_ns is None or abs(offset_ns - TRUE_OFFSET_NS) <= AGREE_NS
    if now_s - published_s < 1 and now_s > 1000 + backlog_s + 3 * period_s + CONFIRMED_AFTER_NS / S:
        assert said[-1] is not None


@pytest.mark.parametrize("ahead_s", [3, 1000])
def test_a_later_time_begins_a_new_wait(ahead_s: int) -> None:
    hearsay = Hearsay()
    hearsay.hear(TRUE_OFFSET_NS, 0)
    assert hearsay.hear(TRUE_OFFSET_NS + 31 * S, 31 * S) is not None
    ahead_ns = TRUE_OFFSET_NS + ahead_s * S
    assert hearsay.hear(ahead_ns + 32 * S, 32 * S) is None
    assert hearsay.hear(TRUE_OFFSET_NS + 70 * S, 70 * S) is None
    assert hearsay.hear(ahead_ns + 70 * S, 70 * S) == ahead_ns
