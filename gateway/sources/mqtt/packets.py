"""MQTT packets a subscriber needs, 3.1.1 and 5.0. Sans-IO: bytes in, packets out, and back.

Sources: MQTT Version 5.0 and MQTT Version 3.1.1, OASIS Standards; sections are named where a rule
is checked. The decoder takes bytes in any chunking. Whatever a broker must not send raises
WireError, and the connection is not to be believed any further. A packet larger than was
announced is refused by its header, before its body is kept.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from gateway.errors import WireError

__all__ = [
    "CONNACK_TEXTS",
    "PINGREQ",
    "Connack",
    "Connect",
    "Disconnect",
    "Packet",
    "PacketDecoder",
    "Pingresp",
    "Publish",
    "Suback",
    "encode_connect",
    "encode_disconnect",
    "encode_pubacks",
    "encode_publish",
    "encode_subscribe",
]

MQTT_5, MQTT_311 = 5, 4
PINGREQ = b"\xc0\x00"

_CONNACK, _PUBLISH, _SUBACK, _PINGRESP, _DISCONNECT = 0x20, 0x30, 0x90, 0xD0, 0xE0
# Largest remaining length that fits its four bytes (5.0, 1.5.5).
_LENGTH_MAX = 268_435_455

CONNACK_TEXTS = {
    1: "it does not speak this version of MQTT",
    2: "it does not accept the client id",
    3: "it is not available",
    4: "wrong user name or password",
    5: "not authorised",
    0x84: "it does not speak this version of MQTT",
    0x85: "it does not accept the client id",
    0x86: "wrong user name or password",
    0x87: "not authorised",
    0x88: "it is not available",
    0x89: "it is busy",
    0x8A: "this client is banned",
    0x97: "its quota is used up",
    0x9F: "too many connections in a short time",
}
"""Reasons of a refused connection (3.1.1, 3.2.2.3; 5.0, 3.2.2.2)."""


class Publish(NamedTuple):
    """A message."""

    topic: str
    payload: bytes
    qos: int
    packet_id: int  # 0 for QoS 0
    is_duplicate: bool
    is_retained: bool


class Connack(NamedTuple):
    session_present: bool
    reason: int
    keepalive_s: int | None  # the server's own, where it sets one


class Suback(NamedTuple):
    packet_id: int
    reasons: tuple[int, ...]  # 0x80 and above: refused


class Pingresp(NamedTuple):
    pass


class Disconnect(NamedTuple):
    reason: int


Packet: TypeAlias = Publish | Connack | Suback | Pingresp | Disconnect


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """What a client says of itself."""

    client_id: str
    keepalive_s: int
    username: str = ""
    password: str = ""
    version: int = MQTT_5
    session_expiry_s: int = 0
    receive_max: int = 65535
    packet_bytes_max: int = _LENGTH_MAX


def encode_connect(connect: Connect) -> bytes:
    """CONNECT that resumes the client's session (5.0, 3.1)."""
    flags = (0x80 if connect.username else 0) | (0x40 if connect.password else 0)
    body = _text("MQTT") + struct.pack(">BBH", connect.version, flags, connect.keepalive_s)
    if connect.version == MQTT_5:
        properties = struct.pack(
            ">BIBHBI",
            *(0x11, connect.session_expiry_s, 0x21, connect.receive_max),
            *(0x27, connect.packet_bytes_max),
        )
        body += _length(len(properties)) + properties
    body += _text(connect.client_id)
    if connect.username:
        body += _text(connect.username)
    if connect.password:
        body += _text(connect.password)
    return b"\x10" + _length(len(body)) + body


def encode_subscribe(packet_id: int, filters: Iterable[tuple[str, int]], version: int) -> bytes:
    """SUBSCRIBE to some (filter, options): QoS, and of version 5 more (5.0, 3.8.3.1)."""
    body = struct.pack(">H", packet_id) + (b"\0" if version == MQTT_5 else b"")
    body += b"".join(_text(name) + bytes([qos]) for name, qos in filters)
    return b"\x82" + _length(len(body)) + body


def encode_publish(topic: str, payload: bytes, version: int) -> bytes:
    """A message of QoS 0, not retained (5.0, 3.3)."""
    body = _text(topic) + (b"\0" if version == MQTT_5 else b"") + payload
    return b"\x30" + _length(len(body)) + body


def encode_pubacks(packet_ids: Iterable[int]) -> bytes:
    """PUBACK of each message, in order; the short form with reason "success" (5.0, 3.4.2.1)."""
    return b"".join(b"\x40\x02" + packet_id.to_bytes(2, "big") for packet_id in packet_ids)


def encode_disconnect() -> bytes:
    """DISCONNECT that keeps the session."""
    return b"\xe0\x00"


