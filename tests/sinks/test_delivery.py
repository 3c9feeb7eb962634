from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import web

from gateway.clock import ManualClock
from gateway.errors import SinkUnavailable
from gateway.frame import Frame
from gateway.sinks import Receipt
from gateway.sinks import delivery as delivery_module
from gateway.sinks.budget import Budget
from gateway.sinks.config import Influx2Settings
from gateway.sinks.deadletters import DeadLetters
from gateway.sinks.delivery import Delivery, Link
from gateway.sinks.influxdb import InfluxSink, build
from gateway.tag import TagTable
from tests.samples import make_frame, make_tag
from tests.sinks.fake_influx import FakeInflux, fake_influx
from tests.sinks.fake_reader import FakeReader


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "RETRY_FIRST_S", 0.004)
    monkeypatch.setattr(delivery_module, "PARKED_RETRY_FIRST_S", 0.01)
    monkeypatch.setattr(delivery_module, "PARKED_RETRY_MAX_S", 0.02)


@asynccontextmanager
async def delivering(
    table: TagTable, frames: list[Frame], folder: Path, budget: Budget | None = None
) -> AsyncIterator[tuple[FakeInflux, FakeReader, InfluxSink, DeadLetters]]:
    """A delivery to a fake server; it runs from the end of the block's first `await`."""
    async with fake_influx() as fake:
        settings = Influx2Settings.model_validate(
            {"type": "influxdb2", "name": "db", "url": fake.url, "bucket": "b", "timeout": "2s"}
        )
        sink, reader = build(settings, table), FakeReader(frames)
        letters = DeadLetters(folder / "db.jsonl")
        made = Delivery(
            sink=sink,
            reader=reader,
            settings=SimpleNamespace(samples_max=20_000, retry_max=0.05),
            clock=ManualClock(),
            link=Link(dead_letters=letters, budget=budget),
            table=table,
        )
        async with sink.session(), asyncio.TaskGroup() as tasks:
            running = tasks.create_task(made.run())
            yield fake, reader, sink, letters
            running.cancel()


def numbers(count: int, start: int = 0) -> Frame:
    return make_frame([(1000.0 + start + i, 0, float(start + i)) for i in range(count)])


async def finished(reader: FakeReader) -> None:
    async with asyncio.timeout(20):
        await reader.done.wait()


async def retried(sink: InfluxSink, times: int) -> None:
    async with asyncio.timeout(20):
        while sink.stats.retries_total < times:  # noqa: ASYNC110 - stats tell no event
            await asyncio.sleep(0.01)


async def test_everything_is_delivered_in_order(table: TagTable, tmp_path: Path) -> None:
    table.add(make_tag("p1.flow"))
    frames = [numbers(10, 10 * i) for i in range(5)]
    async with delivering(table, frames, tmp_path) as (fake, reader, sink, _):
        await finished(reader)
        assert len(fake.stored) == 50
        assert [len(lines) for lines in fake.bodies] == [10] * 5
        assert sink.stats.samples_total == 50


