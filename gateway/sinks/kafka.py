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
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from gateway.errors import SinkError, SinkParked, SinkTooLarge, SinkUnavailable
from gateway.frame import Frame
from gateway.sinks import Receipt, SinkStats, http
from gateway.sinks.config import KafkaSettings
from gateway.sinks.messages import Message, MessageEncoder
from gateway.tag import Tags

__all__ = ["KafkaSink", "build"]

_REFUSED = ("MSG_SIZE_TOO_LARGE", "INVALID_MSG_SIZE", "INVALID_RECORD", "POLICY_VIOLATION")
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
        messages = [message for whole in wholes for message in whole.cut(bytes_max)]
        loop = asyncio.get_running_loop()
        try:
            trouble, refused = await loop.run_in_executor(self._thread, self._produce, messages)
        except asyncio.CancelledError:
            self._is_given_up = True  # else the thread would wait until the deadline
            raise
        if trouble is not None:
            raise trouble
        self.stats.bytes_total += sum(message.size for message in messages)
        self.stats.latency_ms_last = (time.monotonic() - began_s) * 1000
        return Receipt(accepted=range(len(frame)), rejected=rejected | refused)

    def _produce(self, messages: Sequence[Message]) -> tuple[SinkError | None, dict[int, str]]:
        """Send all and wait for their reports: the worst that was said, and refused rows."""
        self._is_given_up = False
        producer = self._opened()
        troubles: list[SinkError] = []
        refused: dict[int, str] = {}
        waiting = len(messages)

        def report(error: Any, message: Message) -> None:
            nonlocal waiting
            waiting -= 1
            if error is not None and error.name() in _REFUSED:
                refused.update(dict.fromkeys(message.rows, error.str()))
            elif error is not None:
                troubles.append(self._told(error))

        for sent, message in enumerate(messages):
            try:
                producer.produce(
                    self._settings.topic,
                    key=message.asset.encode("utf-8", "replace"),
                    value=message.payload,
                    on_delivery=lambda error, _, message=message: report(error, message),
                )
            except BufferError:
                waiting -= len(messages) - sent
                troubles.append(SinkTooLarge("more than the client holds at once"))
                break
        deadline_s = time.monotonic() + self._settings.timeout
        while waiting > 0 and time.monotonic() < deadline_s and not self._is_given_up:
            producer.poll(POLL_S)
        if waiting > 0:
            waited = f"{self._settings.brokers}: no answer within {self._settings.timeout:g} s"
            producer.purge(in_queue=True, in_flight=True, blocking=False)
            producer.flush(1.0)
            self._close()  # the numbers of what was purged are used up
            return next(filter(_is_parked, troubles), SinkUnavailable(waited)), refused
        if any(not isinstance(trouble, SinkTooLarge) for trouble in troubles):
            self._close()
        return next(filter(_is_parked, troubles), next(iter(troubles), None)), refused

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
        return facts | {"security.protocol": protocol} | dict(self._extra())

    def _extra(self) -> Mapping[str, Any]:
        return self._settings.librdkafka

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
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(Exception):
                producer.purge(in_queue=True, in_flight=True, blocking=False)
                producer.flush(0.5)


def _is_parked(error: SinkError) -> bool:
    return isinstance(error, SinkParked)
