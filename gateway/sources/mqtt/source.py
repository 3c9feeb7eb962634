"""MQTT source: one connection to a broker, and what is acknowledged when.

A QoS 1 message is acknowledged once its samples are on disk, in order of arrival, all of a frame
in one write. Until then the broker keeps it: at most `receive_max` are under way (MQTT 5 Receive
Maximum; with 3.1.1 we stop reading). The session is persistent, so what the broker holds while
the gateway is away comes after it is back.

After a lost connection the broker sends again what was not acknowledged. What has been handed on
already makes no second sample: it is known by packet id and content, and acknowledged as soon as
its first copy is on disk. Over a crash of the gateway it is known by (tag, time) in
`stages/duplicates.py`, if the payload has a time of its own.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from gateway.asset import tag_facts
from gateway.errors import SluicegateError, WireError
from gateway.frame import Arrival, IdArray
from gateway.sources import SourceContext
from gateway.sources.mqtt.client import Client
from gateway.sources.mqtt.config import FieldSettings, MqttSettings, TopicSettings
from gateway.sources.mqtt.hearsay import Hearsay
from gateway.sources.mqtt.link import Link
from gateway.sources.mqtt.packets import Publish
from gateway.sources.mqtt.payload import PayloadReader, Rows
from gateway.sources.mqtt.topics import CACHE_MAX, TopicPattern
from gateway.tag import DataType

__all__ = ["MqttSource", "build"]

log = logging.getLogger(__name__)

TAGS_DISCOVERED_MAX = 10_000
COMPLAINTS_MAX = 100


def build(settings: MqttSettings, context: SourceContext) -> MqttSource:
    """The source, with the tags that its configuration names."""
    return MqttSource(settings, context)


@dataclass(slots=True, eq=False)
class _Taken:
    """A QoS 1 message that was handed on and is not acknowledged yet."""

    content: int  # hash of topic and payload
    link: Link  # where its acknowledgement goes
    is_durable: bool = False


class _Refusal(NamedTuple):
    """Why no message of a topic can be used. Not an exception: those keep what they met."""

    kind: str
    text: str


class MqttSource(Client):
    """One [[source]] of type "mqtt"."""

    def __init__(self, settings: MqttSettings, context: SourceContext) -> None:
        self.patterns = [(TopicPattern(each.pattern), each) for each in settings.topics]
        super().__init__(
            settings.name,
            settings,
            settings.client_id or f"sluicegate-{context.gateway_name}-{settings.name}",
            [(pattern.filter, topic.qos) for pattern, topic in self.patterns],
        )
        self.context = context
        self.taken: dict[int, _Taken] = {}
        self._ids: dict[int, None] = {}
        self._id_array: IdArray = np.empty(0, np.int32)
        self._readers: dict[str, PayloadReader | _Refusal] = {}
        self._complaints: set[tuple[str, str]] = set()
        self._hearsay = Hearsay()
        for pattern, topic in self.patterns:
            if topic.asset and not pattern.names_field:
                self._readers_of_declared(pattern, topic)

    @property
    def tag_ids(self) -> IdArray:
        if len(self._id_array) != len(self._ids):
            self._id_array = np.fromiter(self._ids, np.int32, len(self._ids))
        return self._id_array

    @asynccontextmanager
    async def session(self) -> AsyncIterator[_Session]:
        """Connected and subscribed; raises SourceUnavailable."""
        async with self.connected() as link:
            yield _Session(self, link)

    def begins_anew(self) -> None:
        """What was taken from the session that is lost will not be acknowledged any more."""
        self.taken.clear()

    def take(self, message: Publish, arrival_ns: int, rows: Rows) -> None:
        """Make samples of a message; what is wrong with it is counted, and said once."""
        reader = self._readers.get(message.topic)
        if reader is None:
            reader = self._new_reader(message.topic)
        try:
            if isinstance(reader, _Refusal):
                raise WireError(reader.text, kind=reader.kind)
            conflicts, times = reader.conflicts_total, reader.times_refused_total
            knows_time = not self.context.clock.boot
            reader.take(message.payload, arrival_ns, rows, knows_time=knows_time)
            if reader.tells_time:
                self._hear_time(message, reader)
            if reader.conflicts_total > conflicts:
                self.stats.errors_total["value_type"] += reader.conflicts_total - conflicts
            if reader.times_refused_total > times:
                self.stats.errors_total["payload_time"] += 1
        except SluicegateError as error:
            kind = error.kind if isinstance(error, WireError) else "unknown_tag"
            self.stats.errors_total[f"message_{kind}"] += 1
            self._complain(kind, message.topic, error)

    def _hear_time(self, message: Publish, reader: PayloadReader) -> None:
        """Let the clock know what a publisher says, unless the message is an old one."""
        clock = self.context.clock
        now_ns = clock.monotonic_ns()
        if message.is_retained or message.is_duplicate:
            return
        is_due = self._hearsay.is_due(message.topic, now_ns)
        told_ns = reader.told_ns(message.payload) if is_due else None
        offset_ns = None if told_ns is None else self._hearsay.hear(told_ns, now_ns)
        if offset_ns is not None:
            clock.hear(offset_ns)

    def _complain(self, kind: str, topic: str, error: SluicegateError) -> None:
        if (kind, topic) in self._complaints or len(self._complaints) >= COMPLAINTS_MAX:
            return
        self._complaints.add((kind, topic))
        log.warning("mqtt.message_refused source=%s topic=%s error=%s", self.name, topic, error)

    def _new_reader(self, topic: str) -> PayloadReader | _Refusal:
        reader: PayloadReader | _Refusal = _Refusal("topic", "no [[source.topic]] matches")
        for pattern, settings in self.patterns:
            found = pattern.match(topic)
            if found is not None:
                reader = self._reader(settings, *found)
                break
        if len(self._readers) >= CACHE_MAX:
            self._readers.clear()
        self._readers[topic] = reader
        return reader

    def _reader(self, settings: TopicSettings, asset: str, field: str) -> PayloadReader | _Refusal:
        introduce = partial(self._introduce_tag, settings.asset or asset)
        try:
            return PayloadReader(settings, field, introduce)
        except SluicegateError as error:
            return _Refusal("unknown_tag", str(error))

    def _readers_of_declared(self, pattern: TopicPattern, topic: TopicSettings) -> None:
        """Introduce tags that are known by name, so that they exist before the first message."""
        if "+" in pattern.filter or "#" in pattern.filter:
            introduce = partial(self._introduce_tag, topic.asset)
            for name, given in topic.fields.items():
                introduce(name, given, given.data_type)
        else:
            self._new_reader(pattern.filter)

    def _introduce_tag(
        self, asset: str, field: str, given: FieldSettings, data_type: DataType
    ) -> int:
        if len(self._ids) >= TAGS_DISCOVERED_MAX:
            raise SluicegateError(
                f"more than {TAGS_DISCOVERED_MAX} tags from one source",
                hint="narrow the topic patterns or name the fields",
            )
        tag = self.context.assets.tag(
            asset,
            field,
            source=self.name,
            **(tag_facts(given) | {"data_type": data_type}),
        )
        tag_id = self.context.table.add(tag)
        self._ids[tag_id] = None
        return tag_id


class _Session:
    """Messages of one link, as frames."""

    is_proven = True  # the broker has answered CONNECT and SUBSCRIBE

    def __init__(self, source: MqttSource, link: Link) -> None:
        self._source = source
        self._link = link

    async def read(self) -> Arrival:
        """All messages that have arrived; waits for one."""
        source, link = self._source, self._link
        while True:
            messages = await link.messages()
            rows = Rows()
            arrival_ns = source.context.clock.utc_ns()
            taken: list[tuple[int, _Taken]] = []
            # A nanosecond apart: two messages of a topic are two samples, not one overwritten.
            for at_ns, message in enumerate(messages, start=arrival_ns):
                if message.qos == 0:
                    if not source.context.has_room():
                        source.stats.samples_dropped_total += 1
                        continue
                elif self._is_known(message):
                    continue
                else:
                    entry = _Taken(hash((message.topic, message.payload)), link)
                    source.taken[message.packet_id] = entry
                    taken.append((message.packet_id, entry))
                source.take(message, at_ns, rows)
            source.stats.scans_total += 1
            source.stats.messages_total += len(messages)
            source.stats.samples_total += len(rows.ids)
            if rows.ids:
                on_durable = partial(_acknowledge, source, taken) if taken else None
                return Arrival(rows.frame(), on_durable, messages[0].is_duplicate)
            _acknowledge(source, taken)  # poison must not come again for ever

    def _is_known(self, message: Publish) -> bool:
        """Whether a redelivered message has been handed on before."""
        if not message.is_duplicate:
            return False
        entry = self._source.taken.get(message.packet_id)
        if entry is None or entry.content != hash((message.topic, message.payload)):
            return False
        self._source.stats.errors_total["redelivered"] += 1
        entry.link = self._link
        if entry.is_durable:
            _acknowledge(self._source, [(message.packet_id, entry)])
        return True


def _acknowledge(source: MqttSource, taken: Sequence[tuple[int, _Taken]]) -> None:
    """Their samples are on disk: the broker may forget them."""
    by_link: dict[Link, list[int]] = {}
    for packet_id, entry in taken:
        entry.is_durable = True
        if entry.link.is_open and source.taken.get(packet_id) is entry:
            del source.taken[packet_id]
            by_link.setdefault(entry.link, []).append(packet_id)
    for link, packet_ids in by_link.items():
        link.acknowledge(packet_ids)
