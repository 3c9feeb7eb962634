"""Commands over MQTT: what is meant is done once, what might be old or wrong is not done at all."""

from __future__ import annotations

import asyncio
import json
import queue
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from gateway.cli.main import main
from gateway.clock import SystemClock
from gateway.config.load import load
from gateway.config.schema import CommandSettings
from gateway.errors import ConfigError
from gateway.ops.mqtt_commands import Commander, serve_commands
from gateway.ops.writes import Writes
from gateway.sources.mqtt.config import MqttSettings
from gateway.sources.mqtt.packets import Publish
from tests.config.good import GOOD, PRESS
from tests.ops.test_writes import Device, writer_of
from tests.rig import sluicegate
from tests.servers import Mosquitto, running

TOPIC = "sluicegate/line-1/write"


class Desk:
    """A commander over two devices, and what it kept."""

    def __init__(self) -> None:
        self.devices = {"a.x": Device(), "b.y": Device()}
        writers = {name: writer_of(name, device) for name, device in self.devices.items()}
        self.kept: list[dict[str, Any]] = []
        self.clock = SystemClock()
        self.commander = Commander(Writes(writers), 30.0, self.clock, self.kept.append)

    @property
    def writes(self) -> int:
        return sum(device.writes for device in self.devices.values())

    async def say(self, body: Any, **flags: Any) -> dict[str, Any]:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        message = Publish(TOPIC, payload, 1, 7, False, False)._replace(**flags)
        return await self.commander.answer(message)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def command(number: int = 1, **more: Any) -> dict[str, Any]:
    body = {"id": f"c{number}", "time": time.time(), "tag": "a.x", "value": 5}
    return {key: value for key, value in (body | more).items() if value is not ...}


async def test_a_tag_is_set_and_what_the_device_holds_is_answered(desk: Desk) -> None:
    assert await desk.say(command()) == {"id": "c1", "values": {"a.x": 5}}
    several = command(2, tag=..., value=..., values={"b.y": 3, "a.x": 4})
    assert await desk.say(several) == {"id": "c2", "values": {"b.y": 3, "a.x": 4}}
    assert [each["outcome"] for each in desk.kept] == ["done", "done"]
    assert '"a.x"' in desk.kept[0]["body"]


@pytest.mark.parametrize(
    ("more", "flags", "kind"),
    [
        ({}, {"is_retained": True}, "retained"),
        ({}, {"is_duplicate": True}, "repeated"),
        ({"time": ...}, {}, "payload"),
        ({"id": ...}, {}, "payload"),
        ({"id": ""}, {}, "payload"),
        ({"id": "x" * 65}, {}, "payload"),
        ({"tag": ...}, {}, "payload"),
        ({"value": ...}, {}, "payload"),
        ({"value": None}, {}, "payload"),
        ({"value": [1]}, {}, "payload"),
        ({"values": {"b.y": 1}}, {}, "payload"),
        ({"time": "now"}, {}, "payload"),
        ({"extra": 1}, {}, "payload"),
    ],
)
async def test_what_is_no_command_does_nothing(
    desk: Desk, more: dict[str, Any], flags: dict[str, Any], kind: str
) -> None:
    answer = await desk.say(command(**more), **flags)
    assert answer["error"]
    assert (desk.writes, desk.commander.stats.refused_total[kind]) == (0, 1)
    assert desk.kept[0]["outcome"].startswith("refused: ")


@pytest.mark.parametrize("away_s", [-31, 31, -86400, 1e18, -1e300])
async def test_a_command_whose_time_is_not_near_ours_does_nothing(
    desk: Desk, away_s: float
) -> None:
    answer = await desk.say(command(time=time.time() + away_s))
    assert "old" in answer["error"] or "ahead" in answer["error"]
    assert (desk.writes, desk.commander.stats.refused_total["stale"]) == (0, 1)
    near = await desk.say(command(2, time=time.time() + (20 if away_s > 0 else -20)))
    assert near["values"] == {"a.x": 5}


async def test_while_the_time_is_not_known_nothing_is_done(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(desk.clock), "boot", 7)
    assert "does not know the time" in (await desk.say(command()))["error"]
    assert desk.writes == 0


