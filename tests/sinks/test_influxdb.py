from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from functools import partial
from pathlib import Path

import pytest
from aiohttp import web

from gateway.errors import (
    SinkError,
    SinkParked,
    SinkRejected,
    SinkTooLarge,
    SinkUnavailable,
)
from gateway.loop import Loop
from gateway.resolve import Addresses, Names
from gateway.sinks import answers
from gateway.sinks.config import Influx1Settings, Influx2Settings, Influx3Settings
from gateway.sinks.influxdb import PORTAL_HINT, InfluxSink, build
from gateway.tag import DataType, TagTable
from tests.rig import free_port
from tests.samples import make_frame, make_tag
from tests.servers import Influx1, Victoria, running
from tests.sinks.fake_influx import FakeInflux, fake_influx

verdict = partial(answers.verdict, stored=(204,), portal_hint=PORTAL_HINT)


def influx2(url: str, **more: object) -> Influx2Settings:
    base = {"type": "influxdb2", "name": "db", "url": url, "org": "o", "bucket": "b"}
    return Influx2Settings.model_validate(base | more)


@pytest.fixture
async def fake() -> AsyncIterator[FakeInflux]:
    async with fake_influx() as server:
        yield server


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (204, None),
        (200, SinkUnavailable),  # a captive portal
        (302, SinkUnavailable),
        (400, SinkRejected),
        (422, SinkRejected),
        (401, SinkParked),
        (403, SinkParked),
        (404, SinkParked),
        (405, SinkParked),
        (407, SinkParked),
        (415, SinkParked),
        (413, SinkTooLarge),
        (429, SinkUnavailable),
        (503, SinkUnavailable),
        (408, SinkUnavailable),
        (425, SinkUnavailable),
        (500, SinkUnavailable),
        (502, SinkUnavailable),
    ],
)
def test_every_answer_has_its_meaning(status: int, kind: type[SinkError] | None) -> None:
    error = verdict(status, b"because", {})
    assert type(error) is (kind or type(None))
    if error is not None:
        assert f"answered {status}: because" in str(error)


def test_a_refusal_that_only_a_person_can_mend_says_how() -> None:
    assert "takes no POST" in str(verdict(405, b"", {}))
    assert "try gzip = false" in str(verdict(415, b"", {}, is_gzip=True))
    assert "gzip" not in str(verdict(415, b"", {}))
    no_policy = verdict(500, b'{"error":"retention policy not found: weekly"}', {})
    assert isinstance(no_policy, SinkParked)
    assert "not found: weekly (check retention_policy" in str(no_policy)


@pytest.mark.parametrize(
    ("status", "location", "kind"),
    [
        (308, "https://influx.test/api/v2/write", SinkParked),
        (301, "https://new.test/", SinkParked),
        (307, "https://db.test/api/v2/write?org=o", SinkParked),  # the same host, by HTTPS
        (302, "/login", SinkParked),
        (302, "http://portal.test/login", SinkUnavailable),  # a guest network's: it may pass
        (307, "http://[", SinkUnavailable),
        (303, "x" * 10_000, SinkParked),
    ],
)
def test_a_redirect_says_where_it_leads(status: int, location: str, kind: type[SinkError]) -> None:
    error = verdict(status, b"", {"Location": location}, url="http://db.test:8086/api/v2/write")
    assert type(error) is kind
    assert f"the server answered {status}, which leads to {location[:255]} " in str(error)
    assert len(str(error)) < 400


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7.0), ("", None), ("soon", None), ("-3", None), ("in a minute", 60.0)],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    if value == "in a minute":
        value = formatdate(time.time() + 60)
    error = verdict(429, b"", {"Retry-After": value})
    assert isinstance(error, SinkUnavailable)
    assert error.retry_after_s == (None if seconds is None else pytest.approx(seconds, abs=2))


def test_a_servers_words_are_cut_short() -> None:
    assert len(str(verdict(500, b"x" * 10_000, {}))) < 400


