"""Unanswered messages: what comes again is sent as it was, and only until it is known."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.sinks import unanswered
from gateway.sinks.messages import Message
from gateway.sinks.unanswered import DOUBT_S_MAX, Unanswered


def message_of(numbers: range, asset: str = "pump") -> Message:
    lines = [b"line %d\n" % number for number in numbers]
    return Message(asset, lines, [np.array([row]) for row in range(len(lines))])


def payloads(messages: list[Message]) -> list[bytes]:
    return [message.payload for message in messages]


def test_half_of_a_batch_is_sent_within_the_messages_it_was_in() -> None:
    known = Unanswered()
    sent = message_of(range(10)).cut(30)
    known.keep(sent, 0.0, is_stored=False)
    again, new = known.sort([message_of(range(5))], 1.0)
    assert payloads(again) == payloads(sent)[:2]
    assert new == []
    assert [message.rows for message in again] == [[0, 1, 2, 3], [4]]  # of this half


def test_what_was_stored_meanwhile_is_not_sent() -> None:
    known = Unanswered()
    first, second = message_of(range(8)).cut(30)
    known.keep([first], 0.0, is_stored=True)
    known.keep([second], 0.0, is_stored=False)
    again, new = known.sort([message_of(range(12))], 1.0)
    assert payloads(again) == [second.payload]
    assert payloads(new) == [message_of(range(8, 12)).payload]
    assert new[0].rows == [8, 9, 10, 11]


def test_lines_of_another_asset_are_others() -> None:
    known = Unanswered()
    known.keep([message_of(range(3))], 0.0, is_stored=True)
    other = message_of(range(3), "mixer")
    again, new = known.sort([other], 1.0)
    assert again == []
    assert payloads(new) == [other.payload]


def test_after_the_duplicate_window_it_may_be_cut_anew() -> None:
    known = Unanswered()
    whole = message_of(range(4))
    known.keep([whole], 0.0, is_stored=False)
    known.keep(known.sort([whole], 60.0)[0], 60.0, is_stored=False)  # again without an answer
    assert payloads(known.sort([whole], DOUBT_S_MAX - 1)[0]) == [whole.payload]
    again, new = known.sort([whole], DOUBT_S_MAX)
    assert again == []
    assert payloads(new) == [whole.payload]


def test_what_is_delivered_is_forgotten() -> None:
    known = Unanswered()
    known.keep([message_of(range(4))], 0.0, is_stored=True)
    known.forget([message_of(range(4))])
    assert payloads(known.sort([message_of(range(4))], 0.0)[1]) == [message_of(range(4)).payload]
    assert not known._places
    assert known._bytes == 0


def test_what_it_keeps_is_bounded() -> None:
    known = Unanswered()
    long = Message("pump", [b"%d" % i + b"x" * 2**20 for i in range(40)], [np.array([0])] * 40)
    known.keep(long.cut(2**21), 0.0, is_stored=True)
    assert known._bytes <= unanswered.BYTES_MAX
    assert 10 < len(known._places) <= 16


@given(st.data())
def test_whatever_is_lost_and_however_it_is_cut_each_line_is_stored_once(
    data: st.DataObject,
) -> None:
    known, stream = Unanswered(), set[bytes]()
    todo, count = 0, 40
    while todo < count:
        stop = data.draw(st.integers(todo + 1, count))
        wholes = [message_of(range(todo, stop))]
        again, new = known.sort(wholes, 0.0)
        size = data.draw(st.integers(10, 200))
        messages = again + [message for whole in new for message in whole.cut(size)]
        lost = data.draw(st.sets(st.sampled_from(range(len(messages))))) if messages else set()
        stream.update(payloads(messages))  # it knows what is the same
        answered = [message for i, message in enumerate(messages) if i not in lost]
        known.keep(answered, 0.0, is_stored=True)
        known.keep([messages[i] for i in lost], 0.0, is_stored=False)
        if not lost:
            known.forget(wholes)
            todo = stop
    assert sorted(
        line for payload in stream for line in payload.splitlines(keepends=True)
    ) == sorted(message_of(range(count)).lines)
