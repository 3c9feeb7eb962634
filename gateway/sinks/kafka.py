"""Kafka: samples as messages of one topic, the asset as the key, so that its order holds.

The producer is idempotent (acks from all replicas, numbered messages): what librdkafka sends again
is stored once. A message is stored once its delivery report says so. What is not within the
deadline is purged and sent again by the delivery, and may then come twice, as may a minute of
samples after a restart of the gateway: (tag, time) tells.

librdkafka has threads of its own; its calls are made in one of the sink's, off the event loop: what
waits for brokers that are away must not keep others from the threads that all share.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from gateway.errors import SinkError, SinkParked, SinkTooLarge, SinkUnavailable
from gateway.frame import Frame
from gateway.sinks import Receipt, SinkStats, http
from gateway.sinks.config import KafkaSettings
from gateway.sinks.messages import Message, MessageEncoder
from gateway.tag import Tags

__all__ = ["KafkaSink", "build"]

_TOO_LARGE = ("MSG_SIZE_TOO_LARGE", "INVALID_MSG_SIZE")
_REFUSED = ("INVALID_RECORD", "POLICY_VIOLATION")
_PARKED = (
    "_AUTHENTICATION",
    "SASL_AUTHENTICATION_FAILED",
    "UNSUPPORTED_SASL_MECHANISM",
    "TOPIC_AUTHORIZATION_FAILED",
    "CLUSTER_AUTHORIZATION_FAILED",
    "_UNKNOWN_TOPIC",
    "UNKNOWN_TOPIC_OR_PART",
    "TOPIC_EXCEPTION",
)
# librdkafka's own bound on what it holds; a batch that does not fit is halved.
QUEUE_BYTES_MAX_KB = 64 * 1024
POLL_S = 0.05


def build(settings: KafkaSettings, table: Tags) -> KafkaSink:
    """The sink for one [[sink]]."""
    return KafkaSink(settings, table)


@dataclass(slots=True)
class _Reports:
    """What was said of some messages."""

    waiting: int  # for those that nothing was said of yet
    troubles: list[SinkError] = field(default_factory=list)
    refused: list[tuple[Message, str]] = field(default_factory=list)
    too_large: list[tuple[Message, str]] = field(default_factory=list)

    @property
    def worst(self) -> SinkError | None:
        parked = (trouble for trouble in self.troubles if isinstance(trouble, SinkParked))
        return next(parked, next(iter(self.troubles), None))


class KafkaSink:
    """Produces frames to one topic."""

    is_concurrent = False

    def __init__(self, settings: KafkaSettings, table: Tags) -> None:
        self.name = settings.name
        self.stats = SinkStats()
        self._settings = settings
        self._encoder = MessageEncoder(table, settings.format)
        self._producer: Any = None
        self._thread = ThreadPoolExecutor(1, f"sink-{settings.name}")
        self._is_given_up = False  # the write that is under way in the thread
        self._said = ""  # by the client of its connections, since the last batch
        self._bytes_cut = settings.bytes_max  # less once the topic found that too large
        self._is_one_by_one = False  # each by itself, since then

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """No broker need be there."""
        try:
            yield
        finally:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
            self._thread.shutdown(wait=False)

    async def write(self, frame: Frame) -> Receipt:
        """Produce a frame; see `Sink.write`."""
        began_s = time.monotonic()
        bytes_max = self._settings.bytes_max
        wholes, rejected = self._encoder.encode(frame, bytes_max)
        loop = asyncio.get_running_loop()
        try:
            trouble, refused = await loop.run_in_executor(self._thread, self._produce, wholes)
        except asyncio.CancelledError:
            self._is_given_up = True  # else the thread would wait until the deadline
            raise
        if trouble is not None:
            raise trouble
        self.stats.latency_ms_last = (time.monotonic() - began_s) * 1000
        return Receipt(accepted=range(len(frame)), rejected=rejected | refused)

    def _produce(self, wholes: Sequence[Message]) -> tuple[SinkError | None, dict[int, str]]:
        """Send all and wait for their reports: the worst that was said, and refused rows."""
        self._is_given_up = False
        refused: dict[int, str] = {}
        messages = [message for whole in wholes for message in whole.cut(self._bytes_cut)]
        deadline_s = time.monotonic() + self._settings.timeout
        while messages:
            reports = self._report_of(messages, deadline_s)
            if reports.troubles:
                return reports.worst, refused
            for message, why in reports.refused:
                refused |= dict.fromkeys(message.rows, why)
            messages = self._cut_smaller(reports.too_large, refused)
        return None, refused

    def _report_of(self, messages: Sequence[Message], deadline_s: float) -> _Reports:
        """Send messages and wait for what is said of them."""
        producer = self._opened()
        reports = _Reports(len(messages))
        for sent, message in enumerate(messages):
            try:
                self._send(producer, message, reports)
            except BufferError:
                reports.waiting -= len(messages) - sent
                reports.troubles.append(SinkTooLarge("more than the client holds at once"))
                break
        while reports.waiting > 0 and time.monotonic() < deadline_s and not self._is_given_up:
            producer.poll(POLL_S)
        if reports.waiting > 0:
            waited = f"{self._settings.brokers}: no answer within {self._settings.timeout:g} s"
            producer.purge(in_queue=True, in_flight=True, blocking=False)
            producer.flush(1.0)
            self._close()  # the numbers of what was purged are used up
            parked = [trouble for trouble in reports.troubles if isinstance(trouble, SinkParked)]
            reports.troubles = [*parked, SinkUnavailable(waited)]
        elif any(not isinstance(trouble, SinkTooLarge) for trouble in reports.troubles):
            self._close()
        return reports

    def _send(self, producer: Any, message: Message, reports: _Reports) -> None:
        """Hand one to the client; its report comes later, or at once."""
        from confluent_kafka import KafkaException  # noqa: PLC0415 - loaded by now

        def report(error: Any, _: object = None) -> None:
            reports.waiting -= 1
            if error is None:
                return
            match error.name():
                case name if name in _TOO_LARGE:
                    reports.too_large.append((message, error.str()))
                case name if name in _REFUSED:
                    reports.refused.append((message, error.str()))
                case _:
                    reports.troubles.append(self._told(error))

        payload, key = message.payload, message.asset.encode("utf-8", "replace")
        try:
            producer.produce(self._settings.topic, key=key, value=payload, on_delivery=report)
        except KafkaException as refusal:  # larger than the client itself may send
            report(refusal.args[0])
        self.stats.bytes_total += len(payload)

    def _cut_smaller(
        self, too_large: Sequence[tuple[Message, str]], refused: dict[int, str]
    ) -> list[Message]:
        """What to send in place of messages that the topic finds too large.

        The topic's bound is on what the client sends together: a line is refused for good only
        when it was sent by itself.
        """
        cut, smaller = self._bytes_cut, []
        for message, why in too_large:
            parts = message.cut_smaller()
            if parts:
                cut = min(cut, message.size // 2)
            elif self._is_one_by_one:
                refused |= dict.fromkeys(message.rows, why)
            else:
                parts = [message]
            smaller += parts
        if too_large and not self._is_one_by_one:
            self._close()
            self._is_one_by_one = True
        self._bytes_cut = cut
        return smaller

    def _opened(self) -> Any:
        if self._producer is not None:
            return self._producer
        try:
            from confluent_kafka import (  # noqa: PLC0415 - optional
                KafkaException,
                Producer,
            )
        except ImportError as missing:
            hint = "pip install 'sluicegate[kafka]'"
            told = "Kafka needs confluent-kafka, which is not installed"
            raise SinkParked(told, hint=hint) from missing
        try:
            self._producer = Producer(self._facts())
        except (KafkaException, ValueError, TypeError) as wrong:
            raise SinkParked(f"librdkafka refuses its settings: {wrong}") from wrong
        return self._producer

    def _facts(self) -> dict[str, Any]:
        """The client library's settings; secrets are read anew for each producer."""
        settings = self._settings
        milliseconds = max(1000, round(settings.timeout * 1000))
        facts: dict[str, Any] = {
            "bootstrap.servers": settings.brokers,
            "client.id": f"sluicegate-{settings.name}",
            "enable.idempotence": True,
            "acks": "all",
            "compression.type": "lz4",
            "linger.ms": 5,
            "delivery.timeout.ms": milliseconds,
            "socket.timeout.ms": milliseconds,
            "message.max.bytes": settings.bytes_max + 1024,
            "queue.buffering.max.kbytes": QUEUE_BYTES_MAX_KB,
            "log_level": 0,  # it would say each failed attempt; the last is told with the error
            "error_cb": self._hear,
        }
        if settings.username:
            facts |= {
                "sasl.mechanism": settings.sasl,
                "sasl.username": settings.username,
                "sasl.password": http.read_secret(settings.password),
            }
        if settings.tls and settings.tls_ca:
            facts["ssl.ca.location"] = settings.tls_ca
        protocol = ("SASL_" if settings.username else "") + ("SSL" if settings.tls else "PLAINTEXT")
        facts |= {"security.protocol": protocol} | dict(settings.librdkafka)
        if self._is_one_by_one:
            facts["batch.num.messages"] = 1
        return facts

    def _hear(self, error: Any) -> None:
        """In librdkafka's turn of `poll`."""
        self._said = error.str()

    def _told(self, error: Any) -> SinkError:
        because, self._said = f" ({self._said})" if self._said else "", ""
        told = f"{self._settings.brokers}: {error.str()}{because}"
        if error.name() in _PARKED:
            return SinkParked(told, hint="check the topic, the login, and what it may write")
        return SinkUnavailable(told)

    def _close(self) -> None:
        self._bytes_cut, self._is_one_by_one = self._settings.bytes_max, False
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(Exception):
                producer.purge(in_queue=True, in_flight=True, blocking=False)
                producer.flush(0.5)
