"""Patience: which blocks to ask now, and which to leave alone for a while. Pure; told the time.

A unit id that does not answer is left alone, longer each time, so that it costs those beside it
one request now and then. But some devices meet a single address they do not know with silence:
so what has failed is asked after what has not, a block of a unit that answers others is left
alone by itself, and a unit is given up only on a block that was not in doubt already.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from gateway.sources.modbus.wire import Request
from gateway.tag import Quality

__all__ = ["Patience"]

# Left alone this long, doubled with each further failure up to the maximum.
PAUSE_FIRST_S = 1.0
PAUSE_MAX_S = 60.0
# A refused address seldom becomes right by itself, but some devices refuse all there is while they
# start. Doubled likewise.
PARKED_FIRST_S = 5.0
PARKED_MAX_S = 300.0


class Asks(Protocol):
    """Whatever asks for a block."""

    @property
    def request(self) -> Request: ...


Asking = TypeVar("Asking", bound=Asks)


@dataclass(slots=True)
class _Pause:
    until_s: float
    length_s: float
    quality: Quality  # of its tags meanwhile
    is_parked: bool = False


class Patience:
    """What one device's units and blocks have done lately."""

    def __init__(self) -> None:
        self._requests: defaultdict[int, set[Request]] = defaultdict(set)  # by unit id
        self._pauses: dict[int | Request, _Pause] = {}  # of units and of single blocks
        self._doubted: set[Request] = set()  # got no answer the last time
        self._silent: set[int] = set()

    @property
    def is_spent(self) -> bool:
        """Whether no unit id is left that answers."""
        return len(self._silent) == len(self._requests)

    @property
    def is_at_ease(self) -> bool:
        """Whether everything may be asked now."""
        return not self._pauses

    @property
    def silent_units(self) -> frozenset[int]:
        return frozenset(self._silent)

    def follow(self, requests: Iterable[Request]) -> None:
        """These are all blocks there are; forget others."""
        self._requests.clear()
        for request in requests:
            self._requests[request.unit_id].add(request)
        known = set().union(*self._requests.values())
        self._doubted &= known
        self._pauses = {
            key: pause
            for key, pause in self._pauses.items()
            if key in known or key in self._requests
        }

    def forgive(self) -> None:
        """A new session: everything may be asked at once, also what was refused."""
        self._silent.clear()
        self._pauses = {key: pause for key, pause in self._pauses.items() if pause.is_parked}
        for pause in self._pauses.values():
            pause.until_s = 0.0

    def in_order(self, blocks: Sequence[Asking]) -> Sequence[Asking]:
        """In which order to ask: what is in doubt last."""
        if not self._doubted:
            return blocks
        return sorted(blocks, key=lambda block: block.request in self._doubted)

    def reason_to_wait(self, request: Request, now_s: float) -> Quality | None:
        """The quality of the tags of a block that is to be left alone now; None to ask it."""
        if not self._pauses:
            return None
        for key in (request.unit_id, request):
            pause = self._pauses.get(key)
            if pause is not None and now_s < pause.until_s:
                return pause.quality
        return None

    def answered(self, request: Request) -> None:
        """The unit gave the block, or refused it for a reason that has nothing to do with time."""
        if self._pauses or self._doubted:
            self._works(request)
            self._pauses.pop(request, None)

    def busy(self, request: Request, now_s: float) -> None:
        """The unit asks for time."""
        self._works(request)
        self._pause(request, Quality.BAD_TIMEOUT, now_s, is_answer=True)

    def parked(self, request: Request, quality: Quality, now_s: float) -> None:
        """The unit refuses this address."""
        self._works(request)
        before = self._pauses.get(request)
        length_s = PARKED_FIRST_S
        if before is not None and before.is_parked:
            length_s = min(2 * before.length_s, self._parked_max_s(request))
        self._pauses[request] = _Pause(now_s + length_s, length_s, quality, is_parked=True)

    def reconsider(self, unit_id: int) -> None:
        """The unit gives what it refused: ask for all of it again."""
        for key, pause in self._pauses.items():
            if pause.is_parked and isinstance(key, Request) and key.unit_id == unit_id:
                pause.until_s = 0.0

    def failed(
        self, request: Request, quality: Quality, now_s: float, *, unit_works: bool, speaks: bool
    ) -> None:
        """There was no good answer.

        `unit_works`: the unit answered something else in the same scan. `speaks`: the peer did
        answer, in the unit's place (exceptions 10 and 11 of a Modbus gateway).
        """
        unit_id = request.unit_id
        was_doubted = request in self._doubted
        self._doubted.add(request)
        has_others = not self._requests[unit_id] <= self._doubted
        if unit_works or (was_doubted and has_others):
            self._pause(request, quality, now_s, is_answer=speaks)
            return
        self._pause(unit_id, quality, now_s, is_answer=speaks)
        if not speaks:
            self._silent.add(unit_id)

    def _parked_max_s(self, request: Request) -> float:
        """Where a unit refuses all there is, it is not about the addresses."""
        others = self._requests[request.unit_id] - {request}
        has_more = any(not (key in self._pauses and self._pauses[key].is_parked) for key in others)
        return PARKED_MAX_S if has_more else PAUSE_MAX_S

    def _works(self, request: Request) -> None:
        self._silent.discard(request.unit_id)
        self._pauses.pop(request.unit_id, None)
        self._doubted.discard(request)

    def _pause(
        self, key: int | Request, quality: Quality, now_s: float, *, is_answer: bool
    ) -> None:
        before = self._pauses.get(key)
        if before is not None:
            length_s = min(max(2 * before.length_s, PAUSE_FIRST_S), PAUSE_MAX_S)
        else:
            # An answer came in time: one "no" may be chance, and costs next to nothing.
            length_s = 0.0 if is_answer else PAUSE_FIRST_S
        self._pauses[key] = _Pause(now_s + length_s, length_s, quality)
