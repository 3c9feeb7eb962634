"""After an outage: what is current arrives at once, and the rest beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from aiohttp import web

from gateway.clock import SystemClock
from gateway.frame import Frame, Lane, Turn
from gateway.sinks import Receipt
from gateway.sinks import delivery as delivery_module
from gateway.sinks.budget import Budget
from gateway.sinks.config import Influx2Settings
from gateway.sinks.deadletters import DeadLetters
from gateway.sinks.delivery import Delivery, Link
from gateway.sinks.influxdb import InfluxSink, build
from gateway.spool import reader as reader_module
from gateway.spool.config import SpoolSettings
from gateway.spool.log import Spool
from gateway.tag import TagTable
from tests.samples import make_frame, make_tag
from tests.sinks.fake_influx import FakeInflux, fake_influx
from tests.sinks.fake_reader import FakeReader

BACKLOG = 4000
BATCH = 200


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "RETRY_FIRST_S", 0.004)
    monkeypatch.setattr(reader_module, "LIVE_AFTER_SAMPLES", 0)


class Plant:
    """A spool with a backlog, and the two deliveries of one sink."""

    def __init__(self, spool: Spool, fake: FakeInflux, sink: InfluxSink) -> None:
        self.spool = spool
        self.fake = fake
        self.sink = sink
        self.written = 0

    async def append(self, samples: int) -> None:
        numbers = np.arange(self.written, self.written + samples)
        self.written += samples
        t_ns = 10**18 + numbers * 10**6
        frame = Frame.of(t_ns, np.zeros(samples, np.int32), numbers.astype(np.float64))
        await self.spool.append(Turn(int(t_ns[-1]), {Lane.RAW: frame}))

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - nothing tells of a server's state
                await asyncio.sleep(0.002)

    def has(self, number: int) -> bool:
        return f"pump,asset=pump {10**18 + number * 10**6}" in self.fake.stored


@asynccontextmanager
async def plant(tmp_path: Path, **settings: object) -> AsyncIterator[Plant]:
    table = TagTable()
    table.add(make_tag("pump.flow"))
    options = SpoolSettings(commit_period=0.005)  # type: ignore[arg-type]
    spool_at = Spool.open(tmp_path / "spool", options, table, SystemClock())
    async with fake_influx() as fake, spool_at as spool:
        sink = build(
            Influx2Settings.model_validate(
                {"type": "influxdb2", "name": "db", "url": fake.url, "bucket": "b", "gzip": False}
            ),
            table,
        )
        fake.answer = lambda _: web.Response(status=503)
        made = Plant(spool, fake, sink)
        reader = spool.reader("db", [Lane.RAW])
        deliver = partial(
            Delivery,
            sink=sink,
            settings=SimpleNamespace(
                **({"samples_max": BATCH, "retry_max": 0.05, "backfill_share": 0.5} | settings)
            ),
            clock=SystemClock(),
            link=Link(dead_letters=DeadLetters(tmp_path / "db.jsonl")),
            table=table,
        )
        current = deliver(reader=reader)
        rest = deliver(reader=reader.backfill, ahead=current)
        async with sink.session(), asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(each.run()) for each in (current, rest)]
            await made.append(10)
            await fake.asked(1)  # the outage is noticed
            for _ in range(BACKLOG // 100):
                await made.append(100)
            yield made
            for task in running:
                task.cancel()


def accept(fake: FakeInflux) -> None:
    fake.answer = lambda _: web.Response(status=204)


async def test_current_values_do_not_wait_for_the_backlog(tmp_path: Path) -> None:
    async with plant(tmp_path) as made:
        accept(made.fake)
        await made.until(lambda: made.fake.stored)
        await made.append(1)
        await made.until(lambda: made.has(made.written - 1))
        assert len(made.fake.stored) < BACKLOG, "the backlog was first"
        await made.until(lambda: len(made.fake.stored) == made.written)
        await made.until(lambda: made.sink.stats.lag_samples == 0)
        sent = [line for body in made.fake.bodies for line in body]
        assert made.sink.stats.samples_total == made.written  # and none twice
        assert len(set(sent)) == made.written


async def test_poison_in_the_backlog_does_not_hold_up_what_is_current(tmp_path: Path) -> None:
    async with plant(tmp_path) as made:

        def answer(lines: list[str]) -> web.Response:
            is_old = any(int(line.rsplit(" ", 1)[1]) < 10**18 + 3000 * 10**6 for line in lines)
            return web.Response(status=500 if is_old and len(lines) > 10 else 204)

        made.fake.answer = answer  # it fails on what is old for as long as it is told to
        for _ in range(20):
            await made.append(1)
            await made.until(lambda: made.has(made.written - 1))
        assert not made.has(1000)
        accept(made.fake)
        await made.until(lambda: len(made.fake.stored) == made.written)
        assert made.sink.stats.dead_letters_total == 0


async def test_while_the_server_is_away_one_asks(tmp_path: Path) -> None:
    async with plant(tmp_path, retry_max=0.2) as made:
        accept(made.fake)
        await made.until(lambda: made.has(BACKLOG // 4))
        made.fake.answer = lambda _: web.Response(status=503)
        await made.append(1)
        await asyncio.sleep(0.3)
        made.fake.bodies.clear()
        await asyncio.sleep(1.0)
        asked = {lines[0] for lines in made.fake.bodies}
        assert len(asked) <= 2  # what is current, and at most what was under way already
        accept(made.fake)
        await made.until(lambda: len(made.fake.stored) == made.written)


async def test_the_backlog_leaves_the_link_its_share(tmp_path: Path) -> None:
    async with plant(tmp_path, backfill_share=0.25) as made:
        write = made.sink.write

        async def slow(frame: Frame) -> Receipt:
            await asyncio.sleep(0.03)
            return await write(frame)

        made.sink.write = slow  # type: ignore[method-assign]
        accept(made.fake)
        await made.until(lambda: made.fake.stored)
        before = len(made.fake.bodies)
        for _ in range(15):
            await made.append(1)
            await made.until(lambda: made.has(made.written - 1))
        mine = sum(len(lines) > 1 for lines in made.fake.bodies[before:])
        assert 0 < mine < 15
        await made.until(lambda: len(made.fake.stored) == made.written)


async def test_a_used_up_budget_holds_everything_but_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(delivery_module, "BUDGET_POLL_S", 0.01)
    table = TagTable()
    table.add(make_tag("pump.flow"))
    event = table.add(make_tag("pump.event", lane=Lane.EVENT))
    budget = Budget(tmp_path / "budget.json", bytes_hour=2000)
    options = SpoolSettings(commit_period=0.005)  # type: ignore[arg-type]
    spool_at = Spool.open(tmp_path / "spool", options, table, SystemClock())
    async with fake_influx() as fake, spool_at as spool:
        facts = {"type": "influxdb2", "name": "db", "url": fake.url, "bucket": "b", "gzip": False}
        sink = build(Influx2Settings.model_validate(facts), table)
        delivery = Delivery(
            sink=sink,
            reader=spool.reader("db", [Lane.EVENT, Lane.RAW]),
            settings=SimpleNamespace(samples_max=5, retry_max=0.05),
            clock=SystemClock(),
            table=table,
            link=Link(dead_letters=DeadLetters(tmp_path / "db.jsonl"), budget=budget),
        )
        async with sink.session(), asyncio.TaskGroup() as tasks:
            running = tasks.create_task(delivery.run())
            made = Plant(spool, fake, sink)
            for _ in range(20):
                await made.append(5)
            await made.until(lambda: sink.stats.state == "budget")
            assert 1600 <= sink.stats.bytes_total <= 2000
            await asyncio.sleep(0.1)
            assert caplog.text.count("sink.budget_used") == 1  # said once, not at every look
            assert sink.stats.lag_samples > 0
            alarm = Frame.of(10**18, np.array([event], np.int32), np.array([1.0]))
            await spool.append(Turn(10**18, {Lane.EVENT: alarm}))
            await made.until(lambda: any("event=1" in line for line in fake.bodies[-1]))
            assert sink.stats.budget_bytes_left < 400
            budget._hour.number -= 1  # the next hour
            budget._day.number -= 1
            await made.until(lambda: len(fake.stored) > 25)
            running.cancel()


async def test_a_token_that_is_written_anew_is_tried_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_module, "SECRET_POLL_S", 0.01)
    token = tmp_path / "token"
    token.write_text("old")
    table = TagTable()
    table.add(make_tag("pump.flow"))
    async with fake_influx() as fake:

        def answer(_: list[str]) -> web.Response:
            is_right = fake.requests[-1].headers["Authorization"] == "Token new"
            return web.Response(status=204 if is_right else 401)

        fake.answer = answer
        facts = {"type": "influxdb2", "name": "db", "url": fake.url, "bucket": "b"}
        settings = Influx2Settings.model_validate(facts | {"token": f"file:{token}"})
        sink = build(settings, table)
        reader = FakeReader([make_frame([(1000.0, 0, 1.0)])])
        delivery = Delivery(
            sink=sink,
            reader=reader,
            settings=settings,
            clock=SystemClock(),
            table=table,
            link=Link(dead_letters=DeadLetters(tmp_path / "db.jsonl"), secrets=(settings.token,)),
        )
        async with sink.session(), asyncio.TaskGroup() as tasks:
            running = tasks.create_task(delivery.run())
            await fake.asked(1)
            await asyncio.sleep(0.1)
            assert len(fake.requests) == 1  # half a minute is to pass before the next
            token.write_text("new")
            async with asyncio.timeout(5):
                await reader.done.wait()
            running.cancel()
        assert len(fake.requests) == 2
