"""Commissioning: from recordings of a machine to one ONNX graph that watches it.

    recordings -> clean       which cells can be learned from
               -> runs        stretches without a hole
               -> learn       levels, relations, spreads, each with its limit; held-back scores
               -> unusual     what the rest of the history cannot explain is left out; learn again
               -> calibrate   to the rate of false alarms asked for
               -> export      all of it as one ONNX file
               -> inject      what it would catch

Pure: the same recordings, settings and seed give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from gateway.errors import SluicegateError
from gateway.frame import BoolArray, FloatArray
from gateway.inference.events import EventRule
from gateway.inference.fit import detector as parts
from gateway.inference.fit.calibrate import judged, scale_of_alarms, scale_of_scores
from gateway.inference.fit.clean import Stretch, clean, stretches_where
from gateway.inference.fit.detector import CONTRIBUTIONS, INPUT, SCORE, Kind, export
from gateway.inference.fit.fitted import (
    Calibration,
    Detector,
    Fitted,
    History,
    Injection,
    State,
)
from gateway.inference.fit.inject import Injected, inject
from gateway.inference.fit.learn import Learned, Spans, learn
from gateway.inference.fit.recording import Recording
from gateway.inference.fit.relations import FOLDS
from gateway.inference.fit.states import operating_states
from gateway.inference.fit.windows import Run, runs_of
from gateway.inference.runtime import Float32Array, Runner

__all__ = [
    "CONTRIBUTIONS",
    "INPUT",
    "SCORE",
    "Calibration",
    "Detector",
    "FitError",
    "FitSettings",
    "Fitted",
    "History",
    "Injection",
    "Scorer",
    "State",
    "Stretch",
    "fit",
    "parse_rate",
]

SCORE_ROWS_MAX = 256
# Rows of the two time scales, and of the fast part of each; at less than a second a row, more.
SCALES = ((16, 4), (32, 8))
TIMES_MAX = 10
BAND_LAGS = (1, 4, 16)
WINDOW_MIN = 8
# An event opens after as many scores of 1 as the fast part of a window has rows, so that one glitch
# is not enough, and closes after a short window of scores below this, so that a fault that wavers
# stays one event.
RULE = EventRule(open_after=4, close_after=16, close_below=0.7)
MIN_VALID_FRACTION = 0.8
# Windows side by side that are needed to learn anything, and to look for faults in the history.
WINDOWS_MIN = 5
WINDOWS_MIN_TO_SUSPECT = 60
# A coarser look, as it is taken eight times.
SUSPECT_CELLS_MAX = 150_000
# What the rest cannot explain by this many limits is left out, unless it is more than this share.
UNUSUAL_SCORE = 2.0
UNUSUAL_SHARE_MAX = 0.2

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


def fit(recordings: Sequence[Recording], settings: FitSettings) -> Fitted:
    """A model of one asset class from healthy (or mostly healthy) recordings of its assets.

    Raises FitError when there is too little to learn from, or the recordings do not agree in
    fields, units and period.
    """
    first = _agreed(recordings)
    spans = _spans(first, settings)
    window = max(rows for rows, _ in spans.scales)
    cleaned, stretches = clean(recordings)
    runs = _runs(cleaned, window)
    unusual = _unusual(cleaned, runs, spans)
    if unusual:
        stretches += [s for one, rows in unusual for s in stretches_where(one, rows, "unusual")]
        marked = {id(one): rows for one, rows in unusual}  # an asset may have several
        cleaned = [_without(one, marked.get(id(one))) for one in cleaned]
        runs = _runs(cleaned, window)
    hop = settings.hop or min(max(1, round(1 / first.period_s)), TIMES_MAX)
    learned, calibration = _calibrated(learn(runs, spans, crosses=True), spans, hop)
    detector = learned.detector
    model = export(detector)
    scorer = Scorer(model, window, len(first.fields))
    values = np.concatenate([run.values for run in runs])
    injected = inject(
        detector,
        scorer.over,
        hop,
        runs,
        first.fields,
        RULE,
        period_s=first.period_s,
        seed=settings.seed,
    )
    golden = _golden(runs, detector)
    return Fitted(
        model=model,
        fields=first.fields,
        eng_units=first.eng_units,
        period_s=first.period_s,
        window=window,
        hop=hop,
        threshold=1.0,
        min_valid_fraction=MIN_VALID_FRACTION,
        open_after=RULE.open_after,
        close_after=RULE.close_after,
        close_below=RULE.close_below,
        golden_windows=golden,
        golden_scores=scorer(golden)[0],
        healthy_low=values.min(axis=0),
        healthy_high=values.max(axis=0),
        stretches=tuple(stretches),
        states=operating_states(values, detector.scaled(values), settings.seed),
        detectors=_detectors(learned, injected),
        calibration=calibration,
        injections=injected.faults,
        histories=tuple(
            _history(one, scorer, runs_of([one], window), kept, window, hop)
            for one, kept in zip(clean(recordings)[0], cleaned, strict=True)
        ),
    )


class Scorer:
    """The graph at work over as many windows as there are."""

    def __init__(self, model: bytes, window: int, features: int) -> None:
        self._runner = Runner(model, input_name=INPUT, score=SCORE, contributions=CONTRIBUTIONS)
        self._runner.reserve(SCORE_ROWS_MAX, window, features)

    def __call__(self, windows: Float32Array) -> tuple[Float32Array, Float32Array]:
        """Scores (rows,) and contributions (rows, features) of (rows, window, features)."""
        scores = np.empty(len(windows), np.float32)
        contributions = np.empty((len(windows), windows.shape[2]), np.float32)
        for start in range(0, len(windows), SCORE_ROWS_MAX):
            rows = len(windows[start : start + SCORE_ROWS_MAX])
            self._runner.windows[:rows] = windows[start : start + rows]
            found, shares = self._runner.run()
            assert shares is not None  # our own graphs give them
            scores[start : start + rows] = found[:rows]
            contributions[start : start + rows] = shares[:rows]
        return scores, contributions

    def over(self, values: FloatArray, hop: int = 1) -> tuple[Float32Array, Float32Array]:
        """The same of every `hop`-th window of (n, features) rows, the first ending at `window`."""
        window = self._runner.windows.shape[1]
        seen = np.lib.stride_tricks.sliding_window_view(values, window, axis=0)[::hop]
        found = [
            self(np.ascontiguousarray(seen[k : k + SCORE_ROWS_MAX].transpose(0, 2, 1), np.float32))
            for k in range(0, len(seen), SCORE_ROWS_MAX)
        ]
        return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])


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


def _spans(recording: Recording, settings: FitSettings) -> Spans:
    """Time scales: as many times their rows as a second has rows, or as the user asks for."""
    longest = SCALES[-1][0]
    if settings.window is not None and settings.window < WINDOW_MIN:
        raise FitError(
            f"a window of {settings.window} rows shows no spread",
            hint=f"ask for {WINDOW_MIN} at least, or for none",
        )
    times = min(max(1, round(1 / recording.period_s)), TIMES_MAX)
    share = (settings.window or longest * times) / longest
    scales = [(max(4, round(rows * share)), max(1, round(fast * share))) for rows, fast in SCALES]
    return Spans(
        period_s=recording.period_s,
        scales=tuple(scales),
        # Slower than twice a second a band tells nothing that the spread does not.
        lags=tuple(lag for lag in BAND_LAGS if times > 1 and lag <= scales[0][0] // 8),
        false_alarms_per_day=settings.false_alarms_per_day,
    )


def _runs(recordings: Sequence[Recording], window: int) -> list[Run]:
    runs = runs_of(recordings, window)
    rows = sum(len(run.values) for run in runs)
    if rows < WINDOWS_MIN * window:
        raise FitError(
            f"there are {rows} rows in stretches of {window} good ones, and {WINDOWS_MIN * window}"
            " are needed",
            hint="record for longer, or see why samples are missing",
        )
    return runs


def _unusual(
    recordings: Sequence[Recording], runs: Sequence[Run], spans: Spans
) -> list[tuple[Recording, BoolArray]]:
    """What the rest of the history cannot explain: (n, features) rows of some recordings.

    Each of eight parts is scored by a detector that saw neither it nor its neighbours. A state
    that comes back is in the other parts, too; a fault is not.
    """
    rows = sum(len(run.values) for run in runs)
    window = max(scale for scale, _ in spans.scales)
    if rows < WINDOWS_MIN_TO_SUSPECT * window:
        return []
    short = replace(spans, scales=spans.scales[:1])
    marked = {k: np.zeros(len(one.t_ns), np.bool_) for k, one in enumerate(recordings)}
    pieces = _pieces(runs, rows // (2 * FOLDS) + 1, window)
    found = 0
    for k in range(2 * FOLDS):
        # Without the neighbours either: a fault may reach over the border.
        near = {(k + side) % (2 * FOLDS) for side in (-1, 0, 1)}
        others = [piece for j, piece in enumerate(pieces) if j % (2 * FOLDS) not in near]
        detector = learn(others, short, SUSPECT_CELLS_MAX).detector
        for piece in pieces[k :: 2 * FOLDS]:
            found += _mark(detector, piece, marked[piece.recording])
    for k, one in enumerate(recordings):
        if one.normal is not None:
            marked[k] &= ~one.normal
    if not 0 < found <= UNUSUAL_SHARE_MAX * rows:
        return []
    return [
        (one, np.repeat(marked[k][:, np.newaxis], len(one.fields), axis=1))
        for k, one in enumerate(recordings)
        if marked[k].any()
    ]


def _pieces(runs: Sequence[Run], rows: int, window: int) -> list[Run]:
    """The runs cut into pieces of about so many rows; a last one too short goes with its last."""
    pieces = []
    for run in runs:
        count = max(1, min(round(len(run.values) / rows), len(run.values) // (2 * window)))
        start = run.start
        for values in np.array_split(run.values, count):
            pieces.append(Run(run.recording, start, values))
            start += len(values)
    return pieces


def _mark(detector: parts.Detector, piece: Run, rows: BoolArray) -> int:
    """Mark the rows of the windows that score too high for too long; how many."""
    scale = detector.scales[0]
    answers = scale.answers(scale.statistics(detector.scaled(piece.values)))
    high = scale.ratios(answers).max(axis=1) >= UNUSUAL_SCORE
    # A moment that long is a fault; a shorter one is what extremes are made of.
    steady = np.convolve(high, np.ones(scale.rows), "same") >= scale.rows / 2
    inside = np.convolve(steady & high, np.ones(2 * scale.rows - 1)) > 0
    inside = inside[: len(piece.values)]
    rows[piece.start : piece.start + len(inside)] |= inside
    return int(inside.sum())


def _without(recording: Recording, marked: BoolArray | None) -> Recording:
    return recording if marked is None else replace(recording, usable=recording.usable & ~marked)


def _calibrated(learned: Learned, spans: Spans, hop: int) -> tuple[Learned, Calibration]:
    """The limits of each kind, moved by what its held-back answers say together.

    What rate they leave possible is counted on each fold of the history with limits that it had no
    part in: on what they were set by, they hold by construction.
    """
    step = max(1, hop // learned.every)
    level = _Level(spans, learned.detector.window, step * learned.every, hop)
    # Stretches of one run and one fold; every `step`-th of their windows is used.
    cuts = {*np.cumsum(learned.counts)[:-1].tolist(), *_changes(learned.fold)}
    pieces = [
        piece[::step]
        for piece in np.split(np.arange(len(learned.fold)), sorted(cuts))
        if len(piece)
    ]
    runs = np.split(np.arange(len(learned.fold)), np.cumsum(learned.counts)[:-1])
    by, of_all = level.scales(learned.by_kind, [run[::step] for run in runs])
    scales = []
    for scale in learned.detector.scales:
        by_answer = of_all * np.array([by[kind] for kind in scale.kinds])
        low, high = scale.limit_low * by_answer, scale.limit_high * by_answer
        scales.append(replace(scale, limit_low=low, limit_high=high))
    scores: list[FloatArray] = []
    for fold in np.unique(learned.fold).tolist():
        others = [piece for piece in pieces if learned.fold[piece[0]] != fold]
        by, of_all = level.scales(learned.by_kind, others or pieces)
        scores += [
            level.joined(learned.crossed, piece, by) / of_all
            for piece in pieces
            if learned.fold[piece[0]] == fold
        ]
    calibration = judged(scores, level.rule, wanted_per_day=level.per_day, step_s=level.step_s)
    detector = replace(learned.detector, scales=tuple(scales))
    return replace(learned, detector=detector), calibration


def _changes(fold: npt.NDArray[np.int64]) -> list[int]:
    return (np.flatnonzero(np.diff(fold)) + 1).tolist()


class _Level:
    """From the ratios of each kind to what they are to be divided by."""

    def __init__(self, spans: Spans, window: int, apart: int, hop: int) -> None:
        """`apart` are the rows between two of the scores that are used."""
        # Scores further apart than the engine's: fewer of them span the same time.
        times = hop / apart
        self.rule = replace(
            RULE,
            open_after=max(1, int(RULE.open_after * times)),
            close_after=max(1, int(RULE.close_after * times)),
        )
        self.per_day = spans.false_alarms_per_day
        self.step_s = apart * spans.period_s
        self._per_trial = spans.per_trial(window)
        self._block = max(1, window // apart)

    def scales(
        self, ratios: Mapping[Kind, FloatArray], pieces: Sequence[npt.NDArray[np.intp]]
    ) -> tuple[dict[Kind, float], float]:
        """Of each kind, and of all together, by some pieces of the history."""
        per_block = self._per_trial / len(ratios)
        by = {
            kind: scale_of_scores(
                [found[piece] for piece in pieces],
                self.rule,
                block=self._block,
                per_block=per_block,
            )
            for kind, found in ratios.items()
        }
        scores = [self.joined(ratios, piece, by) for piece in pieces]
        counted = {"wanted_per_day": self.per_day, "step_s": self.step_s}
        return by, scale_of_alarms(scores, self.rule, **counted)

    @staticmethod
    def joined(
        ratios: Mapping[Kind, FloatArray], piece: npt.NDArray[np.intp], by: Mapping[Kind, float]
    ) -> FloatArray:
        """The scores of a piece: the largest of its kinds."""
        scores: FloatArray = np.maximum.reduce(
            [found[piece] / by[kind] for kind, found in ratios.items()]
        )
        return scores


def _detectors(learned: Learned, injected: Injected) -> tuple[Detector, ...]:
    how = ", ".join(
        f"{one.how} at {scale.rows} rows"
        for one, scale in zip(learned.relations, learned.detector.scales, strict=True)
    )
    looks_at = {
        Kind.LEVEL: "each tag's level against where it was learned",
        Kind.RELATION: f"each tag against what the others say it should be ({how})",
        Kind.SPREAD: "how much each tag shakes",
        Kind.BAND: "how fast each tag shakes, in bands two octaves apart",
        Kind.OVERALL: "all relations together",
    }
    return tuple(
        Detector(
            name=kind.value,
            looks_at=looks_at[kind],
            criterion=injected.caught_share.get(kind, 0.0),
            used=kind in learned.by_kind,
        )
        for kind in Kind
    )


def _golden(runs: Sequence[Run], detector: parts.Detector) -> Float32Array:
    """A healthy window, and the same with its first tag off from the middle on."""
    longest = max(runs, key=lambda run: len(run.values))
    start = (len(longest.values) - detector.window) // 2
    healthy = longest.values[start : start + detector.window]
    faulty = healthy.copy()
    faulty[detector.window // 2 :, 0] += 10 * detector.scale[0]
    return np.stack([healthy, faulty]).astype(np.float32)


def _history(
    recording: Recording,
    scorer: Scorer,
    runs: Sequence[Run],
    kept: Recording,
    window: int,
    hop: int,
) -> History:
    """Scores over all of a recording, learned from or not."""
    learned = np.logical_and.reduce(kept.usable, axis=1)
    times, scores, shares, known = [], [], [], []
    for run in runs:
        found = scorer.over(run.values, hop)
        scores.append(found[0])
        shares.append(found[1])
        ends = run.start + window - 1 + hop * np.arange(len(found[0]))
        times.append(recording.t_ns[ends])
        known.append(learned[ends])
    features = len(recording.fields)
    return History(
        asset=recording.asset,
        t_ns=np.concatenate([*times, np.zeros(0, np.int64)]),
        scores=np.concatenate([*scores, np.zeros(0, np.float32)]),
        contributions=np.concatenate([*shares, np.zeros((0, features), np.float32)]),
        learned=np.concatenate([*known, np.zeros(0, np.bool_)]),
    )
