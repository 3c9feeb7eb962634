"""Hints: what time it is, by the `Date` that HTTP servers give, where nobody else vouches for it.

A plant without a time server has a database, a historian or a router that knows the time. Its
`Date` (RFC 9110, 6.6.1) has whole seconds; asked some times within one, it narrows to a tenth: UTC
less monotonic time is at least a date less when its answer was there, and less than the second
behind that date less when it was asked for. Of several servers more than half must agree.

Nobody signs a `Date`: a server on the way may say what it likes. So it is asked for only where the
configuration names the servers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

from gateway.clock import Clock
from gateway.errors import SluicegateError

__all__ = ["Bounds", "Servers", "agreed", "ask", "bounds_of", "narrowed"]

log = logging.getLogger(__name__)

# A second and a little, so that one of them ends between two questions.
QUESTIONS = 12
PAUSE_S = 0.1
TIMEOUT_S = 5.0
# Two servers are seldom closer; a gateway that is as wrong as this is still right for a plot.
AGREE_NS = 2 * 10**9
_FRESH = {"Cache-Control": "no-cache"}
_S = 10**9
_TEXT_MAX = 512  # of what went wrong, which quotes servers


@dataclass(frozen=True, slots=True)
class Bounds:
    """Between which numbers of nanoseconds UTC less monotonic time is."""

    least: int
    greatest: int

    @property
    def middle(self) -> int:
        return (self.least + self.greatest) // 2


def bounds_of(date: str, asked_ns: int, answered_ns: int) -> Bounds:
    """What one answer says, by monotonic times; SluicegateError for a date that is none."""
    try:
        said = parsedate_to_datetime(date)
        second_ns = round((said if said.tzinfo else said.replace(tzinfo=UTC)).timestamp()) * _S
    except (ValueError, TypeError, OverflowError) as error:
        raise SluicegateError(f"{date[:64]!r} is no date") from error
    return Bounds(second_ns - answered_ns, second_ns + _S - asked_ns)


def narrowed(answers: Sequence[Bounds]) -> Bounds:
    """What all answers of a server say; SluicegateError where they contradict each other."""
    if not answers:
        raise SluicegateError("there was no answer")
    least = max(each.least for each in answers)
    greatest = min(each.greatest for each in answers)
    if least > greatest:
        raise SluicegateError("its answers contradict each other: its clock was set meanwhile")
    return Bounds(least, greatest)


def agreed(servers: Sequence[Bounds]) -> int | None:
    """UTC less monotonic time, as more than half of some servers have it."""
    for one in sorted(servers, key=lambda each: each.greatest - each.least):
        alike = sum(abs(one.middle - other.middle) <= AGREE_NS for other in servers)
        if 2 * alike > len(servers):
            return one.middle
    return None


async def ask(url: str, clock: Clock) -> Bounds:
    """Ask one server; SluicegateError where it does not say the time."""
    import aiohttp  # noqa: PLC0415 - 12 MB that only those pay who ask

    answers = []
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for _ in range(QUESTIONS):
                asked_ns = clock.monotonic_ns()
                async with session.head(url, headers=_FRESH, allow_redirects=False) as answer:
                    answered_ns = clock.monotonic_ns()
                    date = answer.headers.get("Date", "")
                    if answer.headers.get("Age"):
                        raise SluicegateError(f"{url}: a cache answers, with what it once heard")
                answers.append(bounds_of(date, asked_ns, answered_ns))
                await asyncio.sleep(PAUSE_S)
    except (aiohttp.ClientError, OSError, ValueError, TimeoutError) as error:
        raise SluicegateError(f"{url}: {str(error) or type(error).__name__}") from error
    return narrowed(answers)


class Servers:
    """The servers that a configuration names, asked now and then."""

    def __init__(self, urls: Sequence[str], clock: Clock) -> None:
        self._urls = urls
        self._clock = clock
        self._asked_s: float | None = None
        self._trouble = ""  # that was said

    async def look(self, period_s: float) -> None:
        """Ask them if that is so long ago, and have the clock hear what they agree on."""
        now_s = self._clock.monotonic_s()
        if not self._urls or (self._asked_s is not None and now_s - self._asked_s < period_s):
            return
        self._asked_s = now_s
        said: list[Bounds] = []
        silent: list[str] = []

        async def hear(url: str) -> None:
            try:
                said.append(await ask(url, self._clock))
            except SluicegateError as error:
                silent.append(str(error))

        async with asyncio.TaskGroup() as tasks:
            for url in self._urls:
                tasks.create_task(hear(url))
        offset_ns = agreed(said)
        if offset_ns is not None:
            self._clock.hear(offset_ns)
        elif not silent:
            silent.append("they disagree by more than two seconds")
        trouble = "; ".join(sorted(silent))[:_TEXT_MAX]
        if trouble and trouble != self._trouble:
            log.warning("clock.servers error=%s", trouble)
        self._trouble = trouble
