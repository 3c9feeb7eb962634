"""ASCII: frames as the standard has them; never a value from one that is not whole and right."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import DeviceRefused, SourceLost, WireError
from gateway.sources.modbus import client
from gateway.sources.modbus.ascii import AsciiExchange, lrc
from gateway.sources.modbus.client import connect
from gateway.sources.modbus.config import ModbusRtuSettings
from gateway.sources.modbus.line import exchange_s
from gateway.sources.modbus.peer import Peer
from gateway.sources.modbus.wire import Request
from tests.sources.modbus.ptyline import Line, holding, settings_of

REQUEST = Request(unit_id=17, function=3, address=107, quantity=3)
BLOCK = bytes.fromhex("02 2b 00 00 00 64")


def framed(body: bytes) -> bytes:
    return b":" + (body + bytes([lrc(body)])).hex().upper().encode() + b"\r\n"


ANSWER = framed(b"\x11\x03\x06" + BLOCK)


def test_a_request_is_a_line_of_text() -> None:
    # 0x11 + 0x03 + 0x6b + 0x03 = 0x82, and 0x7e makes it 0x100.
    assert AsciiExchange(REQUEST).encode() == b":1103006B00037E\r\n"


@given(st.data())
def test_the_answer_is_the_same_for_any_chunking(data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(ANSWER) - 1))))
    parts = [ANSWER[a:b] for a, b in zip([0, *cuts], [*cuts, len(ANSWER)], strict=True)]
    exchange = AsciiExchange(REQUEST)
    assert [exchange.feed(part) for part in parts] == [None] * (len(parts) - 1) + [BLOCK]


def test_small_letters_are_digits_too() -> None:
    assert AsciiExchange(REQUEST).feed(ANSWER.lower()) == BLOCK


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (framed(b"\x12\x03\x06" + BLOCK), "unit_id"),
        (framed(b"\x11\x04\x06" + BLOCK), "function"),
        (framed(b"\x11\x03\x04" + BLOCK[:4]), "byte_count"),
        (framed(b"\x11\x03\x06" + BLOCK[:4]), "byte_count"),
        (framed(b"\x11\x83\x02\x00"), "length"),
        (framed(b"\x11"), "length"),
        (ANSWER + b":", "trailing"),
        (ANSWER.replace(b"2B", b"2C"), "lrc"),
        (ANSWER.replace(b"2B", b"2G"), "digits"),
        (ANSWER.replace(b"2B", b"2"), "digits"),
        (b"\x00" + ANSWER, "start"),
        (ANSWER[:-2] * 30, "length"),
        (AsciiExchange(REQUEST).encode(), "echo"),
    ],
)
def test_what_was_not_asked_for_is_never_a_value(data: bytes, kind: str) -> None:
    with pytest.raises(WireError) as wrong:
        AsciiExchange(REQUEST).feed(data)
    assert wrong.value.kind == kind


def test_an_exception_response_is_told_as_what_it_is() -> None:
    with pytest.raises(DeviceRefused) as refused:
        AsciiExchange(REQUEST).feed(framed(b"\x11\x83\x0b"))
    assert refused.value.code == 11


def test_a_request_that_looks_like_an_answer_is_no_value() -> None:
    """24 bits from address 0x0300: what we say ourselves has the shape of what we want to hear."""
    request = Request(1, 1, 0x0300, 24)
    exchange = AsciiExchange(request)
    with pytest.raises(WireError, match="echo = true"):
        exchange.feed(exchange.encode())
    heard = AsciiExchange(request, has_echo=True)
    assert heard.feed(exchange.encode() + framed(b"\x01\x01\x03abc")) == b"abc"


def test_a_flipped_bit_anywhere_is_never_a_value() -> None:
    for bit in range(len(ANSWER) * 8):
        data = bytearray(ANSWER)
        data[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(WireError, DeviceRefused):
            # Bit 5 of a letter is its case, which means nothing.
            assert AsciiExchange(REQUEST).feed(bytes(data)) in {None, BLOCK}


def ascii_line(line: Line) -> ModbusRtuSettings:
    return settings_of(line, framing="ascii", data_bits=7)


def wire(line: Line, *parts: bytes, pause_s: float = 0.0) -> None:
    """Answer each request with these parts."""

    async def answer() -> None:
        for part in parts:
            line.send(part)
            await asyncio.sleep(pause_s)

    tasks: set[asyncio.Task[None]] = set()

    def far(data: bytes) -> None:
        if data.endswith(b"\r\n"):
            tasks.add(asyncio.create_task(answer()))

    line.wire(far)


async def test_a_serial_line_is_read_in_ascii(tmp_path: Path) -> None:
    line = Line(tmp_path)
    wire(line, ANSWER)
    async with connect(ascii_line(line), Peer()) as connection:
        for _ in range(3):
            assert await connection.read(REQUEST, 5.0) == BLOCK
    line.unplug()


async def test_a_pause_within_an_answer_is_an_error_long_before_a_long_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CHARACTER_GAP_S", 0.2)
    line = Line(tmp_path)
    wire(line, ANSWER[:9])
    async with connect(ascii_line(line), Peer()) as connection:
        with pytest.raises(WireError) as wrong:
            await connection.read(REQUEST, 60.0)
    assert wrong.value.kind == "gap"
    line.unplug()


async def test_characters_that_dribble_in_are_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CHARACTER_GAP_S", 0.5)
    line = Line(tmp_path)
    wire(line, *(ANSWER[i : i + 1] for i in range(len(ANSWER))), pause_s=0.02)
    async with connect(ascii_line(line), Peer()) as connection:
        assert await connection.read(REQUEST, 60.0) == BLOCK
        with pytest.raises(SourceLost):
            await connection.read(holding(1, 0, 1), 0.0)
    line.unplug()


def test_a_line_is_reckoned_with_what_its_framing_takes() -> None:
    facts = {"type": "modbus-rtu", "name": "a", "device": "/dev/x", "map": "x.csv"}
    settings = ModbusRtuSettings.model_validate(
        facts | {"framing": "ascii", "data_bits": 7, "baud_rate": 9600}
    )
    # 17 characters there and 11 + 4 a register back, of ten bits each, with two silences.
    wanted_s = (17 + 11 + 4 * 10 + 2 * 3.5) * 10 / 9600
    assert exchange_s(holding(1, 0, 10), settings) == pytest.approx(wanted_s)
