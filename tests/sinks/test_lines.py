"""Line protocol over HTTP, TCP and UDP: to a real VictoriaMetrics, and to receivers that fail."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from gateway.errors import SinkParked, SinkUnavailable
from gateway.frame import Frame
from gateway.sinks import Sink
from gateway.sinks.config import LineProtocolSettings
from gateway.sinks.lines import StreamSink, build
from gateway.tag import TagTable
from tests.rig import free_port, wait_until
from tests.samples import make_frame, make_tag
from tests.servers import Victoria, running
from tests.sinks.fake_influx import fake_influx

T_S = 1_700_000_000


def sink_to(url: str, **more: object) -> Sink:
    table = TagTable()
    table.add(make_tag("pump.flow"))
    table.add(make_tag("pump.text", labels=(("asset", "p" * 900),)))
    facts = {"type": "lineprotocol", "name": "lines", "url": url, "timeout": 2.0} | more
    return build(LineProtocolSettings.model_construct(**defaults(facts)), table)


def defaults(facts: dict[str, object]) -> dict[str, object]:
    checked = LineProtocolSettings.model_validate(
        {"type": "lineprotocol", "name": "lines", "url": facts["url"]}
    )
    return checked.model_dump() | facts


def frame_of(first: int, count: int) -> Frame:
    return make_frame([(float(T_S + first + i), 0, float(first + i)) for i in range(count)])


def stored(server: Victoria) -> list[float]:
    return sorted(v for series in server.export("pump_flow") for v in series["values"])


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
async def test_victoriametrics_takes_lines_without_http(tmp_path: Path, scheme: str) -> None:
    with running(Victoria(tmp_path / "vm")) as server:
        sink = sink_to(f"{scheme}://127.0.0.1:{server.lines_port}")
        async with sink.session():
            for first in range(0, 2000, 500):
                await sink.write(frame_of(first, 500))
        assert sink.stats.bytes_total > 50_000
        wanted = list(map(float, range(2000)))
        await asyncio.to_thread(wait_until, lambda: stored(server) == wanted)


async def test_http_takes_what_the_settings_accept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "abc")
    async with fake_influx() as fake:
        fake.answer = lambda _: web.Response(status=200)
        sink = sink_to(f"{fake.url}/telegraf?db=x", accept=(200,))
        async with sink.session():
            await sink.write(frame_of(0, 3))
        assert fake.requests[0].rel_url.query["db"] == "x"
        refusing = sink_to(f"{fake.url}/telegraf")
        async with refusing.session():
            with pytest.raises(SinkUnavailable, match="answered 200"):
                await refusing.write(frame_of(0, 3))


@dataclass
class Receiver:
    """A TCP receiver that may take nothing, or die with what it has not read."""

    port: int = 0
    lines: list[bytes] = field(default_factory=list)
    connections: int = 0
    reads: asyncio.Event = field(default_factory=asyncio.Event)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            while True:
                await self.reads.wait()
                line = await reader.readline()
                if not line:
                    writer.close()
                    return
                self.lines.append(line)
        except (OSError, asyncio.CancelledError):
            return

    def reset(self) -> None:
        """Die as a process does whose socket has unread bytes."""
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()

    async def has(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.lines) < count:  # noqa: ASYNC110 - the handler must stay simple
                await asyncio.sleep(0.005)


@asynccontextmanager
async def receiving(port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    receiver.reads.set()
    server = await asyncio.start_server(receiver.handle, "127.0.0.1", port, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        receiver.reset()


@asynccontextmanager
async def standing_still(**more: object) -> AsyncIterator[tuple[Receiver, Sink]]:
    """A receiver that takes the connection and reads nothing, and a sink to it."""
    async with receiving() as receiver:
        receiver.reads.clear()
        yield receiver, sink_to(f"tcp://127.0.0.1:{receiver.port}", **more)


async def test_tcp_lines_that_a_dead_receiver_had_not_read_are_sent_again() -> None:
    async with standing_still() as (receiver, sink):
        async with sink.session():
            await sink.write(frame_of(0, 10))  # confirmed by its kernel, and never read
            receiver.reset()
            receiver.reads.set()
            await asyncio.sleep(0.05)
            await sink.write(frame_of(10, 10))
            await receiver.has(20)
        assert receiver.connections == 2
        assert len(set(receiver.lines)) == 20


async def test_tcp_counts_what_is_sent_again() -> None:
    async with receiving() as receiver:
        sink = sink_to(f"tcp://127.0.0.1:{receiver.port}")
        async with sink.session():
            await sink.write(frame_of(0, 10))
            await receiver.has(10)
            receiver.reset()
            await asyncio.sleep(0.05)
            await sink.write(frame_of(10, 10))
            await receiver.has(30)
        assert sink.stats.bytes_total == sum(map(len, receiver.lines))


async def test_tcp_a_reset_after_something_was_sent_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with standing_still() as (receiver, sink), sink.session():
        await sink.write(frame_of(0, 10))
        sent = sink.stats.bytes_total
        receiver.reset()
        receiver.reads.set()
        await asyncio.sleep(0.05)
        await sink.write(frame_of(10, 10))
        await sink.write(frame_of(20, 10))
    assert caplog.messages == [f"sink.reset sink=lines sent_bytes={sent} again_bytes={sent}"]


async def test_tcp_a_receiver_that_stands_still_at_the_end_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its kernel has all, and the gateway will not be there when it dies."""
    async with standing_still() as (_, sink):
        async with sink.session():
            await sink.write(frame_of(0, 10))
            began_s = time.monotonic()
        assert time.monotonic() - began_s < 1
    assert caplog.text.count("sink.unread sink=lines sent_bytes=") == 1


