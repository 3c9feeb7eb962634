from __future__ import annotations

import math
import re
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.frame import Frame
from gateway.sinks.lineprotocol import LineEncoder
from gateway.tag import DataType, Quality, Tag, TagTable
from tests.samples import make_frame, make_tag

Point: TypeAlias = tuple[str, dict[str, str], dict[str, object], int]


def parse(line: str) -> Point:
    """Line protocol read by the letter of its reference, with no code of the encoder's."""
    assert line.endswith("\n")
    head = _split(line[:-1], " ", quotes=False)[0]
    fields, time = _split(line[len(head) + 1 : -1], " ")
    measurement, *labels = _split(head, ",", quotes=False)
    return (
        _plain(measurement, ", "),
        {
            _plain(k, ",= "): _plain(v, ",= ")
            for k, v in (_split(text, "=", quotes=False) for text in labels)
        },
        dict(_field(text) for text in _split(fields, ",")),
        int(time),
    )


def _split(text: str, at: str, *, quotes: bool = True) -> list[str]:
    """Cut at a character that is neither escaped nor, among fields, inside double quotes."""
    parts, start, quoted, i = [], 0, False, 0
    while i < len(text):
        if text[i] == "\\" and i + 1 < len(text):
            i += 1
        elif text[i] == '"' and quotes and (quoted or text[i - 1 : i] == "="):
            quoted = not quoted
        elif text[i] == at and not quoted:
            parts.append(text[start:i])
            start = i + 1
        i += 1
    return [*parts, text[start:]]


def _plain(text: str, special: str) -> str:
    plain, i = "", 0
    while i < len(text):
        if text[i] == "\\" and i + 1 < len(text) and text[i + 1] in special:
            i += 1
        plain += text[i]
        i += 1
    return plain


def _field(text: str) -> tuple[str, object]:
    key, value = _split(text, "=")
    name = _plain(key, ",= ")
    if value.startswith('"'):
        assert value.endswith('"')
        return name, _plain(value[1:-1], '"\\')
    if value in ("true", "false"):
        return name, value == "true"
    return name, int(value[:-1]) if value.endswith("i") else float(value)


def points(table: TagTable, frame: Frame) -> list[Point]:
    encoded = LineEncoder(table).encode(frame)
    count = len(encoded.points)
    assert [row for i in range(count) for row in encoded.rows_of(i)] == encoded.rows.tolist()
    return [parse(point.decode()) for point in encoded.points]


def test_tags_of_one_asset_and_time_are_one_point(table: TagTable) -> None:
    flow, speed = table.add(make_tag("p1.flow")), table.add(make_tag("p1.speed"))
    other = table.add(make_tag("p2.flow"))
    frame = make_frame([(1.0, flow, 2.5), (1.0, speed, 1450.0), (1.0, other, 3.5)])
    assert points(table, frame) == [
        ("pump", {"asset": "p1"}, {"flow": 2.5, "speed": 1450.0, "quality": 0}, 10**9),
        ("pump", {"asset": "p2"}, {"flow": 3.5, "quality": 0}, 10**9),
    ]


def test_rows_of_one_point_may_stand_apart(table: TagTable) -> None:
    a, b = table.add(make_tag("p1.a")), table.add(make_tag("p2.a"))
    c = table.add(make_tag("p1.b"))
    frame = make_frame([(1.0, a, 1.0), (1.0, b, 2.0), (1.0, c, 3.0)], [0x42, 0, 0x41])
    assert sorted(points(table, frame), key=str) == [
        ("pump", {"asset": "p1"}, {"a": 1.0, "b": 3.0, "quality": 0x42}, 10**9),
        ("pump", {"asset": "p2"}, {"a": 2.0, "quality": 0}, 10**9),
    ]


