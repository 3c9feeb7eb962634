"""What a fit gives: the model, what a bundle says of it, and what a report tells of it."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.frame import BoolArray, FloatArray, TimeArray
from gateway.inference.fit.clean import Stretch
from gateway.inference.runtime import Float32Array

__all__ = ["Calibration", "Detector", "Fitted", "History", "Injection", "State"]


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