async def test_tcp_a_receiver_that_reads_to_the_end_is_not_worth_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with receiving() as receiver:
        sink = sink_to(f"tcp://127.0.0.1:{receiver.port}")
        async with sink.session():
            await sink.write(frame_of(0, 1000))
            began_s = time.monotonic()
        assert time.monotonic() - began_s < 0.3
        await receiver.has(1000)
    assert not caplog.messages


async def test_tcp_sends_again_no_more_than_it_was_allowed() -> None:
    async with receiving() as receiver:
        sink = sink_to(f"tcp://127.0.0.1:{receiver.port}", resend_bytes=300)
        async with sink.session():
            await sink.write(frame_of(0, 100))
            await receiver.has(100)
            size = len(receiver.lines[-1])
            receiver.lines.clear()
            receiver.reset()
            await asyncio.sleep(0.05)
            await sink.write(frame_of(100, 1))
            await receiver.has(1)
            await asyncio.sleep(0.05)
        again = receiver.lines[:-1]
        assert 0 < len(again) <= 300 // size + 1
        assert b"flow=99.0" in again[-1]
        assert b"flow=100.0" in receiver.lines[-1]


async def test_tcp_a_receiver_that_reads_nothing_is_slow_not_stored() -> None:
    async with standing_still(timeout=0.5) as (_, sink), sink.session():
        # More than any socket holds.
        with pytest.raises(SinkUnavailable, match=r"not taken within 0\.5 s") as slow:
            await sink.write(frame_of(0, 300_000))
        assert slow.value.is_slow
        assert 0 < sink.stats.bytes_total < 300_000 * 40  # what went out, and no more


async def test_nobody_there_is_unavailable_and_comes_back() -> None:
    port = free_port()
    sink = sink_to(f"tcp://127.0.0.1:{port}")
    async with sink.session():
        with pytest.raises(SinkUnavailable, match="tcp://127"):
            await sink.write(frame_of(0, 1))
        async with receiving(port) as receiver:
            await sink.write(frame_of(0, 1))
            await receiver.has(1)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    return tmp_path / "cert.pem"


async def test_tls_trusts_the_ca_it_was_given_and_no_other(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    async with receiving(tls=context) as receiver:
        url = f"tls://127.0.0.1:{receiver.port}"
        sink = sink_to(url, tls_ca=str(certificate))
        async with sink.session():
            await sink.write(frame_of(0, 5))
            await receiver.has(5)
        stranger = sink_to(url)
        async with stranger.session():
            with pytest.raises(SinkParked, match="certificate"):
                await stranger.write(frame_of(0, 5))


async def test_udp_cuts_at_lines_and_refuses_one_that_is_too_long() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(2)
        sink = sink_to(f"udp://127.0.0.1:{receiver.getsockname()[1]}", datagram_bytes_max=600)
        async with sink.session():
            long = make_frame([(float(T_S), 1, 1.0)])
            receipt = await sink.write(Frame.concatenate([frame_of(0, 50), long]))
        assert list(receipt.rejected) == [50]
        assert "a datagram 600" in receipt.rejected[50]
        lines: list[bytes] = []
        while len(lines) < 50:
            datagram = receiver.recv(65_536)
            assert len(datagram) <= 600
            assert datagram.endswith(b"\n")
            lines += datagram.splitlines()
        assert [line.split(b"flow=")[1].split(b",")[0] for line in lines] == [
            b"%.1f" % i for i in range(50)
        ]


async def test_udp_notices_that_nobody_listens() -> None:
    sink = sink_to(f"udp://127.0.0.1:{free_port()}")
    async with sink.session():
        with pytest.raises(SinkUnavailable, match="refused"):
            await sink.write(frame_of(0, 10))


def test_a_stream_keeps_whole_lines_only() -> None:
    sink = sink_to("tcp://127.0.0.1:1", resend_bytes=25)
    assert isinstance(sink, StreamSink)
    for i in range(20):
        sink._keep(b"line %02d\n" % i * 2)
        kept = sink._recent
        assert len(kept) <= 25
        assert all(line.startswith(b"line ") for line in kept.splitlines())
    assert kept.endswith(b"line 19\nline 19\n")
