"""Gaps: which unused addresses are worth reading over, found out by trying.

Two requests cost two turns of the line and of the device, one over the gap between them the gap's
registers. Which is quicker depends on both, so it is measured: where a scan leaves time, what two
requests read is asked for as one. Nothing of that answer is used; a device that refuses it, or
meets it with silence, costs no tag anything. What was quicker is read so from then on.

The smallest gap of a unit id is tried first, and where one is not worth it no larger one is tried.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

from gateway.sources.modbus.config import ModbusSettings, RegisterRow
from gateway.sources.modbus.plan import Block, Learned, Place, Span, Verdict, cuts_of, is_cut
from gateway.sources.modbus.wire import Request

__all__ = ["Gap", "GapSearch", "Timed"]

# The quickest of several is what the device can do; the others had to wait for something.
TRIES = 5
FAILURES_MAX = 2
# A unit id that met so many gaps with silence is not asked for more of them.
SILENT_MAX = 2
# Where a line never has time to spare, trying costs a scan that is late, and may save many.
PASSED_OVER_MAX = 10


class Timed(Protocol):
    """A block that is read, and how long that took."""

    @property
    def block(self) -> Block: ...

    @property
    def reads(self) -> int: ...

    @property
    def least_ns(self) -> int: ...


@dataclass(slots=True)
class Gap:
    """Unused addresses between two blocks, and how reading over them went."""

    place: Place
    span: Span
    apart: tuple[Timed, Timed]
    request: Request  # for all that both read
    took_ns: list[int] = field(default_factory=list)
    refusals: int = 0
    silences: int = 0
    passed_over: int = 0

    @property
    def size(self) -> int:
        return self.span[1] - self.span[0]

    @property
    def apart_ns(self) -> int:
        """What the two requests take, at their quickest."""
        return sum(each.least_ns for each in self.apart)

    def verdict(self, pause_ns: int) -> Verdict | None:
        """What is known by now; `pause_ns` is what lies between two requests anyway."""
        if self.refusals >= FAILURES_MAX:
            return Verdict.REFUSED
        if self.silences >= FAILURES_MAX:
            return Verdict.SILENT
        if len(self.took_ns) < TRIES:
            return None
        is_quicker = min(self.took_ns) < self.apart_ns + pause_ns
        return Verdict.QUICKER if is_quicker else Verdict.SLOWER


class GapSearch:
    """The gaps of a plan about which nothing is known yet."""

    def __init__(
        self,
        classes: Iterable[Sequence[Timed]],
        rows: Sequence[RegisterRow],
        settings: ModbusSettings,
        learned: Learned,
    ) -> None:
        """`classes` are the blocks of each scan class."""
        cuts = {place: sorted(found) for place, found in cuts_of(rows, settings, learned).items()}
        found = []
        for blocks in classes:
            places: defaultdict[Place, list[Timed]] = defaultdict(list)
            for each in blocks:
                request = each.block.request
                if learned.alone.isdisjoint(each.block.rows):
                    places[request.unit_id, request.function].append(each)
            for place, group in places.items():
                quantity_max = settings.bits_max if place[1] <= 2 else settings.registers_max
                found += [
                    gap
                    for gap in _between(place, group, quantity_max)
                    if not is_cut(cuts.get(place, ()), *_ends(gap.request))
                ]
        self._learned = learned
        self._open = sorted(found, key=lambda gap: gap.size)
        self._leave_out_hopeless()

    @property
    def is_open(self) -> bool:
        return bool(self._open)

    def next(self, may_ask: Callable[[Request], bool] = lambda _: True) -> Gap | None:
        """What to try now: the smallest of which it is known how long its two requests take."""
        for gap in self._open:
            if min(each.reads for each in gap.apart) >= TRIES and may_ask(gap.request):
                return gap
        return None

    def settle(self, gap: Gap, verdict: Verdict) -> None:
        """Something is known of it now."""
        self._learned.gaps[gap.place][gap.span] = verdict
        self._leave_out_hopeless()

    def _leave_out_hopeless(self) -> None:
        """Those that were tried, or of whose unit id a smaller one, or silence, was enough."""
        silent: Counter[int] = Counter()
        slower: dict[Place, int] = {}  # the smallest that was
        for place, spans in self._learned.gaps.items():
            for (first, end), verdict in spans.items():
                silent[place[0]] += verdict is Verdict.SILENT
                if verdict is Verdict.SLOWER:
                    slower[place] = min(end - first, slower.get(place, end - first))
        self._open = [
            gap
            for gap in self._open
            if gap.span not in self._learned.gaps.get(gap.place, {})
            and silent[gap.place[0]] < SILENT_MAX
            and gap.size < slower.get(gap.place, gap.size + 1)
        ]


def _between(place: Place, group: Sequence[Timed], quantity_max: int) -> Iterable[Gap]:
    """The gaps between neighbours that one request may read."""
    group = sorted(group, key=lambda each: each.block.request.address)
    for pair in pairwise(group):
        (first, first_end), (second, second_end) = (_ends(each.block.request) for each in pair)
        quantity = max(first_end, second_end) - first
        if first_end < second and quantity <= quantity_max:
            yield Gap(place, (first_end, second), pair, Request(*place, first, quantity))


def _ends(request: Request) -> Span:
    return request.address, request.address + request.quantity
