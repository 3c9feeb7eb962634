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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from gateway.asset import Assets
from gateway.clock import Clock
from gateway.frame import Arrival, IdArray
from gateway.tag import TagTable

__all__ = ["Session", "Source", "SourceContext", "SourceStats", "build_source"]


@dataclass(slots=True)
class SourceStats:
    """What an operator wants to know of one source. Counters only rise."""

    connected: bool = False
    sessions_total: int = 0
    scans_total: int = 0  # scans or message batches that gave a frame
    scans_failed_total: int = 0  # scans in which at least one request got no good answer
    scan_overruns_total: int = 0  # scans skipped because the one before, or the pipeline, was late
    messages_total: int = 0  # MQTT messages taken
    samples_total: int = 0
    samples_dropped_total: int = 0  # QoS 0 messages that found the pipeline full
    scan_ms_last: float = 0.0
    busy_share: float = 0.0  # of this session's time, in which a request was under way
    lateness_ms_last: float = 0.0
    on_standby: bool = False  # its standby address is used
    standby_taken_total: int = 0  # how often, and how often the first one was taken back
    standby_left_total: int = 0
    tags_refused: int = 0  # by the device, so that they are bad
    units_unwell: int = 0  # unit ids that do not answer, or only that they are not well
    error_last: str = ""
    errors_total: Counter[str] = field(default_factory=Counter)  # by kind


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