async def write(sink: InfluxSink, values: list[float]) -> None:
    frame = make_frame([(1_700_000_000.0 + i, 0, value) for i, value in enumerate(values)])
    async with sink.session():
        await sink.write(frame)


@pytest.mark.parametrize("compressed", [True, False])
async def test_points_arrive_with_bucket_token_and_precision(
    fake: FakeInflux, table: TagTable, monkeypatch: pytest.MonkeyPatch, *, compressed: bool
) -> None:
    table.add(make_tag("p1.flow"))
    monkeypatch.setenv("TOKEN", "s3cret")
    await write(build(influx2(fake.url, token="env:TOKEN", gzip=compressed), table), [1.5, 2.5])
    assert fake.stored == {
        "pump,asset=p1 1700000000000000000": "flow=1.5,quality=0i",
        "pump,asset=p1 1700000001000000000": "flow=2.5,quality=0i",
    }
    request = fake.requests[0]
    assert request.path == "/api/v2/write"
    assert dict(request.query) == {"org": "o", "bucket": "b", "precision": "ns"}
    assert request.headers["Authorization"] == "Token s3cret"


async def test_a_token_that_is_rotated_is_used_at_once(
    fake: FakeInflux, table: TagTable, tmp_path: Path
) -> None:
    table.add(make_tag("p1.flow"))
    secret = tmp_path / "token"
    sink = build(influx2(fake.url, token=f"file:{secret}"), table)
    for token in ("one", "two"):
        secret.write_text(token)
        await write(sink, [1.0])
    assert [r.headers["Authorization"] for r in fake.requests] == ["Token one", "Token two"]
    secret.unlink()
    with pytest.raises(SinkParked, match="cannot read the secret file"):
        await write(sink, [1.0])


async def test_large_batches_are_cut_at_points(fake: FakeInflux, table: TagTable) -> None:
    table.add(make_tag("p1.flow"))
    await write(build(influx2(fake.url, bytes_max="1KiB"), table), [float(i) for i in range(100)])
    assert len(fake.stored) == 100
    assert len(fake.requests) > 5
    assert all(sum(len(line) + 1 for line in lines) <= 1024 for lines in fake.bodies)


async def test_a_server_that_is_not_there_is_unavailable(table: TagTable) -> None:
    table.add(make_tag("p1.flow"))
    with pytest.raises(SinkUnavailable, match=r"127\.0\.0\.1"):
        await write(build(influx2(f"http://127.0.0.1:{free_port()}"), table), [1.0])


async def test_a_slow_server_costs_one_deadline(table: TagTable) -> None:
    table.add(make_tag("p1.flow"))

    async def dribble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in b"HTTP/1.1 204 No Content\r\n" * 100:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)

    server = await asyncio.start_server(dribble, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        began = time.monotonic()
        with pytest.raises(SinkUnavailable, match=r"no answer within 0\.3 s"):
            await write(build(influx2(f"http://127.0.0.1:{port}", timeout="300ms"), table), [1.0])
        assert time.monotonic() - began < 2
        server.close()


async def test_a_proxy_that_takes_no_compressed_bodies_is_said(
    fake: FakeInflux, table: TagTable
) -> None:
    table.add(make_tag("p1.flow"))
    fake.answer = lambda _: web.Response(status=415)
    with pytest.raises(SinkParked, match="try gzip = false"):
        await write(build(influx2(fake.url), table), [1.0])


async def test_influxdb_1_without_the_retention_policy_parks_the_sink(
    influx: Influx1, table: TagTable
) -> None:
    table.add(make_tag("p1.flow"))
    influx.query("CREATE DATABASE weeks")
    facts = {"type": "influxdb1", "name": "db", "url": influx.url, "database": "weeks"}
    settings = Influx1Settings.model_validate(facts | {"retention_policy": "weekly"})
    with pytest.raises(SinkParked, match=r"weekly.*check retention_policy"):
        await write(build(settings, table), [1.0])


@asynccontextmanager
async def answering(head: bytes, then: bytes = b"") -> AsyncIterator[tuple[str, list[int]]]:
    """A server's URL, and its requests by connection; `then` comes a moment after the `head`."""
    connections: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mine = len(connections)
        connections.append(0)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                asked = await reader.readuntil(b"\r\n\r\n")
                size = asked.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(size))
                connections[mine] += 1
                writer.write(head)
                await asyncio.sleep(0.05)
                writer.write(then)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", connections


