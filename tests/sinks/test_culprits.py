"""Culprits are found among what is refused, whatever else a server's refusals come from."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import pytest

from gateway.errors import SinkError, SinkParked, SinkRejected, SinkTooLarge, SinkUnavailable
from gateway.frame import EMPTY_FRAME, Frame
from gateway.sinks.culprits import Culprits
from gateway.tag import TagTable
from tests.samples import make_frame, make_tag

Answer = Callable[[set[float]], SinkError | None]
UNCERTAIN = SinkRejected("400 Bad Request", is_certain=False)


class FakeSender:
    """A delivery without a network: `answer` says what becomes of some values."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.stored: set[float] = set()
        self.buried: dict[float, str] = {}
        self.asked = 0
        self.accepted = EMPTY_FRAME

    async def send(self, frame: Frame, patience: int, *, quiet: bool = False) -> SinkError | None:
        del patience, quiet
        self.asked += 1
        trouble = self.answer(set(frame.values.tolist()))
        if trouble is None:
            self.stored.update(frame.values.tolist())
            self.accepted = frame
        return trouble

    async def takes(self, frame: Frame) -> bool:
        return await self.send(frame, 1) is None

    async def takes_accepted(self) -> bool | None:
        return await self.takes(self.accepted.rows(0, 1)) if len(self.accepted) else None

    async def bury(self, frame: Frame, reasons: Mapping[int, str]) -> None:
        self.buried.update((frame.value(row), why) for row, why in reasons.items())  # type: ignore[misc] - numbers here

    def shrink(self, samples: float, samples_min: int) -> None:
        pass


@pytest.fixture
def table() -> TagTable:
    table = TagTable()
    table.add(make_tag("p1.flow"))
    return table


def numbers(count: int, start: int = 0) -> Frame:
    return make_frame([(1000.0 + start + i, 0, float(start + i)) for i in range(count)])


async def deliver(culprits: Culprits, sender: FakeSender, frame: Frame) -> int:
    """As a delivery does: again and again, until all of it is stored or buried; how often."""
    rounds = 0
    while len(frame):
        rounds += 1
        assert rounds < 200, "it never ends"
        trouble = await sender.send(frame, 8)
        refusal = None if trouble is None else await culprits.find(frame, trouble)
        if refusal is None:
            break
        frame = refusal.left
    return rounds


@pytest.mark.parametrize("points", [1, 2, 16, 64])
@pytest.mark.parametrize("every", [2, 3, 10])
async def test_refusals_that_come_by_chance_cost_hardly_a_point(
    table: TagTable, points: int, every: int
) -> None:
    """One of some servers behind a balancer speaks HTTPS only; and two points are really bad."""
    bad, wrong, runs = {5.0, 77.0}, 0, 10
    for seed in range(runs):
        rng = random.Random(seed)

        def answer(values: set[float], rng: random.Random = rng) -> SinkError | None:
            return UNCERTAIN if not rng.randrange(every) or values & bad else None

        sender = FakeSender(answer)
        culprits = Culprits(sender, table)
        for start in range(0, 64 * points, points):
            await deliver(culprits, sender, numbers(points, start))
        everything = set(numbers(64 * points).values.tolist())
        assert sender.stored | sender.buried.keys() == everything
        assert not sender.stored & bad
        wrong += len(sender.buried.keys() - bad)
    assert wrong <= 2 * runs * points / every, f"{wrong} of {runs * 64 * points}"


@pytest.mark.parametrize("trouble", [SinkTooLarge("413"), UNCERTAIN, SinkParked("403")])
async def test_a_lone_point_is_kept_while_nothing_is_taken_and_buried_while_others_are(
    table: TagTable, trouble: SinkError
) -> None:
    sender = FakeSender(lambda _: None)
    culprits = Culprits(sender, table)
    await deliver(culprits, sender, numbers(2, 50))
    sender.answer = lambda _: trouble
    refusal = await culprits.find(numbers(1, 3), trouble)
    assert refusal is not None
    assert refusal.left.values.tolist() == [3.0]
    assert not sender.buried
    sender.answer = lambda values: trouble if 3.0 in values else None
    await deliver(culprits, sender, numbers(1, 3))
    assert sender.buried == {3.0: trouble.message}


@pytest.mark.parametrize("failures", range(1, 40))
async def test_a_server_that_fails_for_long_and_is_well_again_costs_no_point(
    table: TagTable, failures: int
) -> None:
    failed = SinkUnavailable("502", is_server_fault=True)
    sender = FakeSender(lambda _: failed if sender.asked <= failures else None)
    await deliver(Culprits(sender, table), sender, numbers(5))
    assert len(sender.stored) == 5
    assert not sender.buried


@pytest.mark.parametrize("taken", range(1, 12))
async def test_what_is_left_when_nothing_is_taken_any_more_is_neither_stored_nor_buried(
    table: TagTable, taken: int
) -> None:
    def answer(values: set[float]) -> SinkError | None:
        return None if sender.asked <= taken and 2.0 not in values else UNCERTAIN

    sender = FakeSender(answer)
    refusal = await Culprits(sender, table).find(numbers(8), UNCERTAIN)
    left = set(refusal.left.values.tolist()) if refusal is not None else set()
    assert left | sender.stored | sender.buried.keys() == set(range(8))
    assert not sender.buried.keys() - {2.0}