async def test_a_command_that_comes_twice_is_done_once(desk: Desk) -> None:
    first = await desk.say(command())
    assert await desk.say(command(value=9), is_duplicate=True) == first
    assert await desk.say(command(value=9)) == first
    assert desk.writes == 1
    assert desk.commander.stats.refused_total["repeated"] == 2


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"value": 10}, "is not from 0 to 9"),
        ({"value": "x"}, "takes a number"),
        ({"tag": "c.z"}, "not a tag that may be written"),
        ({"tag": ..., "value": ..., "values": {"a.x": 1, "c.z": 1}}, "not a tag that may be"),
    ],
)
async def test_what_may_not_be_set_is_not(desk: Desk, more: dict[str, Any], what: str) -> None:
    assert what in (await desk.say(command(**more)))["error"]
    assert desk.writes == 0
    assert desk.commander.stats.commands_failed_total == 1


async def test_a_device_that_is_away_is_answered_as_such(desk: Desk) -> None:
    desk.devices["a.x"].is_away = True
    assert (await desk.say(command()))["error"] == "no answer"
    assert desk.kept[0]["outcome"] == "no answer"


@given(st.one_of(st.binary(max_size=200), st.just(b"[" * 100_000), st.just(b'{"id":1e999}')))
def test_any_payload_is_answered_and_does_nothing(payload: bytes) -> None:
    async def say() -> tuple[dict[str, Any], int]:
        desk = Desk()
        return await desk.say(payload), desk.writes

    answer, writes = asyncio.run(say())
    assert answer["error"]
    assert writes == 0


# --- with a broker -------------------------------------------------------------------------------


class Sender:
    """Whoever commands: paho."""

    def __init__(self, port: int, topic: str = TOPIC) -> None:
        self.topic = topic
        self.answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        subscribed = queue.Queue[bool]()
        self._client.on_subscribe = lambda *_: subscribed.put(True)
        self._client.on_message = lambda _c, _u, m: self.answers.put(json.loads(m.payload))
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._client.subscribe(f"{topic}/answer", 1)
        subscribed.get(timeout=20)

    def send(self, body: Any, *, qos: int = 1, retain: bool = False) -> None:
        self._client.publish(self.topic, json.dumps(body), qos, retain).wait_for_publish(20)

    def ask(self, body: Any, **how: Any) -> dict[str, Any]:
        """The answer to a command, asked again until somebody is there to answer."""
        for _ in range(100):
            self.send(body, **how)
            try:
                return self.answers.get(timeout=0.5)
            except queue.Empty:
                continue
        raise AssertionError("no answer")

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with running(Mosquitto(tmp_path / "broker")) as server:
        yield server


@asynccontextmanager
async def served(desk: Desk, port: int) -> AsyncIterator[Sender]:
    topics = [{"pattern": "x/{asset}"}]
    facts = {"type": "mqtt", "name": "b", "host": "127.0.0.1", "port": port, "topic": topics}
    settings = MqttSettings.model_validate(facts)
    sender = await asyncio.to_thread(Sender, port)
    async with serve_commands(desk.commander, CommandSettings(broker="b"), settings, "line-1"):
        yield sender
    sender.close()


async def test_commands_come_over_a_broker_and_survive_its_restart(
    broker: Mosquitto, desk: Desk
) -> None:
    async with served(desk, broker.port) as sender:
        answer = await asyncio.to_thread(sender.ask, command())
        assert answer == {"id": "c1", "values": {"a.x": 5}}
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.start)
        again = await asyncio.to_thread(Sender, broker.port)
        answer = await asyncio.to_thread(again.ask, command(2, value=6), qos=0)
        assert answer == {"id": "c2", "values": {"a.x": 6}}
        again.close()
    assert desk.writes == 2


async def test_a_retained_command_is_refused_whether_it_waits_there_or_comes_now(
    broker: Mosquitto, desk: Desk
) -> None:
    first = await asyncio.to_thread(Sender, broker.port)
    await asyncio.to_thread(first.send, command(), retain=True)
    async with served(desk, broker.port):
        answer = await asyncio.to_thread(first.answers.get, timeout=20)
        assert "retained" in answer["error"]
        await asyncio.to_thread(first.send, command(2), retain=True)
        answer = await asyncio.to_thread(first.answers.get, timeout=20)
        assert "retained" in answer["error"]
    first.close()
    assert desk.writes == 0


