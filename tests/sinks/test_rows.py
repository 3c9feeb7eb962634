"""Samples as JSON objects and CSV lines: what is read back is what was given."""

from __future__ import annotations

import csv
import io
import json
import math
from datetime import UTC, datetime

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.frame import Frame
from gateway.sinks.rows import CSV_HEADER, csv_rows, json_rows
from gateway.tag import DataType, Quality, TagTable
from tests.samples import make_frame, make_tag

T_NS = 1_767_225_600_123_456_789
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


def a_plant() -> TagTable:
    table = TagTable()
    table.add(make_tag("pump.flow", eng_unit="m3/h"))
    table.add(make_tag("pump.starts", data_type=DataType.UINT64))
    table.add(make_tag("pump.on", data_type=DataType.BOOL))
    table.add(make_tag("pump.model", data_type=DataType.STRING))
    return table


def every_kind() -> Frame:
    cells = [(0, 12.5), (1, 7.0), (1, math.nan), (2, 1.0), (2, 0.0), (3, math.nan)]
    cells += [(0, math.nan), (0, math.inf)]
    quality = [0, 0, 0, 0, 0, 0, int(Quality.BAD), 0]
    base = make_frame([(1.0, tag, value) for tag, value in cells], quality)
    exact: dict[int, int | str] = {2: 2**64 - 1, 5: 'P "1",\n'}
    times = np.full(len(base), T_NS)
    return Frame(times, base.tag_ids, base.values, base.quality, exact)


def test_json_has_each_value_as_what_it_is() -> None:
    rows = [json.loads(row) for row in json_rows(a_plant()).encode(every_kind())]
    values = [12.5, 7, 2**64 - 1, True, False, 'P "1",\n', None, None]
    assert [row["value"] for row in rows] == values
    assert [type(row["value"]) for row in rows] == [type(value) for value in values]
    assert rows[0] == {
        "time": "2026-01-01T00:00:00.123456789Z",
        "tag": "pump.flow",
        "value": 12.5,
        "unit": "m3/h",
        "measurement": "pump",
        "field": "flow",
        "labels": {"asset": "pump"},
        "quality": "good",
    }
    assert rows[6]["quality"] == "bad"


def test_csv_has_each_value_as_what_it_is() -> None:
    text = (CSV_HEADER + b"".join(csv_rows(a_plant()).encode(every_kind()))).decode()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["value"] for row in rows] == [
        "12.5", "7", str(2**64 - 1), "true", "false", 'P "1",\n', "", "",
    ]  # fmt: skip
    assert rows[0] == {
        "time": "2026-01-01T00:00:00.123456789Z",
        "tag": "pump.flow",
        "value": "12.5",
        "unit": "m3/h",
        "quality": "good",
    }


@given(TEXTS, TEXTS, TEXTS, st.floats(), st.integers(0, 2**62), st.integers(0, 255))
def test_whatever_the_names_and_values_are_they_come_back(
    name: str, label: str, text: str, number: float, t_ns: int, code: int
) -> None:
    table = TagTable()
    table.add(make_tag(f"a.{name}", labels=((label, text),), eng_unit=text))
    table.add(make_tag(f"b.{name}", data_type=DataType.STRING))
    ids = np.array([0, 1], np.int32)
    values = np.array([number, np.nan])
    frame = Frame.of(t_ns, ids, values, np.full(2, code, np.uint8), {1: text})
    first, second = (json.loads(row) for row in json_rows(table).encode(frame))
    assert (first["tag"], first["labels"], first["unit"]) == (f"a.{name}", {label: text}, text)
    assert first["value"] == (number if math.isfinite(number) else None)
    assert second["value"] == text
    seconds = datetime.fromisoformat(first["time"][:19]).replace(tzinfo=UTC).timestamp()
    assert int(seconds) * 10**9 + int(first["time"][20:29]) == t_ns
    lines = b"".join(csv_rows(table).encode(frame)).decode()
    found = list(csv.reader(io.StringIO(lines, newline="")))
    assert [row[1] for row in found] == [f"a.{name}", f"b.{name}"]
    assert found[1][2] == text
    assert found[0][3] == text


def test_tags_that_appear_later_are_known() -> None:
    table = a_plant()
    rows = json_rows(table)
    rows.encode(every_kind())
    new = table.add(make_tag("pump.new"))
    assert json.loads(rows.encode(make_frame([(1.0, new, 3.0)]))[0])["tag"] == "pump.new"
