"""Calibration: from held-back scores to the rate of alarms that the user asked for, and how sure.

The limits of the single answers already aim at the rate. Their sum may still miss it, because
answers hang together; what the held-back scores say about that is followed as far as there are
enough of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from gateway.frame import BoolArray, FloatArray
from gateway.inference.events import EventRule, Watch
from gateway.inference.fit.fitted import Calibration
from gateway.inference.fit.tails import credibility, return_level

__all__ = ["alarms", "judged", "scale_of_alarms", "scale_of_scores", "states"]

CONFIDENCE = 0.9
# Never calibrated below this: a machine that was calm all along may have been so by chance.
SCALE_MIN = 1.0
BLOCKS_MIN = 8
# Alarms in held-back history that say more about the rate than the tail does.
ALARMS_MIN = 8
# Each halving is worth a percent or less by then.
_HALVINGS = 12


def scale_of_scores(
    scores: Sequence[FloatArray], rule: EventRule, *, block: int, per_block: float
) -> float:
    """What scores are to be divided by, so that a block alarms with a probability.

    `scores` are held-back ones, of runs apart from each other.
    """
    maxima = [_block_maxima(_sustained(part, rule.open_after), block) for part in scores]
    joined = np.concatenate(maxima)
    if len(joined) < BLOCKS_MIN:
        return 1.0
    seen = float(return_level(joined[:, np.newaxis], per_block)[0])
    weight = credibility(len(joined))
    return max(SCALE_MIN, 1 - weight + weight * seen)


def scale_of_alarms(
    scores: Sequence[FloatArray], rule: EventRule, *, wanted_per_day: float, step_s: float
) -> float:
    """What scores are to be divided by, so that held-back history alarms as often as was asked.

    Tails are fitted to blocks as if what happens in one said nothing about the next. A machine
    that does something rare twice a day, and strangely each time, alarms more often than that;
    where enough alarms were counted to know, the count decides. Never below 1.
    """
    wanted = wanted_per_day * sum(map(len, scores)) * step_s / 86400
    count = sum(alarms(part, rule) for part in scores)
    if count < ALARMS_MIN or _poisson_low(count, (1 - CONFIDENCE) / 2) <= wanted:
        return 1.0
    low, high = 1.0, max(float(part.max(initial=1.0)) for part in scores) * (1 + 1e-6)
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        if sum(alarms(part / middle, rule) for part in scores) <= wanted:
            high = middle
        else:
            low = middle
    return high


def judged(
    scores: Sequence[FloatArray], rule: EventRule, *, wanted_per_day: float, step_s: float
) -> Calibration:
    """How often held-back scores alarmed, and what rate that leaves possible (Garwood 1936)."""
    healthy_s = sum(map(len, scores)) * step_s
    count = sum(alarms(part, rule) for part in scores)
    days = max(healthy_s, step_s) / 86400
    low = _poisson_low(count, (1 - CONFIDENCE) / 2) / days
    high = _poisson_high(count, (1 - CONFIDENCE) / 2) / days
    expected = min(max(wanted_per_day, low), high)
    return Calibration(
        wanted_per_day=wanted_per_day,
        expected_per_day=expected,
        low_per_day=low,
        high_per_day=high,
        confidence=CONFIDENCE,
        healthy_s=healthy_s,
        in_words=_in_words(wanted_per_day, low, high, count, healthy_s),
    )


def alarms(scores: FloatArray, rule: EventRule) -> int:
    """How many events the engine would open."""
    opened = states(scores, rule)
    return int(np.count_nonzero(opened[1:] & ~opened[:-1]) + opened[:1].sum())


def states(scores: FloatArray, rule: EventRule) -> BoolArray:
    """Whether an event is open after each score, by the engine's own rule."""
    watch = Watch(rule, "", "")
    found = np.zeros(len(scores), np.bool_)
    high = np.flatnonzero(scores >= 1)
    at = 0
    while at < len(scores):
        if watch.is_idle:  # nothing happens before the next score that alarms
            next_high = np.searchsorted(high, at)
            if next_high == len(high):
                break
            at = int(high[next_high])
        watch.step(at, float(scores[at]), str)
        found[at] = watch.is_open
        at += 1
    return found


def _sustained(scores: FloatArray, rows: int) -> FloatArray:
    """The least of so many scores in a row: what an event needs to open."""
    if len(scores) < rows:
        return scores[:0]
    parts = [scores[k : len(scores) - rows + 1 + k] for k in range(rows)]
    least: FloatArray = np.minimum.reduce(parts)
    return least


def _block_maxima(scores: FloatArray, block: int) -> FloatArray:
    blocks = len(scores) // block
    maxima: FloatArray = scores[: blocks * block].reshape(blocks, block).max(axis=1)
    return maxima


def _in_words(wanted: float, low: float, high: float, count: int, healthy_s: float) -> str:
    sure = "" if low > wanted or high < wanted else "; the rate asked for is an extrapolation"
    if count == 0:
        seen, bound = "no alarm", f"fewer than {_rate(high)}"
    else:
        seen = f"{count} alarm{'s' if count > 1 else ''}"
        bound = f"between {_rate(low)} and {_rate(high)}"
    if low > wanted:
        sure = "; that is more than was asked for: record for longer, or over more of its states"
    return (
        f"set to {_rate(wanted)}; {seen} in {_span(healthy_s)} of held-back history, so with"
        f" {CONFIDENCE:.0%} confidence {bound}{sure}"
    )


def _rate(per_day: float) -> str:
    for span, days in (("an hour", 1 / 24), ("a day", 1.0), ("a week", 7.0), ("a month", 30.44)):
        if per_day * days >= 0.95:
            return f"{per_day * days:.3g} {span}"
    return f"{per_day * 365.25:.2g} a year"


def _span(seconds: float) -> str:
    for word, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {word}"
    return f"{seconds:.3g} s"


def _poisson_high(count: int, tail: float) -> float:
    """The mean at which `count` or fewer have probability `tail`."""
    return _bisect(lambda mean: _log_poisson_cdf(count, mean) > math.log(tail), count + 1.0)


def _poisson_low(count: int, tail: float) -> float:
    """The mean at which `count` or more have probability `tail`."""
    if count == 0:
        return 0.0
    return _bisect(lambda mean: -math.expm1(_log_poisson_cdf(count - 1, mean)) < tail, float(count))


def _bisect(is_below: Callable[[float], bool], guess: float) -> float:
    low, high = 0.0, guess
    while is_below(high):
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        if is_below(middle):
            low = middle
        else:
            high = middle
    return high


def _log_poisson_cdf(count: int, mean: float) -> float:
    terms = [k * math.log(mean) - math.lgamma(k + 1) for k in range(count + 1)] if mean else [0.0]
    most = max(terms)
    total = most + math.log(sum(math.exp(term - most) for term in terms)) - mean
    return min(total, -1e-300)
