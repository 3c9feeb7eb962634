"""Served: one [[model]], whatever bundle is at work for it: shadow, promotion, rollback.

    active    its scores and events are what is recorded
    beside    a second bundle on the same samples, whose scores are only compared:
              a *shadow* that may become active, or the one that was active before (*standby*)

A new bundle is loaded elsewhere and handed over warm; its windows fill while it is a shadow, so a
promotion has no gap: open events go over to it. The old one stays beside it for a while, warm, and
takes over again if the new one fails. Whatever the one beside does, the active one goes on.

Hand-overs are asked for at any time and happen between two turns.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from gateway.errors import SluicegateError
from gateway.frame import Frame
from gateway.inference import ModelStats
from gateway.inference.config import ModelSettings
from gateway.inference.events import AnomalyEvent, DriftEvent
from gateway.inference.records import Event
from gateway.inference.watcher import Scores, Watcher
from gateway.jobs import Work

__all__ = ["Served", "ServedState"]

log = logging.getLogger(__name__)

# How long the one before stays warm beside the one that was promoted.
STANDBY_NS = 3600 * 10**9
# A shadow's figures are written down this often; what a crash loses of them is no more.
SAVE_PERIOD_NS = 3600 * 10**9
WEEK_S = 7 * 86400.0
# Of a bundle that does not say how often it alarms falsely, so many are taken, an asset and week.
FALSE_ALARMS_PER_WEEK = 1.0


@dataclass(slots=True)
class ServedState:
    """What a restart must know of a [[model]]: which bundles, and how the shadow did so far."""

    configured: str = ""  # the bundle that sluicegate.toml named when this was written
    active: str = ""  # the bundle that was promoted; empty: the configured one
    shadow: str = ""
    shadow_since_ns: int = 0
    windows: int = 0  # scored by both
    agreed: int = 0  # of these, both or neither alarmed
    asset_s: float = 0.0  # seconds watched, times assets
    events: int = 0  # opened by the shadow
    lone_events: int = 0  # of these, while the active one had none open

    @classmethod
    def load(cls, file: Path | None) -> ServedState:
        """What is written there; nothing, where nothing can be read."""
        if file is None:
            return cls()
        try:
            said = json.loads(file.read_text("utf-8"))
            state, empty = cls(**said), cls()
        except (OSError, ValueError, TypeError):
            return cls()
        alike = (type(getattr(state, f.name)) is type(getattr(empty, f.name)) for f in fields(cls))
        return state if all(alike) else empty

    def save(self, file: Path | None) -> None:
        """Write it down, whole or not at all."""
        if file is None:
            return
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            new = file.with_suffix(".new")
            with new.open("w", encoding="utf-8") as opened:
                json.dump(asdict(self), opened)
                opened.flush()
                os.fsync(opened.fileno())
            new.replace(file)
        except OSError as error:
            log.warning("model.state_not_saved file=%s error=%s", file, error)


class Served:
    """The bundles of one [[model]] at work."""

    def __init__(
        self, settings: ModelSettings, active: Watcher, state: ServedState, file: Path | None
    ) -> None:
        self.name = settings.name
        self.active = active
        self.beside: Watcher | None = None
        self.state = state
        self._settings = settings
        self._file = file
        self._is_standby = False  # whether the one beside is the one before
        self._standby_until_ns = 0
        self._saved_ns = 0
        self._wanted: Watcher | str = ""  # what is asked for, until the next turn
        self._carried: list[Event] = []  # to be told: what the shadow had open when it was promoted
        self._pairs = (np.zeros(0, np.intp), np.zeros(0, np.intp))
        self._paired = (0, 0)

    @property
    def horizon_ns(self) -> int:
        """How far back a replay must begin."""
        beside = self.beside.horizon_ns if self.beside else 0
        return max(self.active.horizon_ns, beside)

    def work(self, frame: Frame, now_ns: int) -> Work[list[Scores]]:
        """A turn for the active bundle, and for the one beside it."""
        if self._wanted:
            self._hand_over(now_ns)
        made = yield from self.active.work(frame, now_ns)
        if self.beside is not None:
            # Its defects are its own: nothing it does may cost a score of the active one.
            try:
                compared = yield from self.beside.work(frame, now_ns)
                self._compare(compared)
            except (SluicegateError, ArithmeticError, LookupError, TypeError, ValueError):
                log.exception("model.beside_failed model=%s", self.name)
                self._drop()
            self._decide(now_ns)
        if self._carried and made:
            made[-1].events.extend(self._carried)
            self._carried = []
        return made

    def settle(self) -> list[Event]:
        """Close what is open, and begin anew: times to come do not compare with those so far."""
        events: list[Event] = [replace(event, is_open=False) for event in self.active.open_events()]
        self.active = self.active.renewed()
        self.beside = self.beside.renewed() if self.beside else None
        self._pairs = (np.zeros(0, np.intp), np.zeros(0, np.intp))
        self._paired = (0, 0)
        return events

    # --- what may be asked for --------------------------------------------------------------------

    def shadow(self, watcher: Watcher) -> None:
        """Run a bundle beside the active one from the next turn on."""
        self._replace_wanted(watcher)

    def promote(self) -> None:
        """Let the one beside take over; raises SluicegateError when there is none."""
        if self.beside is None or self._is_standby:
            raise SluicegateError(
                f"model {self.name} has no shadow to promote", hint="start a shadow first"
            )
        self._replace_wanted("promote")

    def roll_back(self) -> None:
        """Let the one before take over again; raises SluicegateError when it is gone."""
        if self.beside is None or not self._is_standby:
            raise SluicegateError(
                f"model {self.name} has nothing to go back to",
                hint="start a shadow of the bundle that you want, and promote it",
            )
        self._replace_wanted("roll back")

    def end_shadow(self) -> None:
        """Stop running the one beside; raises SluicegateError when there is none."""
        if self.beside is None:
            raise SluicegateError(f"model {self.name} has no shadow", hint="there is nothing to do")
        self._replace_wanted("end")

    def _replace_wanted(self, wanted: Watcher | str) -> None:
        if isinstance(self._wanted, Watcher):
            self._wanted.close()  # asked for, and something else before it began
        self._wanted = wanted

    def close(self) -> None:
        """Let go of the models."""
        if isinstance(self._wanted, Watcher):
            self._wanted.close()
        self._drop(forget=False)
        self.active.close()

    # --- between two turns -----------------------------------------------------------------------

    def _hand_over(self, now_ns: int) -> None:
        wanted, self._wanted = self._wanted, ""
        if isinstance(wanted, Watcher):
            self._begin_shadow(wanted, now_ns)
        elif wanted == "end":
            log.info("model.shadow_ended model=%s", self.name)
            self._drop()
        elif self.beside is not None:
            self._swap(now_ns, is_back=wanted == "roll back")

    def _begin_shadow(self, watcher: Watcher, now_ns: int) -> None:
        path = str(watcher.bundle.path)
        self._drop(forget=self.state.shadow != path)
        self.beside, self._is_standby = watcher, False
        if self.state.shadow != path:
            self._forget_figures()
            self.state.shadow, self.state.shadow_since_ns = path, now_ns
            self.state.save(self._file)
        self._tell()
        log.info("model.shadow_began model=%s bundle=%s", self.name, path)

    def _swap(self, now_ns: int, *, is_back: bool) -> None:
        """The one beside becomes the active one, and the active one stands by."""
        assert self.beside is not None
        old, new = self.active, self.beside
        was_open = {event.asset for event in old.open_events() if isinstance(event, AnomalyEvent)}
        for event in new.open_events():
            if isinstance(event, AnomalyEvent) and event.asset not in was_open:
                self._carried.append(event)  # nobody has been told of it yet
        opened = len(self._carried)
        for event in old.open_events():
            if isinstance(event, DriftEvent):  # from a fitting that is no longer the one in use
                self._carried.append(replace(event, is_open=False))
            else:
                new.adopt(event)
        for declared in fields(ModelStats):
            if declared.name.endswith("_total"):  # counters of a [[model]] only rise
                setattr(new.stats, declared.name, getattr(old.stats, declared.name))
        new.stats.events_total += opened
        self.active, self.beside = new, None if is_back else old
        self._is_standby = not is_back
        self._standby_until_ns = now_ns + STANDBY_NS
        if is_back:
            old.close()
        path = str(new.bundle.path)
        self.state.active = "" if path == self.state.configured else path
        self._forget_figures()
        self.state.save(self._file)
        self._tell()
        what = "rolled_back" if is_back else "promoted"
        version = new.bundle.manifest.version
        log.warning("model.%s model=%s bundle=%s version=%s", what, self.name, path, version)

    def _decide(self, now_ns: int) -> None:
        """What the figures ask for, once the turn is worked."""
        if self.beside is None:
            return
        if self._is_standby:
            if self.active.is_quarantined and not self.beside.is_quarantined:
                log.error(
                    "model.failed_after_promotion model=%s error=%s",
                    *(self.name, self.active.stats.error_last),
                )
                self._wanted = "roll back"
            elif now_ns >= self._standby_until_ns:
                self._drop()
        elif self.beside.is_quarantined:
            log.error(
                "model.shadow_failed model=%s error=%s", self.name, self.beside.stats.error_last
            )
            self.active.stats.shadow_error = self.beside.stats.error_last
            self._drop()
        else:
            if abs(now_ns - self._saved_ns) >= SAVE_PERIOD_NS:
                self._saved_ns = now_ns
                self.state.save(self._file)
            objection = self.objection(now_ns)
            self.active.stats.shadow_error = objection
            if not objection and self._settings.promote == "auto" and not self._wanted:
                self._wanted = "promote"

    def objection(self, now_ns: int) -> str:
        """Why the rule would not promote the shadow; empty when it would."""
        if self.beside is None or self._is_standby:
            return "there is no shadow"
        state, settings = self.state, self._settings
        waited_s = (now_ns - state.shadow_since_ns) / 1e9
        if waited_s < settings.shadow_for:
            return f"it has run for {waited_s / 3600:.1f} of {settings.shadow_for / 3600:.1f} h"
        if not state.windows:
            return "no window was scored by both"
        agreement = state.agreed / state.windows
        if agreement < settings.agreement_min:
            return f"it agrees in {agreement:.1%} of the windows, not {settings.agreement_min:.1%}"
        stated = self.beside.bundle.manifest.false_alarms
        bound = stated.bound_per_week if stated else FALSE_ALARMS_PER_WEEK
        allowed = 1 + bound * state.asset_s / WEEK_S
        if state.lone_events > allowed:
            return f"it alone opened {state.lone_events} events; {allowed:.1f} are its stated rate"
        return ""

    def _compare(self, compared: list[Scores]) -> None:
        """Count where the two agree, at the ticks of the one beside."""
        if self._is_standby or not compared:
            return
        assert self.beside is not None
        counts = (self.active.stats.assets, self.beside.stats.assets)
        if counts != self._paired:
            self._paired, self._pairs = counts, self.active.pairs_with(self.beside)
        ours, theirs = self._pairs
        state, stats = self.state, self.active.stats
        for scores in compared:
            mine, its = self.active.scores[ours], scores.frame.values[theirs]
            known = ~(np.isnan(mine) | np.isnan(its))
            state.windows += int(np.count_nonzero(known))
            state.agreed += int(np.count_nonzero(((mine >= 1) == (its >= 1))[known]))
            state.asset_s += float(np.count_nonzero(known)) * self.beside.hop_s
            for event in scores.events:
                if isinstance(event, AnomalyEvent) and event.is_open:
                    opened = event.window != ""
                    state.events += opened
                    state.lone_events += opened and not self.active.has_open_event(event.asset)
        stats.shadow_windows_total, stats.shadow_agreed_total = state.windows, state.agreed
        stats.shadow_events_total = state.events

    def _drop(self, *, forget: bool = True) -> None:
        """Be without the one beside."""
        if self.beside is not None:
            with suppress(SluicegateError):
                self.beside.close()
        self.beside, self._is_standby = None, False
        if forget and self.state.shadow:
            self._forget_figures()
            self.state.save(self._file)
        self._tell()

    def _forget_figures(self) -> None:
        state = self.state
        self.state = ServedState(configured=state.configured, active=state.active)
        self._paired = (0, 0)

    def _tell(self) -> None:
        """Have the statistics say what is beside."""
        stats = self.active.stats
        is_shadow = self.beside is not None and not self._is_standby
        stats.shadow_version = (
            self.beside.bundle.manifest.version if self.beside and is_shadow else ""
        )
        stats.standby_version = (
            self.beside.bundle.manifest.version if self.beside and self._is_standby else ""
        )
        if is_shadow:
            stats.shadow_error = ""
        stats.shadow_windows_total = self.state.windows
        stats.shadow_agreed_total = self.state.agreed
        stats.shadow_events_total = self.state.events
