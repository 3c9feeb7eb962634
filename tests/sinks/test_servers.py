"""What two real servers read of names and texts made to confuse them, and of kills.

InfluxDB 1 says what it cannot read; VictoriaMetrics answers 204 and drops it without a word. So
whatever the encoder does not refuse must be found in both, under exactly the name it was given.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.clock import ManualClock
from gateway.frame import Frame
from gateway.sinks import delivery
from gateway.sinks.config import Influx1Settings, Influx2Settings, PrometheusSettings
from gateway.sinks.deadletters import DeadLetters
from gateway.sinks.influxdb import InfluxSink, build
from gateway.sinks.lineprotocol import LineEncoder
from gateway.sinks.prometheus import PrometheusSink
from gateway.sinks.prometheus import build as build_prometheus
from gateway.tag import DataType, Tag, TagTable
from simulators.proxy import FaultProxy, fault_proxy
from tests.rig import mounted, wait_until
from tests.samples import make_frame, make_tag
from tests.servers import Influx1, Victoria, running
from tests.sinks.fake_reader import FakeReader

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "RETRY_FIRST_S", 0.02)


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


def sixty_batches(
    sink: InfluxSink | PrometheusSink, folder: Path
) -> tuple[delivery.Delivery, FakeReader]:
    """What delivers 60 batches of 50 points of one tag, and what it reads them from."""
    table = sink._table
    assert isinstance(table, TagTable)
    table.add(make_tag("p1.flow"))
    frames = [
        make_frame([(float(T_S + 50 * batch + t), 0, float(t)) for t in range(50)])
        for batch in range(60)
    ]
    reader = FakeReader(frames)
    made = delivery.Delivery(
        sink=sink,
        reader=reader,
        settings=SimpleNamespace(samples_max=20_000, retry_max=0.2),
        clock=ManualClock(),
        link=delivery.Link(dead_letters=DeadLetters(folder / "db.jsonl")),
        table=table,
    )
    return made, reader


async def deliver_through_restarts(
    server: Influx1 | Victoria, end: Callable[[], None], sink: InfluxSink, folder: Path
) -> None:
    """Deliver 60 batches of 50 points; the server goes down three times meanwhile."""
    made, reader = sixty_batches(sink, folder)
    stops = [reader.stop_at(batches) for batches in (10, 25, 40)]
    async with asyncio.timeout(60), sink.session(), asyncio.TaskGroup() as tasks:
        delivering = tasks.create_task(made.run())
        for has_come, may_go_on in stops:
            await has_come.wait()
            end()
            may_go_on.set()
            await asyncio.to_thread(server.start)
        await reader.done.wait()
        delivering.cancel()
    assert sink.stats.dead_letters_total == 0
    assert sink.stats.samples_total == 3000
    assert sink.stats.retries_total >= 3


async def test_influxdb_1_killed_three_times_has_everything_once(
    tmp_path: Path, table: TagTable
) -> None:
    with running(Influx1(tmp_path / "influx")) as server:
        server.query("CREATE DATABASE plant")
        settings = Influx1Settings.model_validate(
            {"type": "influxdb1", "name": "db", "url": server.url, "database": "plant"}
        )
        sink = build(settings, table)
        await deliver_through_restarts(server, server.kill, sink, tmp_path)
        (series,) = server.query("SELECT count(flow), sum(flow) FROM pump", "plant")
        assert series["values"][0][1:] == [3000, 60 * sum(range(50))]


async def test_victoriametrics_restarted_three_times_has_everything_once(
    tmp_path: Path, table: TagTable
) -> None:
    """Stopped, not killed: it answers 204 a second before its data is safe from a kill."""
    with running(Victoria(tmp_path / "vm")) as server:
        settings = Influx2Settings.model_validate(
            {"type": "influxdb2", "name": "db", "url": server.url, "bucket": "b"}
        )
        sink = build(settings, table)
        await deliver_through_restarts(server, server.stop, sink, tmp_path)
        (series,) = server.export('{__name__="pump_flow"}')
        assert len(series["values"]) == len(set(series["timestamps"])) == 3000
        assert sum(series["values"]) == 60 * sum(range(50))


def memory_disk(folder: Path, mib: int) -> AbstractContextManager[Path]:
    return mounted("tmpfs", folder / "disk", "-t", "tmpfs", "-o", f"size={mib}m")


async def deliver_past_a_full_disk(
    disk: Path, leave_free: int, make_room: Callable[[], None], sink: InfluxSink, folder: Path
) -> None:
    """Deliver 60 batches; after twenty the server's disk is full, until it has refused a while."""
    made, reader = sixty_batches(sink, folder)
    has_come, may_go_on = reader.stop_at(20)
    filler = disk / "filler"
    async with asyncio.timeout(60), sink.session(), asyncio.TaskGroup() as tasks:
        delivering = tasks.create_task(made.run())
        await has_come.wait()
        room = os.statvfs(disk)
        filler.write_bytes(bytes(room.f_bavail * room.f_frsize - leave_free))
        await asyncio.sleep(2.5)  # VictoriaMetrics looks once a second
        may_go_on.set()
        await asyncio.to_thread(wait_until, lambda: sink.stats.retries_total >= 5)
        assert sink.stats.state == "retrying"
        assert not reader.done.is_set()
        filler.unlink()
        await asyncio.to_thread(make_room)
        await reader.done.wait()
        delivering.cancel()
    assert sink.stats.dead_letters_total == 0
    assert sink.stats.samples_total == 3000


