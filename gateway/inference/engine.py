"""Engine: every [[model]] of the configuration, given each turn's frame and time.

    Engine -> Watcher (one [[model]]) -> Rings, Runner (the bundle's), Watch (one asset)
           -> Records (events as samples)

It knows no clock but the turns' `now_ns` and keeps nothing but what follows from turns, so
replaying `horizon_ns` of them, after `restore_events`, arrives at the same state to the bit.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway.errors import BundleInvalid
from gateway.frame import EMPTY_FRAME, Frame
from gateway.inference import ModelStats
from gateway.inference.bundle import load_bundle
from gateway.inference.config import ModelSettings
from gateway.inference.events import AnomalyEvent
from gateway.inference.records import Records
from gateway.inference.watcher import AssetStatus, Scores, Watcher
from gateway.jobs import Work, finished
from gateway.tag import TagTable

__all__ = ["Engine"]

log = logging.getLogger(__name__)

# What a page shows; the event lane of the spool has them all.
RECENT_EVENTS_MAX = 100


class Engine:
    """All models at work. A bundle that is not valid is said and left out; the others go on."""

    def __init__(
        self,
        models: Sequence[ModelSettings],
        table: TagTable,
        base: Path,
        *,
        deadband_report_s: float = 60.0,
    ) -> None:
        """`base` is where relative bundle paths start; the deadband's report bounds a silence."""
        self._records = Records(table)
        self._watchers: list[Watcher] = []
        self.stats: dict[str, ModelStats] = {}
        self.recent_events: deque[AnomalyEvent] = deque(maxlen=RECENT_EVENTS_MAX)
        for settings in models:
            try:
                bundle = load_bundle(base / settings.bundle)
            except BundleInvalid as error:
                self.stats[settings.name] = ModelStats(error_last=str(error))
                for problem in error.problems:
                    log.error("model.bundle_invalid model=%s error=%s", settings.name, problem)  # noqa: TRY400 - the problem says it all
                continue
            watcher = Watcher(
                settings, bundle, table, self._records, deadband_report_s=deadband_report_s
            )
            self._watchers.append(watcher)
            self.stats[settings.name] = watcher.stats
        self.horizon_ns = max((watcher.horizon_ns for watcher in self._watchers), default=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the models; nothing is scored any more."""
        for watcher in self._watchers:
            watcher.stats.active = False
            watcher.stats.state = "closed"
        self._watchers.clear()

    def apply(self, frame: Frame, now_ns: int) -> tuple[Frame, Frame]:
        """The scores and events of this turn, models run at once; EMPTY_FRAME for none."""
        return finished(self.work(frame, now_ns))

    def work(self, frame: Frame, now_ns: int) -> Work[tuple[Frame, Frame]]:
        """The same, each run of a model being yielded as a job that the caller does."""
        made: list[Scores] = []
        for watcher in self._watchers:
            made += yield from watcher.work(frame, now_ns)
        if not made:
            return EMPTY_FRAME, EMPTY_FRAME
        events = [event for scores in made for event in scores.events]
        for event in events:
            if isinstance(event, AnomalyEvent):
                self._remember(event)
        return Frame.concatenate([scores.frame for scores in made]), self._records.frame(events)

    def restore_events(self, frame: Frame) -> None:
        """Take the event lane's newest samples, before the replay: what was open is open."""
        known = {watcher.name: watcher for watcher in self._watchers}
        for event in self._records.events(frame):
            if event.model in known:
                known[event.model].restore(event)
                self._remember(event)
        for told in self._records.sensor_events(frame):
            if told.model in known:
                known[told.model].restore(told)

    def status(self) -> dict[str, list[AssetStatus]]:
        """By model, the newest word on each asset."""
        return {watcher.name: watcher.status() for watcher in self._watchers}

    def _remember(self, event: AnomalyEvent) -> None:
        """Keep the event's newest record in the place of its first."""
        for i, known in enumerate(self.recent_events):
            if (known.model, known.asset, known.start_ns) == (
                event.model,
                event.asset,
                event.start_ns,
            ):
                self.recent_events[i] = event
                return
        self.recent_events.append(event)
