"""Supervision: every source connects, is read, fails and comes back by the same rules.

A source that is lost has all its tags marked bad at once, with the reason, and again after each
further attempt that fails, so that its history shows the outage. Attempts are spread by full
jitter, so that a plant's gateways do not all knock at once when the power returns.
"""

from __future__ import annotations

import logging
import random
from asyncio import sleep
from collections.abc import Awaitable, Callable

import numpy as np

from gateway.clock import Clock
from gateway.errors import SourceError, SourceLost
from gateway.frame import Arrival, Frame
from gateway.sources import Source
from gateway.tag import Quality

__all__ = ["supervise"]

log = logging.getLogger(__name__)

# The first retry comes within a second: most losses are a device that restarts its TCP server.
RETRY_FIRST_S = 1.0
# A device that was away for an hour is back in the data half a minute after it is on again.
RETRY_MAX_S = 30.0


async def supervise(
    source: Source, put: Callable[[Arrival], Awaitable[None]], clock: Clock
) -> None:
    """Run a source until cancelled; whatever it raises costs itself alone."""
    attempt, is_news = 0, True
    while True:
        delivered = False
        try:
            async with source.session() as session:
                if session.is_proven:
                    delivered, attempt, is_news = True, 0, True
                    _connected(source)
                while True:
                    arrival = await session.read()
                    if not delivered:
                        delivered, attempt, is_news = True, 0, True
                        _connected(source)
                    await put(arrival)
        except SourceError as error:
            _lost(source, error, is_news=is_news)
        except Exception as error:  # a defect in one source must not stop the others
            source.stats.errors_total["defect"] += 1
            log.exception("source.defect source=%s", source.name)
            _lost(source, SourceLost(f"{type(error).__name__}: {error}"), is_news=is_news)
        is_news = False
        await put(Arrival(_all_bad(source, clock)))
        limit_s = min(RETRY_MAX_S, RETRY_FIRST_S * 2**attempt)
        attempt = min(attempt + 1, 10)
        await sleep(random.uniform(limit_s / 4, limit_s))  # noqa: S311 - jitter, not a secret


def _connected(source: Source) -> None:
    stats = source.stats
    stats.sessions_total += 1
    if not stats.connected:
        stats.connected, stats.error_last = True, ""
        log.info("source.connected source=%s tags=%d", source.name, len(source.tag_ids))


def _lost(source: Source, error: SourceError, *, is_news: bool) -> None:
    stats = source.stats
    stats.connected, stats.error_last = False, str(error)
    stats.errors_total["lost"] += 1
    if is_news:
        log.warning("source.lost source=%s error=%s", source.name, error)


def _all_bad(source: Source, clock: Clock) -> Frame:
    ids = source.tag_ids
    nothing = np.full(len(ids), np.nan)
    return Frame.of(clock.utc_ns(), ids, nothing, int(Quality.BAD_NO_COMMUNICATION))
