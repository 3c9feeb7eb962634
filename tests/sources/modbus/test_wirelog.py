"""The wire log shows what went over the wire, while somebody wants to see it, within bounds."""

from __future__ import annotations

import asyncio
import logging

import pytest

from gateway.clock import ManualClock
from gateway.sources.modbus import wirelog as module
from gateway.sources.modbus.client import ResponseTimeout, connect
from gateway.sources.modbus.config import ModbusTcpSettings
from gateway.sources.modbus.peer import Peer
from gateway.sources.modbus.wire import Request
from gateway.sources.modbus.wirelog import WireLog
from tests.sources.modbus.hostile import Asked, hostile, right_to


async def test_it_is_switched_while_the_connection_is_open_and_shows_every_byte(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def script(asked: Asked, _: asyncio.StreamWriter) -> bytes | None:
        return right_to(asked) if asked.address != 3 else None

    device = Peer("press", first_id=0)
    async with hostile(script) as peer:
        facts = {"type": "modbus-tcp", "name": "press", "host": "127.0.0.1", "map": "x.csv"}
        settings = ModbusTcpSettings.model_validate(facts | {"port": peer.port})
        async with connect(settings, device) as connection:
            await connection.read(Request(1, 3, 0, 1), 5.0)
            assert device.wire_log.entries() == []
            device.wire_log.switch_on()
            await connection.read(Request(1, 3, 1, 1), 5.0)
            with pytest.raises(ResponseTimeout):
                await connection.read(Request(1, 3, 3, 1), 0.1)
            device.wire_log.switch_off()
        async with connect(settings, device) as connection:
            await connection.read(Request(1, 3, 2, 1), 5.0)
    shown = [(entry.direction, entry.text()) for entry in device.wire_log.entries()]
    assert shown[:2] == [
        ("sent", "00 02 00 00 00 06 01 03 00 01 00 01"),
        ("heard", "00 02 00 00 00 05 01 03 02 26 fd"),
    ]
    assert shown[2] == ("sent", "00 03 00 00 00 06 01 03 00 03 00 01")
    assert shown[3][0] == "closed"
    assert "no answer within" in shown[3][1]
    assert len(shown) == 4
    assert "modbus.wire source=press sent 00 02 00 00 00 06 01 03 00 01 00 01" in caplog.text
    assert all("Z" in line or "+00:00" in line for line in device.wire_log.lines())


def test_it_ends_by_itself(clock: ManualClock) -> None:
    log = WireLog("press", clock)
    log.switch_on(60.0)
    log.sent(b"a")
    clock.advance(61.0)
    log.sent(b"b")
    assert not log.is_on
    assert [entry.data for entry in log.entries()] == [b"a"]
    with pytest.raises(ValueError, match="not from 0"):
        log.switch_on(1e9)


def test_a_flood_fills_neither_memory_nor_the_log(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log = WireLog("press", clock)
    log.switch_on()
    for _ in range(5):
        for _ in range(1000):
            log.heard(b"\xff" * 100_000)
        clock.advance(1.0)
    assert len(log.entries()) == module.ENTRIES_MAX
    assert all(len(entry.data) <= module.BYTES_MAX for entry in log.entries())
    assert len(caplog.records) <= 5 * module.LOGGED_PER_S_MAX + 1
    assert log.left_out_total == 5000 - 5 * module.LOGGED_PER_S_MAX
    assert max(len(record.getMessage()) for record in caplog.records) < 320
