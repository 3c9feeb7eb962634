"""Verdict: events held against what is known to have been wrong, and when.

A fault is found when an event opens while it lasts, or within a window after it, since a window
still holds it. An event that opens at any other time is a false alarm, also when it was already
open as the fault began. Points are compared with labels as they are, without adjustment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gateway.backtest.replay import Alarm, Outcome, Scores
from gateway.errors import Problem, RecordingInvalid
from gateway.frame import BoolArray, TimeArray
from gateway.recordings.tables import Numbers, invalid, open_table
from gateway.recordings.times import NotATime, times_of_texts

__all__ = ["Fault", "Judged", "Verdict", "faults_of_column", "faults_of_file", "judge"]

# Rows labelled one by one: a hole of so many usual distances does not end a fault.
BRIDGED_ROWS = 3


@dataclass(frozen=True, slots=True)
class Fault:
    """A stretch of time in which an asset was broken; "" = every asset."""

    asset: str
    start_ns: int
    end_ns: int


@dataclass(slots=True)
class Judged:
    """One fault and one asset: whether and how late a model found it."""

    model: str
    asset: str
    fault: Fault
    alarm: Alarm | None = None

    @property
    def delay_s(self) -> float | None:
        """From the fault's start to the event's opening."""
        return (self.alarm.opened_ns - self.fault.start_ns) / 1e9 if self.alarm else None


@dataclass(slots=True, kw_only=True)
class Verdict:
    """How one model did on one asset."""

    model: str
    asset: str
    judged: list[Judged] = field(default_factory=list)
    alarms: int = 0
    false_alarms: list[Alarm] = field(default_factory=list)
    healthy_days: float = 0.0  # with a known score, outside of faults
    unknown_share: float = 0.0  # of the scores
    points_missed: float | None = None  # share of labelled points below 1
    points_false: float | None = None  # share of healthy points at 1 or above
    f1: float | None = None

    @property
    def false_alarms_per_day(self) -> float | None:
        return len(self.false_alarms) / self.healthy_days if self.healthy_days else None


def judge(
    outcome: Outcome, faults: Sequence[Fault] | None, windows_ns: dict[str, int]
) -> list[Verdict]:
    """A verdict a model and asset; `faults` is None when nothing is known of any.

    `windows_ns` is how long a window of each model is.
    """
    return [
        _judge_one(scores, outcome.alarms, faults, windows_ns.get(scores.model, 0))
        for scores in outcome.scores
    ]


def _judge_one(
    scores: Scores, alarms: Sequence[Alarm], faults: Sequence[Fault] | None, window_ns: int
) -> Verdict:
    own = [a for a in alarms if (a.event.model, a.event.asset) == (scores.model, scores.asset)]
    here = [fault for fault in faults or () if fault.asset in ("", scores.asset)]
    verdict = Verdict(model=scores.model, asset=scores.asset, alarms=len(own))
    claimed: set[int] = set()
    for fault in here:
        judged = Judged(scores.model, scores.asset, fault)
        for alarm in own:
            if fault.start_ns <= alarm.opened_ns <= fault.end_ns + window_ns:
                claimed.add(id(alarm))
                judged.alarm = judged.alarm or alarm
        verdict.judged.append(judged)
    verdict.false_alarms = [alarm for alarm in own if id(alarm) not in claimed]
    known = np.isfinite(scores.values)
    verdict.unknown_share = float(1 - known.mean()) if len(known) else 1.0
    labelled = np.zeros(len(known), np.bool_)
    for fault in here:
        labelled |= (scores.t_ns >= fault.start_ns) & (scores.t_ns <= fault.end_ns)
    if len(known) > 1:
        step_ns = float(np.median(np.diff(scores.t_ns)))
        verdict.healthy_days = float((known & ~labelled).sum()) * step_ns / 86400e9
    if faults is not None:
        _compare_points(verdict, scores.values[known] >= 1, labelled[known])
    return verdict


def _compare_points(verdict: Verdict, found: BoolArray, labelled: BoolArray) -> None:
    hits, missed = int((found & labelled).sum()), int((~found & labelled).sum())
    false = int((found & ~labelled).sum())
    healthy = int((~labelled).sum())
    if hits + missed:
        verdict.points_missed = missed / (hits + missed)
        verdict.f1 = 2 * hits / (2 * hits + missed + false)
    if healthy:
        verdict.points_false = false / healthy


def faults_of_column(t_ns: TimeArray, truths: BoolArray) -> list[Fault]:
    """The stretches in which a recording's label was set."""
    times = t_ns[truths]
    if not len(times):
        return []
    steps = np.diff(np.unique(t_ns))
    bridged_ns = BRIDGED_ROWS * (float(np.median(steps)) if len(steps) else 0.0)
    # A healthy row between two faulty ones ends the fault, however near.
    ranks = np.flatnonzero(truths)
    apart = (np.diff(times) > bridged_ns) | (np.diff(ranks) > 1)
    starts = np.concatenate([[True], apart])
    ends = np.concatenate([apart, [True]])
    return [
        Fault("", start, end)
        for start, end in zip(times[starts].tolist(), times[ends].tolist(), strict=True)
    ]


def faults_of_file(path: Path) -> list[Fault]:
    """A table of faults: columns `start`, `end`, and `asset` if it is not of all assets.

    Raises RecordingInvalid.
    """
    table = open_table(path)
    names = [name.lower() for name in table.header]
    missing = [name for name in ("start", "end") if name not in names]
    if missing:
        found = f"it has no column {' and no column '.join(missing)}"
        raise invalid(path, "header", found, "name the columns start, end, and asset")
    faults: list[Fault] = []
    problems: list[Problem] = []
    for chunk in table.chunks():
        columns: list[TimeArray] = []
        for name in ("start", "end"):
            column = chunk.columns[names.index(name)]
            try:
                texts = [str(v) for v in column.values] if isinstance(column, Numbers) else column
                columns.append(times_of_texts(texts))
            except NotATime as error:
                place = f"row {chunk.rows[error.index]}, column {name!r}"
                raise invalid(path, place, error.found, error.mend) from None
        assets: Sequence[str] = [""] * len(chunk.rows)
        if "asset" in names:
            column = chunk.columns[names.index("asset")]
            assets = assets if isinstance(column, Numbers) else column
        for row, start, end, asset in zip(chunk.rows, *columns, assets, strict=True):
            if end < start:
                problems.append(
                    Problem(
                        file=str(path),
                        place=f"row {row}",
                        found="the end is before the start",
                        mend="exchange them",
                    )
                )
            faults.append(Fault(asset.strip(), int(start), int(end)))
    if problems:
        raise RecordingInvalid(problems)
    return sorted(faults, key=lambda fault: fault.start_ns)
