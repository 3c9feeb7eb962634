"""Messages: whole samples of one asset each, in order, none left out."""

from __future__ import annotations

import json
import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.frame import Frame
from gateway.sinks.messages import Message, MessageEncoder
from gateway.tag import DataType, TagTable
from tests.samples import make_frame, make_tag


def a_plant() -> TagTable:
    table = TagTable()
    for i in range(6):
        table.add(make_tag(f"pump-{i % 3}.t{i}"))
    table.add(make_tag("pump-0.text", data_type=DataType.STRING))
    return table


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 5), st.integers(0, 99)), max_size=40),
    st.integers(300, 2000),
    st.sampled_from(["jsonl", "lineprotocol"]),
)
def test_every_row_is_in_one_message_of_its_asset(
    rows: list[tuple[int, int, int]], bytes_max: int, form: Literal["jsonl", "lineprotocol"]
) -> None:
    table = a_plant()
    frame = make_frame([(float(t), tag, float(value)) for t, tag, value in rows])
    wholes, refused = MessageEncoder(table, form).encode(frame, bytes_max)
    assert not refused
    assert len({whole.asset for whole in wholes}) == len(wholes)
    messages = [message for whole in wholes for message in whole.cut(bytes_max)]
    found = [row for message in messages for row in message.rows]
    assert len(found) == len(set(found))
    if form == "jsonl":
        assert sorted(found) == list(range(len(frame)))
    for message in messages:
        assert len(message.payload) <= bytes_max
        assert message.payload.endswith(b"\n")
        assert {table[int(frame.tag_ids[row])].asset for row in message.rows} == {message.asset}
        if form == "jsonl":
            assert [json.loads(line)["value"] for line in message.payload.splitlines()] == [
                frame.values[row] for row in message.rows
            ]
            assert message.rows == sorted(message.rows)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30))
def test_what_is_too_large_is_cut_until_each_line_is_alone(sizes: list[int]) -> None:
    lines = [b"x" * size + b"\n" for size in sizes]
    left = [Message("pump", lines, [np.array([i]) for i in range(len(lines))])]
    alone = []
    while left:
        message = left.pop()
        smaller = message.cut_smaller()
        assert [row for part in smaller for row in part.rows] == (message.rows if smaller else [])
        if smaller:
            assert max(part.size for part in smaller) < message.size
            left += smaller
        else:
            alone.append((message.rows, message.payload))
    assert sorted(alone) == [([i], line) for i, line in enumerate(lines)]


@pytest.mark.parametrize("form", ["jsonl", "lineprotocol"])
def test_what_alone_is_too_large_is_refused_and_nothing_else(
    form: Literal["jsonl", "lineprotocol"],
) -> None:
    table = a_plant()
    base = make_frame([(1.0, 0, 1.0), (1.0, 6, math.nan), (2.0, 0, 2.0)])
    # Of another time than its neighbours, so that it is a point of its own.
    frame = Frame(np.array([1, 5, 9]), base.tag_ids, base.values, base.quality, {1: "x" * 2000})
    messages, refused = MessageEncoder(table, form).encode(frame, 1000)
    assert "a message may have 1000" in refused[1]
    assert list(refused) == [1]
    assert [message.rows for message in messages] == [[0, 2]]


def test_a_frame_of_nothing_is_no_message() -> None:
    assert MessageEncoder(a_plant(), "lineprotocol").encode(make_frame([]), 1000) == ([], {})
