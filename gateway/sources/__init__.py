"""Sources make frames. This is their contract; a protocol is a folder beside this file.

A `Source` knows its settings and its tags. `session()` connects, and the session it gives is
used once: `read()` waits for the next scan or batch and returns it, until it raises SourceLost.
Backing off, reconnecting and marking tags bad is not the source's business:
`gateway.sources.supervise` does it for all of them.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gateway.asset import Assets
from gateway.clock import Clock
from gateway.frame import Arrival, IdArray
from gateway.stats import stat, stats
from gateway.tag import TagTable

__all__ = ["Session", "Source", "SourceContext", "SourceStats", "build_source"]


@stats
class SourceStats:
    """What an operator wants to know of one source. Counters only rise."""

    connected: bool = stat("1 while the device or broker is connected", default=False)
    sessions_total: int = stat("connections to the device or broker that were made, and worked")
    scans_total: int = stat("scans, or batches of messages, that gave samples")
    scans_failed_total: int = stat("scans in which a request, at least, got no good answer")
    scan_overruns_total: int = stat("scans skipped: the one before, or the pipeline, was late")
    messages_total: int = stat("MQTT messages taken")
    samples_total: int = stat("samples read or received, bad ones among them")
    samples_dropped_total: int = stat("MQTT messages of QoS 0 lost: the pipeline was full")
    scan_ms_last: float = stat("how long the newest scan took", default=0.0)
    busy_share: float = stat(
        "share of this connection's time in which a request was under way, 0 to 1", default=0.0
    )
    lateness_ms_last: float = stat("how late the newest scan began", default=0.0)
    on_standby: bool = stat("1 while the standby address is used", default=False)
    standby_taken_total: int = stat("times the standby address was taken")
    standby_left_total: int = stat("times the first address was taken back")
    tags_refused: int = stat("tags that the device refuses, so that they are bad")
    units_unwell: int = stat("unit ids that do not answer, or only that they are not well")
    error_last: str = ""
    errors_total: Counter[str] = stat("what went wrong, by kind", factory=Counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceContext:
    """What the gateway lends to a source."""

    clock: Clock
    table: TagTable
    assets: Assets
    gateway_name: str
    has_room: Callable[[], bool]  # false while the pipeline is above its high mark
    directory: Path | None = None  # where a source may keep what it has learned


class Session(Protocol):
    """One connection's life."""

    @property
    def is_proven(self) -> bool:
        """Whether opening it has shown that the peer works; else its first frame does."""
        ...

    async def read(self) -> Arrival:
        """The next scan or batch; waits for it. Raises SourceLost when the session is over."""
        ...


class Source(Protocol):
    """One [[source]]."""

    name: str
    stats: SourceStats

    @property
    def tag_ids(self) -> IdArray:
        """The tags it feeds; may grow while it runs."""
        ...

    def session(self) -> AbstractAsyncContextManager[Session]:
        """Connects on entry (raises SourceUnavailable), disconnects on exit."""
        ...


# By name, so that a protocol's code is loaded only by those who use it.
_BUILDERS = {
    "modbus-rtu": "gateway.sources.modbus.source",
    "modbus-tcp": "gateway.sources.modbus.source",
    "mqtt": "gateway.sources.mqtt.source",
}


def build_source(settings: Any, context: SourceContext) -> Source:
    """The source for one validated [[source]]; its module has a function `build`."""
    module = importlib.import_module(_BUILDERS[settings.type])
    source: Source = module.build(settings, context)
    return source