async def write_thrice(url: str, table: TagTable) -> None:
    table.add(make_tag("p1.flow"))
    sink = build(influx2(url), table)
    async with sink.session():
        for i in range(3):
            await sink.write(make_frame([(1_700_000_000.0 + i, 0, 1.0)]))


@pytest.mark.parametrize("framing", ["Content-Length: 11", "Transfer-Encoding: chunked"])
async def test_a_204_whose_body_comes_later_is_stored_and_its_connection_not_used_again(
    table: TagTable, framing: str
) -> None:
    head = f"HTTP/1.1 204 No Content\r\n{framing}\r\n\r\n".encode()
    async with answering(head, b'{"ok":true}') as (url, connections):
        await write_thrice(url, table)
        assert connections == [1, 1, 1]


@pytest.mark.parametrize("length", [b"", b"Content-Length: 0\r\n"])
async def test_after_a_204_without_a_body_the_connection_is_used_again(
    table: TagTable, length: bytes
) -> None:
    async with answering(b"HTTP/1.1 204 No Content\r\n" + length + b"\r\n") as (url, connections):
        await write_thrice(url, table)
        assert connections == [3]


@pytest.mark.parametrize(
    "head", [b'HTTP/1.1 204 No Content\r\n\r\n{"ok":true}', b"SSH-2.0-OpenSSH_9.6\r\n"]
)
async def test_an_answer_that_is_no_http_is_said_to_be_none(table: TagTable, head: bytes) -> None:
    async with answering(head) as (url, _):
        with pytest.raises(SinkUnavailable, match="the answer cannot be read as HTTP") as said:
            await write_thrice(url, table)
    assert "400" not in str(said.value)  # nobody answered that
    assert "204 with a body" in str(said.value)
    assert "\n" not in str(said.value)


async def test_redirects_are_not_followed(fake: FakeInflux, table: TagTable) -> None:
    table.add(make_tag("p1.flow"))
    fake.answer = lambda _: web.Response(status=307, headers={"Location": "http://127.0.0.1:1/"})
    with pytest.raises(SinkParked, match=r"answered 307, which leads to http://127\.0\.0\.1:1/"):
        await write(build(influx2(fake.url), table), [1.0])


async def test_a_certificate_nobody_vouches_for_parks_the_sink_and_nothing_is_sent(
    table: TagTable, certificate: Path
) -> None:
    table.add(make_tag("p1.flow"))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    async with fake_influx(tls) as server:
        with pytest.raises(SinkParked, match="certificate verify failed"):
            await write(build(influx2(server.url), table), [1.0])
        wrong_name = server.url.replace("127.0.0.1", "localhost")
        with pytest.raises(SinkParked, match="certificate"):
            await write(build(influx2(wrong_name, tls_ca=str(certificate)), table), [1.0])
        assert not server.requests
        await write(build(influx2(server.url, tls_ca=str(certificate)), table), [1.0])
        assert len(server.stored) == 1


@pytest.mark.parametrize("text", [None, "no certificate"])
async def test_a_ca_file_that_cannot_be_used_parks_the_sink(
    table: TagTable, tmp_path: Path, text: str | None
) -> None:
    table.add(make_tag("p1.flow"))
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SinkParked, match=r"cannot use tls_ca .*ca\.pem"):
        await write(build(influx2("https://127.0.0.1:1", tls_ca=str(path)), table), [1.0])


