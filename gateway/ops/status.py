"""Status: the running gateway, as the page, /metrics and the watchdog look at it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from gateway import __version__
from gateway.clock import Clock
from gateway.frame import Frame, Lane
from gateway.inference import ModelStats
from gateway.ops.systemd import LoopStats, Progress
from gateway.ops.view import (
    EventView,
    LaneView,
    ScoreView,
    SinkView,
    SourceView,
    SpoolView,
    Stats,
)
from gateway.pipeline import Gateway
from gateway.spool.plot import Plot
from gateway.spool.stats import SpoolStats
from gateway.stages.latest import Latest
from gateway.tag import TagTable

__all__ = ["Status"]


class Status:
    """A `GatewayView` of a `Gateway`."""

    def __init__(self, gateway: Gateway) -> None:
        settings = gateway.config.settings.gateway
        self._gateway = gateway
        self.name = settings.name
        self.site = settings.site
        self.version = __version__
        self.started_s = gateway.clock.monotonic_s()
        self.clock: Clock = gateway.clock
        self.table: TagTable = gateway.table
        self.latest: Latest = gateway.turns.latest
        self.sources: Sequence[SourceView] = gateway.sources
        self.sinks: Sequence[SinkView] = gateway.sinks
        self.loop = LoopStats()
        self.further: dict[str, Stats] = {}  # of parts that only some gateways have

    @property
    def models(self) -> Mapping[str, ModelStats]:
        return self._gateway.engine.stats if self._gateway.engine else {}

    @property
    def parts(self) -> Mapping[str, Stats]:
        gateway = self._gateway
        return {
            "pipeline": gateway.turns.stats,
            "channel": gateway.channel.stats,
            "clock": gateway.clock_stats,
            "spool": gateway.spool.stats,
            "spool_wear": gateway.wear.stats,
            **self.further,
        }

    @property
    def spool(self) -> SpoolView:
        stats = self._gateway.spool.stats
        return SpoolView(
            bytes_used=stats.bytes_used,
            bytes_max=stats.bytes_max,
            lanes=[
                LaneView(
                    lane=lane,
                    bytes_used=kept.bytes_used,
                    samples=kept.samples,
                    oldest_ns=kept.oldest_ns,
                )
                for lane, kept in stats.lanes.items()
            ],
            trouble=stats.error_last if stats.state != "ok" else "",
            wear=self._gateway.wear.stats,
            samples_waiting=self._gateway.spool.samples_waiting,
            warnings=tuple(_spool_warnings(stats)),
        )

    def scores(self) -> Sequence[ScoreView]:
        engine = self._gateway.engine
        if engine is None:
            return []
        now_ns = self.clock.utc_ns()
        return [
            ScoreView(
                asset=known.asset,
                model=model,
                t_ns=0,
                score=known.score,
                is_open=known.state == "anomaly",
                sensor=known.sensor,
                drift=known.drift,
                operator=engine.notes.state_of(model, known.asset, now_ns),
            )
            for model, assets in engine.status().items()
            for known in assets
        ]

    def events(self) -> Sequence[EventView]:
        engine = self._gateway.engine
        return list(reversed(engine.recent_events)) if engine else []

    def said_of(self, event: EventView) -> str:
        engine = self._gateway.engine
        if engine is None:
            return ""
        note = engine.notes.of_event(event.model, event.asset, event.start_ns)
        if note is not None:
            return note.verdict or "acknowledged"
        return engine.notes.state_of(event.model, event.asset, self.clock.utc_ns())

    async def history(
        self, names: Sequence[str], start_ns: int, end_ns: int, lane: Lane, samples_max: int
    ) -> Frame:
        return await self._gateway.spool.history.query(
            names, start_ns, end_ns, lane=lane, samples_max=samples_max
        )

    async def plot(
        self, names: Sequence[str], start_ns: int, end_ns: int, lane: Lane, points_max: int
    ) -> Plot:
        return await self._gateway.spool.history.plot(names, start_ns, end_ns, lane, points_max)

    def progress(self) -> Iterator[Progress]:
        """What the watchdog wants to see moving: turns, and commits while any is owed."""
        gateway = self._gateway
        turns = gateway.turns.stats.turns_total
        stats = gateway.spool.stats
        # A disk that is known to refuse is not mended by starting anew: nothing is owed then.
        works = stats.state == "ok"
        # A turn is owed several times a second, whatever the plant does.
        yield Progress("turns", turns, turns + (works and gateway.spool.has_room))
        commits = stats.commits_total
        yield Progress("commits", commits, commits + (works and stats.pending_bytes > 0))


def _spool_warnings(stats: SpoolStats) -> Iterator[str]:
    if stats.losing:
        yield stats.losing
    if stats.cursors_error:
        yield f"what is sent is sent again after a restart: {stats.cursors_error}"
