from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import WireError
from gateway.sources.mqtt.packets import (
    MQTT_5,
    MQTT_311,
    Connack,
    Connect,
    Disconnect,
    PacketDecoder,
    Pingresp,
    Publish,
    Suback,
    encode_connect,
    encode_pubacks,
    encode_subscribe,
)


def length(size: int) -> bytes:
    out = b""
    while True:
        size, low = divmod(size, 128)
        out += bytes([low | (128 if size else 0)])
        if not size:
            return out


def publish(message: Publish, properties: bytes | None = b"") -> bytes:
    """By the letter of section 3.3, with no code of the decoder's; properties None is 3.1.1."""
    first = 0x30 | message.is_duplicate << 3 | message.qos << 1 | message.is_retained
    topic = message.topic.encode()
    body = len(topic).to_bytes(2, "big") + topic
    if message.qos:
        body += message.packet_id.to_bytes(2, "big")
    if properties is not None:
        body += length(len(properties)) + properties
    body += message.payload
    return bytes([first]) + length(len(body)) + body


def decoder(version: int = MQTT_5) -> PacketDecoder:
    return PacketDecoder(version, 65536)


def test_connect_is_encoded_as_the_standards_show() -> None:
    old = Connect(client_id="c", keepalive_s=10, version=MQTT_311, username="u", password="p")
    assert encode_connect(old) == bytes.fromhex(
        "10 13 0004 4d515454 04 c0 000a 0001 63 0001 75 0001 70"
    )
    new = Connect(
        client_id="c", keepalive_s=10, session_expiry_s=60, receive_max=7, packet_bytes_max=65536
    )
    assert encode_connect(new) == bytes.fromhex(
        "10 1b 0004 4d515454 05 00 000a 0d 11 0000003c 21 0007 27 00010000 0001 63"
    )


def test_subscriptions_and_acknowledgements_are_encoded_as_the_standards_show() -> None:
    assert encode_subscribe(1, [("a/+", 1)], MQTT_311) == bytes.fromhex("82 08 0001 0003 612f2b 01")
    assert encode_subscribe(1, [("a/+", 1)], MQTT_5) == bytes.fromhex(
        "82 09 0001 00 0003 612f2b 01"
    )
    assert encode_pubacks([1, 258]) == bytes.fromhex("40 02 0001 40 02 0102")


topics = st.text(
    st.characters(exclude_characters="\0#+", exclude_categories=["Cs"]), min_size=1, max_size=20
)
messages = st.builds(
    lambda topic, payload, qos, number, again, kept: Publish(
        topic, payload, qos, number if qos else 0, bool(again and qos), kept
    ),
    topics,
    st.binary(max_size=300),
    st.integers(0, 1),
    st.integers(1, 65535),
    st.booleans(),
    st.booleans(),
)


@given(st.lists(messages, max_size=6), st.integers(1, 50), st.booleans())
def test_messages_are_what_was_sent_whatever_the_chunks(
    sent: list[Publish], chunk: int, is_5: bool
) -> None:
    properties = b"\x02\0\0\0\x09" if is_5 else None
    data = b"".join(publish(message, properties) for message in sent)
    found = decoder(MQTT_5 if is_5 else MQTT_311)
    got = [p for i in range(0, len(data), chunk) for p in found.feed(data[i : i + chunk])]
    assert got == sent


@given(st.binary(max_size=200), st.integers(1, 200), st.sampled_from([MQTT_5, MQTT_311]))
def test_any_bytes_raise_nothing_but_ours(data: bytes, chunk: int, version: int) -> None:
    found = decoder(version)
    try:
        for start in range(0, len(data), chunk):
            found.feed(data[start : start + chunk])
    except WireError:
        pass


def test_the_other_packets_of_a_broker_are_understood() -> None:
    assert decoder().feed(bytes.fromhex("20 06 01 00 03 13 0014")) == [Connack(True, 0, 20)]
    assert decoder(MQTT_311).feed(bytes.fromhex("20 02 00 05")) == [Connack(False, 5, None)]
    assert decoder().feed(bytes.fromhex("90 05 0001 00 01 87")) == [Suback(1, (1, 0x87))]
    assert decoder().feed(bytes.fromhex("d0 00 e0 01 8e")) == [Pingresp(), Disconnect(0x8E)]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ("30 ff ff ff ff 7f", "length"),
        ("34 07 0001 61 0001 00 00", "qos"),
        ("32 06 0001 61 0000 00", "packet_id"),
        ("38 04 0001 61 00", "flags"),
        ("30 04 0001 ff 00", "topic"),
        ("30 04 0001 23 00", "topic"),
        ("30 03 0000 00", "topic"),
        ("30 04 0009 61 00", "truncated"),
        ("30 05 0001 61 05 00", "truncated"),
        ("30 01 00", "truncated"),
        ("62 02 0001", "unasked"),
        ("50 02 0001", "unasked"),
        ("d1 00", "unasked"),
        ("d0 01 00", "length"),
        ("20 01 00", "truncated"),
    ],
)
def test_what_a_broker_must_not_send_is_refused_by_kind(data: str, kind: str) -> None:
    with pytest.raises(WireError) as caught:
        decoder().feed(bytes.fromhex(data))
    assert caught.value.kind == kind


def test_an_oversize_packet_is_refused_by_its_header() -> None:
    with pytest.raises(WireError, match="packet_bytes_max") as caught:
        decoder().feed(b"\x30" + length(268_435_455))
    assert caught.value.kind == "oversize"
