"""A destination has names of its own, and fields whose type it keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.settings import RenameSettings
from gateway.sinks import build_sink, tags_of
from gateway.sinks.config import Influx1Settings
from gateway.sinks.lineprotocol import LineEncoder
from gateway.sinks.naming import FieldTypes, Renamed
from gateway.tag import DataType, TagTable
from tests.samples import make_frame, make_tag
from tests.servers import Influx1


def first_point(table: TagTable, rules: RenameSettings) -> bytes:
    encoder = LineEncoder(Renamed(table, rules, "db"))
    return encoder.encode(make_frame([(1.0, 0, 2.5)])).points[0]


def test_measurements_fields_and_labels_have_the_names_of_the_sink(table: TagTable) -> None:
    table.add(make_tag("p1.flow_mean"))
    rules = RenameSettings(
        measurements={"pump": "pumpe"},
        fields={"flow*": "durchfluss*"},
        labels={"asset": "maschine", "gateway": ""},
    )
    assert first_point(table, rules).startswith(b"pumpe,maschine=p1 durchfluss_mean=2.5,")


def test_without_rules_nothing_is_renamed(table: TagTable) -> None:
    settings = Influx1Settings(type="influxdb1", name="db", url="http://x", database="d")
    assert tags_of(settings, table) is table


def test_a_rule_that_makes_two_tags_one_is_not_applied_to_the_second(
    table: TagTable, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("p1.flow", "p2.flow"):
        table.add(make_tag(name))
    seen = Renamed(table, RenameSettings(labels={"asset": ""}), "db")
    assert seen[0].labels == ()
    assert ("asset", "p2") in seen[1].labels
    assert "sink.rename_refused sink=db tag=p2.flow error=it would be one with p1.flow" in (
        caplog.text
    )


def test_a_field_that_some_tags_have_as_a_float_is_one_for_all(table: TagTable) -> None:
    table.add(make_tag("p1.flow", data_type=DataType.INT32))
    table.add(make_tag("p2.flow"))
    points = LineEncoder(table, FieldTypes()).encode(make_frame([(1.0, 0, 2.0), (1.0, 1, 2.5)]))
    assert [b"i," in point.split(b" ")[1].split(b"quality")[0] for point in points.points] == [
        False, False,
    ]  # fmt: skip


def test_what_a_field_is_survives_a_restart_and_a_damaged_file_does_not_stop_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "field-types" / "db.json"
    types = FieldTypes(path)
    types.settle([make_tag("p1.flow")])
    types.save()
    as_integer = make_tag("p2.flow", data_type=DataType.INT32)
    assert FieldTypes(path).of(as_integer) is DataType.FLOAT64
    path.write_text('[["pump", "flow", "complex"]]')
    assert FieldTypes(path).of(as_integer) is DataType.INT64


async def test_an_integer_for_a_field_of_floats_is_stored_as_one_not_refused(
    influx: Influx1, table: TagTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    influx.query("CREATE DATABASE widened")
    settings = Influx1Settings(type="influxdb1", name="db", url=influx.url, database="widened")
    before = TagTable()
    before.add(make_tag("p1.flow"))
    old, sink = build_sink(settings, before), None
    table.add(make_tag("p1.flow", data_type=DataType.INT32))
    sink = build_sink(settings, table, tmp_path)
    async with old.session(), sink.session():
        await old.write(make_frame([(1.0, 0, 1.5)]))
        receipt = await sink.write(make_frame([(2.0 + t, 0, float(t)) for t in range(20)]))
        assert not receipt.rejected
    (series,) = influx.query("SELECT count(flow) FROM pump", "widened")
    assert series["values"][0][1] == 21
    assert "sink.field_type sink=db field=pump.flow is=float" in caplog.text
    # The next process knows it before the first request.
    assert FieldTypes(tmp_path / "field-types" / "db.json").of(table[0]) is DataType.FLOAT64


def test_types_that_cannot_be_saved_cost_no_sink(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "field-types").write_text("a file where the folder should be")
    types = FieldTypes(tmp_path / "field-types" / "db.json")
    types.settle([make_tag("p1.flow")])
    types.save()
    assert "sink.field_types_not_saved" in caplog.text
    FieldTypes().save()  # without a file there is nothing to save


def test_words_that_no_server_says_are_not_learned() -> None:
    types = FieldTypes()
    assert not types.learn("pump", "flow", "complex")
    assert types.learn("pump", "flow", "float")
    assert not types.learn("pump", "flow", "float")


def test_names_that_no_rule_is_for_stay_and_a_table_may_grow(table: TagTable) -> None:
    seen = Renamed(table, RenameSettings(fields={"x*": "y*"}), "db")
    assert len(seen) == 0
    table.add(make_tag("p1.flow"))
    assert len(seen) == 1
    assert seen[0].field == "flow"