@needs_root
async def test_influxdb_1_whose_disk_was_full_has_everything_once(
    tmp_path: Path, table: TagTable
) -> None:
    with memory_disk(tmp_path, 32) as disk, running(Influx1(disk)) as server:
        server.query("CREATE DATABASE plant")
        settings = Influx1Settings.model_validate(
            {"type": "influxdb1", "name": "db", "url": server.url, "database": "plant"}
        )

        def restart() -> None:  # it writes nothing more after an error, room or not
            server.kill()
            server.start()

        sink = build(settings, table)
        await deliver_past_a_full_disk(disk, 0, restart, sink, tmp_path)
        (series,) = server.query("SELECT count(flow), sum(flow) FROM pump", "plant")
        assert series["values"][0][1:] == [3000, 60 * sum(range(50))]


@needs_root
async def test_victoriametrics_whose_disk_was_full_has_everything_once(
    tmp_path: Path, table: TagTable
) -> None:
    with memory_disk(tmp_path, 64) as disk, running(Victoria(disk)) as server:
        settings = Influx2Settings.model_validate(
            {"type": "influxdb2", "name": "db", "url": server.url, "bucket": "b"}
        )
        sink = build(settings, table)
        await deliver_past_a_full_disk(disk, 6 << 20, lambda: None, sink, tmp_path)
        (series,) = server.export('{__name__="pump_flow"}')
        assert len(series["values"]) == len(set(series["timestamps"])) == 3000
        assert sum(series["values"]) == 60 * sum(range(50))


async def deliver_over_a_bad_link(
    proxy: FaultProxy, sink: InfluxSink | PrometheusSink, folder: Path
) -> None:
    """Deliver 60 batches while the way to the server is cut, stalled, slow and away, in turn."""
    made, reader = sixty_batches(sink, folder)
    rng = random.Random(5)
    faults: list[Callable[[], object]] = [
        lambda: proxy.cut_after(rng.randrange(1, 400), "to_server"),  # within a request
        lambda: proxy.cut_after(rng.randrange(0, 40), "to_client"),  # stored, and nobody says so
        proxy.cut,
        lambda: proxy.stall("to_client"),
        lambda: proxy.dribble(0.05, "to_client"),
        lambda: proxy.delay(0.2),
    ]
    stops = [reader.stop_at(batches) for batches in range(5, 54, 8)]
    async with asyncio.timeout(100), sink.session(), asyncio.TaskGroup() as tasks:
        delivering = tasks.create_task(made.run())
        for number, (has_come, may_go_on) in enumerate(stops):
            await has_come.wait()
            faults[number % len(faults)]()
            may_go_on.set()
            await asyncio.sleep(0.4)
            proxy.heal()
        await reader.done.wait()
        delivering.cancel()
    assert sink.stats.dead_letters_total == 0
    assert sink.stats.samples_total == 3000
    assert sink.stats.retries_total >= 3


async def test_influxdb_1_behind_a_bad_link_has_everything_once(
    tmp_path: Path, table: TagTable
) -> None:
    with running(Influx1(tmp_path / "influx")) as server:
        server.query("CREATE DATABASE plant")
        async with fault_proxy("127.0.0.1", server.port, seed=1) as proxy:
            settings = Influx1Settings.model_validate(
                {"type": "influxdb1", "name": "db", "url": f"http://127.0.0.1:{proxy.port}",
                 "database": "plant", "timeout": 0.3}
            )  # fmt: skip
            await deliver_over_a_bad_link(proxy, build(settings, table), tmp_path)
        (series,) = server.query("SELECT count(flow), sum(flow) FROM pump", "plant")
        assert series["values"][0][1:] == [3000, 60 * sum(range(50))]


async def test_victoriametrics_behind_a_bad_link_has_everything(
    tmp_path: Path, table: TagTable
) -> None:
    """It takes a line that was torn for whole, so there may be more; docs/configuration.md."""
    with running(Victoria(tmp_path / "vm")) as server:
        async with fault_proxy("127.0.0.1", server.port, seed=2) as proxy:
            settings = Influx2Settings.model_validate(
                {"type": "influxdb2", "name": "db", "url": f"http://127.0.0.1:{proxy.port}",
                 "bucket": "b", "timeout": 0.3}
            )  # fmt: skip
            await deliver_over_a_bad_link(proxy, build(settings, table), tmp_path)
        found = values_of(server)
        meant = {(T_S + second) * 1000: float(second % 50) for second in range(3000)}
        assert {t_ms: found.get(t_ms) for t_ms in meant} == meant


async def test_by_remote_write_no_sample_can_be_torn(tmp_path: Path, table: TagTable) -> None:
    """A compressed block is whole or not there at all."""
    with running(Victoria(tmp_path / "vm")) as server:
        async with fault_proxy("127.0.0.1", server.port, seed=3) as proxy:
            url = f"http://127.0.0.1:{proxy.port}/api/v1/write"
            settings = PrometheusSettings.model_validate(
                {"type": "prometheus", "name": "db", "url": url, "timeout": 0.3}
            )
            sink = build_prometheus(settings, table)
            await deliver_over_a_bad_link(proxy, sink, tmp_path)
        found = values_of(server)
        assert len(found) == 3000
        assert sum(found.values()) == 60 * sum(range(50))


def values_of(server: Victoria) -> dict[int, float]:
    """Of the one series, by time in milliseconds; what was sent twice stands twice, alike."""
    (series,) = server.export('{__name__="pump_flow"}')
    return dict(zip(series["timestamps"], series["values"], strict=True))
