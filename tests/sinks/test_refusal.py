from __future__ import annotations

import json
import time

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import SinkRejected
from gateway.sinks import Receipt
from gateway.sinks.config import Influx1Settings, Influx2Settings
from gateway.sinks.influxdb import InfluxSink, build
from gateway.sinks.refusal import Conflict, conflict_in, named_points, words_of
from gateway.tag import DataType, TagTable
from tests.samples import make_frame, make_tag
from tests.servers import Influx1
from tests.sinks.fake_influx import FakeInflux, fake_influx

POINTS = [b"pump,asset=a flow=1.5 1\n", b"pump,asset=b flow=it's: 2\n", b"pump,asset=c x=3 3\n"]
# As InfluxDB 1.6.7 said it.
TYPE_CONFLICT = (
    rb'{"error":"partial write: field type conflict: input field \"flow\" on measurement \"pump\"'
    rb' is type float, already exists as type integer dropped=%d"}'
)
UNPARSED = (
    rb'{"error":"partial write: unable to parse '
    rb"'pump,asset=a flow=1.5 1': missing field value\nunable to parse "
    rb"'pump,asset=b flow=it's: 2': invalid number dropped=0"
    rb'"}'
)


def test_all_points_are_named_when_as_many_were_dropped_as_were_sent() -> None:
    assert list(named_points(TYPE_CONFLICT % 3, POINTS)) == [0, 1, 2]
    assert not named_points(TYPE_CONFLICT % 2, POINTS)
    assert not named_points(TYPE_CONFLICT % 4, POINTS)


def test_lines_that_could_not_be_parsed_are_named_with_their_own_reason() -> None:
    assert named_points(UNPARSED, POINTS) == {
        0: "missing field value",
        1: "invalid number dropped=0",
    }
    version_2 = {"code": "invalid", "message": "unable to parse 'pump,asset=c x=3 3': no field"}
    assert named_points(json.dumps(version_2).encode(), POINTS) == {2: "no field"}


def test_a_line_that_was_never_sent_is_not_believed() -> None:
    assert not named_points(b'{"error":"unable to parse \'pump x=1\': no"}', POINTS)


def test_lines_are_named_by_number_when_the_quoted_line_is_ours() -> None:
    entries = [
        {"original_line": "pump,asset=b", "line_number": 2, "error_message": "no int"},
        {"original_line": "pump,asset=z", "line_number": 3, "error_message": "not ours"},
        {"original_line": "pump,asset=a", "line_number": 0, "error_message": "out of range"},
        {"original_line": "", "line_number": 1},
        {"line_number": 1},
        "pump",
    ]
    said = {"error": "partial write of line protocol occurred", "data": entries}
    assert named_points(json.dumps(said).encode(), POINTS) == {1: "no int"}


def test_a_field_type_conflict_names_measurement_and_field() -> None:
    assert conflict_in(TYPE_CONFLICT % 1) == Conflict(
        measurement="pump", field="flow", kept="integer"
    )
    assert conflict_in(b'{"error":"database is full"}') is None


@given(st.binary(max_size=300) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["error", "message", "data", "line_number", "original_line"]), inner
    ),
).map(lambda answer: json.dumps(answer).encode()))  # fmt: skip
def test_whatever_a_server_says_is_read_and_kept_short(said: bytes) -> None:
    assert set(named_points(said, POINTS)) <= {0, 1, 2}
    conflict_in(said)
    assert len(words_of(said).encode()) <= 255


