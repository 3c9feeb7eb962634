"""The web server answers whom it should, refuses the rest, and is never held up by either."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import numpy as np
import pytest
import uvloop

from gateway.config.schema import HttpSettings
from gateway.errors import SluicegateError
from gateway.frame import Frame
from gateway.ops import broadcast, http
from gateway.ops.http import serve
from tests.ops.fake_view import FakeView, until

LOOPBACK = HttpSettings(listen="127.0.0.1:0")


@pytest.fixture
async def port(view: FakeView) -> AsyncIterator[int]:
    view.sample()
    async with serve(view, LOOPBACK) as (host, bound):
        assert host == "127.0.0.1"
        yield bound


async def get(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, Any, str]:
    """Status, headers and text of an answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://127.0.0.1:{port}{path}", headers=named) as response,
    ):
        return response.status, response.headers, await response.text()


async def raw(port: int, request: bytes) -> bytes:
    """All bytes that come back for these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def number(text: str, name: str) -> int:
    """The value of a metric without labels."""
    (line,) = (line for line in text.split("\n") if line.startswith(f"{name} "))
    return int(line.rpartition(" ")[2])


async def next_event(reader: Any) -> tuple[str, Any]:
    """Name and data of the next server-sent event."""
    async with asyncio.timeout(10):
        block = b""
        while not block.endswith(b"\n\n"):
            line = await reader.readline()
            assert line, "the stream ended"
            block += line
    name, data = block.decode().rstrip("\n").split("\n", 1)
    return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("/healthz", "application/json"),
    ],
)
async def test_what_there_is_has_its_type_and_the_safe_headers(
    port: int, path: str, content_type: str
) -> None:
    status, headers, text = await get(port, path)
    assert status == 200
    assert headers["Content-Type"] == content_type
    assert text
    assert "script-src 'self';" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert "Access-Control-Allow-Origin" not in headers
    status, _, text = await get(port, path, "HEAD")
    assert (status, text) == (200, "")


async def test_healthz_is_503_only_when_the_gateway_cannot_do_its_job(
    view: FakeView, port: int
) -> None:
    view.sources[0].stats.connected = False
    status, _, text = await get(port, "/healthz")
    assert status == 200
    assert json.loads(text)["status"] == "degraded"
    view.trouble = "disk full"
    status, _, text = await get(port, "/healthz")
    assert status == 503
    assert json.loads(text)["failures"] == ["spool: disk full"]


async def test_metrics_count_the_web_server_too(port: int) -> None:
    await get(port, "/nothing")
    _, _, text = await get(port, "/metrics")
    assert 'sluicegate_http_responses_total{kind="404"} 1\n' in text


ATTACKS_BY_HEADER = [
    ("/", {"Host": "evil.example"}, 421),  # a rebound name
    ("/", {"Host": "evil.example:8080"}, 421),
    ("/", {"Host": ""}, 421),
    ("/", {"Host": "127.0.0.1.evil.example"}, 421),
    ("/", {"Host": "localhost@evil.example"}, 421),
    ("/", {"Host": "[::1"}, 421),
    ("/", {"Host": "192.168.1.7"}, 421),  # not where it listens
    ("/events", {"Host": "evil.example"}, 421),
    ("/metrics", {"Host": "evil.example"}, 421),
    ("/events", {"Origin": "http://evil.example"}, 403),
    ("/events", {"Origin": "null"}, 403),
    ("/events", {"Origin": "http://localhost.evil.example"}, 403),
    ("/healthz", {"Origin": "http://[", "Sec-Fetch-Site": "none"}, 403),
    ("/events", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}, 403),
    ("/metrics", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}, 403),
    ("/api/history?tag=x", {"Sec-Fetch-Site": "cross-site"}, 403),
]
ATTACKS_BY_PATH = [
    "/../../../../etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/page/../http.py",
    "/page.js/../../http.py",
    "/..%2fhttp.py",
    "//etc/passwd",
    "/page.js%00.html",
    "/http.py",
]


@pytest.mark.parametrize(("path", "headers", "status"), ATTACKS_BY_HEADER)
async def test_attacks_by_header_are_refused(
    port: int, path: str, headers: dict[str, str], status: int
) -> None:
    lines = {"Host": f"localhost:{port}", **headers}
    request = f"GET {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
    answer = await raw(port, request.encode() + b"\r\n")
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer


@pytest.mark.parametrize("path", ATTACKS_BY_PATH)
async def test_attacks_by_path_find_nothing(port: int, path: str) -> None:
    answer = await raw(port, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert answer.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 ")), answer
    assert b"root:" not in answer
    assert b"import" not in answer


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
async def test_nothing_can_be_changed(port: int, method: str) -> None:
    status, headers, _ = await get(port, "/healthz", method)
    assert status == 405
    assert headers["Allow"] == "GET, HEAD"


async def test_a_link_from_elsewhere_may_open_the_page(port: int) -> None:
    found = await get(port, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")
    assert found[0] == 200


@pytest.mark.parametrize("host", ["localhost:9999", "127.0.0.1", "[::1]:80", "LOCALHOST"])
async def test_it_is_found_by_its_names_on_any_forwarded_port(port: int, host: str) -> None:
    assert (await get(port, "/healthz", Host=host, Origin=f"http://{host}"))[0] == 200


async def test_listening_everywhere_it_takes_addresses_and_its_own_name(view: FakeView) -> None:
    async with serve(view, HttpSettings(listen="0.0.0.0:0")) as (_, port):
        for host in ("192.168.1.7:8080", "[fe80::1]", socket.gethostname(), "localhost"):
            assert (await get(port, "/healthz", Host=host))[0] == 200
        assert (await get(port, "/healthz", Host="evil.example"))[0] == 421


async def test_a_connection_serves_one_request(port: int) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer = await raw(port, request * 3)
    assert answer.count(b"HTTP/1.1 200 OK") == 1


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 10_000 + b"\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n" * 1000,
        b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: x\r\nContent-Length: 5\r\n\r\n",
    ],
)
async def test_nonsense_is_refused_and_the_next_one_is_served(
    port: int, request_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "REQUEST_S", 0.3)
    answer = await raw(port, request_bytes)
    assert not answer.startswith(b"HTTP/1.1 200")
    assert (await get(port, "/healthz"))[0] == 200


async def slow_requests_are_cut(view: FakeView) -> None:
    """Slowloris: a byte at a time never reaches the end of a request."""
    async with serve(view, LOOPBACK) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        started_s = asyncio.get_running_loop().time()
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(10):
                for byte in b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 1000:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.02):
                            if not await reader.read(1):
                                break
        took_s = asyncio.get_running_loop().time() - started_s
        writer.close()
        assert took_s < 3
        assert (await get(port, "/healthz"))[0] == 200


async def test_slow_requests_are_cut(view: FakeView, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "REQUEST_S", 0.3)
    await slow_requests_are_cut(view)


def test_slow_requests_are_cut_under_uvloop(
    view: FakeView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "REQUEST_S", 0.3)
    uvloop.run(slow_requests_are_cut(view))


async def test_connections_beyond_the_bound_are_refused_and_counted(
    view: FakeView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "CONNECTIONS_MAX", 5)
    monkeypatch.setattr(http, "REQUEST_S", 0.5)
    async with serve(view, LOOPBACK) as (_, port):
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        refused = 0
        for reader, _ in opened:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    try:
                        refused += not await reader.read(1)
                    except ConnectionError:
                        refused += 1
        assert refused == 15
        for _, writer in opened:
            writer.close()

        async def served() -> bool:
            with contextlib.suppress(aiohttp.ClientError):
                _, _, text = await get(port, "/metrics")
                return number(text, "sluicegate_http_connections_refused_total") >= 15
            return False

        async with asyncio.timeout(10):
            while not await served():
                pass


async def test_events_begin_with_a_whole_and_go_on_with_ticks(view: FakeView, port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /events HTTP/1.0\r\nHost: localhost\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"text/event-stream" in head
    name, whole = await next_event(reader)
    assert name == "whole"
    assert whole["gateway"]["name"] == "line-1"
    view.sample({"pump-1.pressure": 9.75})
    name, tick = await next_event(reader)
    assert name == "tick"
    assert tick["values"][0] == 9.75
    view.add_tag("pump-2", "pump", "pressure", "bar", 4.0, 0.1)
    view.sample()
    name, whole = await next_event(reader)
    assert name == "whole"
    assert len(whole["tags"]) == 7
    writer.close()


@pytest.fixture
def fast_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broadcast.Broadcast.__init__, "__defaults__", (0.02,))


@pytest.mark.usefixtures("fast_ticks")
async def test_a_client_that_does_not_read_is_cut_and_the_others_are_not(
    view: FakeView, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(500):
        view.add_tag(f"pump-{index}", "pump", "x", "bar", 1 / 3, 0.1)
    view.sample()
    monkeypatch.setattr(http, "EVENT_WRITE_S", 0.5)
    async with serve(view, LOOPBACK) as (_, port):
        # A window of a few kB, so that what is not read stays with the server.
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(deaf, ("127.0.0.1", port))
        await loop.sock_sendall(deaf, b"GET /events HTTP/1.0\r\nHost: localhost\r\n\r\n")
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
        writer.write(b"GET /events HTTP/1.0\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        clients = 2
        async with asyncio.timeout(30):
            while clients != 1:
                await next_event(reader)
                _, _, text = await get(port, "/metrics")
                clients = number(text, "sluicegate_http_clients")
        await next_event(reader)
        deaf.close()
        writer.close()


@pytest.mark.usefixtures("fast_ticks")
async def test_pages_are_bounded_and_healthz_still_answers(
    view: FakeView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "CLIENTS_MAX", 3)
    async with serve(view, LOOPBACK) as (_, port):
        streams = []
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /events HTTP/1.0\r\nHost: localhost\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            streams.append(writer)
        status, headers, _ = await get(port, "/events")
        assert status == 503
        assert headers["Retry-After"]
        assert (await get(port, "/healthz"))[0] == 200
        streams[0].close()

        async def clients() -> int:
            _, _, text = await get(port, "/metrics")
            return number(text, "sluicegate_http_clients")

        async with asyncio.timeout(10):
            while await clients() != 2:
                pass


async def test_it_ends_at_once_while_pages_are_open(view: FakeView) -> None:
    async with serve(view, LOOPBACK) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /events HTTP/1.0\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        began_s = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began_s < 1
    async with asyncio.timeout(5):
        await reader.read()
    writer.close()
    await until(lambda: len(asyncio.all_tasks()) == 1)


async def test_history_is_answered_within_bounds(view: FakeView, port: int) -> None:
    view.stored = Frame.of(
        np.array([10, 20], np.int64), np.array([0, 0], np.int32), np.array([1.0, np.nan])
    )
    status, _, text = await get(port, "/api/history?tag=pump-1.pressure&start=1h&lane=raw")
    assert status == 200
    assert json.loads(text) == {
        "series": [
            {
                "tag": "pump-1.pressure",
                "eng_unit": "bar",
                "t_ns": [10, 20],
                "value": [1.0, None],
                "quality": [0, 0],
            }
        ],
        "truncated": False,
    }
    status, _, text = await get(port, "/api/history?tag=x&lane=nope")
    assert status == 400
    assert "lane" in json.loads(text)["error"]


async def test_history_takes_few_at_once_and_gives_up_on_a_slow_disk(
    view: FakeView, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    async def never(*_: object) -> Frame:
        asked.set()
        return await asyncio.Future()

    monkeypatch.setattr(view, "history", never)
    monkeypatch.setattr(http, "HISTORY_S", 0.5)
    monkeypatch.setattr(http, "HISTORY_AT_ONCE_MAX", 1)
    slow = asyncio.create_task(get(port, "/api/history?tag=x"))
    await asyncio.wait_for(asked.wait(), 5)
    status, headers, _ = await get(port, "/api/history?tag=x")
    assert (status, headers["Retry-After"]) == (503, "2")
    assert (await slow)[0] == 503


async def test_an_address_in_use_says_what_to_do(view: FakeView, port: int) -> None:
    with pytest.raises(SluicegateError, match=r"gateway\.http\.listen"):
        async with serve(view, HttpSettings(listen=f"127.0.0.1:{port}")):
            pass
