"""One connection, many who ask: nobody waits for more than one request of each other unit id."""

from __future__ import annotations

import asyncio

import pytest

from gateway.sources.modbus import slots as module
from gateway.sources.modbus.slots import Slots


async def wait(slots: Slots, unit_id: int, order: list[int]) -> None:
    await slots.take(unit_id)
    order.append(unit_id)


async def test_who_waits_gets_a_turn_round_robin_by_unit_id() -> None:
    slots, order = Slots(1), list[int]()
    assert slots.take_now()
    tasks = [asyncio.create_task(wait(slots, unit_id, order)) for unit_id in (1, 1, 1, 1, 2, 2, 3)]
    await asyncio.sleep(0)
    assert not slots.take_now()
    for _ in tasks:
        slots.give()
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert order == [1, 2, 3, 1, 2, 1, 1]


async def test_a_slot_is_not_lost_with_a_waiter_that_was_cancelled() -> None:
    slots, order = Slots(1), list[int]()
    assert slots.take_now()
    before, at_once, after = (
        asyncio.create_task(wait(slots, unit_id, order)) for unit_id in (1, 2, 3)
    )
    await asyncio.sleep(0)
    before.cancel()
    await asyncio.sleep(0)
    slots.give()  # to the second, which is cancelled in the same turn of the loop
    at_once.cancel()
    await asyncio.gather(before, at_once, return_exceptions=True)
    await after
    assert order == [3]
    slots.give()
    assert slots.take_now()


async def test_the_queue_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_MAX", 1)
    slots, order = Slots(1), list[int]()
    assert slots.take_now()
    task = asyncio.create_task(wait(slots, 1, order))
    await asyncio.sleep(0)
    with pytest.raises(OverflowError):
        await slots.take(2)
    slots.give()
    await task
