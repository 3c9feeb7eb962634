# ruff: noqa: E501 - a table of attacks reads better with a line for each

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from gateway.config.schema import HttpSettings
from gateway.errors import SluicegateError
from gateway.ops import api as api_module
from gateway.ops import http
from gateway.ops.api import Api
from gateway.ops.http import serve
from gateway.settings import Secret, Settings
from tests.ops.fake_view import FakeView

TOKEN = "a-token-of-22-letters!"


class Body(Settings):
    tag: str
    value: float = 0.0


class Plant:
    def __init__(self, view: FakeView) -> None:
        self.done: list[Body] = []
        self.audited: list[dict[str, Any]] = []
        self.api = Api(Secret("env:API_TOKEN"), view.clock, self.audited.append)
        self.api.add("set", Body, self.set)
        self.port = 0

    async def set(self, body: Body) -> dict[str, Any]:
        if body.tag == "away":
            raise SluicegateError("the device is away")
        if body.tag == "unknown":
            raise LookupError("no such tag")
        self.done.append(body)
        return {"set": body.value}

    async def post(self, path: str, data: bytes = b'{"tag": "a"}', **named: str) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        headers |= {name.replace("_", "-"): value for name, value in named.items()}
        url = f"http://127.0.0.1:{self.port}{path}"
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data=data, headers=headers) as response,
        ):
            return response.status, await response.json(content_type=None)


@pytest.fixture
async def plant(view: FakeView, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Plant]:
    monkeypatch.setenv("API_TOKEN", TOKEN)
    plant = Plant(view)
    async with serve(view, HttpSettings(listen="127.0.0.1:0"), plant.api) as (_, plant.port):
        yield plant


