"""Supervision: every source connects, is read, fails and comes back by the same rules.

A source that is lost has all its tags marked bad at once, with the reason, and again after each
further attempt that fails, so that its history shows the outage. Attempts are spread by full
jitter, so that a plant's gateways do not all knock at once when the power returns.
"""

from __future__ import annotations

import dataclasses
import logging
import random
from asyncio import sleep
from collections.abc import Awaitable, Callable

import numpy as np

from gateway.clock import Clock
from gateway.errors import SourceError, SourceLost, SourceUnavailable
from gateway.frame import Arrival, Frame
from gateway.sources import Source
from gateway.tag import Quality

__all__ = ["retry_pause_s", "supervise"]

log = logging.getLogger(__name__)

# Full jitter may choose next to nothing; ten attempts a second are enough for anybody.
RETRY_MIN_S = 0.1
# The first retry comes within a second: most losses are a device that restarts its TCP server.
RETRY_FIRST_S = 1.0
# A device that was away for an hour is back in the data half a minute after it is on again.
RETRY_MAX_S = 30.0
# 2**5 x RETRY_FIRST_S is above RETRY_MAX_S: no need to count on.
_DOUBLINGS_MAX = 5
_TEXT_MAX = 255  # of an error, which may quote the peer


async def supervise(
    source: Source, put: Callable[[Arrival], Awaitable[None]], clock: Clock
) -> None:
    """Run a source until cancelled; whatever it raises costs itself alone."""
    attempt = 0
    outage = _Outage(source)
    while True:
        opened_s = clock.monotonic_s()
        has_delivered = False
        pause_s_max = RETRY_MAX_S
        try:
            async with source.session() as session:
                if session.is_proven:
                    outage.ends()
                while True:
                    arrival = await session.read()
                    if not has_delivered:
                        has_delivered = True
                        outage.ends()
                    await put(_stamped(arrival, clock))
        except SourceUnavailable as error:
            pause_s_max = error.retry_s_max or RETRY_MAX_S
            outage.goes_on(error)
        except SourceError as error:
            outage.goes_on(error)
        except Exception as error:  # noqa: BLE001 - a defect in one source must not stop the others
            source.stats.errors_total["defect"] += 1
            outage.goes_on(SourceLost(f"{type(error).__name__}: {error}"), defect=error)
        ids = source.tag_ids
        if len(ids):
            nothing = np.full(len(ids), np.nan)
            quality = int(Quality.BAD_NO_COMMUNICATION)
            bad = Frame.of(clock.utc_ns(), ids, nothing, quality)
            await put(_stamped(Arrival(bad), clock))
        # A quiet session may be long and deliver nothing; a short one that did not has failed.
        if has_delivered or clock.monotonic_s() - opened_s > RETRY_MAX_S:
            attempt = 0
        await sleep(min(retry_pause_s(attempt), pause_s_max))
        attempt = min(attempt + 1, _DOUBLINGS_MAX)


def retry_pause_s(attempt: int) -> float:
    """How long to wait before the next attempt, `attempt` having failed since the last success."""
    limit_s = min(RETRY_MAX_S, RETRY_FIRST_S * 2**attempt)
    return random.uniform(RETRY_MIN_S, limit_s)  # noqa: S311 - jitter, not a secret


def _stamped(arrival: Arrival, clock: Clock) -> Arrival:
    """The arrival with the word of what its times are worth; taken before anything can wait."""
    return dataclasses.replace(arrival, boot=clock.boot) if clock.boot else arrival


class _Outage:
    """Says once that a source is away, once that it is back; what happens between is counted."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._is_away: bool | None = None  # None: not known yet
        self._defect = ""  # the last one that was logged with its traceback

    def ends(self) -> None:
        source, stats = self._source, self._source.stats
        if stats.connected:
            return
        stats.sessions_total += 1
        stats.connected, stats.error_last = True, ""
        self._is_away, self._defect = False, ""
        log.info("source.connected source=%s tags=%d", source.name, len(source.tag_ids))

    def goes_on(self, error: SourceError, defect: Exception | None = None) -> None:
        source, stats, text = self._source, self._source.stats, str(error)[:_TEXT_MAX]
        stats.connected, stats.error_last = False, text
        stats.errors_total["lost"] += 1
        if defect is not None and text != self._defect:
            self._defect = text
            log.error("source.defect source=%s error=%s", source.name, text, exc_info=defect)
        elif not self._is_away:
            log.warning("source.lost source=%s error=%s", source.name, text)
        self._is_away = True
