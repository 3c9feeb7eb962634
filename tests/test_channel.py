from __future__ import annotations

import asyncio

from gateway.channel import Channel
from gateway.frame import Arrival
from tests.samples import make_frame


def arrival(samples: int) -> Arrival:
    return Arrival(make_frame([(0.0, 0, 0.0)] * samples))


async def test_what_is_put_is_gathered_in_order() -> None:
    channel = Channel()
    sent = [arrival(1), arrival(2), arrival(3)]
    for each in sent:
        await channel.put(each)
    assert await channel.gather(turn_s=0, idle_s=1) == sent


async def test_gathering_takes_what_arrives_within_the_turn() -> None:
    channel = Channel()
    async with asyncio.TaskGroup() as tasks:
        gathering = tasks.create_task(channel.gather(turn_s=0.05, idle_s=1))
        await asyncio.sleep(0)
        await channel.put(arrival(1))
        await asyncio.sleep(0.01)
        await channel.put(arrival(1))
    assert len(gathering.result()) == 2


async def test_a_silent_plant_gives_an_empty_turn() -> None:
    assert await Channel().gather(turn_s=0, idle_s=0.01) == []


async def test_above_the_high_mark_sources_are_held_back_and_it_is_counted() -> None:
    channel = Channel(samples_max=10)
    await channel.put(arrival(7))
    assert channel.has_room()
    await channel.put(arrival(1))
    assert not channel.has_room()
    assert channel.stats.full_total == 1
    await channel.gather(turn_s=0, idle_s=0)
    assert channel.has_room()


async def test_a_full_channel_makes_the_source_wait_and_loses_nothing() -> None:
    channel = Channel(samples_max=10)
    await channel.put(arrival(10))
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(channel.put(arrival(5)))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        assert len(await channel.gather(turn_s=0, idle_s=0)) == 1
    assert [len(a.frame) for a in channel.take()] == [5]


async def test_a_source_cancelled_while_it_waits_has_put_nothing() -> None:
    channel = Channel(samples_max=1)
    await channel.put(arrival(1))
    waiting = asyncio.create_task(channel.put(arrival(1)))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert len(channel.take()) == 1
    assert channel.take() == []
