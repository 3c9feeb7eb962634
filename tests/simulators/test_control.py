"""The control server says the truth, starts and ends faults, and talks to programs only."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import pytest

from simulators.control import ControlledPlant, control_server
from simulators.physics import Pumps


async def ask(url: str, request: str, headers: str | None = None) -> tuple[int, Any]:
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    fields = f"Host: {where.netloc}\r\n" if headers is None else headers
    writer.write(f"{request} HTTP/1.1\r\n{fields}\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest.fixture
def pumps() -> Pumps:
    return Pumps(2, 1, devices=("plc-1",))


@pytest.fixture
def plant(pumps: Pumps) -> ControlledPlant:
    return ControlledPlant(lambda: {"answered": 42}, pumps.board, lambda: pumps.now_s)


async def test_it_says_the_truth_and_what_can_be_done(plant: ControlledPlant) -> None:
    async with control_server(plant) as url:
        assert await ask(url, "GET /truth") == (200, {"answered": 42})
        status, overview = await ask(url, "GET /")
    assert status == 200
    assert overview["assets"] == ["pump-1", "pump-2", "plc-1"]
    assert "bearing_wear" in overview["faults"]


async def test_a_fault_starts_and_ends(plant: ControlledPlant, pumps: Pumps) -> None:
    async with control_server(plant) as url:
        status, _ = await ask(
            url, "POST /fault?asset=pump-2&name=stuck_sensor&tag=vibration&severity=0.5&after=0s"
        )
        assert status == 200
        assert pumps.board.levels["stuck_sensor"].tolist() == [0, 0.5]
        assert await ask(url, "DELETE /fault?asset=pump-2") == (200, {"ended": 1})
        assert not pumps.board.active()
        assert await ask(url, "DELETE /fault") == (200, {"ended": 0})


@pytest.mark.parametrize(
    ("request_line", "status", "says"),
    [
        ("POST /fault?asset=pump-9&name=cavitation", 400, "there is no asset"),
        ("POST /fault?asset=pump-1&name=rust", 400, "is not a fault"),
        ("POST /fault?asset=pump-1&name=cavitation&colour=red", 400, "not an option"),
        ("POST /fault", 400, "is not a fault"),
        ("PUT /fault", 405, "does not take PUT"),
        ("POST /truth", 405, "does not take POST"),
        ("GET /etc/passwd", 404, "there are"),
        ("HELLO", 400, "not a request line"),
    ],
)
async def test_what_cannot_be_is_refused_with_a_reason(
    plant: ControlledPlant, request_line: str, status: int, says: str
) -> None:
    async with control_server(plant) as url:
        found, answer = await ask(url, request_line)
    assert found == status
    assert says in answer["error"]
    assert not plant.board.active()


@pytest.mark.parametrize(
    "headers", ["", "Host: evil.example:80\r\n", "Host: 127.0.0.1\r\nOrigin: http://evil\r\n"]
)
async def test_pages_in_browsers_are_kept_out(plant: ControlledPlant, headers: str) -> None:
    async with control_server(plant) as url:
        assert (await ask(url, "GET /truth", headers))[0] == 403


@pytest.mark.parametrize("sent", [b"", b"GET /", b"GET / HTTP/1.1\r\n" + b"x" * 20_000])
async def test_half_a_request_is_put_out_and_harms_nobody(
    plant: ControlledPlant, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulators.control._REQUEST_S", 0.1)
    async with control_server(plant) as url:
        where = urlsplit(url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        writer.write(sent)
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        assert (await ask(url, "GET /truth"))[0] == 200
