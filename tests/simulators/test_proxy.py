"""The proxy: clean by default, and each fault is what its name says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from simulators.proxy import FaultProxy, fault_proxy

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def echo_behind_proxy(seed: int = 0) -> AsyncIterator[FaultProxy]:
    """A server that sends back what it gets, and says "bye" at the end."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.write(b"bye")
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, fault_proxy(*server.sockets[0].getsockname()[:2], seed=seed) as proxy:
        yield proxy


@asynccontextmanager
async def connected(proxy: FaultProxy) -> AsyncIterator[Stream]:
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def exchange(stream: Stream, data: bytes, wait_s: float = 5.0) -> bytes:
    reader, writer = stream
    writer.write(data)
    return await asyncio.wait_for(reader.readexactly(len(data)), wait_s)


async def test_without_faults_it_is_not_there() -> None:
    async with echo_behind_proxy() as proxy, connected(proxy) as stream:
        data = bytes(range(256)) * 4096
        assert await exchange(stream, data) == data
        stream[1].write_eof()
        assert await asyncio.wait_for(stream[0].read(), 5) == b"bye"
        assert proxy.bytes_to_server == len(data)
        assert proxy.bytes_to_client == len(data) + 3


async def test_a_delay_delays() -> None:
    async with echo_behind_proxy() as proxy, connected(proxy) as stream:
        proxy.delay(0.15)
        start = time.monotonic()
        assert await exchange(stream, b"hello") == b"hello"
        assert 0.3 <= time.monotonic() - start < 3  # there and back


async def test_a_dribble_comes_byte_by_byte_and_complete() -> None:
    async with echo_behind_proxy() as proxy, connected(proxy) as stream:
        proxy.dribble(0.02)
        start = time.monotonic()
        stream[1].write(b"0123456789")
        assert len(await asyncio.wait_for(stream[0].read(10), 5)) < 10
        assert time.monotonic() - start < 0.15
        await asyncio.wait_for(stream[0].readuntil(b"9"), 5)
        assert time.monotonic() - start > 0.15


async def test_a_stall_keeps_the_connection_and_healing_loses_nothing() -> None:
    async with echo_behind_proxy() as proxy, connected(proxy) as stream:
        proxy.stall("to_client")
        with pytest.raises(TimeoutError):
            await exchange(stream, b"first", 0.1)
        assert proxy.connections == 1
        proxy.heal()
        assert await exchange(stream, b"-then") == b"first"
        assert await asyncio.wait_for(stream[0].readexactly(5), 5) == b"-then"


async def test_a_cut_is_a_reset(until: Callable[..., Any]) -> None:
    async with echo_behind_proxy() as proxy, connected(proxy) as stream:
        await exchange(stream, b"hello")
        assert proxy.cut() == 1
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(stream[0].read(), 5)
        await until(lambda: proxy.connections == 0)
        async with connected(proxy) as again:
            assert await exchange(again, b"again") == b"again"


async def test_a_cut_in_the_middle_of_an_answer_leaves_its_beginning() -> None:
    async with echo_behind_proxy() as proxy, connected(proxy) as stream:
        proxy.cut_after(8)
        assert await exchange(stream, b"abcde") == b"abcde"
        stream[1].write(b"fghij")
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(stream[0].readexactly(5), 5)
        assert proxy.bytes_to_client == 8


async def test_while_the_link_is_down_nobody_gets_through() -> None:
    async with echo_behind_proxy() as proxy, connected(proxy) as stream:
        await exchange(stream, b"hello")
        down = asyncio.create_task(proxy.drop_link(0.3))
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(stream[0].read(), 5)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            async with connected(proxy) as early:
                await exchange(early, b"early")
        await down
        async with connected(proxy) as late:
            assert await exchange(late, b"late") == b"late"


async def test_corruption_flips_one_bit_and_the_seed_says_which() -> None:
    found = []
    for _ in range(2):
        async with echo_behind_proxy(seed=3) as proxy, connected(proxy) as stream:
            proxy.corrupt(1.0)
            data = bytes(64)
            got = [await exchange(stream, data) for _ in range(5)]
            assert proxy.bytes_corrupted == 5
        assert all(sum(byte.bit_count() for byte in each) == 1 for each in got)
        found.append(got)
    assert found[0] == found[1]


async def test_a_server_that_is_not_there_is_a_reset() -> None:
    async with fault_proxy("127.0.0.1", 9) as proxy, connected(proxy) as stream:
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(stream[0].read(), 5)


async def test_nothing_is_left_running_afterwards() -> None:
    before = asyncio.all_tasks()
    reader = None
    async with echo_behind_proxy() as proxy:
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        await exchange((reader, writer), b"hello")
        proxy.stall()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 5)
    writer.close()
    await asyncio.sleep(0)
    assert {t for t in asyncio.all_tasks() if "proxy" in t.get_name()} == set()
    assert len(asyncio.all_tasks() - before) == 0


def test_it_resets_under_uvloop_too() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

        async def cut() -> None:
            async with echo_behind_proxy() as proxy, connected(proxy) as stream:
                await exchange(stream, b"hello")
                proxy.cut()
                with pytest.raises(ConnectionResetError):
                    await asyncio.wait_for(stream[0].read(), 5)

        runner.run(cut())
