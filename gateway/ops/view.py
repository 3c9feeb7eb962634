"""What the operator's side looks at, read-only. The running gateway gives one `GatewayView`.

Nothing here is called by the data path, and nothing is copied for it: ops reads the components'
own stats dataclasses at the moment someone asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any, ClassVar, Protocol

from gateway.clock import Clock
from gateway.frame import Frame, IdArray, Lane
from gateway.inference import ModelStats
from gateway.ops.systemd import LoopStats
from gateway.sinks import SinkStats
from gateway.sources import SourceStats
from gateway.spool.plot import Plot
from gateway.spool.wear import WearStats
from gateway.stages.latest import Latest
from gateway.tag import TagTable

__all__ = [
    "EventView",
    "GatewayView",
    "LaneView",
    "ScoreView",
    "SinkView",
    "SourceView",
    "SpoolView",
    "Stats",
]


class Stats(Protocol):
    """Any dataclass of counters and gauges."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class SourceView(Protocol):
    """What is seen of a source; `gateway.sources.Source` is one."""

    @property
    def name(self) -> str: ...

    @property
    def stats(self) -> SourceStats: ...

    @property
    def tag_ids(self) -> IdArray: ...


class SinkView(Protocol):
    """What is seen of a sink; `gateway.sinks.Sink` is one."""

    @property
    def name(self) -> str: ...

    @property
    def stats(self) -> SinkStats: ...


class EventView(Protocol):
    """What is seen of an anomaly event."""

    @property
    def model(self) -> str: ...

    @property
    def asset(self) -> str: ...

    @property
    def start_ns(self) -> int: ...

    @property
    def end_ns(self) -> int: ...  # the newest score in it while it is open

    @property
    def is_open(self) -> bool: ...

    @property
    def peak(self) -> float: ...

    @property
    def top(self) -> str: ...  # the fields that made the peak, most first, comma between

    @property
    def severity(self) -> str: ...

    @property
    def deviation(self) -> str: ...  # the top fields with their values and what is healthy

    @property
    def sensor(self) -> str: ...  # what was wrong with the asset's sensors when it was reported


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreView:
    """A model's newest word on an asset."""

    asset: str
    model: str
    t_ns: int
    score: float  # >= 1 alarms; NaN: not known
    is_open: bool  # an event is open
    sensor: str = ""  # which inputs are not believed, and why: "flow frozen,speed missing"
    operator: str = ""  # "maintenance" or "snoozed"
    drift: str = ""  # what does not look like the fitting: "sensor flow", "process flow,speed"

    @property
    def state(self) -> str:
        if self.is_open:
            return "anomaly"
        if self.sensor:
            return "sensor"
        return "unknown" if isnan(self.score) else "ok"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneView:
    """One lane of the spool."""

    lane: Lane
    bytes_used: int
    samples: int
    oldest_ns: int  # 0: empty


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolView:
    """How full the spool is, and what keeps it from being durable, if anything does."""

    bytes_used: int
    bytes_max: int
    lanes: Sequence[LaneView]
    trouble: str  # "" while what is appended becomes durable
    wear: WearStats
    samples_waiting: int = 0  # for the time to be known
    warnings: Sequence[str] = ()  # of what is or will be lost, or sent again


class GatewayView(Protocol):
    """The running gateway, as ops sees it."""

    @property
    def name(self) -> str: ...

    @property
    def site(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def started_s(self) -> float: ...  # the clock's monotonic time at start

    @property
    def clock(self) -> Clock: ...

    @property
    def table(self) -> TagTable: ...

    @property
    def latest(self) -> Latest: ...

    @property
    def sources(self) -> Sequence[SourceView]: ...

    @property
    def sinks(self) -> Sequence[SinkView]: ...

    @property
    def models(self) -> Mapping[str, ModelStats]: ...

    @property
    def loop(self) -> LoopStats: ...

    @property
    def spool(self) -> SpoolView: ...

    @property
    def parts(self) -> Mapping[str, Stats]:
        """Stats of every other part ("pipeline", "channel", "spool"): for /metrics, as they are."""
        ...

    def scores(self) -> Sequence[ScoreView]:
        """The newest score of each watched asset and model."""
        ...

    def events(self) -> Sequence[EventView]:
        """Recent events, newest first; open ones among them."""
        ...

    def said_of(self, event: EventView) -> str:
        """What an operator says of it: "acknowledged", "normal", "snoozed", ... or nothing."""
        ...

    async def history(
        self, names: Sequence[str], start_ns: int, end_ns: int, lane: Lane, samples_max: int
    ) -> Frame:
        """Stored samples of some tags with start_ns <= t_ns < end_ns, oldest first."""
        ...

    async def plot(
        self, names: Sequence[str], start_ns: int, end_ns: int, lane: Lane, points_max: int
    ) -> Plot:
        """The same samples, thinned to what a plot shows."""
        ...