async def test_a_running_gateway_takes_commands_and_keeps_what_was_told(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.csv").write_text(
        "asset,tag,address,low,high,writable,bits\n"
        "pump-1,set,0,0,50,true,\npump-1,run,1,,,true,2\npump-1,fixed,2,,,,\n"
    )
    data = [SimData(0, count=10, values=0, datatype=DataType.REGISTERS)]
    server = ModbusTcpServer(SimDevice(1, simdata=data), address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    assert server.transport is not None
    modbus = server.transport.sockets[0].getsockname()[1]  # type: ignore[attr-defined] - a server
    path = tmp_path / "sluicegate.toml"
    path.write_text(
        '[gateway]\nname = "line-1"\ndata_dir = "data"\nhttp = { enabled = false }\n'
        'commands = { broker = "farm", topic = "plant/set" }\n'
        '[[source]]\ntype = "modbus-tcp"\nname = "press"\nhost = "127.0.0.1"\n'
        f'port = {modbus}\nmap = "m.csv"\nwrites = true\n'
        '[[source]]\ntype = "mqtt"\nname = "farm"\nhost = "127.0.0.1"\n'
        f'port = {broker.port}\n[[source.topic]]\npattern = "farm/{{asset}}"\n'
        '[[asset]]\nname = "*"\nclass = "pump"\n'
    )

    def drive() -> None:
        sender = Sender(broker.port, "plant/set")
        with sluicegate("gateway", ["run", str(path)], tmp_path) as gateway:
            gateway.wait_for("source.connected source=press", 60)
            values = {"pump-1.set": 42, "pump-1.run": True}
            body = command(1, tag=..., value=..., values=values)
            assert sender.ask(body) == {"id": "c1", "values": values}
            refused = sender.ask(command(2, tag="pump-1.fixed"))
            assert "not a tag that may be written" in refused["error"]
            gateway.stop()
        sender.close()

    await asyncio.to_thread(drive)
    await server.shutdown()
    assert main(["query", str(path), "gateway.audit", "--lane=event", "--format=json"]) == 0
    rows = [json.loads(line)["value"] for line in capsys.readouterr().out.splitlines()]
    outcomes = [json.loads(row)["outcome"] for row in rows]
    assert outcomes[0] == "done"
    assert "not a tag that may be written" in outcomes[-1]


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("commands", "what"),
    [
        ('broker = "press"', "is no [[source]] of type mqtt"),
        ('broker = "brokr"', "is no [[source]] of type mqtt"),
        ('broker = "broker"\ntopic = "a/#"', "without + and #"),
        ('broker = "broker"\nage_max = "0s"', "age_max"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, commands: str, what: str) -> None:
    (tmp_path / "press.csv").write_text(PRESS)
    path = tmp_path / "plant.toml"
    path.write_text(
        GOOD.replace("[gateway.spool]", f"[gateway.commands]\n{commands}\n[gateway.spool]")
    )
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert what in str(refused.value)


def test_commands_that_may_set_nothing_are_warned_of(tmp_path: Path) -> None:
    (tmp_path / "press.csv").write_text(PRESS)
    path = tmp_path / "plant.toml"
    text = '[gateway.commands]\nbroker = "broker"\n[gateway.spool]'
    path.write_text(GOOD.replace("[gateway.spool]", text))
    assert "no source has writes = true" in "\n".join(map(str, load(path).warnings))


def test_a_broker_in_which_something_else_is_wrong_is_not_said_to_be_missing(
    tmp_path: Path,
) -> None:
    text = GOOD.replace("[gateway.spool]", '[gateway.commands]\nbroker = "broker"\n[gateway.spool]')
    path = tmp_path / "plant.toml"
    path.write_text(text.replace("qos = 1", "qos = 7"), encoding="utf-8")
    (tmp_path / "press.csv").write_text(PRESS, encoding="utf-8")
    with pytest.raises(ConfigError) as wrong:
        load(path)
    assert [problem.place for problem in wrong.value.problems if "broker" in problem.found] == []
