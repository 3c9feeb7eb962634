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
from simulators.cli import device_main
from simulators.device import FAULTS, MisbehavingDevice, control, truth
from simulators.serial_line import pluggable_line
from simulators.wire import WIRE_FAULTS


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
                # A flipped bit of a value is right by all that TCP's frame can tell; two zeros
                # behind an RTU frame are a driver that is switched off.
                allowed = ("flipped_bit", "twice") if framing == "tcp" else ("long",)
                assert name in allowed, name
                assert name == "flipped_bit" or answer == right


@pytest.mark.parametrize("framing", ["tcp", "rtu"])
@pytest.mark.parametrize("name", WIRE_FAULTS)
async def test_what_happens_on_the_way_is_no_value_either(framing: str, name: str) -> None:
    device = MisbehavingDevice(framing=framing)
    device.switch(name)
    right = b"".join(truth(2, address).to_bytes(2) for address in range(10, 20))
    timeout_s = 0.3 if name in ("mute", "held", "reset", "half") else 5.0
    outcomes: list[bytes | SourceError] = []
    async with device.serving() as port:
        for _ in range(2):
            try:
                async with connect(settings(port, framing, timeout_s), Peer()) as connection:
                    outcomes.append(await connection.read(Request(2, 3, 10, 10), timeout_s))
            except SourceError as error:
                outcomes.append(error)
    assert device.done[name] >= 1
    for outcome in outcomes:
        if name in ("partial", "dribble", "close") or (name, framing) == ("glitch", "rtu"):
            assert outcome == right
        else:
            assert isinstance(outcome, SourceError), name


def is_terminal(path: str) -> bool:
    return Path(path).is_char_device()


async def test_an_adapter_is_pulled_out_and_comes_back_under_its_path() -> None:
    device = MisbehavingDevice(framing="rtu")
    async with device.serving() as port, pluggable_line("127.0.0.1", port) as line:
        assert is_terminal(line.path)
        line.unplug(0.05)
        while not (line.pulled_total and is_terminal(line.path)):  # noqa: ASYNC110 - tells no event
            await asyncio.sleep(0.01)
        async with control(device, line=line) as at, aiohttp.ClientSession() as http:
            for query, status in (("3", 200), ("x", 400), ("-1", 400)):
                url = f"http://127.0.0.1:{at}/unplug?seconds={query}"
                async with http.post(url) as answer:
                    assert answer.status == status


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--fault", "nope"], "'nope' at 1.0 is none; there are"),
        (["--fault", "late@2"], "'late' at 2.0 is none"),
        (["--fault", "late@x"], "could not convert"),
        (["--port", "99999"], "argument --port"),
        (["--units", "0"], "argument --units"),
        (["--serial"], "--serial needs --framing"),
    ],
)
def test_a_wrong_option_is_said_to_be_one(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        device_main(options)
    assert said in capsys.readouterr().err


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
