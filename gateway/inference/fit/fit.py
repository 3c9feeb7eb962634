"""Commissioning: from recordings of a machine to one ONNX graph that watches it.

    recordings -> clean (which rows can be learned from) -> features, detectors, calibration
               -> graph (all of it as one ONNX file) -> Fitted

Pure: the same recordings, settings and seed give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gateway.errors import SluicegateError
from gateway.frame import BoolArray, FloatArray, TimeArray
from gateway.inference.fit.graph import Graph
from gateway.inference.fit.recording import Recording
from gateway.inference.runtime import Float32Array, Runner

__all__ = [
    "Calibration",
    "Detector",
    "FitError",
    "FitSettings",
    "Fitted",
    "History",
    "Injection",
    "State",
    "Stretch",
    "fit",
    "parse_rate",
]

INPUT, SCORE, CONTRIBUTIONS = "window", "score", "contributions"
SCORE_ROWS_MAX = 256

_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*/\s*(h|hour|d|day|week|month|year)")
_DAYS = {"h": 1 / 24, "hour": 1 / 24, "d": 1, "day": 1, "week": 7, "month": 30.44, "year": 365.25}


class FitError(SluicegateError):
    """Nothing can be learned from these recordings; the hint says what is missing."""


def parse_rate(text: str) -> float:
    """Alarms an asset and day of "1/week"; ValueError says what would be right."""
    match = _RATE.fullmatch(text.strip())
    if match is None or float(match[1]) <= 0:
        raise ValueError('write a number, "/" and a span, such as "1/week", "2/day" or "1/month"')
    return float(match[1]) / _DAYS[match[2]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """What the user may ask for; None is chosen from the recordings."""

    false_alarms_per_day: float = 1 / 7  # of one asset
    window: int | None = None  # samples
    hop: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A part of the history that was not learned from; `field` is "" when it is all of them."""

    asset: str
    field: str
    start_ns: int
    end_ns: int
    reason: str  # "missing", "stuck", "out of range", "unusual"


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """An operating state that was found: "running", "idle", "start-up" ..."""

    name: str
    share: float  # of the time learned from
    levels: tuple[float, ...]  # typical value of each feature


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """One member of the family: what it looks at, how it did without labels, whether it is used."""

    name: str
    looks_at: str
    criterion: float  # share of the injected faults that it found at its limit; 0 to 1
    used: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How often a healthy asset alarms, and how sure that is."""

    wanted_per_day: float
    expected_per_day: float
    low_per_day: float
    high_per_day: float
    confidence: float  # that the rate lies in [low, high]
    healthy_s: float  # of held-back healthy history
    in_words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """A synthetic fault put into held-back healthy history."""

    kind: str  # "step", "drift", "noise", ...
    field: str
    size: float  # in healthy standard deviations of the feature
    caught: bool
    delay_s: float  # NaN when not caught
    blamed: str  # the field that contributed most, "" when not caught


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class History:
    """Scores over one recording, by the graph itself; a score of 1 alarms."""

    asset: str
    t_ns: TimeArray  # (m,) of each window's last row
    scores: Float32Array  # (m,)
    contributions: Float32Array  # (m, features)
    learned: BoolArray  # (m,) whether the window was learned from


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """A model, what a bundle must say of it, and what a report tells of how it came about."""

    model: bytes  # ONNX: INPUT -> SCORE, CONTRIBUTIONS
    fields: tuple[str, ...]
    eng_units: tuple[str, ...]
    period_s: float
    window: int  # samples
    hop: int
    threshold: float  # the score is calibrated to 1
    min_valid_fraction: float
    open_after: int  # what the calibration reckons with, for [[model]]
    close_after: int
    close_below: float
    golden_windows: Float32Array  # (k, window, features)
    golden_scores: Float32Array  # (k,)
    healthy_low: FloatArray  # (features,) what was seen in what was learned from
    healthy_high: FloatArray
    stretches: tuple[Stretch, ...]
    states: tuple[State, ...]
    detectors: tuple[Detector, ...]
    calibration: Calibration
    injections: tuple[Injection, ...]
    histories: tuple[History, ...]


def fit(recordings: Sequence[Recording], settings: FitSettings) -> Fitted:
    """A model of one asset class from healthy (or mostly healthy) recordings of its assets.

    Raises FitError when there is too little to learn from, or the recordings do not agree in
    fields, units and period.
    """
    first = _agreed(recordings)
    n = len(first.fields)
    window, hop = settings.window or 30, settings.hop or 3
    windows = [_windows(recording, window, hop) for recording in recordings]
    pooled = np.concatenate([w for w, _ in windows])
    if len(pooled) < 10:
        raise FitError(
            f"there are {len(pooled)} windows of {window} good samples",
            hint="record for longer, or see why samples are missing",
        )
    level = pooled.mean(axis=1, dtype=np.float64)
    center = np.median(level, axis=0)
    scale = 1.4826 * np.median(np.abs(level - center), axis=0)
    scale = np.maximum(scale, 1e-6 * np.maximum(np.abs(center), 1.0))
    limit = float(np.abs((level - center) / scale).max()) * 1.2
    model = _graph(center, scale, limit, window)
    histories = tuple(
        _history(recording, model, w, t_ns)
        for recording, (w, t_ns) in zip(recordings, windows, strict=True)
    )
    golden = pooled[[0, len(pooled) // 2]].astype(np.float32)
    return Fitted(
        model=model,
        fields=first.fields,
        eng_units=first.eng_units,
        period_s=first.period_s,
        window=window,
        hop=hop,
        threshold=1.0,
        min_valid_fraction=0.8,
        open_after=2,
        close_after=3,
        close_below=0.9,
        golden_windows=golden,
        golden_scores=score_windows(model, golden)[0],
        healthy_low=pooled.min(axis=(0, 1)).astype(np.float64),
        healthy_high=pooled.max(axis=(0, 1)).astype(np.float64),
        stretches=(),
        states=(State(name="running", share=1.0, levels=tuple(center.tolist())),),
        detectors=(Detector(name="level", looks_at="means", criterion=0.0, used=True),),
        calibration=Calibration(
            wanted_per_day=settings.false_alarms_per_day,
            expected_per_day=settings.false_alarms_per_day,
            low_per_day=0.0,
            high_per_day=86400 / (hop * first.period_s),
            confidence=0.9,
            healthy_s=len(pooled) * hop * first.period_s,
            in_words="not calibrated",
        ),
        injections=(),
        histories=histories if n else (),
    )


def score_windows(model: bytes, windows: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Scores (rows,) and contributions (rows, features) of windows, by the graph."""
    runner = Runner(model, input_name=INPUT, score=SCORE, contributions=CONTRIBUTIONS)
    scores = np.empty(len(windows), np.float32)
    contributions = np.empty((len(windows), windows.shape[2]), np.float32)
    runner.reserve(min(len(windows), SCORE_ROWS_MAX), *windows.shape[1:])
    for start in range(0, len(windows), SCORE_ROWS_MAX):
        rows = len(windows[start : start + SCORE_ROWS_MAX])
        runner.windows[:rows] = windows[start : start + rows]
        found, shares = runner.run()
        scores[start : start + rows] = found[:rows]
        assert shares is not None  # our own graphs give them
        contributions[start : start + rows] = shares[:rows]
    return scores, contributions


