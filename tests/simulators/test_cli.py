"""`sluicegate simulate ...` as processes: what they print, what they write, how they end."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from pymodbus.client import AsyncModbusTcpClient

from gateway.config.load import load
from simulators.cli import greenhouse_main, line_main


@asynccontextmanager
async def simulate(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, Any]]:
    """The process, once it is ready, and what it said then."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway.cli.main",
        "simulate",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        limit=2**20,
    )
    assert process.stdout is not None
    try:
        ready = json.loads(await asyncio.wait_for(process.stdout.readline(), 20))
        assert ready["event"] == "ready"
        yield process, ready
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def end(process: asyncio.subprocess.Process, number: signal.Signals) -> Any:
    """The truth it tells at its end, which leaves no child behind."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    out, _ = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0
    assert not [child for child in children if child.is_running()]
    truth = json.loads(out)
    assert truth["event"] == "truth"
    return truth


async def test_the_line_serves_what_its_configuration_says(tmp_path: Path) -> None:
    async with simulate(
        "line", "--servers=2", "--tags-per-server=30", f"--write-config={tmp_path}"
    ) as (process, ready):
        config = load(Path(ready["config"]))
        assert [source.port for source in config.settings.sources] == [  # type: ignore[union-attr]  # Modbus alone
            server["port"] for server in ready["servers"]
        ]
        assert [len(rows) for rows in config.register_maps.values()] == [30, 30]
        client = AsyncModbusTcpClient("127.0.0.1", port=ready["servers"][0]["port"])
        assert await client.connect()
        for _ in range(3):
            await client.read_input_registers(0, count=2, device_id=1)
        client.close()
        truth = await end(process, signal.SIGTERM)
    assert [server["scan_count"] for server in truth["servers"]] == [3, 0]
    assert truth["tags"] == 60


async def test_the_greenhouse_starts_a_broker_and_leaves_none(tmp_path: Path) -> None:
    async with simulate(
        "greenhouse", "--rate=200", f"--write-config={tmp_path}", "--fault=stuck_sensor@bay-1.co2"
    ) as (process, ready):
        assert load(Path(ready["config"])).settings.sources[0].port == ready["broker"]["port"]
        truth = await end(process, signal.SIGINT)
    assert truth["published"] == truth["acknowledged"]
    assert [fault["tag"] for fault in truth["faults"]] == ["co2"]


async def test_every_kind_of_plant_has_a_configuration_without_problems(tmp_path: Path) -> None:
    for name, arguments in {
        "each": ("line",),
        "shared": ("line", "--units=shared", "--pumps=5"),
        "load": ("line", "--servers=20", "--tags-per-server=100", "--slow-period=1s"),
        "amqtt": ("greenhouse", "--broker=amqtt", "--bays=2", "--qos=0"),
    }.items():
        folder = tmp_path / name
        async with simulate(*arguments, f"--write-config={folder}") as (process, ready):
            load(Path(ready["config"]))  # raises when anything is wrong
            assert tomllib.loads((folder / "sluicegate.toml").read_text())["gateway"]
            await end(process, signal.SIGTERM)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--fault=rust@pump-1"], "is not a fault"),
        (["--speed=fast"], "not a number"),
        (["--port=70000"], "not from 0 to 65535"),
        (["--servers=0"], "not from 1"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        line_main(arguments)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_a_fault_of_an_asset_that_is_not_there_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert line_main(["--servers=1", "--fault=bearing_wear@pump-99"]) == 1
    assert "there is no asset 'pump-99'" in capsys.readouterr().err


def test_an_external_broker_has_a_port(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        greenhouse_main(["--broker=external"])
    assert "needs --port" in capsys.readouterr().err