class PacketDecoder:
    """Bytes of one connection to packets."""

    def __init__(self, version: int, packet_bytes_max: int) -> None:
        self._is_5 = version == MQTT_5
        self._packet_bytes_max = packet_bytes_max
        self._buffer = b""

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that are whole now; raises WireError."""
        buffer = self._buffer + data if self._buffer else data
        packets: list[Packet] = []
        start, size = 0, len(buffer)
        while size - start >= 2:
            length = buffer[start + 1]
            body = start + 2
            if length & 0x80:
                length, body = self._long_length(buffer, start)
                if body == 0:
                    break
            if length > self._packet_bytes_max:
                raise WireError(
                    f"a packet of {length} bytes, where {self._packet_bytes_max} are allowed",
                    kind="oversize",
                    hint="raise packet_bytes_max, or publish less in one message",
                )
            end = body + length
            if end > size:
                break
            first = buffer[start]
            if first & 0xF0 == _PUBLISH:
                packets.append(self._publish(first, buffer, body, end))
            else:
                packets.append(self._other(first, buffer[body:end]))
            start = end
        self._buffer = buffer[start:]
        return packets

    def _long_length(self, buffer: bytes, start: int) -> tuple[int, int]:
        """A remaining length of several bytes and where the body begins; 0, 0 for not all there."""
        length = 0
        for i in range(4):
            at = start + 1 + i
            if at >= len(buffer):
                return 0, 0
            length |= (buffer[at] & 0x7F) << (7 * i)
            if not buffer[at] & 0x80:
                return length, at + 1
        raise WireError("a remaining length of more than four bytes", kind="length")

    def _publish(  # noqa: C901 - one room: each check has its clause, and a call costs a microsecond
        self, first: int, buffer: bytes, body: int, end: int
    ) -> Publish:
        qos = (first >> 1) & 3
        if qos > 1:
            raise WireError(f"a message of QoS {qos}, which nobody asked for", kind="qos")
        if end - body < 2:
            raise WireError("a message without a topic", kind="truncated")
        at = body + 2
        topic_end = at + (buffer[body] << 8 | buffer[body + 1])
        after = topic_end + 2 * qos
        if after > end:
            raise WireError("a topic longer than its message", kind="truncated")
        try:
            topic = buffer[at:topic_end].decode()
        except UnicodeDecodeError as error:
            raise WireError("a topic that is not UTF-8", kind="topic") from error
        if not topic or "\0" in topic or "#" in topic or "+" in topic:
            raise WireError("a message on a topic that cannot be", kind="topic")
        packet_id = 0
        if qos:
            packet_id = buffer[topic_end] << 8 | buffer[topic_end + 1]
            if not packet_id:
                raise WireError("a message with packet id 0", kind="packet_id")
        elif first & 8:
            raise WireError("a QoS 0 message marked as duplicate", kind="flags")
        if self._is_5:
            if after < end and buffer[after] == 0:
                after += 1  # no properties: nearly always
            else:
                after = _behind_properties(buffer, after, end)
        return Publish(topic, buffer[after:end], qos, packet_id, first & 8 != 0, first & 1 != 0)

    def _other(self, first: int, body: bytes) -> Packet:
        kind = first & 0xF0
        if first & 0x0F or kind not in (_CONNACK, _SUBACK, _PINGRESP, _DISCONNECT):
            raise WireError(f"a packet 0x{first:02x}, which nobody asked for", kind="unasked")
        if kind == _CONNACK:
            if len(body) < 2 or body[0] > 1:
                raise WireError("a malformed CONNACK", kind="truncated")
            return Connack(body[0] == 1, body[1], self._server_keepalive(body))
        if kind == _SUBACK:
            start = 2
            if self._is_5:
                length, start = _variable(body, 2, len(body))
                start += length
            if len(body) <= start:
                raise WireError("a malformed SUBACK", kind="truncated")
            return Suback(int.from_bytes(body[:2], "big"), tuple(body[start:]))
        if kind == _PINGRESP:
            if body:
                raise WireError("a PINGRESP with a body", kind="length")
            return Pingresp()
        return Disconnect(body[0] if body else 0)

    def _server_keepalive(self, body: bytes) -> int | None:
        """Server Keep Alive (5.0, 3.2.2.3.14), the only property of CONNACK that concerns us."""
        if not self._is_5 or len(body) < 3:
            return None
        length, at = _variable(body, 2, len(body))
        end = min(at + length, len(body))
        while at < end:
            identifier = body[at]
            size = _PROPERTY_SIZES.get(identifier)
            if identifier == 0x13 and at + 3 <= end:
                return int.from_bytes(body[at + 1 : at + 3], "big")
            if size is None:  # a UTF-8 string, or a pair of them
                for _ in range(2 if identifier == 0x26 else 1):
                    at += 2 + int.from_bytes(body[at + 1 : at + 3], "big")
                at += 1
            else:
                at += 1 + size
        return None


# Properties of CONNACK with a fixed size (5.0, 2.2.2.2); the others are strings.
_PROPERTY_SIZES = {
    0x11: 4, 0x13: 2, 0x21: 2, 0x22: 2, 0x24: 1, 0x25: 1, 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1,
}  # fmt: skip


def _variable(buffer: bytes, start: int, end: int) -> tuple[int, int]:
    """A variable byte integer (5.0, 1.5.5) and where it ends."""
    value = 0
    for i in range(4):
        if start + i >= end:
            break
        value |= (buffer[start + i] & 0x7F) << (7 * i)
        if not buffer[start + i] & 0x80:
            return value, start + i + 1
    raise WireError("a length that does not end", kind="length")


def _behind_properties(buffer: bytes, start: int, end: int) -> int:
    length, at = _variable(buffer, start, end)
    if at + length > end:
        raise WireError("properties longer than their message", kind="truncated")
    return at + length


def _length(length: int) -> bytes:
    out = bytearray()
    while True:
        length, low = length >> 7, length & 0x7F
        out.append(low | (0x80 if length else 0))
        if not length:
            return bytes(out)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">H", len(data)) + data
