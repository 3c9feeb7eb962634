"""A snapshot is built once for all pages, and not at all for none."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from gateway.ops.broadcast import Broadcast
from gateway.ops.snapshot import Snapshots
from tests.ops.fake_view import FakeView


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of snapshots as they are built."""
    kinds: list[str] = []
    for kind in ("whole", "tick"):
        original = getattr(Snapshots, kind)

        def counting(self: Snapshots, kind: str = kind, original: object = original) -> bytes:
            kinds.append(kind)
            return original(self)  # type: ignore[operator,no-any-return] - the method itself

        monkeypatch.setattr(Snapshots, kind, counting)
    return kinds


async def test_clients_share_what_is_built(view: FakeView, built: list[str]) -> None:
    async with (
        Broadcast(view, period_s=0.05) as broadcast,
        aclosing(broadcast.messages()) as first,
        aclosing(broadcast.messages()) as second,
    ):
        assert await anext(first) is await anext(second)
        assert built == ["whole"]
        tick, same = await asyncio.gather(anext(first), anext(second))
        assert tick is same
        assert tick.startswith(b"event: tick\n")
        assert built == ["whole", "tick"]


async def test_nothing_is_built_without_a_client(view: FakeView, built: list[str]) -> None:
    async with Broadcast(view, period_s=0.01) as broadcast:
        await asyncio.sleep(0.1)  # ten periods in which nothing may happen
        assert built == []
        async with aclosing(broadcast.messages()) as messages:
            for _ in range(3):
                await anext(messages)
        await asyncio.sleep(0.03)  # the tick that was under way
        count = len(built)
        await asyncio.sleep(0.1)
        assert len(built) == count


async def test_a_slow_client_gets_the_newest_next(view: FakeView) -> None:
    async with (
        Broadcast(view, period_s=0.01) as broadcast,
        aclosing(broadcast.messages()) as slow,
        aclosing(broadcast.messages()) as quick,
    ):
        await anext(slow)
        for _ in range(5):
            await anext(quick)
        view.loop.stalled = "now"
        await anext(quick)  # whatever was under way
        assert b'"now"' in await anext(quick)
        assert b'"now"' in await anext(slow)


async def test_closing_ends_every_client(view: FakeView) -> None:
    async with Broadcast(view, period_s=10) as broadcast:
        received = []

        async def client() -> None:
            async with aclosing(broadcast.messages()) as messages:
                received.extend([message async for message in messages])

        task = asyncio.create_task(client())
        await asyncio.sleep(0)
        broadcast.close()
        await asyncio.wait_for(task, 1)
        assert len(received) == 1
