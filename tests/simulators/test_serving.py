"""Serving: nothing is left of it behind its block, and a reset is one."""

from __future__ import annotations

import asyncio

import pytest

from simulators.serving import reset, serving


async def forever(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    while await reader.read(1):
        pass


async def test_connections_end_with_the_block_and_no_task_is_left() -> None:
    before = asyncio.all_tasks()
    async with serving(forever, "127.0.0.1", 0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x")
        await asyncio.sleep(0.05)
        assert len(asyncio.all_tasks()) == len(before) + 1
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    assert asyncio.all_tasks() == before
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_an_end_that_is_gone_costs_its_connection_only() -> None:
    async def gone(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        raise BrokenPipeError

    async with serving(gone, "127.0.0.1", 0) as port:
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()


async def test_a_reset_is_no_end_of_file() -> None:
    async def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reset(writer)
        reset(writer)  # of what is closed already: nothing

    async with serving(refuse, "127.0.0.1", 0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 5)
        writer.close()
