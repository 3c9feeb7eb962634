"""Late answers where an answer has no number: none is ever taken for another request's."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import DeviceRefused
from gateway.sources.modbus.client import ResponseTimeout, connect
from gateway.sources.modbus.config import ModbusTcpSettings
from gateway.sources.modbus.late import LATE_S_MAX, LateAnswers
from gateway.sources.modbus.peer import Peer
from gateway.sources.modbus.wire import Request
from tests.sources.modbus.hostile import Asked, hostile, right_to, truth
from tests.sources.modbus.ptyline import Line, block_of, framed, holding, settings_of

reads = st.builds(
    Request, st.just(1), st.just(3), st.integers(0, 65536 - 125), st.integers(1, 125)
) | st.builds(Request, st.just(1), st.just(1), st.integers(0, 65536 - 2000), st.integers(1, 2000))


@given(st.lists(reads, max_size=20), reads)
def test_a_probe_is_like_nothing_that_is_late_and_nothing_that_is_asked(
    unanswered: Sequence[Request], request: Request
) -> None:
    late = LateAnswers()
    for each in unanswered:
        late.expect(each, 0.0)
    probe = late.probe(request)
    forbidden = {(each.function, each.block_bytes) for each in (*unanswered, request)}
    assert (probe.function, probe.block_bytes) not in forbidden
    assert (probe.unit_id, probe.function) == (1, request.function)


def test_only_what_has_the_shape_of_something_late_is_in_doubt() -> None:
    late = LateAnswers()
    late.expect(Request(1, 3, 0, 4), 0.0)
    assert late.is_doubtful(Request(1, 3, 100, 4), 1.0)
    assert not late.is_doubtful(Request(1, 3, 100, 5), 1.0)
    assert not late.is_doubtful(Request(1, 4, 100, 4), 1.0)
    assert not late.is_doubtful(Request(2, 3, 100, 4), 1.0)
    assert not late.is_doubtful(Request(1, 3, 100, 4), LATE_S_MAX + 1)
    assert not late


async def test_an_answer_long_after_the_line_was_quiet_is_not_the_next_ones(tmp_path: Path) -> None:
    """The device is late by more than any pause, and gives its answers in order."""
    line = Line(tmp_path)
    settings, peer = settings_of(line), Peer()
    held: list[bytes] = []

    def keep(unit_id: int, address: int, quantity: int) -> bytes:
        held.append(Line.right(unit_id, address, quantity))
        return b""

    def late_then_right(*_: int) -> bytes:
        line.answer = Line.right
        line.send(held.pop())
        return b""  # the answer itself never comes

    line.answer = keep
    async with connect(settings, peer) as connection:
        with pytest.raises(ResponseTimeout):
            await connection.read(holding(1, 0, 4), 0.1)
    line.answer = late_then_right
    found = []
    for address in (500, 600, 700):
        request = holding(1, address, 4)
        async with connect(settings, peer) as connection:
            try:
                assert await connection.read(request, 2.0) == block_of(request)
                found.append(address)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is no value
                assert "instead of" in str(error)  # noqa: PT017
    assert found == [600, 700]
    line.unplug()


async def test_a_probe_costs_one_request_and_only_after_something_was_late(tmp_path: Path) -> None:
    line = Line(tmp_path)
    settings, peer = settings_of(line), Peer()
    line.answer = lambda *_: b""
    async with connect(settings, peer) as connection:
        with pytest.raises(ResponseTimeout):
            await connection.read(holding(1, 0, 4), 0.1)
    line.answer = Line.right
    async with connect(settings, peer) as connection:
        for _ in range(2):
            assert await connection.read(holding(1, 7, 4), 2.0) == block_of(holding(1, 7, 4))
    assert [frame[5] for frame in line.asked] == [4, 1, 4, 4]  # quantities
    line.unplug()


async def test_a_unit_that_refuses_the_probe_is_asked_all_the_same(tmp_path: Path) -> None:
    line = Line(tmp_path)
    settings, peer = settings_of(line), Peer()

    def picky(unit_id: int, address: int, quantity: int) -> bytes:
        return Line.right(unit_id, address, 1) if quantity == 1 else framed(b"\x01\x83\x02")

    line.answer = lambda *_: b""
    async with connect(settings, peer) as connection:
        with pytest.raises(ResponseTimeout):
            await connection.read(holding(1, 0, 1), 0.1)
    line.answer = picky
    async with connect(settings, peer) as connection:
        assert await connection.read(holding(1, 9, 1), 2.0) == block_of(holding(1, 9, 1))
        with pytest.raises(DeviceRefused):
            await connection.read(holding(1, 9, 3), 2.0)
    line.unplug()


def zero_settings(port: int, **more: object) -> ModbusTcpSettings:
    facts = {"type": "modbus-tcp", "name": "plc", "host": "127.0.0.1", "port": port, "map": "x.csv"}
    return ModbusTcpSettings.model_validate(facts | {"transaction_id_zero": True} | more)


async def test_a_device_whose_transaction_id_is_always_0_is_read_where_that_is_allowed() -> None:
    async def zero(asked: Asked, _: asyncio.StreamWriter) -> bytes:
        return b"\0\0" + right_to(asked)[2:]

    async with hostile(zero) as peer, connect(zero_settings(peer.port), Peer()) as connection:
        for address in (5, 6):
            found = await connection.read(holding(1, address, 1), 5.0)
            assert found == struct.pack(">H", truth(1, address))


async def test_with_id_0_a_late_answer_on_a_later_connection_is_not_a_value() -> None:
    """A Modbus gateway hands a serial line's late answer to whoever is connected by then."""
    held: list[bytes] = []

    async def zero(asked: Asked, _: asyncio.StreamWriter) -> bytes | None:
        answer = b"\0\0" + right_to(asked)[2:]
        if asked.address == 200 and not held:
            held.append(answer)
            return None
        return held.pop() if held else answer

    memory = Peer()
    wrong = []
    async with hostile(zero) as peer:
        settings = zero_settings(peer.port)
        async with connect(settings, memory) as connection:
            with pytest.raises(ResponseTimeout):
                await connection.read(holding(1, 200, 1), 0.1)
        for address in (100, 101, 102):
            async with connect(settings, memory) as connection:
                try:
                    found = await connection.read(holding(1, address, 1), 2.0)
                except Exception as error:  # noqa: BLE001 - whatever it is, it is no value
                    wrong.append(str(error))
                else:
                    assert found == struct.pack(">H", truth(1, address))
    assert len(wrong) == 1
