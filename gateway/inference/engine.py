"""Engine: every [[model]] of the configuration, given each turn's frame and time.

    Engine -> Served (one [[model]]: active, shadow) -> Watcher (one bundle at work)
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

from gateway.errors import BundleInvalid, SluicegateError
from gateway.frame import EMPTY_FRAME, Frame
from gateway.inference import ModelStats
from gateway.inference.bundle import load_bundle
from gateway.inference.config import ModelSettings
from gateway.inference.events import AnomalyEvent
from gateway.inference.notes import NOTES_FILE, Notes
from gateway.inference.records import Event, Records
from gateway.inference.served import Served, ServedState
from gateway.inference.trial import Trial
from gateway.inference.watcher import AssetStatus, Scores, Watcher
from gateway.jobs import Work, finished
from gateway.tag import TagTable

__all__ = ["Engine"]

log = logging.getLogger(__name__)

# What a page shows; the event lane of the spool has them all.
RECENT_EVENTS_MAX = 100
# Beside the states of the models: which bundles were let in.
TRIED = "tried.json"


class Engine:
    """All models at work. A bundle that is not valid is said and left out; the others go on."""

    def __init__(
        self,
        models: Sequence[ModelSettings],
        table: TagTable,
        base: Path,
        *,
        deadband_report_s: float = 60.0,
        directory: Path | None = None,
    ) -> None:
        """`base` is where relative bundle paths start; the deadband's report bounds a silence.

        With a `directory` it keeps there what a restart must know, and tries new bundles in a
        process of their own before it believes them.
        """
        self._records = Records(table)
        self._table = table
        self._base = base
        self._deadband_report_s = deadband_report_s
        self._directory = directory
        self._settings = {settings.name: settings for settings in models}
        self._trials: dict[str, Trial] = {}
        self._served: dict[str, Served] = {}
        self._invalid: dict[str, ModelStats] = {}  # models without a bundle at work
        self.notes = Notes(directory / NOTES_FILE if directory else None)
        self.recent_events: deque[AnomalyEvent] = deque(maxlen=RECENT_EVENTS_MAX)
        for settings in models:
            if directory is not None:
                self._trials[settings.name] = Trial.of(settings, directory / TRIED)
            served = self._begin(settings)
            if served is not None:
                self._served[settings.name] = served

    def _begin(self, settings: ModelSettings) -> Served | None:
        """The bundle that was at work before, or the configured one; and a shadow, if wished."""
        configured = self._base / settings.bundle
        file = self._directory / f"{settings.name}.json" if self._directory else None
        state = ServedState.load(file)
        if state.configured != str(configured):  # another one is wished now
            state = ServedState(configured=str(configured))
        for path in filter(None, (state.active, str(configured))):
            active = self._try(settings, Path(path))
            if active is not None:
                break
            state.active = ""
        else:
            return None
        served = Served(settings, active, state, file)
        wished = settings.shadow and str(self._base / settings.shadow)
        shadow = state.shadow or (wished if wished != str(active.bundle.path) else "")
        if shadow:
            watcher = self._try(settings, Path(shadow))
            if watcher is not None:
                served.shadow(watcher)
        return served

    def _try(self, settings: ModelSettings, path: Path) -> Watcher | None:
        """A bundle at work; None, and said why, when it is not valid."""
        try:
            return self.load(settings.name, path)
        except BundleInvalid as error:
            self._invalid[settings.name] = ModelStats(error_last=str(error))
            for problem in error.problems:
                log.error("model.bundle_invalid model=%s error=%s", settings.name, problem)  # noqa: TRY400 - the problem says it all
            return None
        except Exception as defect:  # one bundle must not keep the others, or the gateway, down
            log.exception("model.bundle_defect model=%s", settings.name)
            said = f"a defect while it was loaded: {type(defect).__name__}: {defect}"
            self._invalid[settings.name] = ModelStats(error_last=said)
            return None

    def load(self, name: str, path: Path) -> Watcher:
        """A bundle ready to work for a [[model]]; raises BundleInvalid. Slow, for any thread."""
        settings = self._settings[name]
        bundle = load_bundle(path, settings.trusted_keys, self._trials.get(name))
        return Watcher(
            settings,
            bundle,
            self._table,
            self._records,
            deadband_report_s=self._deadband_report_s,
            directory=self._directory,
        )

    @property
    def stats(self) -> dict[str, ModelStats]:
        """By model."""
        return {
            name: self._served[name].active.stats if name in self._served else self._invalid[name]
            for name in self._settings
        }

    @property
    def horizon_ns(self) -> int:
        """How far back a replay must begin to arrive at the same state."""
        return max((served.horizon_ns for served in self._served.values()), default=0)

    def served(self, name: str) -> Served:
        """A [[model]] at work; raises SluicegateError when there is none of this name."""
        if name not in self._served:
            names = ", ".join(self._served) or "none"
            raise SluicegateError(f"no model {name!r} is at work", hint=f"there is {names}")
        return self._served[name]

    def offer(self, name: str, watcher: Watcher) -> None:
        """Run a loaded bundle as a shadow; where no bundle is at work, as the active one."""
        if name in self._served:
            self._served[name].shadow(watcher)
            return
        file = self._directory / f"{name}.json" if self._directory else None
        configured = str(self._base / self._settings[name].bundle)
        state = ServedState(configured=configured, active=str(watcher.bundle.path))
        state.save(file)
        self._served[name] = Served(self._settings[name], watcher, state, file)

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
        for served in self._served.values():
            served.close()
        self._invalid |= {name: served.active.stats for name, served in self._served.items()}
        self._served.clear()

    def apply(self, frame: Frame, now_ns: int) -> tuple[Frame, Frame]:
        """The scores and events of this turn, models run at once; EMPTY_FRAME for none."""
        return finished(self.work(frame, now_ns))

    def work(self, frame: Frame, now_ns: int) -> Work[tuple[Frame, Frame]]:
        """The same, each run of a model being yielded as a job that the caller does."""
        made: list[Scores] = []
        for served in list(self._served.values()):
            made += yield from served.work(frame, now_ns)
        if not made:
            return EMPTY_FRAME, EMPTY_FRAME
        events = [event for scores in made for event in scores.events]
        for event in events:
            if isinstance(event, AnomalyEvent):
                self._remember(event)
        return Frame.concatenate([scores.frame for scores in made]), self._records.frame(events)

    def settle(self) -> Frame:
        """Events of everything that is open, closed; after it all begins anew, with empty windows.

        The clock is about to be another: no tick of before is comparable with one that comes.
        """
        events = [event for served in self._served.values() for event in served.settle()]
        for event in events:
            if isinstance(event, AnomalyEvent):
                self._remember(event)
        return self._records.frame(events)

    def restore_events(self, frame: Frame) -> None:
        """Take the event lane's newest samples, before the replay: what was open is open."""
        for event in self._records.events(frame):
            if event.model in self._served:
                self._served[event.model].active.restore(event)
                self._remember(event)
        others: list[Event] = [
            *self._records.sensor_events(frame),
            *self._records.drift_events(frame),
        ]
        for told in others:
            if told.model in self._served:
                self._served[told.model].active.restore(told)

    def attend(self, now_ns: int) -> None:
        """Now and then: see what operators have said, and how many events wait for one."""
        self.notes.refresh()
        waiting = dict.fromkeys(self._served, 0)
        for event in self.recent_events:
            if event.is_open and event.model in waiting and not self.attended(event, now_ns):
                waiting[event.model] += 1
        for name, served in self._served.items():
            served.active.stats.events_waiting = waiting[name]

    def attended(self, event: AnomalyEvent, now_ns: int) -> str:
        """What an operator says of an event or its asset: then it need not disturb anybody."""
        note = self.notes.of_event(event.model, event.asset, event.start_ns)
        if note is not None:
            return note.verdict or "acknowledged"
        return self.notes.state_of(event.model, event.asset, now_ns)

    def status(self) -> dict[str, list[AssetStatus]]:
        """By model, the newest word on each asset."""
        return {name: served.active.status() for name, served in self._served.items()}

    def has_open_event(self, model: str, asset: str) -> bool | None:
        """Whether a [[model]] at work has an event open of an asset; None where none watches it."""
        served = self._served.get(model)
        if served is None or not served.active.watches(asset):
            return None
        return served.active.has_open_event(asset)

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