async def raw(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(15):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def test_a_command_with_the_token_is_done_and_audited(plant: Plant) -> None:
    assert await plant.post("/api/set", b'{"tag": "a", "value": 2.5}') == (
        200,
        {"result": {"set": 2.5}},
    )
    assert plant.done == [Body(tag="a", value=2.5)]
    (record,) = plant.audited
    assert record["command"] == "set"
    assert record["outcome"] == "done"
    assert record["peer"] == "127.0.0.1"
    assert TOKEN not in json.dumps(record)


async def test_what_a_command_refuses_is_answered_and_audited(plant: Plant) -> None:
    assert await plant.post("/api/set", b'{"tag": "away"}') == (
        409,
        {"error": "the device is away"},
    )
    assert (await plant.post("/api/set", b'{"tag": "unknown"}'))[0] == 400
    assert [record["outcome"] for record in plant.audited] == ["the device is away", "no such tag"]
    assert plant.api.stats.commands_failed_total == 2


async def test_without_a_token_in_the_settings_there_is_no_command(view: FakeView) -> None:
    async with serve(view, HttpSettings(listen="127.0.0.1:0")) as (_, port):
        answer = await raw(port, b"POST /api/set HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 405 ")


async def test_a_short_or_missing_token_lets_nobody_in(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_TOKEN", "short")
    assert (await plant.post("/api/set", Authorization="Bearer short"))[0] == 503
    monkeypatch.delenv("API_TOKEN")
    assert (await plant.post("/api/set", Authorization="Bearer "))[0] == 503
    assert not plant.done


async def test_a_token_that_is_changed_holds_at_once(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_TOKEN", "another-token-of-that-length")
    assert (await plant.post("/api/set"))[0] == 401
    new = "Bearer another-token-of-that-length"
    assert (await plant.post("/api/set", Authorization=new))[0] == 200


async def test_guessing_is_slow_and_the_right_token_waits_too(view: FakeView, plant: Plant) -> None:
    for _ in range(api_module.LOGINS_FAILED_MAX):
        assert (await plant.post("/api/set", Authorization="Bearer wrong"))[0] == 401
    assert (await plant.post("/api/set"))[0] == 429
    assert plant.api.stats.logins_failed_total == api_module.LOGINS_FAILED_MAX
    view.clock.advance(api_module.LOGIN_WAIT_S)
    assert (await plant.post("/api/set"))[0] == 200


AUTHORIZED = f"Authorization: Bearer {TOKEN}"
JSON = "Content-Type: application/json"
GOOD = '{"tag": "a"}'
# what is attacked -> request line, headers, body, statuses that refuse it
ATTACKS: dict[str, tuple[str, list[str], str, tuple[int, ...]]] = {
    "no token": ("POST /api/set", [JSON], GOOD, (401,)),
    "empty token": ("POST /api/set", [JSON, "Authorization: Bearer "], GOOD, (401,)),
    "token's beginning": ("POST /api/set", [JSON, AUTHORIZED[:-1]], GOOD, (401,)),
    "token and more": ("POST /api/set", [JSON, AUTHORIZED + "x"], GOOD, (401,)),
    "token in capitals": (
        "POST /api/set",
        [JSON, f"Authorization: Bearer {TOKEN.upper()}"],
        GOOD,
        (401,),
    ),
    "another scheme": ("POST /api/set", [JSON, f"Authorization: Basic {TOKEN}"], GOOD, (401,)),
    "token in the query": (f"POST /api/set?token={TOKEN}", [JSON], GOOD, (401,)),
    "token in a cookie": ("POST /api/set", [JSON, f"Cookie: token={TOKEN}"], GOOD, (401,)),
    "token no text": ("POST /api/set", [JSON, "Authorization: Bearer \udcff"], GOOD, (400, 401)),
    "GET": ("GET /api/set", [AUTHORIZED], "", (404,)),
    "PUT": ("PUT /api/set", [AUTHORIZED, JSON], GOOD, (405,)),
    "DELETE": ("DELETE /api/set", [AUTHORIZED, JSON], GOOD, (405,)),
    "POST to the page": ("POST /", [AUTHORIZED, JSON], GOOD, (405,)),
    "POST to a reader": ("POST /metrics", [AUTHORIZED, JSON], GOOD, (405,)),
    "override": ("GET /api/set", [AUTHORIZED, "X-HTTP-Method-Override: POST"], "", (404,)),
    "rebound name": ("POST /api/set", [AUTHORIZED, JSON, "Host: evil.example"], GOOD, (421, 400)),
    "other site": ("POST /api/set", [AUTHORIZED, JSON, "Origin: http://evil.example"], GOOD, (403,)),
    "null origin": ("POST /api/set", [AUTHORIZED, JSON, "Origin: null"], GOOD, (403,)),
    "cross-site form": (
        "POST /api/set",
        [AUTHORIZED, JSON, "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"],
        GOOD,
        (403,),
    ),
    "cross-site script": ("POST /api/set", [AUTHORIZED, JSON, "Sec-Fetch-Site: same-site"], GOOD, (403,)),
    "form": (
        "POST /api/set",
        [AUTHORIZED, "Content-Type: application/x-www-form-urlencoded"],
        "tag=a",
        (415,),
    ),
    "text that is JSON": ("POST /api/set", [AUTHORIZED, "Content-Type: text/plain"], GOOD, (415,)),
    "no type": ("POST /api/set", [AUTHORIZED], GOOD, (415,)),
    "compressed": ("POST /api/set", [AUTHORIZED, JSON, "Content-Encoding: gzip"], GOOD, (415, 400)),
    "too large": ("POST /api/set", [AUTHORIZED, JSON], '{"tag": "' + "a" * 70_000 + '"}', (413,)),
    "deep": ("POST /api/set", [AUTHORIZED, JSON], "[" * 8000, (400,)),
    "NaN": ("POST /api/set", [AUTHORIZED, JSON], '{"tag": "a", "value": NaN}', (400,)),
    "infinite": ("POST /api/set", [AUTHORIZED, JSON], '{"tag": "a", "value": 1e999}', (400,)),
    "text for a number": ("POST /api/set", [AUTHORIZED, JSON], '{"tag": "a", "value": "1"}', (400,)),
    "key twice": ("POST /api/set", [AUTHORIZED, JSON], '{"tag": "b", "tag": "a"}', (400,)),
    "unknown key": ("POST /api/set", [AUTHORIZED, JSON], '{"tag": "a", "x": 1}', (400,)),
    "no object": ("POST /api/set", [AUTHORIZED, JSON], '"a"', (400,)),
    "no UTF-8": ("POST /api/set", [AUTHORIZED, JSON], '{"tag": "\udcff"}', (400,)),
    "nothing": ("POST /api/set", [AUTHORIZED, JSON], "", (400,)),
    "path traversal": ("POST /api/../api/set", [AUTHORIZED, JSON], GOOD, (404, 400)),
    "encoded traversal": ("POST /api/%2e%2e%2fset", [AUTHORIZED, JSON], GOOD, (404,)),
    "path with NUL": ("POST /api/set%00", [AUTHORIZED, JSON], GOOD, (404,)),
    "no command": ("POST /api/", [AUTHORIZED, JSON], GOOD, (404,)),
    "newline in the path": ("POST /api/set%0d%0aX:1", [AUTHORIZED, JSON], GOOD, (404,)),
    "two lengths": ("POST /api/set", [AUTHORIZED, JSON, "Content-Length: 5"], GOOD, (400,)),
    "smuggled": ("POST /api/set", [AUTHORIZED, JSON, "Transfer-Encoding: chunked"], GOOD, (400,)),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
async def test_scripted_attacks_are_refused(plant: Plant, name: str) -> None:
    line, headers, body, statuses = ATTACKS[name]
    data = body.encode("utf-8", "surrogateescape")
    if not any(header.startswith("Host:") for header in headers):
        headers = ["Host: localhost", *headers]
    lines = [f"{line} HTTP/1.1", *headers, f"Content-Length: {len(data)}", "", ""]
    head = "\r\n".join(lines).encode("utf-8", "surrogateescape")
    answer = await raw(plant.port, head + data)
    assert int(answer.split(b" ", 2)[1]) in statuses, answer
    assert not plant.done
    assert (await plant.post("/api/set"))[0] == 200, "who is right is served all the same"


async def test_a_body_that_dribbles_in_is_cut(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "BODY_S", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", plant.port)
    head = f"POST /api/set HTTP/1.1\r\nHost: localhost\r\n{AUTHORIZED}\r\n{JSON}\r\n"
    writer.write(head.encode() + b"Content-Length: 10000\r\n\r\n{")
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(20):
            assert not await reader.read()
    writer.close()
    assert not plant.done
    assert (await plant.post("/api/set"))[0] == 200
