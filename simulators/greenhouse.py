"""The greenhouse on the wire: each bay publishes climate, soil and irrigation over MQTT.

Messages go out one after the other at an even rate, `rate` a second in all; a round, one message
of every topic, is one step of the climate. So message n of a topic holds step n, and who knows the
seed knows every value. A payload is a JSON object with its own time `ts` (UTC seconds, rising with
every message of the plant, so no two samples share one) and its own number `<topic>_seq` (1, 2,
3 ... in each topic).

What is made waits in a queue of ours until paho takes it, and counts as acknowledged when the
broker's PUBACK came. Order is kept through a restart of the broker: after a new connection paho
sends again what was in flight, and nothing new goes out before all of that is acknowledged.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from simulators.climate import BAY_TAGS, Bays
from simulators.pace import Pace, beside

__all__ = ["TOPICS", "Greenhouse", "GreenhouseSettings", "run_greenhouse"]

log = logging.getLogger(__name__)

# Last level of a bay's topics, and the tags in its payload.
TOPICS: dict[str, tuple[str, ...]] = {
    "climate": ("air_temperature", "humidity", "co2", "par"),
    "soil": ("soil_moisture", "soil_temperature"),
    "irrigation": ("valve_open", "water_flow"),
}
# In flight at once: a millisecond to the broker's disk and back at 1,000 messages a second needs
# a few; more only makes the resent part longer after a restart.
_IN_FLIGHT_MAX = 100
# A minute of 1,000 messages a second; then the plant holds its breath, and counts what it skipped.
_QUEUED_MAX = 60_000
_RECONNECT_S_MAX = 2
_FLUSH_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GreenhouseSettings:
    """A greenhouse."""

    host: str
    port: int
    bays: int = 4
    rate: float = 12.0  # messages a second in all
    qos: Literal[0, 1] = 1
    seed: int = 1
    speed: float = 1.0  # plant seconds a second
    prefix: str = "greenhouse"
    client_id: str = ""  # "" = greenhouse-<seed>


@dataclass(frozen=True, slots=True)
class _Message:
    topic: str
    payload: str


class Greenhouse:
    """The bays, and what was published of them."""

    def __init__(self, settings: GreenhouseSettings) -> None:
        self.settings = settings
        self.topics = [
            f"{settings.prefix}/bay-{bay + 1}/{kind}"
            for bay in range(settings.bays)
            for kind in TOPICS
        ]
        self.bays = Bays(
            settings.bays, settings.seed, step_s=settings.speed * len(self.topics) / settings.rate
        )
        self.published: Counter[str] = Counter()  # handed to paho, by topic
        self.acknowledged: Counter[str] = Counter()
        self.skipped = 0
        self.connections_total = 0
        self._made = 0
        self._ts = 0.0
        self._sequences = dict.fromkeys(self.topics, 0)
        self._queue: deque[_Message] = deque()
        self._in_flight: dict[int, str] = {}
        # Written by paho's thread; appending to a deque and setting a flag need no lock.
        self._acknowledged_ids: deque[int] = deque()
        self._is_connected = False
        self._resends = False
        self._client = self._new_client()

    def payload(self, topic: str) -> dict[str, Any]:
        """What a topic says at the current step, but for time and number."""
        _, bay, kind = topic.rsplit("/", 2)
        row = self.bays.names.index(bay)
        found: dict[str, Any] = {}
        for tag in TOPICS[kind]:
            if tag == "valve_open":
                found[tag] = bool(self.bays.is_watered[row])
            else:
                found[tag] = round(float(self.bays.values[row, BAY_TAGS.index(tag)]), 3)
        return found

    def truth(self) -> dict[str, Any]:
        """What was published and what the broker has; JSON."""
        self._count_acknowledged()
        return {
            "plant": "greenhouse",
            "seed": self.settings.seed,
            "steps": self.bays.steps,
            "plant_s": round(self.bays.now_s, 3),
            "published": self.published.total(),
            "acknowledged": self.acknowledged.total(),
            "queued": len(self._queue),
            "skipped": self.skipped,
            "connections_total": self.connections_total,
            "topics": {
                topic: {
                    "sequence": self._sequences[topic],
                    "published": self.published[topic],
                    "acknowledged": self.acknowledged[topic],
                }
                for topic in self.topics
            },
            "faults": self.bays.board.active(),
        }

    async def publish(self) -> None:
        """Publish for ever, at the rate."""
        async for due in Pace(1 / self.settings.rate, 1.0):
            for _ in range(due):
                self._make_next()
            self._hand_over()

    def start(self) -> None:
        """Connect, or keep trying; the broker may come later."""
        self._client.connect_async(self.settings.host, self.settings.port, keepalive=30)
        self._client.loop_start()

    async def stop(self) -> None:
        """Send what waits, for `_FLUSH_S` at most, and disconnect."""
        give_up_s = time.monotonic() + _FLUSH_S
        while self._is_connected and time.monotonic() < give_up_s:
            self._hand_over()
            if not self._queue and not self._in_flight:
                break
            await asyncio.sleep(0.01)
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)
        self._count_acknowledged()

    def _make_next(self) -> None:
        if len(self._queue) >= _QUEUED_MAX:
            if not self.skipped:
                log.error("greenhouse.queue_full messages=%d", _QUEUED_MAX)
            self.skipped += 1
            return
        number = self._made % len(self.topics)
        self._made += 1
        if number == 0:
            self.bays.step()
        topic = self.topics[number]
        _, bay, kind = topic.rsplit("/", 2)
        self._sequences[topic] += 1  # also of those that stay silent: a gap shows them
        if self.bays.board.is_offline(bay):
            return
        self._ts = max(round(time.time(), 6), round(self._ts + 1e-6, 6))
        payload = {"ts": self._ts, f"{kind}_seq": self._sequences[topic], **self.payload(topic)}
        self._queue.append(_Message(topic, json.dumps(payload)))

    def _hand_over(self) -> None:
        """Give paho what it may send now."""
        self._count_acknowledged()
        if self._resends and not self._in_flight:
            self._resends = False
        if not self._is_connected or self._resends:
            return
        while self._queue and len(self._in_flight) < _IN_FLIGHT_MAX:
            message = self._queue.popleft()
            sent = self._client.publish(message.topic, message.payload, self.settings.qos)
            self.published[message.topic] += 1
            if self.settings.qos:
                self._in_flight[sent.mid] = message.topic

    def _count_acknowledged(self) -> None:
        while self._acknowledged_ids:
            topic = self._in_flight.pop(self._acknowledged_ids.popleft(), None)
            if topic is not None:  # QoS 0 has no acknowledgement, only paho's word that it was sent
                self.acknowledged[topic] += 1

    def _new_client(self) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self.settings.client_id or f"greenhouse-{self.settings.seed}",
            clean_session=False,
        )
        client.max_inflight_messages_set(_IN_FLIGHT_MAX)
        client.reconnect_delay_set(1, _RECONNECT_S_MAX)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        return client

    def _on_connect(
        self, _client: Client, _data: Any, _flags: ConnectFlags, reason: ReasonCode, _p: Any
    ) -> None:
        if reason.is_failure:
            log.warning("greenhouse.connect_refused reason=%s", reason)
            return
        self.connections_total += 1
        self._resends = True
        self._is_connected = True

    def _on_disconnect(
        self,
        _client: Client,
        _data: Any,
        _flags: DisconnectFlags,
        _reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._is_connected = False

    def _on_publish(self, _client: Client, _data: Any, mid: int, _reason: Any, _p: Any) -> None:
        self._acknowledged_ids.append(mid)


@asynccontextmanager
async def run_greenhouse(settings: GreenhouseSettings) -> AsyncIterator[Greenhouse]:
    """A greenhouse that publishes until the block is left; what waits is sent before it ends."""
    greenhouse = Greenhouse(settings)
    greenhouse.start()
    try:
        async with beside(greenhouse.publish(), "greenhouse:publish"):
            yield greenhouse
    finally:
        await greenhouse.stop()
