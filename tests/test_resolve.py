"""A name that nobody answers for holds up nobody but who asks for it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway import resolve
from gateway.loop import Loop
from gateway.resolve import LOOK_UPS_MAX, Addresses, Names, unresolved
from tests.ops.fake_view import until

PORT = 8086


def addresses(*hosts: str, port: int = PORT) -> Addresses:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in hosts]


class NameServer:
    """Silent about a name until it is told the addresses, or that there are none."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.said: dict[str, Addresses | Exception] = {}
        self._is_told = threading.Condition()

    def __call__(self, host: str, *_: object) -> Addresses:
        with self._is_told:
            self.asked.append(host)
            self._is_told.wait_for(lambda: host in self.said)
            answer = self.said[host]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def tell(self, host: str, answer: Addresses | Exception) -> None:
        with self._is_told:
            self.said[host] = answer
            self._is_told.notify_all()


@pytest.fixture
def server() -> Iterator[NameServer]:
    server = NameServer()
    yield server
    for host in server.asked:  # no thread is left behind
        server.tell(host, [])


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "LOOK_UP_MAX_S", 0.1)


async def test_a_number_is_never_looked_up(server: NameServer) -> None:
    names = Names(server)
    assert (await names.look_up("127.0.0.1", PORT))[0][4] == ("127.0.0.1", PORT)
    assert (await names.look_up("::1", PORT))[0][4][:2] == ("::1", PORT)
    assert server.asked == []


@pytest.mark.usefixtures("impatient")
async def test_silence_ends_with_the_deadline_and_says_whose(server: NameServer) -> None:
    with pytest.raises(socket.gaierror, match=r"the name db\.test was not resolved within 0\.1 s"):
        await Names(server).look_up("db.test", PORT)


