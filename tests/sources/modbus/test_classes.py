"""Scan classes of one device: a fast one waits for a request of a slow one, not for its scan."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.asset import Assets, AssetSettings
from gateway.clock import SystemClock
from gateway.sources import SourceContext
from gateway.sources.modbus.config import ModbusTcpSettings
from gateway.sources.modbus.source import ModbusSource, build
from gateway.tag import TagTable
from tests.sources.modbus.lying import Asked, hostile, right


async def slow(asked: Asked, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0.03)
    writer.write(right(asked))


def source_of(folder: Path, port: int, rows: str, **classes: str) -> ModbusSource:
    (folder / "map.csv").write_text(f"asset,tag,address,scan_class\n{rows}")
    settings = ModbusTcpSettings.model_validate(
        {
            "type": "modbus-tcp",
            "name": "plc",
            "host": "127.0.0.1",
            "port": port,
            "map": folder / "map.csv",
            "scan_classes": classes,
            "one_request_a_tag": True,
        }
    )
    assets = Assets(
        [AssetSettings.model_validate({"name": "*", "class": "c"})], gateway="g", site=""
    )
    context = SourceContext(
        clock=SystemClock(), table=TagTable(), assets=assets, gateway_name="g",
        has_room=lambda: True,
    )  # fmt: skip
    return build(settings, context)


async def test_a_fast_class_goes_between_the_requests_of_a_slow_one(tmp_path: Path) -> None:
    rows = "".join(f"a,s{i},{100 + 10 * i},slow\n" for i in range(20)) + "a,f,0,fast\n"
    async with hostile() as device:
        device.usual = slow
        source = source_of(tmp_path, device.port, rows, slow="1h", fast="100ms")
        sizes = []
        async with asyncio.timeout(20), source.session() as session:
            while 20 not in sizes:  # 0.6 s of requests for the slow class alone
                sizes.append(len((await session.read()).frame))
        asked = [each.address for each in device.asked]
    first, last = asked.index(100), asked.index(290)
    assert 0 in asked[first:last], "the fast class waited for the whole slow scan"
    assert sizes.count(1) >= 3
    # The slow scan is whole and in order all the same.
    assert [address for address in asked[first : last + 1] if address] == list(range(100, 300, 10))
    assert 0 < source.stats.busy_share <= 1


async def test_a_rate_that_cannot_be_kept_is_counted_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = "".join(f"a,s{i},{10 * i},fast\n" for i in range(4))
    async with hostile() as device:
        device.usual = slow
        source = source_of(tmp_path, device.port, rows, fast="50ms")
        async with asyncio.timeout(20), source.session() as session:
            for _ in range(4):
                await session.read()
    assert source.stats.scan_overruns_total >= 3
    assert caplog.text.count("modbus.overrun source=plc class=fast") == 1
