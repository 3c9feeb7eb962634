"""Kafka, against librdkafka's own mock cluster: delivered means that a broker said so."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from gateway.errors import SinkParked, SinkTooLarge, SinkUnavailable
from gateway.frame import Frame
from gateway.sinks.config import KafkaSettings
from gateway.sinks.kafka import KafkaSink, build
from gateway.tag import TagTable
from tests.rig import free_port
from tests.samples import make_frame, make_tag


@pytest.fixture
def brokers() -> Iterator[str]:
    """A cluster that lives in a client of its own."""
    host = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    found = list(host.list_topics(timeout=10).brokers.values())
    yield ",".join(f"{broker.host}:{broker.port}" for broker in found)
    host.flush(0)


def sink_to(brokers: str, **more: object) -> KafkaSink:
    table = TagTable()
    table.add(make_tag("pump.flow"))
    table.add(make_tag("mixer.speed"))
    facts = {"type": "kafka", "name": "works", "brokers": brokers, "topic": "plant"} | more
    return build(KafkaSettings.model_validate(facts), table)


def frame_of(first: int, count: int) -> Frame:
    rows = [(1000.0 + i, i % 2, float(i)) for i in range(first, first + count)]
    return make_frame(rows)


def contents(brokers: str, wanted: int) -> dict[str, list[float]]:
    """The values in the topic by key, in order, once there are as many."""
    consumer = Consumer(
        {"bootstrap.servers": brokers, "group.id": "test", "enable.auto.commit": False}
    )
    topic = consumer.list_topics("plant", timeout=10).topics["plant"]
    consumer.assign([TopicPartition("plant", number, 0) for number in topic.partitions])
    found: dict[str, list[float]] = {}
    deadline_s = time.monotonic() + 10
    while sum(map(len, found.values())) < wanted and time.monotonic() < deadline_s:
        message = consumer.poll(0.5)
        if message is None or message.error():
            continue
        values = [json.loads(line)["value"] for line in message.value().splitlines()]
        found.setdefault(message.key().decode(), []).extend(values)
    assert consumer.poll(0.3) is None, "more than was sent"
    consumer.close()
    return found


@asynccontextmanager
async def stopped_by_itself() -> AsyncIterator[None]:
    """That the event loop is never held up while the client works."""
    late_s = 0.0

    async def tick() -> None:
        nonlocal late_s
        while True:
            began_s = time.monotonic()
            await asyncio.sleep(0.01)
            late_s = max(late_s, time.monotonic() - began_s - 0.01)

    ticking = asyncio.create_task(tick())
    try:
        yield
    finally:
        ticking.cancel()
    assert late_s < 1.0


async def test_samples_arrive_by_asset_and_in_order(brokers: str) -> None:
    sink = sink_to(brokers, bytes_max=2048)
    async with sink.session():
        for first in range(0, 200, 50):
            receipt = await sink.write(frame_of(first, 50))
            assert not receipt.rejected
    assert await asyncio.to_thread(contents, brokers, 200) == {
        "pump": list(range(0, 200, 2)),
        "mixer": list(range(1, 200, 2)),
    }
    assert sink.stats.bytes_total > 10_000


async def test_no_broker_is_unavailable_within_the_deadline_and_keeps_nothing() -> None:
    sink = sink_to(f"127.0.0.1:{free_port()}", timeout="1s")
    async with stopped_by_itself(), sink.session():
        with pytest.raises(SinkUnavailable, match=r"timed out|no answer within 1 s"):
            await sink.write(frame_of(0, 1))
        assert sink._producer is None


async def test_many_sinks_without_brokers_hold_up_nobody_and_end_at_once() -> None:
    sinks = [sink_to(f"127.0.0.1:{free_port()}", name=f"works-{i}") for i in range(12)]
    async with AsyncExitStack() as opened:
        for sink in sinks:
            await opened.enter_async_context(sink.session())
        writing = [asyncio.create_task(sink.write(frame_of(0, 10))) for sink in sinks]
        await asyncio.sleep(0.5)
        async with asyncio.timeout(1):
            await asyncio.to_thread(str)  # a file, a dead letter, or what is compressed
        assert not any(task.done() for task in writing)
        for task in writing:
            task.cancel()
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 2.5


async def test_a_setting_that_the_library_refuses_parks(brokers: str) -> None:
    sink = sink_to(brokers, librdkafka={"compression.type": "none of these"})
    async with sink.session():
        with pytest.raises(SinkParked, match="librdkafka refuses"):
            await sink.write(frame_of(0, 1))


async def test_a_sample_too_large_for_any_message_is_refused_alone(brokers: str) -> None:
    sink = sink_to(brokers, bytes_max=1024)
    long = sink._encoder._table.add(make_tag("pump.long", labels=(("asset", "p" * 1200),)))
    async with sink.session():
        frame = Frame.concatenate([frame_of(0, 4), make_frame([(1.0, long, 1.0)])])
        receipt = await sink.write(frame)
    assert list(receipt.rejected) == [4]
    assert await asyncio.to_thread(contents, brokers, 4) == {"pump": [0, 2], "mixer": [1, 3]}


class StrictProducer:
    """The client, before a topic with a small `max.message.bytes`, which librdkafka's mock cluster
    has not: that bound is on all that goes there together.
    """

    bytes_max = 0
    batches: ClassVar[list[int]] = []

    def __init__(self, facts: dict[str, Any]) -> None:
        self._real = Producer(facts)
        self._is_one_by_one = facts.get("batch.num.messages") == 1
        self._together: list[dict[str, Any]] = []

    def produce(self, topic: str, **facts: Any) -> None:
        self._together.append({"topic": topic} | facts)
        if self._is_one_by_one:
            self._send()

    def poll(self, timeout_s: float) -> int:
        self._send()
        return self._real.poll(timeout_s)

    def _send(self) -> None:
        together, self._together = self._together, []
        size = sum(len(facts["value"]) for facts in together)
        self.batches.append(size)
        for facts in together:
            if size <= self.bytes_max:
                self._real.produce(**facts)
            else:
                facts["on_delivery"](KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> type[StrictProducer]:
    class Strict(StrictProducer):
        bytes_max = 600
        batches: ClassVar[list[int]] = []

    monkeypatch.setattr("confluent_kafka.Producer", Strict)
    return Strict


async def test_what_the_topic_finds_too_large_is_cut_smaller(
    brokers: str, strict: type[StrictProducer]
) -> None:
    sink = sink_to(brokers)
    async with sink.session():
        receipt = await sink.write(frame_of(0, 100))
        assert receipt.accepted == range(100)
        assert not receipt.rejected
        strict.batches.clear()
        receipt = await sink.write(frame_of(100, 100))
        assert max(strict.batches) <= strict.bytes_max  # the size is remembered
        assert not receipt.rejected
    found = await asyncio.to_thread(contents, brokers, 200)
    assert sorted(found["pump"]) == list(range(0, 200, 2))
    assert sorted(found["mixer"]) == list(range(1, 200, 2))


@pytest.mark.usefixtures("strict")
async def test_only_a_sample_too_large_by_itself_is_refused(brokers: str) -> None:
    sink = sink_to(brokers)
    labels = (("asset", "pump"), ("text", "p" * 600))
    long = sink._encoder._table.add(make_tag("pump.long", labels=labels))
    rows = [(1000.0 + i, i % 2, float(i)) for i in range(40)]
    rows[20] = (1020.0, long, 20.0)
    async with sink.session():
        receipt = await sink.write(make_frame(rows))
    assert list(receipt.rejected) == [20]
    assert "size too large" in receipt.rejected[20]
    found = await asyncio.to_thread(contents, brokers, 39)
    assert sorted(found["pump"]) == [i for i in range(0, 40, 2) if i != 20]
    assert sorted(found["mixer"]) == list(range(1, 40, 2))


async def test_samples_are_not_refused_for_what_is_sent_with_them(
    brokers: str, strict: type[StrictProducer]
) -> None:
    """Two lines, each a message that fits, went to the topic together and were too much."""
    sink = sink_to(brokers)
    strict.bytes_max = 200
    async with sink.session():
        receipt = await sink.write(frame_of(0, 2))
    assert not receipt.rejected
    assert await asyncio.to_thread(contents, brokers, 2) == {"pump": [0], "mixer": [1]}


async def test_what_the_client_itself_finds_too_large_is_cut_smaller(brokers: str) -> None:
    sink = sink_to(brokers, librdkafka={"message.max.bytes": 1000})
    async with sink.session():
        receipt = await sink.write(frame_of(0, 100))
        assert not receipt.rejected
    found = await asyncio.to_thread(contents, brokers, 100)
    assert sorted(found["pump"]) == list(range(0, 100, 2))
    assert sorted(found["mixer"]) == list(range(1, 100, 2))


async def test_without_its_library_the_sink_parks_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "confluent_kafka", None)
    sink = sink_to("127.0.0.1:1")
    async with sink.session():
        with pytest.raises(SinkParked, match=r"sluicegate\[kafka\]"):
            await sink.write(frame_of(0, 1))


async def test_more_than_the_client_holds_at_once_is_sent_in_less(brokers: str) -> None:
    table = TagTable()
    for number in range(40):
        table.add(make_tag(f"pump-{number}.flow"))
    facts = {"type": "kafka", "name": "works", "brokers": brokers, "topic": "plant"}
    few = {"queue.buffering.max.messages": "5", "linger.ms": "1000"}
    sink = build(KafkaSettings.model_validate(facts | {"librdkafka": few}), table)
    rows = [(1000.0, tag_id, float(tag_id)) for tag_id in range(40)]
    async with sink.session():
        with pytest.raises(SinkTooLarge):
            await sink.write(make_frame(rows))
        receipt = await sink.write(make_frame(rows[:3]))
    assert receipt.accepted == range(3)


async def test_a_login_and_a_ca_are_handed_to_the_library(
    brokers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brokers of the mock cluster know no login: what is sent is what the settings say."""
    monkeypatch.setenv("KAFKA_PASSWORD", "open sesame")
    more = {"username": "gw", "password": "env:KAFKA_PASSWORD", "tls": True, "tls_ca": "/ca.pem"}
    facts = sink_to(brokers, **more)._facts()
    assert (facts["sasl.username"], facts["sasl.password"]) == ("gw", "open sesame")
    assert (facts["security.protocol"], facts["ssl.ca.location"]) == ("SASL_SSL", "/ca.pem")
    assert sink_to(brokers)._facts()["security.protocol"] == "PLAINTEXT"