def test_a_bad_sample_has_no_value_but_shows_in_the_quality(table: TagTable) -> None:
    a, b = table.add(make_tag("p1.a")), table.add(make_tag("p1.b"))
    frame = make_frame([(1.0, a, 7.0), (1.0, b, 8.0)], [Quality.BAD_TIMEOUT, Quality.GOOD])
    assert points(table, frame)[0][2] == {"b": 8.0, "quality": int(Quality.BAD_TIMEOUT)}
    alone = make_frame([(1.0, a, 7.0)], Quality.BAD_TIMEOUT)
    assert points(table, alone)[0][2] == {"quality": int(Quality.BAD_TIMEOUT)}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_never_written(table: TagTable, value: float) -> None:
    tag = table.add(make_tag("p1.a"))
    assert points(table, make_frame([(1.0, tag, value)]))[0][2] == {"quality": 0}


def test_the_type_of_a_field_is_the_tags_and_never_the_values(table: TagTable) -> None:
    types = {
        "whole": {"data_type": DataType.UINT16},
        "scaled": {"data_type": DataType.UINT16, "scale": 0.1},
        "real": {"data_type": DataType.FLOAT32},
        "flag": {"data_type": DataType.BOOL},
    }
    ids = [table.add(make_tag(f"p1.{name}", **facts)) for name, facts in types.items()]
    body = LineEncoder(table).encode(make_frame([(1.0, i, 1.0) for i in ids])).points[0]
    assert body == b"pump,asset=p1 whole=1i,scaled=1.0,real=1.0,flag=true,quality=0i 1000000000\n"


def test_of_two_samples_of_one_tag_and_time_the_later_counts(table: TagTable) -> None:
    tag = table.add(make_tag("p1.a"))
    frame = make_frame([(1.0, tag, 1.0), (2.0, tag, 5.0), (1.0, tag, 2.0)])
    assert sorted(point[2]["a"] for point in points(table, frame)) == [2.0, 5.0]  # type: ignore[type-var] - floats


@pytest.mark.parametrize("kept_exactly", [True, False])
def test_integers_beyond_int64_are_refused_with_a_reason(
    table: TagTable, *, kept_exactly: bool
) -> None:
    tag = table.add(make_tag("m.energy", data_type=DataType.UINT64))
    wholes = [2**63, 2**60, -(2**63), 2**64 - 2**11]
    base = make_frame([(1.0 + i, tag, float(whole)) for i, whole in enumerate(wholes)])
    exact = dict(enumerate(wholes)) if kept_exactly else {}
    frame = Frame(base.t_ns, base.tag_ids, base.values, base.quality, exact)
    encoded = LineEncoder(table).encode(frame)
    assert [parse(point.decode())[2] for point in encoded.points] == [
        {"quality": 0},
        {"energy": 2**60, "quality": 0},
        {"energy": -(2**63), "quality": 0},
        {"quality": 0},
    ]
    assert sorted(encoded.refused) == [0, 3]
    assert all("no 64-bit integer" in why for why in encoded.refused.values())


def test_an_integer_field_never_gets_a_value_cut_short(table: TagTable) -> None:
    tag = table.add(make_tag("p1.count", data_type=DataType.INT32))
    encoded = LineEncoder(table).encode(make_frame([(1.0, tag, 2.7), (2.0, tag, 3.0)]))
    assert [parse(point.decode())[2].get("count") for point in encoded.points] == [None, 3]
    assert list(encoded.refused) == [0]


@pytest.mark.parametrize("text", ["two\nlines", "a\0b", "\ud800", "x" * 70_000])
def test_a_text_that_line_protocol_cannot_carry_costs_its_own_field_only(
    table: TagTable, text: str
) -> None:
    said = table.add(make_tag("p1.said", data_type=DataType.STRING))
    flow = table.add(make_tag("p1.flow"))
    base = make_frame([(1.0, said, math.nan), (1.0, flow, 2.0)])
    frame = Frame(base.t_ns, base.tag_ids, base.values, base.quality, {0: text})
    encoded = LineEncoder(table).encode(frame)
    assert [parse(point.decode())[2] for point in encoded.points] == [{"flow": 2.0, "quality": 0}]
    assert list(encoded.refused) == [0]


