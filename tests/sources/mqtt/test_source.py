"""The source against real brokers: nothing is acknowledged before it is on disk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from gateway.asset import Assets, AssetSettings
from gateway.clock import SystemClock
from gateway.errors import SourceLost, SourceUnavailable
from gateway.frame import Arrival
from gateway.sources import SourceContext
from gateway.sources.mqtt import client as module
from gateway.sources.mqtt import hearsay
from gateway.sources.mqtt.config import MqttSettings
from gateway.sources.mqtt.packets import MQTT_5, MQTT_311
from gateway.sources.mqtt.source import MqttSource, build
from gateway.tag import TagTable
from simulators.broker import open_broker
from tests.servers import Mosquitto, running


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with running(Mosquitto(tmp_path / "broker")) as server:
        yield server


def make(port: int, **more: object) -> MqttSource:
    table = TagTable()
    base = {"type": "mqtt", "name": "farm", "host": "127.0.0.1", "port": port}
    topic = [{"pattern": "farm/{asset}", "qos": more.pop("qos", 1)}]
    context = SourceContext(
        clock=more.pop("clock", None) or SystemClock(),  # type: ignore[arg-type] - likewise
        table=table,
        assets=Assets(
            [AssetSettings.model_validate({"name": "bay-*", "class": "bay"})], gateway="g", site=""
        ),
        gateway_name="g",
        has_room=more.pop("has_room", lambda: True),  # type: ignore[arg-type] - a test's own
    )
    return build(MqttSettings.model_validate(base | {"topic": topic} | more), context)


def publish(port: int, values: list[object], topic: str = "farm/bay-1", qos: int = 1) -> None:
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", port)
    client.loop_start()
    for value in values:
        payload = value if isinstance(value, str) else json.dumps({"v": value})
        client.publish(topic, payload, qos).wait_for_publish(5)
    client.disconnect()
    client.loop_stop()


async def sent(port: int, values: list[object], **more: object) -> None:
    await asyncio.to_thread(publish, port, values, **more)  # type: ignore[arg-type] - as given


async def take(session: object, count: int) -> list[Arrival]:
    """Arrivals until so many samples are there."""
    found: list[Arrival] = []
    async with asyncio.timeout(10):
        while sum(len(a.frame) for a in found) < count:
            found.append(await session.read())  # type: ignore[attr-defined] - a Session
    return found


def values(arrivals: list[Arrival]) -> list[float]:
    return [value for arrival in arrivals for value in arrival.frame.values.tolist()]


def durable(arrivals: list[Arrival]) -> None:
    for arrival in arrivals:
        if arrival.on_durable is not None:
            arrival.on_durable()


async def subscribed(source: MqttSource) -> None:
    async with source.session():
        pass


@pytest.mark.parametrize("version", [MQTT_5, MQTT_311])
async def test_what_is_not_acknowledged_comes_again_after_a_crash(
    broker: Mosquitto, version: int
) -> None:
    source = make(broker.port)
    source.version = version
    async with source.session() as session:
        await sent(broker.port, [1, 2, 3])
        first = await take(session, 3)
        assert values(first) == [1, 2, 3]
        assert not any(arrival.redelivered for arrival in first)
    reborn = make(broker.port)
    reborn.version = version
    async with reborn.session() as session:
        again = await take(session, 3)
        assert values(again) == [1, 2, 3]
        assert all(arrival.redelivered for arrival in again)
        durable(again)
        await sent(broker.port, [4])
        assert values(await take(session, 1)) == [4]
    async with make(broker.port).session() as session:
        assert values(await take(session, 1)) == [4]  # the three are forgotten, the fourth is not


async def test_in_one_process_a_redelivery_makes_no_second_sample(broker: Mosquitto) -> None:
    source = make(broker.port)
    async with source.session() as session:
        await sent(broker.port, [1, 2])
        first = await take(session, 2)
    durable(first)  # on disk, but the link is gone
    async with source.session() as session:
        await sent(broker.port, [3])
        later = await take(session, 1)
        assert values(later) == [3]
        durable(later)
    assert source.stats.errors_total["redelivered"] == 2
    async with make(broker.port).session() as session:
        await sent(broker.port, [9])
        found = await take(session, 1)
        while 9 not in values(found):  # mosquitto may see us again before our last word
            found += await take(session, 1)
        assert set(values(found)) <= {3, 9}


async def test_messages_sent_while_away_arrive_in_order_even_over_a_killed_broker(
    broker: Mosquitto,
) -> None:
    source = make(broker.port)
    await subscribed(source)
    await sent(broker.port, list(range(50)))
    await asyncio.sleep(1.5)  # mosquitto writes its store once a second
    broker.kill()
    broker.start()
    async with source.session() as session:
        assert values(await take(session, 50)) == list(range(50))


async def test_what_is_in_flight_is_bounded(broker: Mosquitto) -> None:
    source = make(broker.port, receive_max=10)
    await subscribed(source)
    await sent(broker.port, list(range(60)))
    async with source.session() as session:
        first = await take(session, 10)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.read(), 0.3)
        durable(first)
        got = values(first)
        while len(got) < 60:
            more = await take(session, 1)
            got += values(more)
            durable(more)
    assert got == list(range(60))


async def test_poison_is_counted_acknowledged_and_does_not_stop_the_rest(
    broker: Mosquitto,
) -> None:
    source = make(broker.port)
    async with source.session() as session:
        await sent(broker.port, ["{", "[1]"])
        await sent(broker.port, [1], topic="farm/stranger")
        await sent(broker.port, [7])
        found = await take(session, 1)
        assert values(found) == [7]
        durable(found)
        await asyncio.sleep(0.1)
    assert source.stats.errors_total["message_json"] == 2
    assert source.stats.errors_total["message_unknown_tag"] == 1
    async with make(broker.port).session() as session:
        await sent(broker.port, [8])
        assert values(await take(session, 1)) == [8]


async def test_qos_0_that_finds_the_pipeline_full_is_dropped_and_counted(
    broker: Mosquitto,
) -> None:
    room = [False]
    source = make(broker.port, qos=0, has_room=lambda: room[0])
    async with source.session() as session:
        await sent(broker.port, [1, 2], qos=0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.read(), 0.3)
        room[0] = True
        await sent(broker.port, [3], qos=0)
        assert values(await take(session, 1)) == [3]
    assert source.stats.samples_dropped_total == 2


async def test_an_oversize_message_costs_the_link_and_not_the_memory(broker: Mosquitto) -> None:
    source = make(broker.port, packet_bytes_max=1024)
    source.version = MQTT_311  # a 5.0 broker does not even send it
    async with source.session() as session:
        await sent(broker.port, [json.dumps({"v": "x" * 100_000})])
        with pytest.raises(SourceLost, match="packet_bytes_max"):
            await asyncio.wait_for(session.read(), 5)
    assert source.stats.errors_total["wire_oversize"] == 1


async def test_a_client_with_our_id_is_named_and_not_fought(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TAKEN_OVER_PAUSE_S", 0.3)
    source = make(broker.port)
    async with source.session() as session, make(broker.port).session():
        with pytest.raises(SourceLost, match="sluicegate-g-farm"):
            await asyncio.wait_for(session.read(), 5)
    began = asyncio.get_running_loop().time()
    await subscribed(source)
    assert asyncio.get_running_loop().time() - began >= 0.3


async def test_a_wrong_password_says_what_to_check(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("")
    users.chmod(0o600)
    server = Mosquitto(tmp_path / "broker", lines=f"allow_anonymous false\npassword_file {users}\n")
    with running(server), pytest.raises(SourceUnavailable, match="username and password"):
        await subscribed(make(server.port))


async def test_a_broker_that_accepts_and_never_answers_costs_no_descriptors() -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    async with server:
        source = make(server.sockets[0].getsockname()[1], connect_timeout=0.2)
        before = len(list(Path("/proc/self/fd").iterdir()))  # noqa: ASYNC240 - a listing of memory
        for _ in range(6):
            with pytest.raises(SourceUnavailable, match="does not answer"):
                await subscribed(source)
        await asyncio.sleep(0.05)
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1  # noqa: ASYNC240
        server.close()


async def test_a_broker_with_a_short_keepalive_stays_connected(broker: Mosquitto) -> None:
    async with make(broker.port, keepalive=1.0).session() as session:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.read(), 3.0)


async def test_a_broker_that_is_away_says_so() -> None:
    from tests.rig import free_port  # noqa: PLC0415 - one test needs it

    with pytest.raises(SourceUnavailable, match="cannot connect to the broker"):
        await subscribed(make(free_port()))


async def test_a_broker_of_the_old_protocol_is_spoken_to_in_it() -> None:
    async with open_broker(kind="amqtt") as amqtt:
        source = make(amqtt.port)
        async with source.session() as session:
            await sent(amqtt.port, [1, 2])
            found = await take(session, 2)
            assert values(found) == [1, 2]
            durable(found)
        assert source.version == MQTT_311


async def test_a_publisher_that_knows_the_time_tells_it_and_a_retained_one_does_not(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearsay, "CONFIRMED_AFTER_NS", 300_000_000)
    monkeypatch.setattr(hearsay, "PERIOD_NS", 20_000_000)
    clock = SystemClock(believe=lambda _wall_ns, _floor_ns: "")
    topic = {"pattern": "farm/{asset}", "time": "t", "time_unit": "ns", "tells_time": True}
    source = make(broker.port, topic=[topic], clock=clock)
    old_ns, true_ns = clock.utc_ns() + 10**18, clock.utc_ns() + 10**15
    began_ns = clock.monotonic_ns()

    def tell(offset_ns: int, *, retain: bool = False) -> paho.MQTTMessageInfo:
        now_ns = offset_ns + clock.monotonic_ns() - began_ns
        return client.publish("farm/bay-1", json.dumps({"t": now_ns, "v": 1}), 1, retain=retain)

    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    tell(old_ns, retain=True).wait_for_publish(5)  # what comes while one listens is not retained
    async with source.session() as session:
        await asyncio.wait_for(session.read(), 5)
        for _ in range(20):
            assert clock.missing_ns() is None or abs(clock.missing_ns() - 10**15) < 2 * 10**9
            tell(true_ns)
            await asyncio.wait_for(session.read(), 5)
            await asyncio.sleep(0.03)
    client.disconnect()
    client.loop_stop()
    missing_ns = clock.missing_ns()
    assert missing_ns is not None
    assert abs(missing_ns - 10**15) < 10**9
