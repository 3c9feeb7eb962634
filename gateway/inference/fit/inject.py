"""Synthetic faults put into healthy history: what the model would catch, measured without labels.

step      the tag reads too much, or too little, from one moment on
drift     the same, growing
noise     the tag shakes more than it does
stuck     the tag keeps its value
foreign   the tag follows another time of its own history: plausible alone, not with the others
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gateway.frame import FloatArray
from gateway.inference.events import EventRule
from gateway.inference.fit.calibrate import states
from gateway.inference.fit.detector import Detector, Kind
from gateway.inference.fit.fitted import Injection
from gateway.inference.fit.windows import Run
from gateway.inference.runtime import Float32Array

__all__ = ["Injected", "inject"]

SIZES = (2.0, 5.0)  # healthy standard deviations
KINDS = ("step", "drift", "noise", "stuck", "foreign")
# All tags of most machines; of a refinery so many, spread evenly.
TAGS_MAX = 12
# Faults start after so many windows of a segment, and last to its end.
WINDOWS_BEFORE, WINDOWS_AFTER = 2, 4

# Scores and contributions of every so many windows of (rows, features).
Score = Callable[[FloatArray, int], tuple[Float32Array, Float32Array]]


@dataclass(frozen=True, slots=True, eq=False)
class Injected:
    """What was put in and found, and what each kind of answer would find alone."""

    faults: tuple[Injection, ...]
    caught_share: dict[Kind, float]


def inject(
    detector: Detector,
    score: Score,
    hop: int,
    runs: Sequence[Run],
    fields: Sequence[str],
    rule: EventRule,
    *,
    period_s: float,
    seed: int,
) -> Injected:
    """Put faults into stretches of the runs and score them with the graph (`score`)."""
    window = detector.window
    rows = min((WINDOWS_BEFORE + WINDOWS_AFTER) * window, max(len(run.values) for run in runs))
    long = [run for run in runs if len(run.values) >= rows]
    start = max(window, min(WINDOWS_BEFORE * window, rows - 2 * window))
    random = np.random.default_rng(seed)
    size = np.concatenate([run.values for run in runs]).std(axis=0)
    tags = np.unique(np.linspace(0, len(fields) - 1, min(TAGS_MAX, len(fields))).astype(int))
    faults: list[Injection] = []
    alone: dict[Kind, list[bool]] = {}
    for tag, kind, many in _plan(tags.tolist(), size):
        run = long[int(random.integers(len(long)))]
        first = int(random.integers(len(run.values) - rows + 1))
        segment = run.values[first : first + rows].copy()
        _bend(segment[start:, tag], kind, many * size[tag], run.values[:, tag], random)
        scores, shares = score(segment, hop)
        at = _onset(scores.astype(np.float64), rule, (start - window) // hop + 1)
        faults.append(
            Injection(
                kind=kind,
                field=fields[tag],
                size=many,
                caught=at is not None,
                delay_s=float("nan") if at is None else (hop * at + window - 1 - start) * period_s,
                blamed="" if at is None else fields[int(np.argmax(shares[at]))],
            )
        )
        for answer, caught in _by_kind(detector, segment, rule, start, hop).items():
            alone.setdefault(answer, []).append(caught)
    shares_caught = {kind: float(np.mean(caught)) for kind, caught in alone.items()}
    return Injected(tuple(faults), shares_caught)


def _plan(tags: Sequence[int], size: FloatArray) -> Iterator[tuple[int, str, float]]:
    """Tag, kind and size of each fault."""
    for tag in tags:
        for kind in KINDS:
            if size[tag] > 0 and (kind != "foreign" or len(size) > 1):
                for many in SIZES if kind in ("step", "drift", "noise") else (0.0,):
                    yield tag, kind, many


def _bend(
    values: FloatArray, kind: str, size: float, history: FloatArray, random: np.random.Generator
) -> None:
    """Put the fault into a part of a column, in place."""
    sign = 1.0 if random.random() < 0.5 else -1.0
    if kind == "step":
        values += sign * size
    elif kind == "drift":
        values += sign * size * np.linspace(0, 1, len(values))
    elif kind == "noise":
        values += size * random.normal(size=len(values))
    elif kind == "stuck":
        values[:] = values[0]
    else:
        first = int(random.integers(max(1, len(history) - len(values))))
        values[:] = history[first : first + len(values)]


def _by_kind(
    detector: Detector, segment: FloatArray, rule: EventRule, start: int, hop: int
) -> dict[Kind, bool]:
    z = detector.scaled(segment)
    found: dict[Kind, bool] = {}
    for scale in detector.scales:
        ratios = scale.ratios(scale.answers(scale.statistics(z)))
        for kind in set(scale.kinds):
            part = ratios[::hop, [k is kind for k in scale.kinds]].max(axis=1)
            caught = _onset(part, rule, (start - scale.rows) // hop + 1) is not None
            found[kind] = found.get(kind, False) or caught
    return found


def _onset(scores: FloatArray, rule: EventRule, start: int) -> int | None:
    """The first score at or after `start` at which an event opens."""
    opened = states(scores, rule)
    onsets = np.flatnonzero(opened & ~np.concatenate([[False], opened[:-1]]))
    after = onsets[onsets >= start]
    return int(after[0]) if len(after) else None