def counting(sink: InfluxSink, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of points in each request that a sink makes from now on."""
    sizes: list[int] = []
    post = sink._post

    async def count(points: list[bytes]) -> object:
        sizes.append(len(points))
        return await post(points)

    monkeypatch.setattr(sink, "_post", count)
    return sizes


def influx1(server: Influx1, database: str, table: TagTable) -> InfluxSink:
    server.query(f"CREATE DATABASE {database}")
    facts = {"type": "influxdb1", "name": "db", "url": server.url, "database": database}
    return build(Influx1Settings.model_validate(facts), table)


async def test_a_tag_whose_type_was_changed_costs_its_own_samples_and_no_neighbours(
    influx: Influx1, table: TagTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = [table.add(make_tag(f"p1.was_{kind}")) for kind in ("integer", "bool")]
    flow = table.add(make_tag("p1.flow"))
    other = table.add(make_tag("p2.was_integer"))
    sink = influx1(influx, "changed", table)
    before = TagTable()
    before.add(make_tag("p1.was_integer", data_type=DataType.INT32))
    before.add(make_tag("p1.was_bool", data_type=DataType.BOOL))
    old = build(sink._settings, before)
    async with old.session(), sink.session():
        await old.write(make_frame([(1.0, 0, 1.0), (1.0, 1, 1.0)]))
        sizes = counting(sink, monkeypatch)
        rows = [(2.0 + t, tag, 0.5) for t in range(50) for tag in (*changed, flow, other)]
        receipt = await sink.write(make_frame(rows))
    assert len(sizes) == 5  # all; without each of the two fields; each of the two fields
    refused = {row for row, (_, tag, _) in enumerate(rows) if tag != flow}
    assert set(receipt.rejected) == refused
    assert all("field type conflict" in why for why in receipt.rejected.values())
    (series,) = influx.query("SELECT count(flow), count(was_integer) FROM pump", "changed")
    assert series["values"][0][1:] == [50, 1]


async def test_samples_beyond_the_retention_are_refused_in_one_request(
    influx: Influx1, table: TagTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.add(make_tag("p1.flow"))
    sink = influx1(influx, "short", table)
    influx.query("CREATE RETENTION POLICY r ON short DURATION 1h REPLICATION 1 DEFAULT")
    sizes = counting(sink, monkeypatch)
    async with sink.session():
        long_ago = make_frame([(1000.0 + t, 0, 1.0) for t in range(100)])
        receipt = await sink.write(long_ago)
        assert len(receipt.rejected) == 100
        assert "retention policy" in receipt.rejected[0]
        assert sizes == [100]
        now = time.time()
        mixed = make_frame([(1000.0, 0, 1.0), *[(now + t, 0, 1.0) for t in range(3)]])
        with pytest.raises(SinkRejected):  # which of them it does not say: the delivery halves
            await sink.write(mixed)
    (series,) = influx.query("SELECT count(flow) FROM pump", "short")
    assert series["values"][0][1] == 3


async def write_to(fake: FakeInflux, table: TagTable, count: int) -> Receipt:
    facts = {"type": "influxdb2", "name": "db", "url": fake.url, "bucket": "b"}
    sink = build(Influx2Settings.model_validate(facts), table)
    async with sink.session():
        return await sink.write(make_frame([(1.0 + i, 0, float(i)) for i in range(count)]))


async def test_the_lines_a_server_names_are_rejected_and_the_rest_sent_again(
    table: TagTable,
) -> None:
    table.add(make_tag("p1.flow"))

    def answer(lines: list[str]) -> web.Response:
        bad = [line for line in lines if "flow=3.0," in line or "flow=5.0," in line]
        message = "\n".join(f"unable to parse '{line}': odd" for line in bad)
        body = {"code": "invalid", "message": message}
        return web.json_response(body, status=400) if bad else web.Response(status=204)

    async with fake_influx() as fake:
        fake.answer = answer
        receipt = await write_to(fake, table, 8)
        assert receipt.rejected == {3: "odd", 5: "odd"}
        assert len(fake.stored) == 6
        assert len(fake.requests) == 2


async def test_a_conflict_that_only_some_points_have_is_left_to_halving(table: TagTable) -> None:
    table.add(make_tag("p1.flow"))
    async with fake_influx() as fake:
        fake.answer = lambda _: web.Response(status=400, body=TYPE_CONFLICT % 2)
        with pytest.raises(SinkRejected, match="field type conflict"):
            await write_to(fake, table, 8)
        fake.answer = lambda _: web.Response(status=400, body=TYPE_CONFLICT.replace(b"flow", b"x"))
        with pytest.raises(SinkRejected, match="field type conflict"):
            await write_to(fake, table, 8)