@pytest.mark.parametrize(
    "facts",
    [
        {"type": "influxdb2", "bucket": "b", "token": "env:TOKEN"},
        {"type": "influxdb1", "database": "d", "username": "a:b", "password": "env:TOKEN"},
        {"type": "influxdb1", "database": "d", "username": "ab", "password": "env:NONE"},
    ],
)
async def test_a_login_that_cannot_be_sent_parks_the_sink_and_stays_secret(
    table: TagTable, monkeypatch: pytest.MonkeyPatch, facts: dict[str, str]
) -> None:
    table.add(make_tag("p1.flow"))
    monkeypatch.setenv("TOKEN", "s3cret\nX-Forged: 1")
    kind = Influx2Settings if facts["type"] == "influxdb2" else Influx1Settings
    settings = kind.model_validate(facts | {"name": "db", "url": "http://127.0.0.1:1"})
    with pytest.raises(SinkParked) as parked:
        await write(build(settings, table), [1.0])
    assert "s3cret" not in str(parked.value)


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("good\nold\n", "has a line break (U+000A) at place 5"),
        ("g\u00a0d", "has a no-break space (U+00A0) at place 2"),
        ("go\u200bod", "has a zero width space (U+200B) at place 3"),
        ("go\x1bod", "has a control character (U+001B) at place 3"),
        ("\n", "is empty"),
        ("", "is empty"),
    ],
)
async def test_what_is_wrong_with_a_token_is_said_and_nothing_is_sent(
    fake: FakeInflux, table: TagTable, tmp_path: Path, token: str, said: str
) -> None:
    table.add(make_tag("p1.flow"))
    (tmp_path / "token").write_text(token)
    with pytest.raises(SinkParked) as parked:
        await write(build(influx2(fake.url, token=f"file:{tmp_path / 'token'}"), table), [1.0])
    assert f"of 'file:{tmp_path / 'token'}' {said}" in str(parked.value)
    assert not fake.requests


