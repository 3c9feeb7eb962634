"""Link: one connection to a broker. Packets in and out, keep-alive, back-pressure. Used once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Protocol, cast

from gateway.errors import SourceLost, SourceUnavailable, WireError
from gateway.sources import SourceStats
from gateway.sources.mqtt.config import MqttSettings
from gateway.sources.mqtt.packets import (
    CONNACK_TEXTS,
    PINGREQ,
    Connack,
    Connect,
    Disconnect,
    Packet,
    PacketDecoder,
    Publish,
    Suback,
    encode_connect,
    encode_disconnect,
    encode_pubacks,
    encode_publish,
    encode_subscribe,
)

__all__ = ["BAD_LOGIN", "Link", "Owner"]

# A frame of more would hold the event loop for over 20 ms.
MESSAGES_PER_FRAME_MAX = 2000
# Messages read and not yet made into a frame; above it the socket is not read.
INBOX_MAX = 4000
# A broker that does not answer a ping for so long is away, whatever TCP says.
PING_ANSWER_S = 5.0
SHORT_LIFE_S = 5.0  # a connection that ends sooner looks like a fight over the client id
BAD_LOGIN = (4, 5, 0x86, 0x87)
_TAKEN_OVER = 0x8E


class Owner(Protocol):
    """The source that a link belongs to."""

    settings: MqttSettings
    stats: SourceStats
    version: int
    was_taken_over: bool

    @property
    def client_id(self) -> str: ...


class Link(asyncio.Protocol):
    """One connection: packets in and out, keep-alive, back-pressure. Used once."""

    def __init__(self, source: Owner) -> None:
        self._source = source
        self._settings = source.settings
        self._decoder = PacketDecoder(source.version, source.settings.packet_bytes_max)
        self._transport: asyncio.Transport
        self._lost: Exception | None = None
        self._inbox: deque[Publish] = deque()
        self._arrived = asyncio.Event()
        self._answer: asyncio.Future[Packet] | None = None
        self._in_flight = 0  # QoS 1 messages read and not acknowledged
        self._is_paused = False
        self._heard = True
        self._keepalive_s = float(source.settings.keepalive)
        self.refusal = 0
        self._made_s = 0.0

    @property
    def is_open(self) -> bool:
        return self._lost is None

    async def connect(self, connect: Connect) -> Connack:
        """Introduce us; raises SourceUnavailable with the broker's reason."""
        answer = await self._ask(encode_connect(connect))
        if not isinstance(answer, Connack):
            raise SourceUnavailable("the broker answers CONNECT with something else")
        if answer.reason:
            self.refusal = answer.reason
            said = CONNACK_TEXTS.get(answer.reason, f"reason 0x{answer.reason:02x}")
            login = answer.reason in BAD_LOGIN
            hint = "check username and password of this source" if login else ""
            raise SourceUnavailable(f"the broker refuses us: {said}", hint=hint)
        if answer.keepalive_s:
            self._keepalive_s = float(answer.keepalive_s)
        return answer

    async def subscribe(self, filters: Sequence[tuple[str, int]]) -> tuple[int, ...]:
        """The broker's reason for each filter."""
        answer = await self._ask(encode_subscribe(1, filters, self._source.version))
        if not isinstance(answer, Suback):
            raise SourceUnavailable("the broker answers SUBSCRIBE with something else")
        return answer.reasons

    async def messages(self) -> list[Publish]:
        """What has arrived, either all fresh or all redelivered; raises SourceLost."""
        while not self._inbox:
            if self._lost is not None:
                raise self._over()
            self._arrived.clear()
            await self._arrived.wait()
        inbox = self._inbox
        taken = [inbox.popleft()]
        kind = taken[0].is_duplicate
        while inbox and len(taken) < MESSAGES_PER_FRAME_MAX and inbox[0].is_duplicate == kind:
            taken.append(inbox.popleft())
        self._steer()
        return taken

    def publish(self, topic: str, payload: bytes) -> None:
        """Send a message that may be lost (QoS 0)."""
        if self._lost is None:
            self._transport.write(encode_publish(topic, payload, self._source.version))

    def acknowledge(self, packet_ids: Sequence[int]) -> None:
        """PUBACK in this order, in one write."""
        self._in_flight -= len(packet_ids)
        self._transport.write(encode_pubacks(packet_ids))
        self._steer()

    async def keep_alive(self) -> None:
        """Ping; a broker that says nothing for so long is gone, whatever TCP believes."""
        pause_s = min(self._keepalive_s / 2, PING_ANSWER_S)
        silent_s = 0.0
        while self._lost is None:
            self._heard = False
            self._transport.write(PINGREQ)
            await asyncio.sleep(pause_s)
            # While we do not read on purpose, silence says nothing of the broker.
            silent_s = 0.0 if self._heard or self._is_paused else silent_s + pause_s
            if silent_s >= PING_ANSWER_S:
                self.close(SourceLost(f"the broker has been silent for {silent_s:g} s"))

    def close(self, reason: Exception, *, politely: bool = False) -> None:
        """End it."""
        if self._lost is None:
            self._lost = reason
            if politely:
                self._transport.write(encode_disconnect())
                self._transport.close()
            else:
                self._transport.abort()
        self._arrived.set()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(self._over())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made_s = asyncio.get_running_loop().time()
        # uvloop's transports have asyncio's interface, not its base class.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._heard = True
        try:
            packets = self._decoder.feed(data)
        except WireError as error:
            self._source.stats.errors_total[f"wire_{error.kind}"] += 1
            self.close(error)
            return
        for packet in packets:
            if isinstance(packet, Publish):
                self._inbox.append(packet)
                self._in_flight += packet.qos
            elif isinstance(packet, Disconnect):
                self._told_to_go(packet.reason)
            elif self._answer is not None and not self._answer.done():
                self._answer.set_result(packet)
        if self._inbox:
            self._arrived.set()
            self._steer()

    def connection_lost(self, exc: Exception | None) -> None:
        hint = ""
        if self._lost is None and asyncio.get_running_loop().time() - self._made_s < SHORT_LIFE_S:
            # Not every broker says so when another client takes our id.
            self._source.was_taken_over = True
            hint = f"if it repeats: does another client use the id {self._source.client_id!r}?"
        said = f"the broker closed the connection: {exc or 'end of stream'}"
        self.close(SourceLost(said, hint=hint))

    async def _ask(self, request: bytes) -> Packet:
        self._answer = asyncio.get_running_loop().create_future()
        if self._lost is not None:
            raise self._over()
        self._transport.write(request)
        try:
            return await self._answer
        finally:
            self._answer = None

    def _over(self) -> SourceLost:
        return self._lost if isinstance(self._lost, SourceLost) else SourceLost(str(self._lost))

    def _told_to_go(self, reason: int) -> None:
        if reason == _TAKEN_OVER:
            self._source.stats.errors_total["taken_over"] += 1
            self._source.was_taken_over = True
            error = SourceLost(
                f"another client took over the client id {self._source.client_id!r}",
                hint="give one of the two another client_id",
            )
        else:
            error = SourceLost(f"the broker disconnected us, reason 0x{reason:02x}")
        self.close(error)

    def _steer(self) -> None:
        """Read or do not read, so that what waits stays bounded."""
        limit = self._settings.receive_max + 1
        full = len(self._inbox) >= INBOX_MAX or self._in_flight >= limit
        if full and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
        elif self._is_paused and not full and len(self._inbox) < INBOX_MAX // 2:
            self._is_paused = False
            if self._lost is None:
                self._transport.resume_reading()