def _agreed(recordings: Sequence[Recording]) -> Recording:
    if not recordings:
        raise FitError("there is no recording", hint="see which assets have a history")
    first = recordings[0]
    for other in recordings[1:]:
        for what in ("fields", "eng_units", "period_s"):
            ours, theirs = getattr(first, what), getattr(other, what)
            if ours != theirs:
                raise FitError(
                    f"{what} of {other.asset!r} are {theirs}, of {first.asset!r} {ours}",
                    hint="fit them apart, or record both alike",
                )
    return first


def _windows(recording: Recording, window: int, hop: int) -> tuple[Float32Array, TimeArray]:
    good = np.logical_and.reduce(recording.usable & np.isfinite(recording.values), axis=1)
    period_ns = round(recording.period_s * 1e9)
    broken = np.r_[True, np.diff(recording.t_ns) > 1.5 * period_ns]
    since = np.arange(len(good)) - np.maximum.accumulate(
        np.where(~good | broken, np.arange(len(good)) + ~good, 0)
    )
    ends = np.flatnonzero(since >= window - 1)[::hop]
    rows = ends[:, np.newaxis] + np.arange(1 - window, 1)
    return recording.values[rows].astype(np.float32), recording.t_ns[ends]


def _history(recording: Recording, model: bytes, windows: Float32Array, t_ns: TimeArray) -> History:
    scores, contributions = score_windows(model, windows)
    return History(
        asset=recording.asset,
        t_ns=t_ns,
        scores=scores,
        contributions=contributions,
        learned=np.ones(len(scores), np.bool_),
    )


def _graph(center: FloatArray, scale: FloatArray, limit: float, window: int) -> bytes:
    graph = Graph(INPUT, window, len(center))
    level = graph.add("ReduceMean", INPUT, graph.integers(1), keepdims=0)
    far = graph.add("Sub", level, graph.floats(center))
    share = graph.add("Abs", graph.add("Mul", far, graph.floats(1 / scale / limit)))
    graph.output(share, CONTRIBUTIONS, len(center))
    graph.output(graph.add("ReduceMax", share, graph.integers(1), keepdims=0), SCORE)
    return graph.model()
