"""Any bytes as answer to any query in any framing: no error but ours, no value that was not there.

What is taken for an answer must be, byte for byte, the frame that says it.
"""

from __future__ import annotations

from gateway.errors import DeviceRefused, WireError
from gateway.sources.modbus.ascii import AsciiExchange, lrc
from gateway.sources.modbus.identification import IdentificationRequest, ReadCode
from gateway.sources.modbus.rtu import LineExchange, RtuExchange, crc16
from gateway.sources.modbus.wire import Exchange, Query, Request

QUERIES: tuple[Query[object], ...] = (
    Request(1, 3, 107, 3),
    Request(247, 4, 0, 125),
    Request(255, 1, 0x0300, 24),
    Request(0, 2, 65535, 1),
    Request(17, 1, 10, 2000),
    IdentificationRequest(1),
    IdentificationRequest(9, ReadCode.EXTENDED, 0x80),
    IdentificationRequest(9, ReadCode.SPECIFIC, 2),
)
NUMBER = 0x1234
AnyExchange = Exchange[object] | LineExchange[object]


def sealed(framing: int, body: bytes) -> bytes:
    """Unit id and PDU as a whole and right frame."""
    if framing in (0, 1):
        number = 0 if framing == 1 else NUMBER
        return number.to_bytes(2, "big") + b"\0\0" + len(body).to_bytes(2, "big") + body
    if framing == 2:
        return body + crc16(body)
    return b":" + (body + bytes([lrc(body)])).hex().upper().encode() + b"\r\n"


def exchange_of(framing: int, query: Query[object], *, has_echo: bool) -> AnyExchange:
    if framing in (0, 1):
        return Exchange(NUMBER, query, takes_zero=framing == 1)
    if framing == 2:
        return RtuExchange(query, has_echo=has_echo)
    return AsciiExchange(query, has_echo=has_echo)


def one(data: bytes) -> None:
    """The first three bytes choose; the others are heard, as they are or in a right frame."""
    if len(data) < 3:
        return
    framing, is_sealed, has_echo = data[0] & 3, bool(data[0] & 4), bool(data[0] & 8)
    query, chunk = QUERIES[data[1] % len(QUERIES)], data[2] or 1024
    exchange = exchange_of(framing, query, has_echo=has_echo)
    own = exchange.encode()
    heard = data[3:]
    if is_sealed:
        body = heard if data[0] & 16 else bytes([query.unit_id, query.function]) + heard
        heard = sealed(framing, body[:65535])
    wire = own + heard if has_echo and framing >= 2 else heard
    answer = None
    taken = 0
    try:
        for start in range(0, len(wire), chunk):
            taken = min(start + chunk, len(wire))
            answer = exchange.feed(wire[start:taken])
            if answer is not None:
                break
    except (WireError, DeviceRefused):
        return
    if answer is None:
        return
    said = wire[:taken].removeprefix(own if has_echo and framing >= 2 else b"")
    if isinstance(query, Request):
        assert isinstance(answer, bytes)
        head = bytes([query.unit_id, query.function, query.block_bytes])
        right = {sealed(framing, head + answer), sealed(0, head + answer)}
        assert len(answer) == query.block_bytes
        assert (said.upper() if framing == 3 else said) in right
        assert framing < 2 or said != own


SEEDS = [
    bytes([framing | flags, number, 0]) + body
    for framing in range(4)
    for flags in (4, 12)
    for number, body in enumerate(
        [
            b"\x06abcdef",
            b"\xfa" + bytes(250),
            b"\x03abc",
            b"\x01\x01",
            b"\xfa" + bytes(250),
            bytes.fromhex("0e 01 01 00 00 03 00 01 41 01 01 42 02 01 43"),
            bytes.fromhex("0e 03 83 ff 81 01 80 02 41 42"),
            bytes.fromhex("0e 04 83 00 00 01 02 00"),
        ]
    )
]