async def test_the_login_of_influxdb_1_is_sent(
    fake: FakeInflux, table: TagTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.add(make_tag("p1.flow"))
    monkeypatch.setenv("PASSWORD", "pässword:")
    facts = {"type": "influxdb1", "name": "db", "url": f"{fake.url}/base/", "database": "d"}
    facts |= {"retention_policy": "r", "username": "me", "password": "env:PASSWORD"}
    await write(build(Influx1Settings.model_validate(facts), table), [1.0])
    request = fake.requests[0]
    assert request.path == "/base/write"
    assert dict(request.query) == {"db": "d", "rp": "r", "precision": "n"}
    kind, _, login = request.headers["Authorization"].partition(" ")
    assert (kind, base64.b64decode(login).decode()) == ("Basic", "me:pässword:")


async def test_slow_is_told_from_not_there(table: TagTable) -> None:
    table.add(make_tag("p1.flow"))
    listener = socket.socket()  # its queue of connections is full: who comes now waits
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with contextlib.closing(listener), contextlib.ExitStack() as opened:
        with pytest.raises(SinkUnavailable) as slow:
            await write(build(influx2(url, timeout="200ms"), table), [1.0])
        assert slow.value.is_slow  # connected, never answered
        for _ in range(4):
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        with pytest.raises(SinkUnavailable, match=r"not connected within 0\.1 s") as absent:
            await write(build(influx2(url, timeout="200ms"), table), [1.0])
        assert not absent.value.is_slow


def test_a_name_without_an_answer_is_said_and_is_no_slow_server(table: TagTable) -> None:
    table.add(make_tag("p1.flow"))
    told = threading.Event()

    def silence(*_: object) -> Addresses:
        told.wait(10)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def ask(within: str) -> SinkUnavailable:
        with pytest.raises(SinkUnavailable) as trouble:
            await write(build(influx2("http://db.test:1", timeout=within), table), [1.0])
        return trouble.value

    with asyncio.Runner(loop_factory=Loop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, Loop)
        loop.names = Names(silence)
        silent = runner.run(ask("200ms"))
        told.set()
        unknown = runner.run(ask("1s"))
    assert "the name db.test was not resolved within 0.2 s" in str(silent)
    assert not silent.is_slow
    assert str(unknown).endswith("the name db.test was not resolved: Name or service not known")


HOSTILE = 'a "quoted", spaced=\\name'
FIELD = "it's, spaced=\\field"


async def test_influxdb_1_reads_back_what_was_written(tmp_path: Path, table: TagTable) -> None:
    table.add(make_tag("p1.flow"))
    labels = (("asset", HOSTILE),)
    table.add(make_tag("p2.x", field=FIELD, measurement="hostile, one", labels=labels))
    table.add(make_tag("p2.n", data_type=DataType.INT64, measurement="hostile, one", labels=labels))
    with running(Influx1(tmp_path / "influx")) as server:
        server.query("CREATE DATABASE plant")
        settings = Influx1Settings.model_validate(
            {"type": "influxdb1", "name": "db", "url": server.url, "database": "plant"}
        )
        sink = build(settings, table)
        frame = make_frame([(1e9, 0, 0.1 + 0.2), (1e9, 1, -1e-300), (1e9, 2, 2.0**53 - 1)])
        async with sink.session():
            await sink.write(frame)
            await sink.write(frame)  # once more changes nothing
        (pump,) = server.query('SELECT flow, quality FROM "pump"', "plant")
        assert pump["values"] == [[10**18, 0.1 + 0.2, 0]]
        (odd,) = server.query('SELECT * FROM "hostile, one"', "plant")
        read = dict(zip(odd["columns"], odd["values"][0], strict=True))
        assert read == {
            "time": 10**18,
            "asset": HOSTILE,
            FIELD: -1e-300,
            "n": 2**53 - 1,
            "quality": 0,
        }


async def test_victoriametrics_reads_back_what_was_written(tmp_path: Path, table: TagTable) -> None:
    table.add(make_tag("p1.flow"))
    with running(Victoria(tmp_path / "vm")) as server:
        await write(build(influx2(server.url), table), [1.5, 2.5])
        (series,) = server.export('{__name__="pump_flow"}')
        assert series["values"] == [1.5, 2.5]
        assert series["timestamps"] == [1_700_000_000_000, 1_700_000_001_000]


async def test_influxdb_3_is_asked_to_keep_what_is_good_and_its_words_are_read(
    fake: FakeInflux, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "apiv3_x")
    refused = "pump,asset=pump flow=1.0"
    words = {
        "error": "partial write of line protocol occurred",
        "data": [{"original_line": refused, "line_number": 2, "error_message": "invalid column"}],
    }

    def answer(lines: list[str]) -> web.Response:
        if any(line.startswith(refused) for line in lines):
            return web.json_response(words, status=400)
        return web.Response(status=204)

    fake.answer = answer
    table = TagTable()
    table.add(make_tag("pump.flow"))
    facts = {"type": "influxdb3", "name": "db", "url": fake.url, "database": "plant"}
    settings = Influx3Settings.model_validate(facts | {"token": "env:TOKEN"})
    sink = build(settings, table)
    async with sink.session():
        frame = make_frame([(1_700_000_000.0 + i, 0, float(i)) for i in range(3)])
        receipt = await sink.write(frame)
    assert dict(receipt.rejected) == {1: "invalid column"}
    assert len(fake.stored) == 2
    request = fake.requests[0]
    assert request.rel_url.path == "/api/v3/write_lp"
    assert dict(request.rel_url.query) == {
        "db": "plant",
        "precision": "nanosecond",
        "accept_partial": "true",
    }
    assert request.headers["Authorization"] == "Bearer apiv3_x"
