"""Learning: a detector from runs of healthy rows.

Nothing here knows what kind of machine it is. What may vary between machines - how fast a tag
moves, whether it drifts, how it follows the others - is measured in the runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gateway.frame import BoolArray, FloatArray
from gateway.inference.fit.detector import (
    NEVER,
    OVERALL_FLOOR,
    Detector,
    Index,
    Kind,
    Scale,
    is_two_sided,
)
from gateway.inference.fit.relations import (
    CURVES_TAGS_MAX,
    FOLDS,
    Context,
    Relations,
    expectations,
    relations,
)
from gateway.inference.fit.tails import credibility, independent, return_level, student_limit
from gateway.inference.fit.windows import Run, Statistics, level_of, statistics

__all__ = ["Learned", "Spans", "learn"]

# Fast differs from slow by this many standard deviations before it counts.
CHANCE_SIGMA = 2.0
# Windows of white noise are worth this many times what fits side by side: they overlap, and a
# level follows its fast part.
OVERLAP_WORTH = 3.0
# Independent windows from which on straight lines, and products, are tried.
LINES_WINDOWS_PER_COLUMN = 4
CURVES_WINDOWS_MIN = 300
# A tag's typical difference is at least this share of its standard deviation.
SCALE_SHARE_MIN = 0.3
# One that moves by less than float32 can hold stands still; its typical difference is then held
# to be this share of its size.
FLOAT32_SHARE = 1e-6
STILL_SHARE = 1e-3
# An answer is not surprising within these, however steady it was: in typical differences, and
# for the logarithms of spreads.
SIZE_MIN = {Kind.LEVEL: 1e-3, Kind.RELATION: 1e-3, Kind.SPREAD: 0.03}
SIZE_MIN |= {Kind.BAND: 0.03, Kind.OVERALL: 0.03}
# Of more windows times tags than this every second one is looked at, or third: 24 hours of 10
# tags at 1 Hz are just below it, and take 300 MB.
CELLS_MAX = 900_000
STRETCH_WINDOWS = 8192
# How far off tags are tried, in typical differences, and in how many windows.
BLAME_SIZES = (0.2, 5.0)
BLAME_WINDOWS = 256
# More than one false alarm in twenty trials is not a rate anybody means.
TRIAL_PROBABILITY_MAX = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """The time scales, (rows, fast rows) each, and the rate to calibrate to."""

    period_s: float
    scales: tuple[tuple[int, int], ...]
    lags: tuple[int, ...] = ()  # of the bands of the first scale, rows
    false_alarms_per_day: float

    def per_trial(self, rows: int) -> float:
        """Probability of a false alarm in a trial of so many rows."""
        return min(self.false_alarms_per_day * rows * self.period_s / 86400, TRIAL_PROBABILITY_MAX)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Learned:
    """A detector, and how it does on what it was made from when each part is held back."""

    detector: Detector
    by_kind: dict[Kind, FloatArray]  # (m,) the largest held-back ratio of a kind, of each window
    # The same, to limits that each fold had no part in: what the limits are worth on other days.
    crossed: dict[Kind, FloatArray]
    fold: Index  # (m,) of each window
    every: int  # rows between two of the windows
    counts: tuple[int, ...]  # windows of each run; m in all
    relations: tuple[Relations, ...]  # of each scale
    freedom: FloatArray  # (n,) independent rows of each tag


def learn(
    runs: Sequence[Run], spans: Spans, cells_max: int = CELLS_MAX, *, crosses: bool = False
) -> Learned:
    """Fit everything. Each run has at least as many rows as the longest scale.

    No more windows times tags than `cells_max` are looked at. `crosses`: with `Learned.crossed`,
    which costs the limits of each fold once more.
    """
    values = np.concatenate([run.values for run in runs])
    center = np.median(values, axis=0)
    scale = 1.4826 * np.median(np.abs(values - center), axis=0)
    scale = np.maximum(scale, SCALE_SHARE_MIN * values.std(axis=0))
    still = scale <= FLOAT32_SHARE * np.abs(center)
    scale[still] = STILL_SHARE * np.where(center[still] == 0, 1.0, np.abs(center[still]))
    plain = Detector(center=center, scale=scale, scales=())
    z = [plain.scaled(run.values) for run in runs]
    rows_worth = independent(np.concatenate(z))
    places = _places(runs, max(rows for rows, _ in spans.scales), cells_max)
    fitted = [
        _fit_scale(z, places, scale, () if k else spans.lags, rows_worth)
        for k, scale in enumerate(spans.scales)
    ]
    every_one = np.ones(len(places.fold), np.bool_)
    scales = _all_limited(fitted, spans, places, rows_worth, every_one)
    by_kind = _highest(fitted, scales, every_one)
    crossed = {kind: ratios.copy() for kind, ratios in by_kind.items()}
    for fold in range(FOLDS if crosses else 0):
        here = places.fold == fold
        if here.all() or not here.any():
            continue
        others = _all_limited(fitted, spans, places, rows_worth, ~here)
        for kind, ratios in _highest(fitted, others, here).items():
            crossed[kind][here] = ratios
    return Learned(
        detector=Detector(center=center, scale=scale, scales=scales),
        by_kind=by_kind,
        crossed=crossed,
        fold=places.fold,
        every=places.every,
        counts=places.counts,
        relations=tuple(one.relations for one in fitted),
        freedom=rows_worth,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _FittedScale:
    scale: Scale  # its limits are still 1
    answers: FloatArray  # (m, a) held back
    relations: Relations


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Places:
    """Which windows are looked at: the same ones, told by the row they end at, at every scale."""

    first: int  # row of a run at which its first window ends
    every: int
    counts: tuple[int, ...]
    row_fold: Index  # of each row of all runs
    fold: Index  # of each window

    def statistics(
        self, parts: Sequence[FloatArray], rows: int, fast_rows: int, lags: tuple[int, ...]
    ) -> Statistics:
        """Of the windows looked at of all runs, a stretch at a time: sums need room."""
        found = []
        for part in parts:
            for first in range(self.first, len(part), STRETCH_WINDOWS * self.every):
                last = first + (STRETCH_WINDOWS - 1) * self.every + 1
                one = statistics(part[first - rows + 1 : last], rows, fast_rows, lags)
                found.append(one.every(self.every))
        return Statistics.joined(found)


def _places(runs: Sequence[Run], longest: int, cells_max: int) -> _Places:
    """Folds are recordings where there are enough of them, else stretches of time."""
    lengths = [len(run.values) for run in runs]
    recordings = sorted({run.recording for run in runs})
    if len(recordings) >= FOLDS:
        order = {recording: k % FOLDS for k, recording in enumerate(recordings)}
        row_fold = np.repeat([order[run.recording] for run in runs], lengths)
    else:
        row_fold = np.arange(sum(lengths)) * FOLDS // sum(lengths)
    every = -(-sum(lengths) * runs[0].values.shape[1] // cells_max)
    ends = [
        start + np.arange(longest - 1, length, every)
        for start, length in zip(np.cumsum([0, *lengths[:-1]]), lengths, strict=True)
    ]
    return _Places(
        first=longest - 1,
        every=every,
        counts=tuple(map(len, ends)),
        row_fold=row_fold.astype(np.int64),
        fold=row_fold[np.concatenate(ends)].astype(np.int64),
    )


def _fit_scale(
    z: Sequence[FloatArray],
    places: _Places,
    span: tuple[int, int],
    lags: tuple[int, ...],
    rows_worth: FloatArray,
) -> _FittedScale:
    rows, fast_rows = span
    found = places.statistics(z, rows, fast_rows, lags)
    n = found.slow.shape[1]
    chance = CHANCE_SIGMA * (found.fast - found.slow).std(axis=0)
    level = level_of(found.slow, found.fast, chance)
    slope_scale = found.slope.std(axis=0) + 1e-9
    spread_floor = 0.25 * np.median(found.spread, axis=0) + 1e-3
    context = _context(places, level, found.slope / slope_scale, rows)
    related = relations(context, np.concatenate(z), places.row_fold, rows_worth)
    shakes = np.log(found.spread + spread_floor)
    spread, spread_errors = expectations(context, shakes, related.pairs)
    at = np.flatnonzero(related.tells)
    off = related.errors[:, at]
    size = np.maximum(off.std(axis=0), SIZE_MIN[Kind.RELATION])
    kinds = [Kind.LEVEL] * n + [Kind.RELATION] * len(at) + [Kind.SPREAD] * n
    kinds += [Kind.BAND] * (n * len(lags))
    tags = np.concatenate([np.arange(n), at, *[np.arange(n)] * (1 + len(lags))])
    answers = [level, off, spread_errors]
    if len(at) > 2:  # two relations off together are seen in either
        kinds.append(Kind.OVERALL)
        tags = np.append(tags, -1)
        mean = np.mean((off / size) ** 2, axis=1, keepdims=True)
        answers.append(0.5 * np.log(mean + OVERALL_FLOOR))
    joined = np.concatenate(answers, axis=1)
    curved = related.how == "curves"
    scale = Scale(
        rows=rows,
        fast_rows=fast_rows,
        lags=lags,
        chance=chance,
        slope_scale=slope_scale,
        spread_floor=spread_floor,
        # Products must not be extrapolated; straight lines may.
        context_low=context.base.min(axis=0) if curved else np.full(2 * n, -NEVER),
        context_high=context.base.max(axis=0) if curved else np.full(2 * n, NEVER),
        pairs=related.pairs,
        related=at,
        relation=related.coefficients[:, at],
        relation_size=size,
        blame=np.zeros((1, len(at), n)),
        spread=spread,
        kinds=tuple(kinds),
        tags=tags,
        usual=joined.mean(axis=0),
        limit_low=np.ones(joined.shape[1]),
        limit_high=np.ones(joined.shape[1]),
    )
    scale = replace(scale, blame=_blame(scale, level, found.slope))
    return _FittedScale(scale, joined, related)


def _blame(scale: Scale, level: FloatArray, slope: FloatArray) -> FloatArray:
    """(1 or 2, r, n): what each tag, if it alone is off, does to the relations.

    Tried out, as curves bend: the main directions of what the tag's being off by more and less
    does in windows from all over the history.
    """
    n, r = level.shape[1], len(scale.related)
    # Straight lines have one direction; of few relations two would explain everything.
    directions = 2 if scale.pairs.shape[1] and r >= 6 else 1
    found = np.zeros((directions, r, n))
    if not r:
        return found
    rows = np.linspace(0, len(level) - 1, min(len(level), BLAME_WINDOWS)).astype(np.int64)
    level, slope = level[rows], slope[rows]
    sizes = np.geomspace(*BLAME_SIZES, len(rows)) * np.where(np.arange(len(rows)) % 2, 1, -1)
    sizes = np.random.default_rng(0).permutation(sizes)
    usual = level[:, scale.related] - scale.context(level, slope) @ scale.relation[:-1]
    for tag in range(n):
        other = level.copy()
        other[:, tag] += sizes
        off = other[:, scale.related] - scale.context(other, slope) @ scale.relation[:-1]
        effect = (off - usual) / scale.relation_size
        length = np.linalg.norm(effect, axis=1, keepdims=True)
        _, _, along = np.linalg.svd(effect / np.maximum(length, 1e-9), full_matrices=False)
        found[:, :, tag] = along[:directions]
    return found


def _context(places: _Places, level: FloatArray, slope: FloatArray, rows: int) -> Context:
    n = level.shape[1]
    windows = len(places.row_fold) / rows
    pairs = np.zeros((2, 0), np.int64)
    if n > 1 and n <= CURVES_TAGS_MAX and windows > CURVES_WINDOWS_MIN:
        pairs = np.stack(np.triu_indices(2 * n)).astype(np.int64)
    return Context(
        base=np.concatenate([level, slope], axis=1),
        fold=places.fold,
        pairs=pairs,
        enough_for_lines=windows > LINES_WINDOWS_PER_COLUMN * 2 * n,
        stride=max(1, rows // 8 // places.every),
    )


def _all_limited(
    fitted: Sequence[_FittedScale],
    spans: Spans,
    places: _Places,
    rows_worth: FloatArray,
    seen: BoolArray,
) -> tuple[Scale, ...]:
    """The scales with limits by the windows that are `seen`, (m,)."""
    answers = sum(len(one.scale.kinds) for one in fitted)
    return tuple(_limited(one, spans, places, answers, rows_worth, seen) for one in fitted)


def _highest(
    fitted: Sequence[_FittedScale], scales: Sequence[Scale], here: BoolArray
) -> dict[Kind, FloatArray]:
    """Of each kind the largest ratio to its limits, of the windows `here`."""
    found: dict[Kind, FloatArray] = {}
    for one, limited in zip(fitted, scales, strict=True):
        ratios = limited.ratios(one.answers[here])
        for kind in dict.fromkeys(limited.kinds):
            highest = ratios[:, [k is kind for k in limited.kinds]].max(axis=1)
            found[kind] = np.maximum(highest, found.get(kind, 0.0))
    return found


def _limited(
    one: _FittedScale,
    spans: Spans,
    places: _Places,
    answers: int,
    rows_worth: FloatArray,
    seen: BoolArray,
) -> Scale:
    """The scale with its limits: Student's t and the extremes seen, each as far as it is known."""
    share = seen.mean()
    usual = one.scale.usual if share == 1 else one.answers[seen].mean(axis=0)
    scale, found = replace(one.scale, usual=usual), one.answers[seen] - usual
    rows_worth = rows_worth * share
    m, a = found.shape
    two_sided = is_two_sided(scale.kinds)
    worth = independent(found)
    is_level = np.array([kind is Kind.LEVEL for kind in scale.kinds])
    worth[is_level] = rows_worth[scale.tags[is_level]]
    worth = np.minimum(worth, share * OVERLAP_WORTH * len(places.row_fold) / scale.rows)
    least = np.array([SIZE_MIN[kind] for kind in scale.kinds])
    size = np.maximum(found.std(axis=0), least) * np.sqrt(1 + 1 / worth)
    sides = np.where(two_sided, 2, 1)
    by_trial = spans.per_trial(scale.fast_rows) / answers
    student = np.array(
        [
            student_limit(by_trial / side, max(count - 1, 1.0))
            for side, count in zip(sides, worth, strict=True)
        ]
    )
    limit_high = limit_low = student * size
    block = max(1, scale.rows // places.every)
    blocks = m // block
    if blocks >= 2 * FOLDS:
        weight = np.array([credibility(min(count, blocks)) for count in worth])
        by_block = spans.per_trial(scale.rows) / answers
        cut = found[: blocks * block].reshape(blocks, block, a)
        for side, maxima in ((1, cut.max(axis=1)), (-1, (-cut).max(axis=1))):
            extreme = np.maximum(return_level(maxima, by_block / 2), size)
            blended = (1 - weight) * student * size + weight * extreme
            if side > 0:
                limit_high = blended
            else:
                limit_low = blended
    return replace(scale, limit_high=limit_high, limit_low=np.where(two_sided, limit_low, NEVER))
