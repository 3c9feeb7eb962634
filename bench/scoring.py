"""How detection is scored: points, events, delays, volumes; nothing is adjusted in our favour.

points   pooled over all files: F1, false-alarm rate (FAR), missed-alarm rate (MAR)
events   an alarm counts for a fault if it *begins* in it (or 10 s before): an alarm that
         never ends finds nothing. Alarms less than 10 s apart are one.
volume   VUS-PR (Paparrizos et al. 2022): the area under precision and recall of the score
         itself, whatever the threshold, averaged over tolerances at the borders
NAB      Numenta's score for a threshold fixed beforehand: 0 for silence, 100 at most
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "Scored",
    "events",
    "interval",
    "nab_gain",
    "nab_score",
    "points",
    "vus_pr",
]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

TOLERANCE_S = 10.0
MERGE_S = 10.0
RESAMPLES = 1000
VUS_BUFFERS = 8
VUS_THRESHOLDS = 200


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """One file's scored rows."""

    name: str
    t_s: Floats
    fault: Bools
    alarm: Bools
    score: Floats


def points(files: Sequence[Scored]) -> dict[str, float]:
    """F1, and FAR and MAR in percent."""
    none = np.zeros(0, np.bool_)
    fault = np.concatenate([none, *(one.fault for one in files)])
    alarm = np.concatenate([none, *(one.alarm for one in files)])
    hit = np.count_nonzero(fault & alarm)
    false = np.count_nonzero(~fault & alarm)
    missed = np.count_nonzero(fault & ~alarm)
    calm = np.count_nonzero(~fault & ~alarm)
    return {
        "F1": hit / (hit + (missed + false) / 2) if hit else 0.0,
        "FAR %": 100 * false / max(false + calm, 1),
        "MAR %": 100 * missed / max(missed + hit, 1),
    }


def events(files: Sequence[Scored]) -> dict[str, float]:
    """Event F1 by onsets, false alarms an hour of healthy time, delays in seconds."""
    faults = found = false = 0
    healthy_s = 0.0
    delays: list[float] = []
    for one in files:
        t = one.t_s
        spans = [(t[a], t[b - 1]) for a, b in _runs(one.fault)]
        onsets = _onsets(t, one.alarm)
        faults += len(spans)
        for first, last in spans:
            inside = [onset for onset in onsets if first - TOLERANCE_S <= onset <= last]
            found += bool(inside)
            delays += [max(0.0, inside[0] - first)] if inside else []
        false += sum(not any(a - TOLERANCE_S <= onset <= b for a, b in spans) for onset in onsets)
        steps = np.minimum(np.diff(t, append=t[-1] + 1), 5.0)
        healthy_s += float(steps[~one.fault].sum())
    recall = found / faults if faults else 0.0
    precision = found / (found + false) if found else 0.0
    both = recall + precision
    return {
        "event F1": 2 * recall * precision / both if both else 0.0,
        "found": recall,
        "false alarms/h": false / (healthy_s / 3600) if healthy_s else 0.0,
        "delay s, median": float(np.median(delays)) if delays else math.nan,
        "delay s, p90": float(np.quantile(delays, 0.9)) if delays else math.nan,
    }


def vus_pr(files: Sequence[Scored], buffer: int) -> float:
    """Mean over the files that have a fault, with tolerances of 0 to `buffer` rows."""
    volumes = [
        np.mean([_range_pr(one, int(rows)) for rows in np.linspace(0, buffer, VUS_BUFFERS)])
        for one in files
        if one.fault.any() and not one.fault.all()
    ]
    return float(np.mean(volumes)) if volumes else math.nan


def interval(
    files: Sequence[Scored], measure: Callable[[Sequence[Scored]], float], seed: int = 0
) -> tuple[float, float]:
    """95 % of what resampled files give (bootstrap by file: rows of a file hang together)."""
    random = np.random.default_rng(seed)
    found = [
        measure([files[k] for k in random.integers(0, len(files), len(files))])
        for _ in range(RESAMPLES)
    ]
    low, high = np.nanquantile(found, [0.025, 0.975])
    return float(low), float(high)


def nab_gain(detects: Bools, windows: Sequence[tuple[int, int]]) -> float:
    """A series' part of NAB's score, standard profile, above silence; windows are (first, last)."""
    rows = len(detects)
    probation = min(math.floor(0.15 * rows), 750)
    gain, best = 0.0, dict.fromkeys(windows, 0.0)
    for row in (np.flatnonzero(detects[probation:]) + probation).tolist():
        inside = next((span for span in windows if span[0] <= row <= span[1]), None)
        if inside is not None:
            first, last = inside
            worth = _sigmoid(-(last - row + 1) / (last - first + 1)) / _sigmoid(-1.0)
            best[inside] = max(best[inside], 1 + worth)
            continue
        past = [span for span in windows if span[1] < row]
        place = (row - past[-1][1]) / (past[-1][1] - past[-1][0]) if past else 4.0
        gain += 0.11 * _sigmoid(place)
    return gain + sum(best.values())


def nab_score(gains: Sequence[float], windows: Sequence[int]) -> float:
    """0 for silence, 100 at most, of series with so many windows each; NaN without any."""
    total = sum(windows)
    return 100 * sum(gains) / (2 * total) if total else math.nan


def _sigmoid(place: float) -> float:
    return -1.0 if place > 3 else 2 / (1 + math.exp(5 * place)) - 1


def _runs(marked: Bools) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _onsets(t: Floats, alarm: Bools) -> list[float]:
    """When alarms begin, those that follow one another closely being one."""
    spans: list[list[float]] = []
    for a, b in _runs(alarm):
        if spans and t[a] - spans[-1][1] <= MERGE_S:
            spans[-1][1] = t[b - 1]
        else:
            spans.append([t[a], t[b - 1]])
    return [first for first, _ in spans]


def _range_pr(one: Scored, buffer: int) -> float:
    """Area under precision and recall where the borders of faults count in part."""
    label = one.fault.astype(np.float64)
    spans = _runs(one.fault)
    half = buffer // 2
    for a, b in spans:
        for step in range(1, half + 1):
            part = math.sqrt(1 - step / (half + 1))
            for row in (a - step, b - 1 + step):
                if 0 <= row < len(label):
                    label[row] = max(label[row], part)
    wide = _runs(label > 0)
    positives = (one.fault.sum() + label.sum()) / 2
    order = np.argsort(-one.score, kind="stable")
    hits = np.cumsum(label[order])
    cuts = np.unique(np.linspace(1, len(label), VUS_THRESHOLDS).astype(int)) - 1
    rank = np.empty(len(label), np.int64)
    rank[order] = np.arange(len(label))
    first = np.array([rank[a:b].min() for a, b in wide])
    recall = np.minimum(hits[cuts] / positives, 1.0)
    recall *= np.array([np.mean(first <= cut) for cut in cuts])
    precision = hits[cuts] / (cuts + 1)
    return float(np.sum(np.diff(np.concatenate([[0.0], recall])) * precision))
