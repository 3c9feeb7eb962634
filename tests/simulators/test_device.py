"""A device that misbehaves on demand: its right answers are right, its wrong ones are refused."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path

import aiohttp
import pytest

from gateway.errors import SourceError
from gateway.sources.modbus.client import connect
from gateway.sources.modbus.config import ModbusTcpSettings
from gateway.sources.modbus.peer import Peer
from gateway.sources.modbus.wire import Request
from simulators.device import FAULTS, MisbehavingDevice, control, truth


def settings(port: int, framing: str, timeout_s: float) -> ModbusTcpSettings:
    return ModbusTcpSettings.model_validate(
        {
            "type": "modbus-tcp", "name": "a", "host": "127.0.0.1", "port": port,
            "framing": "rtu" if framing == "rtu" else "mbap", "map": Path("m"),
            "response_timeout": timeout_s,
        }
    )  # fmt: skip


@pytest.mark.parametrize("framing", ["tcp", "rtu"])
async def test_no_fault_of_it_becomes_a_value(framing: str) -> None:
    device = MisbehavingDevice(framing=framing)
    right = b"".join(truth(2, address).to_bytes(2) for address in range(10, 20))
    async with device.serving() as port:
        async with connect(settings(port, framing, 10), Peer()) as connection:
            assert await connection.read(Request(2, 3, 10, 10), 10) == right
        for name in FAULTS:
            if framing == "rtu" and name in (
                "wrong_transaction",
                "transaction_zero",
                "length_lies",
            ):
                continue  # there is none of it in such a frame
            device.faults = {name: 1.0}
            async with connect(settings(port, framing, 0.3), Peer()) as connection:
                try:
                    answer = await connection.read(Request(2, 3, 10, 10), 0.3)
                except SourceError:
                    continue
                # A flipped bit of a value is right by all that TCP's frame can tell.
                assert framing == "tcp", name
                assert name in ("flipped_bit", "twice"), name
                assert name == "flipped_bit" or answer == right


async def test_faults_are_switched_at_run_time() -> None:
    device = MisbehavingDevice()
    async with control(device) as port, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
        async with http.post("/fault?name=silence&rate=0.5") as answer:
            assert (await answer.json(content_type=None))["faults"] == {"silence": 0.5}
        async with http.post("/fault?name=nonsense") as answer:
            assert answer.status == 400
        async with http.delete("/fault") as answer:
            assert (await answer.json(content_type=None))["faults"] == {}


@pytest.mark.skipif(not shutil.which("mbpoll"), reason="mbpoll is not installed")
async def test_mbpoll_reads_it() -> None:
    device = MisbehavingDevice()
    async with device.serving() as port:
        mbpoll = await asyncio.create_subprocess_exec(
            *("mbpoll", "-m", "tcp", "-p", str(port), "-a", "2", "-r", "11", "-c", "3", "-1"),
            *("-t", "4", "-o", "10", "127.0.0.1"),
            stdout=asyncio.subprocess.PIPE,
        )
        with contextlib.suppress(ProcessLookupError):
            out, _ = await mbpoll.communicate()
    said = out.decode()
    for address in (10, 11, 12):
        assert f"\t{truth(2, address)}" in said, said
