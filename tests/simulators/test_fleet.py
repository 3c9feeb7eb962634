"""The fleet answers as a Modbus device does, and tells truly how late it was asked."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.client import AsyncModbusTcpClient

from bench.modbus_fleet import measure
from gateway.config.load import load
from simulators.fleet import FleetSettings, lateness_ms, run_fleet, write_fleet_config


async def test_another_client_reads_moving_registers_and_is_refused_what_is_not_there() -> None:
    async with run_fleet(FleetSettings(devices=2, registers=130)) as fleet:
        client = AsyncModbusTcpClient("127.0.0.1", port=fleet.devices[1].port)
        assert await client.connect()
        first = (await client.read_holding_registers(0, count=125)).registers
        await asyncio.sleep(0.3)
        again = (await client.read_holding_registers(0, count=125)).registers
        assert (first[0], again[0]) == (1, 2)  # counts its reads
        moved = np.array(again[1:]) != np.array(first[1:])
        assert moved.mean() > 0.9
        assert all(10_000 <= value <= 50_000 for value in again[1:])
        assert (await client.read_holding_registers(129, count=1)).registers
        assert (await client.read_holding_registers(129, count=2)).exception_code == 2
        assert (await client.read_coils(0, count=1)).exception_code == 1
        client.close()
        truth = fleet.truth()
        assert truth["requests"] == 3
        assert truth["connections"] == 1


async def test_requests_are_answered_however_they_are_cut() -> None:
    async with run_fleet(FleetSettings(devices=1, registers=4)) as fleet:
        reader, writer = await asyncio.open_connection("127.0.0.1", fleet.devices[0].port)
        request = bytes.fromhex("0007 0000 0006 01 03 0001 0002")
        for byte in request + request[:5]:
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        writer.write(request[5:] + request)
        answers = [await reader.readexactly(13) for _ in range(3)]
        assert {answer[:9].hex() for answer in answers} == {"000700000007010304"}
        writer.close()


@given(
    st.lists(st.floats(0, 0.75), max_size=20),
    st.floats(0, 100),
    st.sets(st.integers(30, 250), max_size=5),
)
def test_lateness_is_what_was_put_in(late: list[float], began_s: float, left_out: set[int]) -> None:
    """Most are on time; some come late, by any share of the period, and some not at all."""
    shares = np.zeros(300)
    shares[20 : 20 + 10 * len(late) : 10] = late
    asked = np.array([k for k in range(300) if k not in left_out])
    arrivals = began_s + (asked + shares[asked]) * 0.1
    found, missing = lateness_ms(arrivals.tolist(), 0.1)
    assert found == pytest.approx(shares[asked] * 100, abs=1e-6)
    assert missing == len(left_out)


def test_the_configuration_it_writes_reads_all_of_it(tmp_path: Path) -> None:
    async def write() -> Path:
        async with run_fleet(FleetSettings(devices=3, registers=7)) as fleet:
            return write_fleet_config(tmp_path, fleet)

    config = load(asyncio.run(write()))
    assert len(config.settings.sources) == 3
    assert len(config.tags) == 21


@pytest.mark.system
@pytest.mark.parametrize("reader", ["client", "sources", "gateway"])
def test_a_small_fleet_is_read_without_a_scan_missing(reader: str, tmp_path: Path) -> None:
    settings = FleetSettings(devices=5, registers=20, period_s=0.5)
    found = measure(reader, settings, 2.0, tmp_path)
    assert found.scans_missing == 0
    assert found.overruns == 0
    assert found.cpu_us > 0
    assert set(found.late_ms) == {"p50", "p99", "max"}