@pytest.mark.parametrize("status", [200, 302, 408, 429, 500, 502, 503])
async def test_nothing_moves_until_the_server_takes_it(
    table: TagTable, tmp_path: Path, status: int
) -> None:
    table.add(make_tag("p1.flow"))
    async with delivering(table, [numbers(10)], tmp_path) as (fake, reader, sink, _):
        answers = iter([status] * 4)
        fake.answer = lambda _: web.Response(status=next(answers, 204))
        await finished(reader)
        assert len(fake.requests) == 5
        assert all(lines == fake.bodies[0] for lines in fake.bodies)
        assert len(fake.stored) == 10
        assert sink.stats.retries_total == 4
        assert sink.stats.dead_letters_total == 0


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_refused_login_parks_the_sink_and_drops_nothing(
    table: TagTable, tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    table.add(make_tag("p1.flow"))
    async with delivering(table, [numbers(10)], tmp_path) as (fake, reader, sink, _):
        fake.answer = lambda _: web.Response(status=status)
        await fake.asked(4)
        assert sink.stats.state == "parked"
        assert reader.acknowledged == 0
        fake.answer = lambda _: web.Response(status=204)
        await finished(reader)
        assert len(fake.stored) == 10
    assert caplog.text.count("sink.parked") == 1


@pytest.mark.parametrize("words", ["field type conflict", "no"])
@pytest.mark.parametrize("poison", [{0}, {63}, {17}, {3, 4, 60}])
async def test_poison_is_found_by_halving_and_buried_with_the_servers_words(
    table: TagTable, tmp_path: Path, poison: set[int], words: str
) -> None:
    table.add(make_tag("p1.flow"))
    bad = {f"flow={float(value)}," for value in poison}
    accepted = []

    def answer(lines: list[str]) -> web.Response:
        if any(text in line for line in lines for text in bad):
            return web.Response(status=400, text=words)
        accepted.append(lines)
        return web.Response(status=204)

    async with delivering(table, [numbers(64), numbers(5, 100)], tmp_path) as found:
        fake, reader, sink, letters = found
        fake.answer = answer
        await finished(reader)
        assert len(fake.stored) == 64 - len(poison) + 5
        # The halvings down to it, once more without a reason, what is behind it; the other batch.
        halvings = math.log2(64) + 2 + (words == "no")
        assert len(fake.requests) <= 1 + len(poison) * halvings + 1
        # A good point is taken once; one of them again where none comes after a bad one.
        good = len(set().union(*fake.bodies)) - len(poison)
        assert good <= sum(map(len, accepted)) <= good + 1
        assert sink.stats.dead_letters_total == letters.letters_total == len(poison)
    written = [json.loads(line) for line in (tmp_path / "db.jsonl").read_text().splitlines()]
    assert {letter["value"] for letter in written} == {float(value) for value in poison}
    assert all(words in letter["reason"] for letter in written)
    assert written[0]["tag"] == "p1.flow"


@pytest.mark.parametrize("first", [0, 5])
async def test_a_server_that_refuses_whatever_it_is_sent_refuses_us_and_nothing_is_lost(
    table: TagTable, tmp_path: Path, first: int, caplog: pytest.LogCaptureFixture
) -> None:
    table.add(make_tag("p1.flow"))
    frames = [numbers(64, 100), *([] if not first else [numbers(7, 300)])]
    async with delivering(
        table, [*([numbers(first)] if first else []), *frames], tmp_path
    ) as found:
        fake, reader, sink, letters = found
        told: list[list[str]] = []

        def answer(lines: list[str]) -> web.Response:
            told.append(lines)
            if first and len(told) == 1:
                return web.Response(status=204)
            text = "Client sent an HTTP request to an HTTPS server."
            return web.Response(status=400, text=text)

        fake.answer = answer
        await retried(sink, 3)
        assert sink.stats.state == "parked"
        assert "it refuses whatever it is sent" in sink.stats.error_last
        assert "HTTPS server" in sink.stats.error_last
        asked = len(told)
        await retried(sink, 6)
        assert len(told) <= asked + 5  # one point a round: that is no way to fill a link
        fake.answer = lambda _: web.Response(status=204)
        await finished(reader)
        assert len(fake.stored) == first + sum(map(len, frames))
        assert sink.stats.dead_letters_total == letters.letters_total == 0
        assert sink.stats.state != "parked"
    assert caplog.text.count("sink.parked") == 1


async def test_a_server_that_begins_to_refuse_everything_costs_nothing(
    table: TagTable, tmp_path: Path
) -> None:
    table.add(make_tag("p1.flow"))
    async with delivering(table, [numbers(64)], tmp_path) as (fake, reader, sink, letters):
        taken: list[list[str]] = []

        def answer(lines: list[str]) -> web.Response:
            if len(lines) == 64 or taken:
                return web.Response(status=400, text="no")
            taken.append(lines)  # the first half; then somebody turns TLS on
            return web.Response(status=204)

        fake.answer = answer
        await retried(sink, 2)
        assert sink.stats.state == "parked"
        fake.answer = lambda _: web.Response(status=204)
        await finished(reader)
        assert letters.letters_total == 0
        assert len(fake.stored) == 64


@pytest.mark.parametrize("status", [200, 400, 500, 503])
async def test_a_server_in_trouble_costs_no_more_than_the_links_budget(
    table: TagTable, tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_module, "BUDGET_POLL_S", 0.01)
    table.add(make_tag("p1.flow"))
    budget = Budget(tmp_path / "budget.json", bytes_hour=5000)
    async with delivering(table, [numbers(200)], tmp_path, budget) as (fake, reader, sink, _):
        fake.answer = lambda _: web.Response(status=status, text="<html>")
        async with asyncio.timeout(20):
            while sink.stats.state != "budget":  # noqa: ASYNC110 - stats tell no event
                await asyncio.sleep(0.01)
        sent = sink.stats.bytes_total
        await asyncio.sleep(0.2)
        assert sink.stats.bytes_total == sent
        assert sent < 5000 + max(len("\n".join(body)) for body in fake.bodies)
        assert reader.acknowledged == 0


async def test_a_path_that_breaks_long_requests_off_is_sent_short_ones(
    table: TagTable, tmp_path: Path
) -> None:
    table.add(make_tag("p1.flow"))
    async with delivering(table, [numbers(64), numbers(64, 100)], tmp_path) as found:
        fake, reader, _, letters = found

        def answer(lines: list[str]) -> web.Response | None:
            if len(lines) > 10:
                transport = fake.requests[-1].transport
                assert transport is not None
                transport.abort()
            return web.Response(status=204 if len(lines) <= 10 else 200)

        fake.answer = answer
        await finished(reader)
        assert len(fake.stored) == 128
        assert letters.letters_total == 0
        assert reader.asked[1] <= 11  # from then on


async def test_a_batch_that_is_too_large_is_halved_and_the_size_remembered(
    table: TagTable, tmp_path: Path
) -> None:
    table.add(make_tag("p1.flow"))
    frames = [numbers(100), numbers(10, 100)]
    async with delivering(table, frames, tmp_path) as (fake, reader, sink, _):
        fake.answer = lambda lines: web.Response(status=413 if len(lines) > 30 else 204)
        await finished(reader)
        assert len(fake.stored) == 110
        assert sink.stats.dead_letters_total == 0
        assert reader.asked[1] < 100


@pytest.mark.parametrize("count", [1, 4])
async def test_a_point_too_large_by_itself_is_buried_while_others_are_taken(
    table: TagTable, tmp_path: Path, count: int
) -> None:
    table.add(make_tag("p1.flow"))
    frames = [numbers(3, 50), numbers(count)]
    async with delivering(table, frames, tmp_path) as (fake, reader, sink, _):
        fake.answer = lambda lines: web.Response(
            status=413 if any("flow=0.0," in line for line in lines) else 204
        )
        await finished(reader)
        assert sink.stats.dead_letters_total == 1
        assert len(fake.stored) == 3 + count - 1


async def test_a_server_to_which_everything_is_too_large_parks_the_sink_and_nothing_is_lost(
    table: TagTable, tmp_path: Path
) -> None:
    table.add(make_tag("p1.flow"))
    async with delivering(table, [numbers(8)], tmp_path) as (fake, reader, sink, _):
        fake.answer = lambda _: web.Response(status=413)
        await retried(sink, 3)
        assert sink.stats.state == "parked"
        assert "413" in sink.stats.error_last
        fake.answer = lambda _: web.Response(status=204)
        await finished(reader)
        assert len(fake.stored) == 8
        assert sink.stats.dead_letters_total == 0


@pytest.mark.parametrize("points", [1, 16])
@pytest.mark.parametrize("every", [2, 3, 10])
async def test_a_server_that_refuses_now_and_then_without_a_reason_costs_nothing(
    table: TagTable, tmp_path: Path, points: int, every: int
) -> None:
    """One of the servers behind a balancer speaks HTTPS only."""
    table.add(make_tag("p1.flow"))
    rng = random.Random(every)
    frames = [numbers(points, points * i) for i in range(40)]
    async with delivering(table, frames, tmp_path) as (fake, reader, sink, _):
        fake.answer = lambda _: web.Response(status=204 if rng.randrange(every) else 400)
        await finished(reader)
        # With a search's first refusals nobody can know better.
        assert sink.stats.dead_letters_total <= (points > 1)
        assert len(fake.stored) + sink.stats.dead_letters_total == 40 * points


async def test_an_outage_that_ends_while_a_point_is_suspected_costs_nothing(
    table: TagTable, tmp_path: Path
) -> None:
    table.add(make_tag("p1.flow"))
    async with delivering(table, [numbers(2, 50), numbers(8)], tmp_path) as found:
        fake, reader, sink, _ = found
        alone = []

        def answer(lines: list[str]) -> web.Response:
            if len(fake.requests) > 1 and len(alone) < 3:
                alone.extend(lines if len(lines) == 1 else [])
                return web.Response(status=502)
            return web.Response(status=204)

        fake.answer = answer
        await finished(reader)
        assert len(alone) == 3
        assert len(fake.stored) == 10
        assert sink.stats.dead_letters_total == 0


@pytest.mark.parametrize("status", [403, None])
async def test_a_point_that_a_firewall_stops_is_buried_and_the_rest_delivered(
    table: TagTable, tmp_path: Path, status: int | None
) -> None:
    table.add(make_tag("p1.flow"))
    frames = [numbers(3, 50), numbers(8), numbers(2, 80)]
    async with delivering(table, frames, tmp_path) as (fake, reader, sink, _):

        def answer(lines: list[str]) -> web.Response | None:
            if not any("flow=5.0," in line for line in lines):
                return web.Response(status=204)
            if status is None:
                transport = fake.requests[-1].transport
                assert transport is not None
                transport.abort()
            return web.Response(status=status or 200)

        fake.answer = answer
        await finished(reader)
        assert len(fake.stored) == 12
        assert sink.stats.dead_letters_total == 1
        assert sink.stats.state == "idle"


async def test_what_came_before_does_not_lengthen_the_pause_of_a_refused_login(
    table: TagTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_module, "PARKED_RETRY_MAX_S", 1000.0)
    table.add(make_tag("p1.flow"))
    async with delivering(table, [numbers(3)], tmp_path) as (fake, reader, _, _):
        answers = iter([503] * 14 + [404])
        fake.answer = lambda _: web.Response(status=next(answers, 204))
        await finished(reader)
        assert len(fake.stored) == 3


async def test_stored_but_never_confirmed_is_sent_again_and_ends_up_equal(
    table: TagTable, tmp_path: Path
) -> None:
    table.add(make_tag("p1.flow"))
    async with delivering(table, [numbers(10)], tmp_path) as (fake, reader, _, _):
        answers = iter([None, None])
        fake.answer = lambda _: next(answers, web.Response(status=204))
        await finished(reader)
        assert len(fake.requests) >= 3
        assert len(fake.stored) == 10


async def test_a_server_that_fails_on_the_same_bytes_for_long_is_tried_with_halves(
    table: TagTable, tmp_path: Path
) -> None:
    table.add(make_tag("p1.flow"))
    async with delivering(table, [numbers(4)], tmp_path) as (fake, reader, sink, _):
        fake.answer = lambda lines: web.Response(
            status=500 if any("flow=2.0," in line for line in lines) else 204
        )
        await finished(reader)
        assert len(fake.stored) == 3
        assert sink.stats.dead_letters_total == 1


@pytest.mark.parametrize("status", [500, 502])
@pytest.mark.parametrize("taken_before", [0, 1])
async def test_an_outage_that_looks_like_a_failing_server_costs_nothing(
    table: TagTable, tmp_path: Path, status: int, taken_before: int
) -> None:
    """A proxy answers 502, and a server with a full disk 500, for hours and to everything."""
    table.add(make_tag("p1.flow"))
    frames = [numbers(8), numbers(4, 50), numbers(1, 90)]
    async with delivering(table, frames, tmp_path) as (fake, reader, sink, _):
        fake.answer = lambda _: web.Response(
            status=204 if len(fake.requests) <= taken_before else status
        )
        await fake.asked(80)  # several searches, each down to a single point
        assert sink.stats.dead_letters_total == 0
        assert sink.stats.state == "retrying"
        fake.answer = lambda _: web.Response(status=204)
        await finished(reader)
        assert len(fake.stored) == 13
        assert sink.stats.dead_letters_total == 0
        assert sink.stats.state == "idle"


@pytest.mark.parametrize("poison", [0, 3, 7])
async def test_a_point_that_makes_a_server_fail_is_buried_once_it_takes_another(
    table: TagTable, tmp_path: Path, poison: int, caplog: pytest.LogCaptureFixture
) -> None:
    table.add(make_tag("p1.flow"))
    caplog.set_level("INFO")
    table.add(make_tag("p1.bad", field="line\nbreak"))  # never sent, so it proves nothing
    unsendable = make_frame([(1.0, 1, 2.0)])
    async with delivering(table, [unsendable, numbers(8), numbers(1, 7)], tmp_path) as found:
        fake, reader, sink, _ = found
        fake.answer = lambda lines: web.Response(
            status=500 if any(f"flow={poison}.0," in line for line in lines) else 204
        )
        await finished(reader)
        assert len(fake.stored) == 7
        # It is a dead letter each time it comes: the second frame ends with it, or it is good.
        assert sink.stats.dead_letters_total == (3 if poison == 7 else 2)
        assert sink.stats.state == "idle"
    assert caplog.text.count("sink.retrying") == caplog.text.count("sink.recovered")


async def test_a_batch_too_much_for_the_link_is_sent_in_less(
    table: TagTable, tmp_path: Path
) -> None:
    table.add(make_tag("p1.flow"))
    frames = [numbers(2000), numbers(10, 5000)]
    async with delivering(table, frames, tmp_path) as (fake, reader, sink, _):
        sizes = []

        async def write(frame: Frame) -> Receipt:
            sizes.append(len(frame))
            if len(frame) > 600:
                raise SinkUnavailable("no answer within 10 s", is_slow=True)
            return await InfluxSink.write(sink, frame)

        sink.write = write  # type: ignore[method-assign] - a link that is slow for what is large
        await finished(reader)
        assert sizes[:9] == [2000] * 3 + [1000] * 3 + [500] * 3
        assert len(fake.stored) == 2010
        assert sink.stats.dead_letters_total == 0
        assert reader.asked[1] < 600


async def test_a_slow_server_is_never_given_up(table: TagTable, tmp_path: Path) -> None:
    table.add(make_tag("p1.flow"))
    async with delivering(table, [numbers(3)], tmp_path) as (_, reader, sink, _):
        asked = 0

        async def write(frame: Frame) -> Receipt:
            nonlocal asked
            asked += 1
            if asked < 30:
                raise SinkUnavailable("no answer within 10 s", is_slow=True)
            return await InfluxSink.write(sink, frame)

        sink.write = write  # type: ignore[method-assign] - see above
        await finished(reader)
        assert sink.stats.dead_letters_total == 0


async def test_halves_never_cut_a_point_so_its_quality_stays_the_worst_of_all(
    table: TagTable, tmp_path: Path
) -> None:
    for name in ("p1.a", "p2.a", "p1.b", "p2.b"):
        table.add(make_tag(name))
    rows = [(float(t), tag, 1.0) for t in range(16) for tag in range(4)]
    frame = make_frame(rows, [0, 0, 0x42, 0x41] * 16)
    async with delivering(table, [frame], tmp_path) as (fake, reader, _, _):
        fake.answer = lambda lines: web.Response(status=413 if len(lines) > 3 else 204)
        await finished(reader)
        whole = {"p1": "a=1.0,b=1.0,quality=66i", "p2": "a=1.0,b=1.0,quality=65i"}
        assert len(fake.stored) == 32
        assert all(fields == whole[series[11:13]] for series, fields in fake.stored.items())


def test_dead_letters_are_told_at_once_and_then_from_time_to_time(
    table: TagTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table.add(make_tag("p1.flow"))
    letters = DeadLetters(tmp_path / "db.jsonl", seconds=lambda: now_s)
    now_s = 5.0
    letters.put(numbers(4), {1: "no", 2: "no"}, table)
    assert "sink=db samples=2 tag=p1.flow reason=no file=" in caplog.text
    letters.put(numbers(4), {1: "nor that"}, table)
    now_s += 59.0
    letters.say()
    assert caplog.text.count("sink.dead_letter ") == 1
    now_s += 2.0
    letters.say()
    letters.say()
    assert caplog.text.count("sink.dead_letter ") == 2
    assert "samples=1 tag=p1.flow reason=nor that" in caplog.text


def test_dead_letters_are_a_warning_for_an_hour(table: TagTable, tmp_path: Path) -> None:
    table.add(make_tag("p1.flow"))
    letters = DeadLetters(tmp_path / "db.jsonl", seconds=lambda: now_s)
    now_s = 5.0
    assert letters.of_late() == ""
    letters.put(numbers(4), {1: "no", 2: "no"}, table)
    now_s += 3000.0
    letters.put(numbers(4), {3: "nor that"}, table)
    now_s += 3000.0
    assert letters.of_late().startswith("3 samples became dead letters, tag=p1.flow reason=nor")
    now_s += 3000.0
    assert letters.of_late() == ""


async def test_what_a_parked_sink_is_told_anew_is_in_the_log(
    table: TagTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table.add(make_tag("p1.flow"))
    async with delivering(table, [numbers(3)], tmp_path) as (fake, reader, _, _):
        answers = iter([401] * 3 + [404] * 3)
        fake.answer = lambda _: web.Response(status=next(answers, 204))
        await finished(reader)
    assert caplog.text.count("sink.parked") == 2


async def test_a_defect_in_a_sink_costs_the_rows_that_show_it_and_nothing_else(
    table: TagTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.add(make_tag("p1.flow"))
    async with delivering(table, [numbers(4), numbers(2, 50)], tmp_path) as found:
        fake, reader, sink, _ = found
        right = sink.write

        async def wrong(frame: Frame) -> object:
            if 2.0 in frame.values:
                raise ZeroDivisionError("planted")
            return await right(frame)

        monkeypatch.setattr(sink, "write", wrong)
        await finished(reader)
        assert len(fake.stored) == 5
        assert sink.stats.dead_letters_total == 1


async def test_rows_the_encoder_refuses_are_buried_and_the_rest_delivered(
    table: TagTable, tmp_path: Path
) -> None:
    table.add(make_tag("p1.flow"))
    table.add(make_tag("p1.bad", field="line\nbreak"))
    frame = make_frame([(1.0, 0, 1.0), (1.0, 1, 2.0)])
    async with delivering(table, [frame], tmp_path) as (fake, reader, sink, _):
        await finished(reader)
        assert len(fake.stored) == 1
        assert sink.stats.dead_letters_total == 1


async def test_what_is_cancelled_half_way_is_not_acknowledged(
    table: TagTable, tmp_path: Path
) -> None:
    table.add(make_tag("p1.flow"))
    async with delivering(table, [numbers(10)], tmp_path) as (fake, reader, _, _):
        fake.answer = lambda _: web.Response(status=503)
        await fake.asked(1)
    assert reader.acknowledged == 0
