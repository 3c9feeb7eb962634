"""Remote write: an independent decoder, and a real VictoriaMetrics, read what was meant."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cramjam import snappy
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import SinkParked, SinkRejected
from gateway.frame import Frame
from gateway.sinks.config import PrometheusSettings
from gateway.sinks.prometheus import STALE_BITS, PrometheusSink, build, encode_series, labels_of
from gateway.tag import DataType, Quality, TagTable
from tests.samples import make_frame, make_tag
from tests.servers import Victoria, running
from tests.sinks.fake_influx import fake_influx

T_S = 1_700_000_000


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """A protobuf message's fields, by the encoding guide: varint, 64 bits, length-delimited."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        match key & 7:
            case 0:
                value, at = varint(data, at)
                yield key >> 3, value
            case 1:
                yield key >> 3, data[at : at + 8]
                at += 8
            case 2:
                size, at = varint(data, at)
                yield key >> 3, data[at : at + size]
                at += size
            case kind:
                raise AssertionError(f"wire type {kind}")


def decoded(data: bytes) -> list[tuple[dict[str, str], list[tuple[int, bytes]]]]:
    """Labels and samples (milliseconds, the double's bytes) of each series."""
    found = []
    for number, series in fields(data):
        assert number == 1
        assert isinstance(series, bytes)
        labels, samples = {}, []
        for kind, message in fields(series):
            assert isinstance(message, bytes)
            parts = dict(fields(message))
            if kind == 1:
                name, value = parts[1], parts[2]
                assert isinstance(name, bytes)
                assert isinstance(value, bytes)
                labels[name.decode()] = value.decode()
            else:
                t_ms, bits = parts[2], parts[1]
                assert isinstance(t_ms, int)
                assert isinstance(bits, bytes)
                samples.append((t_ms, bits))
        found.append((labels, samples))
    return found


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(2**35, 2**42 - 1), st.floats(width=64)),
        max_size=40,
    )
)
def test_what_is_encoded_is_decoded_in_order_of_time(rows: list[tuple[int, int, float]]) -> None:
    heads = [b"\x0a\x06\x0a\x01n\x12\x01%d" % i for i in range(4)]
    found = decoded(
        b"".join(
            encode_series(
                heads,
                np.array([tag for tag, _, _ in rows], np.int32),
                np.array([t_ms for _, t_ms, _ in rows], np.int64),
                np.array([value for _, _, value in rows], np.float64),
            )
        )
    )
    wanted: dict[str, dict[int, bytes]] = {}
    for tag, t_ms, value in rows:
        wanted.setdefault(str(tag), {})[t_ms] = struct.pack("<d", value)
    assert {labels["n"]: samples for labels, samples in found} == {
        tag: sorted(samples.items()) for tag, samples in wanted.items()
    }


@given(st.text(min_size=1), st.text(min_size=1), st.dictionaries(st.text(), st.text()))
@example("pump", "flow", {"::name::": "another"})
def test_names_become_what_prometheus_allows(
    measurement: str, field: str, labels: dict[str, str]
) -> None:
    tag = make_tag("a.b", measurement=measurement, field=field, labels=tuple(labels.items()))
    found = labels_of(tag)
    assert list(found) == sorted(found)
    name = found["__name__"]
    assert name.isascii()
    assert not name[0].isdigit()
    assert all(c.isalnum() or c in "_:" for c in name)
    for label in found:
        assert label.isascii()
        assert label.isidentifier()
        assert label == "__name__" or not label.startswith("__")


def test_of_tags_that_would_be_one_series_the_second_is_refused() -> None:
    table = TagTable()
    for name in ("pump.temp-1", "pump.temp_1", "pump.flow"):
        table.add(make_tag(name))
    facts = {"type": "prometheus", "name": "prom", "url": "http://127.0.0.1/w"}
    sink = build(PrometheusSettings.model_validate(facts), table)
    sink._prepare()
    rejected: dict[int, str] = {}
    series = sink._series(make_frame([(T_S, 0, 1.0), (T_S, 1, 2.0), (T_S, 2, 3.0)]), rejected)
    assert len(series) == 2
    assert list(rejected) == [1]
    assert "that of pump.temp-1" in rejected[1]


def a_plant() -> TagTable:
    table = TagTable()
    table.add(make_tag("pump.flow"))
    table.add(make_tag("pump.model", data_type=DataType.STRING))
    table.add(make_tag("pump.starts", data_type=DataType.UINT64))
    return table


def sink_to(url: str, **more: object) -> PrometheusSink:
    facts = {"type": "prometheus", "name": "prom", "url": f"{url}/api/v1/write"} | more
    return build(PrometheusSettings.model_validate(facts), a_plant())


def every_kind() -> Frame:
    base = make_frame(
        [(T_S + i, 0, float(i)) for i in range(5)] + [(T_S, 1, math.nan), (T_S, 2, math.nan)],
        quality=[0, 0, 0, 0, int(Quality.BAD), 0, 0],
    )
    exact: dict[int, int | str] = {5: "P1", 6: 2**60}
    return Frame(base.t_ns, base.tag_ids, base.values, base.quality, exact)


async def test_victoriametrics_stores_what_was_sent(tmp_path: Path) -> None:
    with running(Victoria(tmp_path / "vm")) as server:
        sink = sink_to(server.url, bytes_max=1024)
        async with sink.session():
            receipt = await sink.write(every_kind())
        assert not receipt.rejected
        flow = server.export("pump_flow")
        assert flow[0]["metric"] == {"__name__": "pump_flow", "asset": "pump"}
        assert flow[0]["values"][:4] == [0.0, 1.0, 2.0, 3.0]
        assert flow[0]["timestamps"][:4] == [(T_S + i) * 1000 for i in range(4)]
        assert flow[0]["values"][4:] in ([], [None])  # the staleness marker
        assert server.export("pump_starts")[0]["values"] == pytest.approx([2.0**60])
        assert server.export("pump_model") == []


async def test_a_bad_sample_is_a_staleness_marker(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []

    async def post(_: object, __: str, ___: object, body: bytes, headers: object) -> object:
        sent.append(snappy.decompress_raw(body))
        assert headers
        raise SinkRejected("enough")

    sink = sink_to("http://127.0.0.1:1")
    monkeypatch.setattr(type(sink._client), "post", post)
    with pytest.raises(SinkRejected):
        await sink.write(every_kind())
    (_, samples), _ = decoded(bytes(sent[0]))
    assert samples[-1] == ((T_S + 4) * 1000, struct.pack("<Q", STALE_BITS))


async def test_a_time_that_remote_write_is_not_made_for_is_refused_alone() -> None:
    async with fake_influx() as fake:
        fake.answer = None  # type: ignore[assignment] - nothing valid reaches it
        sink = sink_to(fake.url)
        async with sink.session():
            receipt = await sink.write(make_frame([(1.0, 0, 1.0)]))
    assert "before 1971" in receipt.rejected[0]
    assert not fake.requests


async def test_without_its_library_the_sink_parks_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cramjam", None)
    sink = sink_to("http://127.0.0.1:1")
    async with sink.session():
        with pytest.raises(SinkParked, match=r"sluicegate\[prometheus\]"):
            await sink.write(every_kind())
