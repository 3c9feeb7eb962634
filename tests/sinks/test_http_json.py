"""HTTP JSON: what a web server of one's own is given, and what its answers mean."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from gateway.errors import SinkError, SinkParked, SinkRejected, SinkTooLarge, SinkUnavailable
from gateway.sinks.config import HttpJsonSettings
from gateway.sinks.http_json import build
from gateway.tag import TagTable
from tests.samples import make_frame, make_tag


@dataclass
class Server:
    url: str = ""
    status: int = 200
    content_type: str = "application/json"
    bodies: list[list[dict[str, Any]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def handle(self, request: web.BaseRequest) -> web.Response:
        self.bodies.append(json.loads(await request.read()))
        self.headers.append(dict(request.headers))
        return web.Response(status=self.status, text="{}", content_type=self.content_type)


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server = Server()
    runner = web.ServerRunner(web.Server(server.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/ingest?site=north"
    try:
        yield server
    finally:
        await runner.cleanup()


async def send(server: Server, samples: int = 3, **more: object) -> None:
    table = TagTable()
    table.add(make_tag("pump.flow"))
    facts = {"type": "http_json", "name": "own", "url": server.url} | more
    sink = build(HttpJsonSettings.model_validate(facts), table)
    async with sink.session():
        frame = make_frame([(1000.0 + i, 0, float(i)) for i in range(samples)])
        receipt = await sink.write(frame)
        assert receipt.accepted == range(samples)
        assert not receipt.rejected
    assert sink.stats.bytes_total > 0


async def test_an_array_of_samples_arrives_with_the_headers_that_were_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OWN_TOKEN", "abc")
    async with serving() as server:
        await send(server, headers={"X-Plant": "north"}, token="env:OWN_TOKEN")
    assert [row["value"] for row in server.bodies[0]] == [0.0, 1.0, 2.0]
    assert server.headers[0]["X-Plant"] == "north"
    assert server.headers[0]["Authorization"] == "Bearer abc"
    assert server.headers[0]["Content-Type"] == "application/json"


async def test_bodies_stay_below_their_bound_and_nothing_is_left_out() -> None:
    async with serving() as server:
        await send(server, samples=50, bytes_max=2048, gzip=False)
    assert len(server.bodies) > 3
    assert all(int(headers["Content-Length"]) <= 2048 for headers in server.headers)
    assert [row["value"] for body in server.bodies for row in body] == list(map(float, range(50)))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, None),
        (202, None),
        (204, None),
        (302, SinkUnavailable),
        (400, SinkRejected),
        (401, SinkParked),
        (404, SinkParked),
        (413, SinkTooLarge),
        (429, SinkUnavailable),
        (500, SinkUnavailable),
    ],
)
async def test_every_answer_has_its_meaning(status: int, kind: type[SinkError] | None) -> None:
    async with serving() as server:
        server.status = status
        if kind is None:
            await send(server)
            return
        with pytest.raises(kind, match=f"answered {status}"):
            await send(server)


async def test_a_log_in_page_is_no_receipt() -> None:
    async with serving() as server:
        server.content_type = "text/html"
        with pytest.raises(SinkUnavailable, match="log-in page"):
            await send(server)


async def test_only_what_the_settings_accept_counts() -> None:
    async with serving() as server:
        with pytest.raises(SinkUnavailable, match="answered 200"):
            await send(server, accept=[201])
        server.status = 201
        await send(server, accept=[201])
