"""What two real servers read of names and texts made to confuse them.

InfluxDB 1 says what it cannot read; VictoriaMetrics answers 204 and drops it without a word. So
whatever the encoder does not refuse must be found in both, under exactly the name it was given.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from gateway.frame import Frame
from gateway.sinks.config import Influx1Settings, Influx2Settings
from gateway.sinks.influxdb import build
from gateway.sinks.lineprotocol import LineEncoder
from gateway.tag import DataType, Tag, TagTable
from tests.samples import make_frame, make_tag
from tests.servers import Influx1, Victoria, running

ALPHABET = "ab\\,= \"#'\té."
NAMES = 400
T_S = 1_700_000_000


def hostile(rng: random.Random, length: int, alphabet: str = ALPHABET) -> str:
    return "".join(rng.choice(alphabet) for _ in range(rng.randint(1, length)))


def hostile_plant(seed: int) -> tuple[TagTable, Frame]:
    """Assets with two tags each: a number (its own id) in a hostile place, and a hostile text."""
    rng = random.Random(seed)
    table, rows, exact = TagTable(), [], {}
    for i in range(NAMES):
        labels, field, measurement = (("asset", f"p{i}"),), "x", f"m{i}"
        match i % 4:
            case 0:
                labels = (("asset", hostile(rng, 5)),)
            case 1:
                labels = (("asset", f"p{i}"), (hostile(rng, 5), "v"))
            case 2:
                field = hostile(rng, 5)
            case 3:
                measurement += hostile(rng, 5)
        facts = {"labels": labels, "measurement": measurement}
        number = table.add(make_tag(f"p{i}.{i}.n", field=field, **facts))
        text = table.add(make_tag(f"p{i}.{i}.t", field="said", data_type=DataType.STRING, **facts))
        rows += [(T_S, number, float(number + 1)), (T_S, text, math.nan)]
        exact[len(rows) - 1] = hostile(rng, 12, ALPHABET + "\n\r")
    base = make_frame(rows)
    return table, Frame(base.t_ns, base.tag_ids, base.values, base.quality, exact)


def sent(table: TagTable, frame: Frame) -> list[tuple[Tag, float]]:
    """The number tags that the encoder does not refuse."""
    refused = LineEncoder(table).encode(frame).refused
    kept = [row for row in range(0, len(frame), 2) if row not in refused]
    assert NAMES // 3 < len(kept) < NAMES  # the alphabet gives both kinds
    return [(table[row], float(frame.values[row])) for row in kept]


@pytest.mark.parametrize("seed", [1, 2])
async def test_victoriametrics_finds_every_point_that_is_not_refused(
    tmp_path: Path, seed: int
) -> None:
    table, frame = hostile_plant(seed)
    with running(Victoria(tmp_path / "vm")) as server:
        settings = Influx2Settings.model_validate(
            {"type": "influxdb2", "name": "db", "url": server.url, "bucket": "b"}
        )
        sink = build(settings, table)
        async with sink.session():
            await sink.write(frame)
        found = {
            series["values"][0]: series["metric"]
            for series in server.export('{__name__!~".*_(quality|said)"}')
        }
    for tag, value in sent(table, frame):
        labels = dict(tag.labels) | {"__name__": f"{tag.measurement}_{tag.field}"}
        assert found.get(value) == labels, tag


@pytest.mark.parametrize("seed", [1, 2])
async def test_influxdb_1_finds_every_point_that_is_not_refused(tmp_path: Path, seed: int) -> None:
    table, frame = hostile_plant(seed)
    with running(Influx1(tmp_path / "influx")) as server:
        server.query("CREATE DATABASE plant")
        settings = Influx1Settings.model_validate(
            {"type": "influxdb1", "name": "db", "url": server.url, "database": "plant"}
        )
        sink = build(settings, table)
        async with sink.session():
            await sink.write(frame)
        for tag, value in sent(table, frame):
            quoted = tag.measurement.replace("\\", "\\\\").replace('"', '\\"')
            (series,) = server.query(f'SELECT * FROM "{quoted}" GROUP BY *', "plant")
            assert series["tags"] == dict(tag.labels), tag
            row = dict(zip(series["columns"], series["values"][0], strict=True))
            assert row[tag.field] == value, tag
            said = frame.exact[round(value)]  # the text's row is the next one
            assert row.get("said") == (None if "\n" in str(said) else said), tag
