"""Events: scores become alarms with a start and an end, by counting in a row. Pure.

    closed --- `open_after` scores >= 1 in a row ---> open
    open   --- `close_after` scores < `close_below` in a row ---> closed

A score that is not known breaks a row, and so neither opens nor closes anything. What a row may
look back on is thereby bounded, which is what lets a replay of bounded length rebuild it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isnan, nan

__all__ = ["AnomalyEvent", "DriftEvent", "EventRule", "SensorEvent", "SensorLog", "Watch"]

# An open event whose peak rises is reported again, but not more often than this.
UPDATE_PERIOD_NS = 60 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRule:
    """When an event opens and closes, as [[model]] says."""

    open_after: int
    close_after: int
    close_below: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AnomalyEvent:
    """An alarm of one model on one asset, as it was when it was reported."""

    model: str
    asset: str
    start_ns: int  # the first score >= 1 of the row that opened it
    end_ns: int  # the newest score in it; when closed, the score that closed it
    is_open: bool
    peak: float
    score_last: float
    top: str  # fields that made the peak, most first: "vibration,bearing_temperature"
    deviation: str = ""  # the same with values: "vibration 4.2 mm/s (healthy 0.8 to 2.1)"
    sensor: str = ""  # what was wrong with its sensors when it was reported: "flow frozen"
    window: str = ""  # of the record that opens it: what the model saw, as JSON

    @property
    def duration_s(self) -> float:
        return max(0, self.end_ns - self.start_ns) / 1e9  # a stepped clock may turn them around

    @property
    def severity(self) -> str:
        """By its peak: "minor" below 2, "major" below 4, then "critical"."""
        return "minor" if self.peak < 2 else "major" if self.peak < 4 else "critical"


class Watch:
    """What is remembered of one asset under one model."""

    __slots__ = (
        "_after_ns",
        "_asset",
        "_high",
        "_low",
        "_model",
        "_peak",
        "_peak_reported",
        "_reported_ns",
        "_rule",
        "_score_last",
        "_start_ns",
        "is_open",
        "top",
    )

    def __init__(self, rule: EventRule, model: str, asset: str) -> None:
        self._rule = rule
        self._model = model
        self._asset = asset
        self._high = 0  # scores >= 1 in a row, while closed
        self._low = 0  # scores < close_below in a row, while open
        self._start_ns = 0
        self._peak = 0.0
        self._peak_reported = 0.0
        self._reported_ns = 0
        self._score_last = nan  # of the newest report
        self._after_ns = -1  # scores up to here are in the record this was restored from
        self.is_open = False
        self.top = ""

    @property
    def is_idle(self) -> bool:
        """Whether a score below 1 would change nothing."""
        return not self.is_open and self._high == 0

    def step(self, t_ns: int, score: float, top: Callable[[], str]) -> AnomalyEvent | None:
        """Take a score, NaN when not known; the event when it opened, rose or closed.

        `top` is called when the score is the highest so far, for the fields that made it so.
        """
        if t_ns <= self._after_ns:
            return None
        if self.is_open:
            return self._step_open(t_ns, score, top)
        if not score >= 1:
            self._high = 0
            return None
        if self._high == 0:
            self._start_ns, self._peak = t_ns, 0.0
        self._high += 1
        self._take_peak(score, top)
        if self._high < self._rule.open_after:
            return None
        self.is_open, self._high, self._low = True, 0, 0
        return self._report(t_ns, score)

    def _step_open(self, t_ns: int, score: float, top: Callable[[], str]) -> AnomalyEvent | None:
        self._take_peak(score, top)
        self._low = self._low + 1 if score < self._rule.close_below else 0
        if self._low >= self._rule.close_after:
            self.is_open = False
            return self._report(t_ns, score)
        rose = self._peak > self._peak_reported and not isnan(score)
        if rose and t_ns - self._reported_ns >= UPDATE_PERIOD_NS:
            return self._report(t_ns, score)
        return None

    def restore(self, event: AnomalyEvent) -> None:
        """Take over the newest record of before a restart, ahead of the replay of its scores."""
        self.is_open = event.is_open
        self._high, self._low = 0, 0
        self._start_ns, self._reported_ns = event.start_ns, event.end_ns
        self._peak = self._peak_reported = event.peak
        self.top = event.top
        self._score_last = event.score_last
        self._after_ns = event.start_ns - 1 if event.is_open else event.end_ns

    def now(self) -> AnomalyEvent:
        """The event as it was last reported."""
        return self._record(self._reported_ns, self._score_last)

    def clock_stepped_back(self, t_ns: int) -> None:
        """Times of before the step must not look like the future."""
        self._after_ns = min(self._after_ns, t_ns - 1)
        self._reported_ns = min(self._reported_ns, t_ns)

    def _take_peak(self, score: float, top: Callable[[], str]) -> None:
        if score > self._peak:
            self._peak, self.top = score, top()

    def _report(self, t_ns: int, score: float) -> AnomalyEvent:
        self._reported_ns, self._peak_reported, self._score_last = t_ns, self._peak, score
        return self._record(t_ns, score)

    def _record(self, t_ns: int, score: float) -> AnomalyEvent:
        return AnomalyEvent(
            model=self._model,
            asset=self._asset,
            start_ns=self._start_ns,
            end_ns=t_ns,
            is_open=self.is_open,
            peak=self._peak,
            score_last=score,
            top=self.top,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorEvent:
    """Inputs of one asset that cannot be believed, as it was when it was reported."""

    model: str
    asset: str
    start_ns: int
    end_ns: int  # the newest tick in it; when closed, the tick that closed it
    is_open: bool
    faults: str  # all that there were: "flow frozen,speed missing"

    @property
    def duration_s(self) -> float:
        return max(0, self.end_ns - self.start_ns) / 1e9


class SensorLog:
    """The sensor event of one asset: one from the first fault to the end of the last."""

    __slots__ = (
        "_asset", "_model", "_reported_ns", "_start_ns", "faults", "is_open", "settled_ns",
    )  # fmt: skip

    def __init__(self, model: str, asset: str, settled_ns: int) -> None:
        """Before `settled_ns` the past is not known far enough to tell a beginning or an end."""
        self._model = model
        self._asset = asset
        self.settled_ns = settled_ns
        self._start_ns = self._reported_ns = 0
        self.faults = ""
        self.is_open = False

    def step(self, t_ns: int, faults: str) -> SensorEvent | None:
        """Take what is wrong now; the event when it opened, has another fault, or closed."""
        if t_ns < self.settled_ns:
            return None
        if not faults:
            if not self.is_open:
                return None
            self.is_open = False
            return self._report(t_ns)
        known = self.faults.split(",") if self.is_open else []
        new = [fault for fault in faults.split(",") if fault not in known]
        if not new:
            return None
        if not self.is_open:
            self.is_open, self._start_ns = True, t_ns
        self.faults = ",".join([*known, *new])
        return self._report(t_ns)

    def restore(self, event: SensorEvent) -> None:
        """Take over the newest record of before a restart, ahead of the replay."""
        self.is_open, self._start_ns, self.faults = event.is_open, event.start_ns, event.faults
        self._reported_ns = event.end_ns

    def now(self) -> SensorEvent:
        """The event as it was last reported."""
        return self._record(self._reported_ns)

    def _report(self, t_ns: int) -> SensorEvent:
        self._reported_ns = t_ns
        return self._record(t_ns)

    def _record(self, t_ns: int) -> SensorEvent:
        return SensorEvent(
            model=self._model,
            asset=self._asset,
            start_ns=self._start_ns,
            end_ns=t_ns,
            is_open=self.is_open,
            faults=self.faults,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftEvent:
    """Healthy inputs of one asset that do not look like the fitting's any more."""

    model: str
    asset: str
    start_ns: int
    end_ns: int
    is_open: bool
    kind: str  # "sensor": one input alone; "process": several
    fields: str  # "flow,pressure"
    index: float  # of the furthest: the population stability index

    @property
    def duration_s(self) -> float:
        return max(0, self.end_ns - self.start_ns) / 1e9
