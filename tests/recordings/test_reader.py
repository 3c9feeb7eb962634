"""A recording is read as it was meant, whoever wrote it; one that cannot be says where and why."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.cli.export import export
from gateway.errors import RecordingInvalid
from gateway.frame import Frame
from gateway.recordings import reader as reader_module
from gateway.recordings import tables
from gateway.tag import Quality, TagTable
from tests.recordings.files import reader_of, refusal, rows_of
from tests.samples import make_tag

WIDE = "time,pump-1.flow,pump-1.pressure\n1,1.5,2\n2,1.6,2.25\n"
LONG = """time,tag,value
1,pump-1.flow,1.5
1,pump-1.pressure,2
2,pump-1.flow,1.6
2,pump-1.pressure,2.25
"""
LONG_BY_TAG = """time,tag,value
1,pump-1.flow,1.5
2,pump-1.flow,1.6
1,pump-1.pressure,2
2,pump-1.pressure,2.25
"""
LONG_BY_FIELD = """value,field,time,asset,quality
1.5,flow,1,pump-1,good
2,pressure,1,pump-1,
1.6,flow,2,pump-1,GOOD
2.25,pressure,2,pump-1,good
"""
SAME = [
    (1, "pump-1.flow", 1.5, 0), (1, "pump-1.pressure", 2.0, 0),
    (2, "pump-1.flow", 1.6, 0), (2, "pump-1.pressure", 2.25, 0),
]  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        WIDE,
        WIDE.replace("\n", "\r\n"),
        WIDE.replace(",", ";"),
        WIDE.replace(",", "\t"),
        re.sub(r"([0-9])[.]([0-9])", r"\1,\2", WIDE.replace(",", ";")),
        "sep=;\n" + WIDE.replace(",", ";"),
        "\ufeff" + WIDE,
        WIDE.replace("\n", ",\n"),  # a separator at the end of each line
        WIDE + "\n\n,,\n",
        WIDE.replace("time", '"time"').replace("1.5", '"1.5"'),
        WIDE.replace("pressure", "pressure [bar]"),
        WIDE.replace("time", "Timestamp"),
        LONG,
        LONG_BY_TAG,
        LONG_BY_FIELD,
    ],
)
def test_the_usual_ways_to_write_it_say_the_same(tmp_path: Path, content: str) -> None:
    assert rows_of(reader_of(tmp_path / "r.csv", content)) == SAME


def test_units_in_the_header_are_the_tags(tmp_path: Path) -> None:
    reader = reader_of(tmp_path / "r.csv", "time;flow [m3/h];head (bar)\n1;2;3\n", asset="pump-7")
    assert [row[1] for row in rows_of(reader)] == ["pump-7.flow", "pump-7.head"]
    assert [tag.eng_unit for tag in reader.table] == ["m3/h", "bar"]


def test_fields_without_an_asset_belong_to_what_the_file_is_named_after(tmp_path: Path) -> None:
    rows = rows_of(reader_of(tmp_path / "pump 7 (old).csv", "time,flow\n1,2\n"))
    assert rows == [(1, "pump-7-old.flow", 2.0, 0)]


TAGS = "time,pump-1.flow,pump-1.load,pump-2.flow,pump-2.load,changepoint\n1,1,2,3,4,0\n"


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["pump-1.flow", "pump-1.load", "pump-2.flow", "pump-2.load"]),
        ({"asset": "pump-1"}, ["pump-1.flow", "pump-1.load"]),
        ({"columns": ("flow",)}, ["pump-1.flow", "pump-2.flow"]),
        ({"columns": ("pump-2.load",)}, ["pump-2.load"]),
        ({"exclude": ("flow",), "asset": "pump-2"}, ["pump-2.load"]),
    ],
)
def test_of_columns_that_are_tags_those_of_an_asset_or_a_field_are_taken(
    tmp_path: Path, options: dict[str, object], names: list[str]
) -> None:
    rows = rows_of(reader_of(tmp_path / "x.csv", TAGS, **options))
    assert [row[1] for row in rows] == names


def test_an_asset_that_no_column_is_of_is_refused(tmp_path: Path) -> None:
    words = refusal(tmp_path / "x.csv", TAGS, asset="nosuch")
    assert "no column is of the asset 'nosuch'" in words
    assert "'pump-1', 'pump-2'" in words


def test_an_empty_cell_is_no_sample_and_a_word_a_bad_one(tmp_path: Path) -> None:
    content = "time,a,b\n1,1,2\n2,,3\n3,NaN,4\n4,No Data,5\n5,1e999,true\n"
    rows = rows_of(reader_of(tmp_path / "x.csv", content))
    bad = int(Quality.BAD_SENSOR_FAILURE)
    assert [row for row in rows if row[1] == "x.a"] == [
        (1, "x.a", 1.0, 0), (3, "x.a", -1.0, bad), (4, "x.a", -1.0, bad), (5, "x.a", -1.0, bad),
    ]  # fmt: skip
    assert [row[2] for row in rows if row[1] == "x.b"] == [2, 3, 4, 5, 1]


def test_qualities_of_a_long_file_are_kept(tmp_path: Path) -> None:
    content = (
        "time,tag,value,type,quality\n1,p.a,1,float,uncertain_range\n2,p.a,,,bad_timeout\n"
        "3,p.a,,,good\n4,p.state,running,string,good\n5,p.on,true,bool,good\n"
    )
    reader = reader_of(tmp_path / "x.csv", content)
    assert rows_of(reader) == [
        (1, "p.a", 1.0, int(Quality.UNCERTAIN_RANGE)),
        (2, "p.a", -1.0, int(Quality.BAD_TIMEOUT)),
        (3, "p.a", -1.0, int(Quality.BAD)),
        (5, "p.on", 1.0, 0),
    ]
    assert reader.told.rows_of_text == 1


def test_labels_and_texts_are_no_signals_and_that_is_said(tmp_path: Path) -> None:
    content = "datetime;a;state;anomaly;changepoint\n2026-01-01 00:00:00;1;run;0.0;0\n"
    content += "2026-01-01 00:00:01;2;stop;1.0;1\n"
    reader = reader_of(tmp_path / "rig.csv", content)
    assert {row[1] for row in rows_of(reader)} == {"rig.a"}
    assert {name for name, _ in reader.told.left_out} == {"state", "changepoint"}
    t_ns, truths = reader.labels()
    assert truths.tolist() == [False, True]
    assert np.diff(t_ns).tolist() == [10**9]
    asked = reader_of(tmp_path / "rig.csv", columns=("a", "changepoint"))
    assert {row[1] for row in rows_of(asked)} == {"rig.a", "rig.changepoint"}


def test_rows_without_times_come_at_the_period_the_user_says(tmp_path: Path) -> None:
    rows = rows_of(reader_of(tmp_path / "x.csv", "a,b\n1,2\n3,4\n", row_period_s=180.0))
    assert [row[0] for row in rows] == [0, 0, 180, 180]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("time,a\n1,1\n2,abc\n", ["row 3, column 'a'", "'abc' is not a number", "--exclude"]),
        ("time,a\n1,1\n2,1_0\n", ["row 3, column 'a'", "'1_0'"]),
        ("time,a\n1,1\nnever,2\n", ["row 3, column 'time'", "'never' is not a time"]),
        ("time,a\n1,1\n,2\n", ["row 3, column 'time'"]),
        ("time,a\n1,1,7\n", ["row 2", "3 columns, the header 2", "separator"]),
        ("time,a\n1,1\n2\n", ["row 3", "1 columns"]),
        ("a,b\n1,2\n", ["no column of times", "'a', 'b'", "--time-column", "--period"]),
        ("1,2\n3,4\n", ["row 1", "names of the columns", "add a first row"]),
        ("time,a,a\n1,2,3\n", ["column 3", "'a' is column 2 already"]),
        ("time,,a\n1,2,3\n", ["column 2", "no name"]),
        ("time,a\n", ["no rows"]),
        ("time,a\n1,\n2,\n", ["no samples"]),
        ("time,state\n1,run\n", ["no column", "is a signal"]),
        ("\n\n", ["no header"]),
        (b"time,a\n1,\xb0\n", ["not UTF-8", "save the file as UTF-8"]),
        ("time,a\n1,2\n".encode("utf-16"), ["UTF-16", "UTF-8"]),
        (b"PK\x03\x04xlsx", ["spreadsheet"]),
        (b"time,a\n1,\0\n", ["NUL"]),
        ('time,a\n1,"2\n', ["not CSV", "quote"]),
        ("time,tag,value\n1,flow,2\n", ["asset.field"]),
        ("time,tag,value,quality\n1,p.a,2,192\n", ["'192' is not a quality", "good"]),
        ("time,tag,value\n1,p.a,abc\n", ["row 2, column 'value'", "'abc'"]),
        (b"PAR1nothing", ["Parquet", "copy the file again"]),
    ],
)
def test_what_is_wrong_is_said_with_its_place_and_a_mend(
    tmp_path: Path, content: str | bytes, said: list[str]
) -> None:
    words = refusal(tmp_path / "x.csv", content)
    assert [part for part in said if part not in words] == [], words


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "absent.csv")
    assert "no such file" in refusal(tmp_path)
    assert "--time-column" in refusal(tmp_path / "x.csv", "time,a\n1,2\n", time_column="when")
    assert "'broken'" in refusal(tmp_path / "x.csv", "time,a\n1,2\n", label="broken")


def test_a_tag_in_two_units_is_refused(tmp_path: Path) -> None:
    content = "time,tag,value,eng_unit\n1,p.a,1,bar\n2,p.a,1,kPa\n"
    assert "defined twice" in refusal(tmp_path / "x.csv", content)


def test_a_long_file_is_read_in_one_chunk_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "CHUNK_ROWS", 8)
    monkeypatch.setattr(reader_module, "SORT_SAMPLES_MAX", 40)
    lines = [f"{i},{i / 2}" for i in range(100)]
    path = tmp_path / "x.csv"
    rows = rows_of(reader_of(path, "time,a\n" + "\n".join(lines) + "\n"))
    assert [row[0] for row in rows] == list(range(100))
    lines[90:] = lines[:10]
    words = refusal(path, "time,a\n" + "\n".join(lines) + "\n")
    assert "goes back in time" in words
    assert "sort it by time" in words


def test_parquet_says_the_same_as_csv(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    times = pa.array([10**9, 2 * 10**9], pa.timestamp("ns", tz="UTC"))
    wide = pa.table({"time": times, "pump-1.flow": [1.5, 1.6], "pump-1.pressure": [2.0, 2.25]})
    pq.write_table(wide, tmp_path / "wide.parquet")
    assert rows_of(reader_of(tmp_path / "wide.parquet")) == SAME
    tags = pa.array(["pump-1.flow", "pump-1.pressure"] * 2).dictionary_encode()
    long = pa.table({"time": pa.array([1, 1, 2, 2]), "tag": tags, "value": [1.5, 2, 1.6, 2.25]})
    pq.write_table(long, tmp_path / "long.parquet")
    assert rows_of(reader_of(tmp_path / "long.parquet")) == SAME
    holes = pa.table({
        "t": pa.array([1, 2, 3], pa.timestamp("s")), "a": pa.array([1.0, None, math.nan]),
        "b": pa.array([True, False, None]), "c": pa.array([None, None, None]),
        "d": [["list"]] * 3, "anomaly": [0, 0, 1],
    })  # fmt: skip
    pq.write_table(holes, tmp_path / "x.parquet")
    reader = reader_of(tmp_path / "x.parquet")
    bad = int(Quality.BAD_SENSOR_FAILURE)
    assert rows_of(reader) == [
        (1, "x.a", 1.0, 0), (1, "x.b", 1.0, 0), (2, "x.b", 0.0, 0), (3, "x.a", -1.0, bad),
    ]  # fmt: skip
    assert reader.labels()[1].tolist() == [False, False, True]
    damaged = (tmp_path / "wide.parquet").read_bytes()
    assert "Parquet" in refusal(tmp_path / "cut.parquet", damaged[: len(damaged) // 2])


def assert_read_or_refused(path: Path, content: bytes) -> None:
    rows, problems = [], ()
    with contextlib.suppress(RecordingInvalid):
        try:
            rows = rows_of(reader_of(path, content))
        except RecordingInvalid as error:
            problems = error.problems
            raise
    assert bool(rows) != bool(problems)
    assert all(problem.mend and problem.place for problem in problems)
    assert all(row[3] >= Quality.BAD or math.isfinite(row[2]) for row in rows)


CELL = st.one_of(
    st.floats(allow_nan=True).map(str), st.integers().map(str), st.text(max_size=8),
    st.sampled_from(["", "NaN", "true", "1,5", "1.234,5", ";", '"', "\x00", "\ud7ff", "1e400"]),
)  # fmt: skip


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(CELL, min_size=3, max_size=3), max_size=6),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["time,a,b", "time,tag,value", "a,b,c", ",,", "time,tag,value,quality"]),
)
def test_no_file_is_more_than_refused(
    tmp_path: Path, rows: list[list[str]], separator: str, header: str
) -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=separator).writerows([header.split(","), *rows])
    content = text.getvalue().encode("utf-8", "surrogatepass")
    assert_read_or_refused(tmp_path / "any.csv", content)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_to_a_file_is_more_than_refused(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(WIDE.encode() * 3)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    assert_read_or_refused(tmp_path / "any.csv", bytes(content) or b"\n")


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_what_the_spool_exports_is_read_back(tmp_path: Path, form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    table = TagTable()
    ids = [table.add(make_tag(f"p-{i}.flow", eng_unit="m³/h")) for i in range(3)]
    random = np.random.default_rng(1)
    t_ns = np.sort(random.integers(1, 2**60, 500))
    values = random.normal(size=500)
    quality = random.choice(np.array([0, 0x42, 0x81], np.uint8), 500)
    frame = Frame(t_ns, random.choice(ids, 500).astype(np.int32), values, quality)
    export([frame], table, form, str(tmp_path / "r"))
    back = Frame.concatenate(list(reader_of(tmp_path / "r").frames()))
    assert np.array_equal(back.t_ns, frame.t_ns)
    assert np.array_equal(back.values, frame.values)
    assert np.array_equal(back.quality, frame.quality)