@pytest.mark.parametrize(
    "facts",
    [
        {"measurement": "a\nb"},
        {"measurement": ""},
        {"measurement": "#a"},
        {"field": "x\0"},
        {"field": "ends\\"},
        {"field": "quality"},
        {"field": 'a"b'},
        {"field": "time"},
        {"field": "\ttab"},
        {"labels": (("time", "x"),)},
        {"labels": (("asset", "a\\,b"),)},
        {"labels": (("asset", "a\\\\b"),)},
        {"labels": (("asset", "a\r\nb"),)},
        {"labels": (("asset", "\ud800"),)},
        {"labels": (("asset", "x" * 70_000),)},
    ],
)
def test_names_that_line_protocol_cannot_carry_are_refused(
    table: TagTable, facts: dict[str, object]
) -> None:
    bad, good = table.add(make_tag("p1.a", **facts)), table.add(make_tag("p2.a"))
    encoded = LineEncoder(table).encode(make_frame([(1.0, bad, 1.0), (1.0, good, 2.0)]))
    assert list(encoded.refused) == [0]
    assert len(encoded.points) == 1


def test_a_tag_that_appears_later_is_encoded_too(table: TagTable) -> None:
    encoder = LineEncoder(table)
    first = table.add(make_tag("p1.a"))
    encoder.encode(make_frame([(1.0, first, 1.0)]))
    second = table.add(make_tag("p9.a"))
    assert encoder.encode(make_frame([(1.0, second, 1.0)])).points[0].startswith(b"pump,asset=p9 ")


names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)
# A backslash before one of these, or at the end, is read differently by different servers.
hostile = names.filter(lambda name: not re.search(r"\\([,= \\\"]|$)", name))
texts = st.text(st.characters(exclude_characters="\0\n", exclude_categories=["Cs"]))
values = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1)


@given(
    hostile.filter(lambda name: not name.startswith("#")),
    st.dictionaries(hostile.filter(lambda name: name != "time"), hostile, max_size=3),
    st.dictionaries(
        hostile.filter(lambda name: name not in ("quality", "time") and '"' not in name),
        values | texts,
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 2**62),
)
def test_what_an_independent_parser_reads_is_what_went_in(
    measurement: str, labels: dict[str, str], fields: dict[str, float | int | str], t_ns: int
) -> None:
    table = TagTable()
    exact: dict[int, int | str] = {}
    column = []
    for row, (field, value) in enumerate(fields.items()):
        data_type = {float: "float64", int: "int64", str: "string"}[type(value)]
        table.add(
            Tag(
                name=f"t{row}",
                asset="a",
                asset_class="c",
                field=field,
                measurement=measurement,
                labels=tuple(labels.items()),
                data_type=DataType(data_type),
            )
        )
        if not isinstance(value, float):
            exact[row] = value
        column.append(math.nan if isinstance(value, str) else float(value))
    ids = np.arange(len(fields), dtype=np.int32)
    frame = Frame.of(t_ns, ids, np.array(column), 0, exact)
    (point,) = points(table, frame)
    assert point == (measurement, labels, {**fields, "quality": 0}, t_ns)


def test_a_value_of_another_kind_than_its_tag_is_refused_and_its_neighbours_are_not(
    table: TagTable,
) -> None:
    for name, kind in (("i", DataType.INT64), ("f", DataType.FLOAT64), ("b", DataType.BOOL)):
        table.add(make_tag(f"p1.{name}", data_type=kind))
    frame = make_frame([(1.0, 0, 1.0), (2.0, 1, 1.0), (3.0, 1, 1.0), (4.0, 2, 1.0), (5.0, 2, 1.0)])
    exact = {0: "text", 1: "text", 2: 2**60, 3: 2**60}
    frame = Frame(frame.t_ns, frame.tag_ids, frame.values, frame.quality, exact)
    encoded = LineEncoder(table).encode(frame)
    assert sorted(encoded.refused) == [0, 1, 3]
    assert any(b"f=1.152921504606847e+18," in point for point in encoded.points)
    assert any(b"b=" in point and b"5000000000" in point for point in encoded.points)