async def test_a_refusal_says_whose_name_it_is_about(server: NameServer) -> None:
    server.tell("db.test", socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    with pytest.raises(socket.gaierror, match=r"the name db\.test was not resolved: Name or serv"):
        await Names(server).look_up("db.test", PORT)


async def test_a_silent_name_holds_up_no_other(server: NameServer) -> None:
    names = Names(server)
    silent = [asyncio.ensure_future(names.look_up(f"silent-{i}.test", PORT)) for i in range(8)]
    await until(lambda: len(server.asked) == len(silent))
    server.tell("db.test", addresses("10.0.0.1"))
    assert await names.look_up("db.test", PORT) == addresses("10.0.0.1")
    for waiting in silent:
        waiting.cancel()


async def test_who_asks_for_the_same_name_shares_one_look_up(server: NameServer) -> None:
    names = Names(server)
    both = asyncio.gather(*(names.look_up("db.test", PORT) for _ in range(2)))
    await until(lambda: server.asked != [])
    server.tell("db.test", addresses("10.0.0.1"))
    assert await both == [addresses("10.0.0.1")] * 2
    assert server.asked == ["db.test"]


@pytest.mark.usefixtures("impatient")
async def test_a_late_answer_is_for_who_asks_next_and_then_it_is_asked_anew(
    server: NameServer,
) -> None:
    names = Names(server)
    with pytest.raises(socket.gaierror):
        await names.look_up("db.test", PORT)
    assert names.is_waiting("db.test")
    server.tell("db.test", addresses("10.0.0.1"))
    await until(lambda: not names.is_waiting("db.test"))
    server.tell("db.test", addresses("10.0.0.2"))
    assert await names.look_up("db.test", PORT) == addresses("10.0.0.1")
    assert await names.look_up("db.test", PORT) == addresses("10.0.0.2")


async def test_so_many_names_at_once_and_then_they_wait_in_line(server: NameServer) -> None:
    names = Names(server)
    hosts = [f"db-{i}.test" for i in range(LOOK_UPS_MAX + 1)]
    asking = [asyncio.ensure_future(names.look_up(host, PORT)) for host in hosts]
    await until(lambda: len(server.asked) == LOOK_UPS_MAX)
    await asyncio.sleep(0.05)
    assert len(server.asked) == LOOK_UPS_MAX
    for host in hosts:
        server.tell(host, addresses("10.0.0.1"))
    assert await asyncio.gather(*asking) == [addresses("10.0.0.1")] * len(hosts)


@pytest.mark.parametrize("turns", range(3))
async def test_who_stops_asking_leaves_the_others_their_answer(
    server: NameServer, turns: int
) -> None:
    names = Names(server)
    first = asyncio.ensure_future(names.look_up("db.test", PORT))
    second = asyncio.ensure_future(names.look_up("db.test", PORT))
    for _ in range(turns):
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    server.tell("db.test", addresses("10.0.0.1"))
    assert await second == addresses("10.0.0.1")


def run(loop: Loop, work: Any) -> Any:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(work)


@asynccontextmanager
async def listening() -> AsyncIterator[int]:
    """A server that says good bye to whoever comes."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        yield listener.sockets[0].getsockname()[1]


def test_the_loop_connects_to_a_number_and_to_a_name_while_others_are_silent(
    server: NameServer,
) -> None:
    async def connect() -> None:
        silent = [
            asyncio.ensure_future(asyncio.open_connection(f"silent-{i}.test", 1)) for i in range(8)
        ]
        await until(lambda: len(server.asked) == len(silent))
        assert unresolved("silent-0.test", 1.0)
        async with asyncio.timeout(2), listening() as port:
            # The first address of the name is nobody's.
            server.tell("db.test", addresses("127.0.0.77", "127.0.0.1", port=port))
            for host in ("127.0.0.1", "db.test"):
                reader, writer = await asyncio.open_connection(host, port)
                assert await reader.read() == b"bye"
                writer.close()
            with socket.socket() as plain:
                plain.setblocking(False)  # as aiohttp does it
                await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", port))
        for waiting in silent:
            waiting.cancel()

    loop = Loop()
    loop.names = Names(server)
    run(loop, connect())


def test_the_loop_says_why_no_address_of_a_name_will_do(server: NameServer) -> None:
    async def connect() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # and does not listen
            server.tell("db.test", addresses("127.0.0.1", port=taken.getsockname()[1]))
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("db.test", taken.getsockname()[1])

    loop = Loop()
    loop.names = Names(server)
    run(loop, connect())


def test_the_loop_looks_for_the_name_in_a_certificate_and_not_for_the_number(
    server: NameServer,
) -> None:
    names = []

    class Context(ssl.SSLContext):
        def wrap_bio(self, *given: Any, server_hostname: Any = None, **options: Any) -> Any:
            names.append(server_hostname)
            return super().wrap_bio(*given, server_hostname=server_hostname, **options)

    async def connect() -> None:
        async with listening() as port:
            server.tell("db.test", addresses("127.0.0.1", port=port))
            tls = Context(ssl.PROTOCOL_TLS_CLIENT)
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection("db.test", port, ssl=tls)

    loop = Loop()
    loop.names = Names(server)
    run(loop, connect())
    assert names == ["db.test"]


def test_the_loop_sends_datagrams_to_a_name(server: NameServer) -> None:
    async def send() -> bytes:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
            there.bind(("127.0.0.1", 0))
            there.settimeout(2)
            server.tell("db.test", addresses("127.0.0.1", port=there.getsockname()[1]))
            transport, _ = await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, remote_addr=("db.test", there.getsockname()[1])
            )
            transport.sendto(b"hello")
            transport.close()
            return await asyncio.to_thread(there.recv, 100)

    loop = Loop()
    loop.names = Names(server)
    assert run(loop, send()) == b"hello"


SILENT = """
import asyncio, time
from gateway.loop import Loop
from gateway.resolve import Names

async def main():
    loop = asyncio.get_running_loop()
    loop.names = Names(lambda *_: time.sleep(30))
    for i in range(8):
        asyncio.ensure_future(loop.getaddrinfo(f"silent-{i}.test", 1))
    await asyncio.sleep(0.2)

with asyncio.Runner(loop_factory=Loop) as runner:
    runner.run(main())
"""


def test_the_end_of_the_process_does_not_wait_for_silent_names() -> None:
    began_s = time.monotonic()
    subprocess.run([sys.executable, "-c", SILENT], check=True, timeout=20)
    assert time.monotonic() - began_s < 5.0


async def test_where_no_thread_can_be_had_a_name_waits_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = Names(lambda *_question: [("found",)])

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as none_left:
        none_left.setattr(threading.Thread, "start", refuse)
        waiting = asyncio.ensure_future(names.look_up("plc.example", 502))
        await asyncio.sleep(0.05)
        assert not waiting.done()
    assert await names.look_up("plc.example", 502) == [("found",)]
    assert await waiting == [("found",)]
