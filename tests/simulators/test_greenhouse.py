"""The greenhouse against a real broker, heard by a subscriber of its own."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import numpy as np
import pytest
from paho.mqtt.client import Client, ConnectFlags, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from simulators.broker import Broker, MosquittoBroker, open_broker
from simulators.climate import BAY_RANGES, BAY_TAGS, Bays
from simulators.faults import Fault, parse_fault
from simulators.greenhouse import TOPICS, Greenhouse, GreenhouseSettings, run_greenhouse

Until = Callable[..., Any]


class Heard:
    """What a subscriber got, by topic, in order."""

    def __init__(self) -> None:
        self.payloads: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.is_subscribed = threading.Event()

    @property
    def total(self) -> int:
        return sum(map(len, self.payloads.values()))

    def sequences(self, topic: str) -> list[int]:
        key = topic.rpartition("/")[2] + "_seq"
        return [payload[key] for payload in self.payloads[topic]]


@contextmanager
def subscriber(broker: Broker) -> Iterator[Heard]:
    heard = Heard()
    client = Client(CallbackAPIVersion.VERSION2, client_id="listener", clean_session=False)
    client.reconnect_delay_set(1, 1)
    client.on_connect = lambda *_: client.subscribe("greenhouse/#", qos=1)
    client.on_subscribe = lambda *_: heard.is_subscribed.set()
    client.on_message = lambda _c, _d, message: heard.payloads[message.topic].append(
        json.loads(message.payload)
    )
    client.connect(broker.host, broker.port)
    client.loop_start()
    try:
        yield heard
    finally:
        client.disconnect()
        client.loop_stop()


@asynccontextmanager
async def plant(
    broker: Broker, until: Until, **facts: Any
) -> AsyncIterator[tuple[Greenhouse, Heard]]:
    """A greenhouse and a subscriber that misses nothing of it."""
    # In a thread: an embedded broker needs this loop to answer.
    listener = subscriber(broker)
    heard = await asyncio.to_thread(listener.__enter__)
    try:
        await until(heard.is_subscribed.is_set)
        settings = GreenhouseSettings(host=broker.host, port=broker.port, **facts)
        async with run_greenhouse(settings) as greenhouse:
            yield greenhouse, heard
        # Each topic up to its last number: a killed broker may have lost some before it.
        last = {topic: facts["sequence"] for topic, facts in greenhouse.truth()["topics"].items()}
        await until(lambda: all(last[topic] in heard.sequences(topic) for topic in last))
    finally:
        await asyncio.to_thread(listener.__exit__, None, None, None)


@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
async def test_what_was_acknowledged_is_what_a_subscriber_heard(kind: Any, until: Until) -> None:
    async with open_broker(kind=kind) as broker:
        assert broker.kind == kind
        async with plant(broker, until, rate=400, bays=3) as (greenhouse, heard):
            await until(lambda: greenhouse.truth()["acknowledged"] >= 300)
        truth = greenhouse.truth()
        assert truth["published"] == truth["acknowledged"] == heard.total
        assert (truth["queued"], truth["skipped"]) == (0, 0)
        for topic, facts in truth["topics"].items():
            wanted = list(range(1, facts["acknowledged"] + 1))
            assert heard.sequences(topic) == wanted, topic
            assert facts["sequence"] == facts["acknowledged"]


async def test_the_seed_says_every_value_and_no_two_samples_share_a_time(until: Until) -> None:
    async with open_broker() as broker:
        async with plant(broker, until, rate=300, bays=2, seed=9, speed=60) as (greenhouse, heard):
            await until(lambda: greenhouse.truth()["acknowledged"] >= 120)
        bays = Bays(2, 9, step_s=greenhouse.bays.step_s)
        for step in range(20):
            bays.step()
            for topic in greenhouse.topics:
                _, bay, kind = topic.split("/")
                payload, row = heard.payloads[topic][step], bays.names.index(bay)
                assert payload.keys() == {"ts", f"{kind}_seq", *TOPICS[kind]}
                for tag in set(TOPICS[kind]) & set(BAY_TAGS):
                    assert payload[tag] == round(bays.values[row, BAY_TAGS.index(tag)], 3)
        times = [p["ts"] for payloads in heard.payloads.values() for p in payloads]
        assert len(set(times)) == len(times) == heard.total


@pytest.mark.parametrize("ends", ["stop", "kill"])
async def test_a_broker_that_restarts_gets_everything_in_order(ends: str, until: Until) -> None:
    async with open_broker(kind="mosquitto") as broker:
        assert isinstance(broker, MosquittoBroker)
        async with plant(broker, until, rate=300, bays=2) as (greenhouse, heard):
            await until(lambda: greenhouse.truth()["acknowledged"] >= 100)
            await (broker.stop() if ends == "stop" else broker.kill())
            await until(lambda: greenhouse.truth()["queued"] >= 50)
            await broker.start()
            await until(lambda: greenhouse.truth()["connections_total"] == 2)
            await until(lambda: greenhouse.truth()["queued"] == 0)
            # The subscriber is back as well: what comes from now on, it hears.
            so_far = heard.total
            await until(lambda: heard.total > so_far + 100)
        truth = greenhouse.truth()
        assert truth["published"] == truth["acknowledged"]
        for topic, facts in truth["topics"].items():
            sequences = heard.sequences(topic)
            firsts = list(dict.fromkeys(sequences))  # at least once: what was in flight may repeat
            assert firsts == sorted(firsts)
            if ends == "stop":  # killed, mosquitto forgets what it had not yet handed on
                assert firsts == list(range(1, facts["acknowledged"] + 1))


def test_after_a_reconnect_nothing_new_goes_out_before_the_rest_is_acknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[str] = []

    def publish(_client: Client, topic: str, *_: Any) -> MQTTMessageInfo:
        sent.append(topic)
        return MQTTMessageInfo(len(sent))

    monkeypatch.setattr(Client, "publish", publish)
    plant = Greenhouse(GreenhouseSettings(host="127.0.0.1", port=1, bays=1))
    accepted = ReasonCode(PacketTypes.CONNACK)

    def make(count: int) -> None:
        for _ in range(count):
            plant._make_next()
        plant._hand_over()

    make(3)
    assert not sent  # never connected
    plant._on_connect(plant._client, None, ConnectFlags(session_present=False), accepted, None)
    make(0)
    assert sent == plant.topics
    # The broker goes away with one of three acknowledged, and comes back.
    plant._on_publish(plant._client, None, 1, None, None)
    plant._is_connected = False
    make(3)
    plant._on_connect(plant._client, None, ConnectFlags(session_present=True), accepted, None)
    for mid in (2, 3):
        make(0)
        assert len(sent) == 3
        plant._on_publish(plant._client, None, mid, None, None)
    make(0)
    assert len(sent) == 6
    assert plant.acknowledged.total() == 3


async def test_without_a_broker_it_holds_its_breath_when_the_queue_is_full(
    until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulators.greenhouse._QUEUED_MAX", 50)
    settings = GreenhouseSettings(host="127.0.0.1", port=9, rate=1000)  # nobody is there
    async with run_greenhouse(settings) as greenhouse:
        await until(lambda: greenhouse.truth()["skipped"] > 10)
    truth = greenhouse.truth()
    assert truth["queued"] == 50
    assert sum(facts["sequence"] for facts in truth["topics"].values()) == 50


async def test_a_bay_that_is_offline_is_silent_and_its_numbers_show_it(until: Until) -> None:
    async with open_broker() as broker:
        async with plant(broker, until, rate=400, bays=2) as (greenhouse, heard):
            await until(lambda: greenhouse.truth()["acknowledged"] >= 30)
            board = greenhouse.bays.board
            board.start(parse_fault("device_offline@bay-1"), greenhouse.bays.now_s)
            start = greenhouse.bays.steps
            await until(lambda: greenhouse.bays.steps > start + 10)
            board.stop()
            await until(lambda: greenhouse.bays.steps > start + 15)
        missing = set(range(1, 10_000)) - set(heard.sequences("greenhouse/bay-1/climate"))
        assert len([n for n in missing if n < heard.sequences("greenhouse/bay-1/climate")[-1]]) >= 9
        others = heard.sequences("greenhouse/bay-2/climate")
        assert others == list(range(1, len(others) + 1))


async def test_qos_0_is_published_and_never_acknowledged(until: Until) -> None:
    async with open_broker() as broker:
        async with plant(broker, until, rate=300, bays=2, qos=0) as (greenhouse, heard):
            await until(lambda: greenhouse.truth()["published"] >= 100)
            await until(lambda: heard.total >= 100)
        assert greenhouse.truth()["acknowledged"] == 0


async def test_nothing_is_left_running_afterwards(until: Until) -> None:
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
    async with open_broker(kind="mosquitto") as broker:
        assert isinstance(broker, MosquittoBroker)
        pid = broker.pid
        settings = GreenhouseSettings(host=broker.host, port=broker.port, rate=100)
        async with run_greenhouse(settings) as greenhouse:
            await until(lambda: greenhouse.truth()["acknowledged"] >= 5)
    assert asyncio.all_tasks() == tasks
    assert not [t for t in set(threading.enumerate()) - threads if "paho" in t.name]
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_day_in_the_greenhouse_is_plausible() -> None:
    bays = Bays(3, 5, step_s=60.0)
    day = np.array([bays.step() for _ in range(1440)])
    for tag, (low, high) in BAY_RANGES.items():
        values = day[:, :, BAY_TAGS.index(tag)]
        assert low <= values.min() <= values.max() <= high
    par, air, co2, moisture, flow = (
        day[:, :, BAY_TAGS.index(tag)]
        for tag in ("par", "air_temperature", "co2", "soil_moisture", "water_flow")
    )
    night = par == 0
    assert 0.4 < night.mean() < 0.6
    assert par.max() > 800
    assert air[~night].mean() > air[night].mean() + 2
    assert co2[~night].mean() < co2[night].mean() - 30
    assert moisture.min() > 20  # it is watered
    assert (flow > 0).any(axis=0).all()


def test_a_valve_that_does_not_open_dries_the_soil_of_its_bay_alone() -> None:
    bays, twin = (Bays(3, 5, step_s=60.0) for _ in range(2))
    bays.board.start(Fault(name="closing_valve", asset="bay-2"), 0.0)
    day, healthy = (np.array([b.step() for _ in range(1440)]) for b in (bays, twin))
    assert not np.delete(day - healthy, 1, axis=1).any()
    moisture = BAY_TAGS.index("soil_moisture")
    assert day[-1, 1, moisture] < healthy[-1, 1, moisture] - 2
    assert bays.is_watered[1]  # it says that it is open
