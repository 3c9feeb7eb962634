"""Gaps: which unused addresses are worth reading over, found out by trying.

Two requests cost two turns of the line and of the device, one over the gap between them the gap's
registers. Which is quicker depends on both, so it is measured: where a scan leaves time, what two
requests read is asked for as one. Nothing of that answer is used; a device that refuses it, or
meets it with silence, costs no tag anything. What was quicker is read so from then on.

The smallest gap of a unit id is tried first, and where one is not worth it no larger one is tried.
"""

from __future__ import annotations

from collections import defaultdict
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
        self._open: list[Gap] = []
        cuts = cuts_of(rows, settings, learned)
        places: defaultdict[Place, list[Timed]] = defaultdict(list)
        for blocks in classes:
            places.clear()
            for each in blocks:
                request = each.block.request
                if learned.alone.isdisjoint(each.block.rows):
                    places[request.unit_id, request.function].append(each)
            for place, group in places.items():
                quantity_max = settings.bits_max if place[1] <= 2 else settings.registers_max
                self._open += [
                    gap
                    for gap in _between(place, group, quantity_max)
                    if not is_cut(sorted(cuts[place]), *_ends(gap.request))
                    and not _is_hopeless(gap, learned)
                ]
        self._open.sort(key=lambda gap: gap.size)

    @property
    def is_open(self) -> bool:
        return bool(self._open)

    def next(self, may_ask: Callable[[Request], bool] = lambda _: True) -> Gap | None:
        """What to try now: the smallest of which it is known how long its two requests take."""
        for gap in self._open:
            if min(each.reads for each in gap.apart) >= TRIES and may_ask(gap.request):
                return gap
        return None


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


def _is_hopeless(gap: Gap, learned: Learned) -> bool:
    """Whether this gap, or a smaller one of its unit id, was tried before."""
    said = [
        (place, span, verdict)
        for place, spans in learned.gaps.items()
        if place[0] == gap.place[0]
        for span, verdict in spans.items()
    ]
    if sum(verdict is Verdict.SILENT for _, _, verdict in said) >= SILENT_MAX:
        return True
    return any(
        (place, span) == (gap.place, gap.span)
        or (
            verdict is Verdict.SLOWER and place[1] == gap.place[1] and span[1] - span[0] <= gap.size
        )
        for place, span, verdict in said
    )
