"""Tails: how far is too far, when little was seen. Student's t, autocorrelation, extreme values.

A limit for a rate of one alarm a week cannot be read off a history of an hour. It is extrapolated
in one of two ways, and `blend` says how much each counts:

    Student's t   from the spread and from how many independent looks at it there were. A signal
                  that drifted through the whole history was seen but two or three times, and its
                  limit is accordingly wide; noise was seen often, and its limit is tight.
    extremes      from the largest values of many blocks, whose excess over a high threshold falls
                  off exponentially or slower (Pickands 1975). It needs no distribution, but blocks.
"""

from __future__ import annotations

import math

import numpy as np

from gateway.frame import FloatArray

__all__ = ["credibility", "independent", "return_level", "student_limit"]

# Blocks at which the extremes seen weigh as much as Student's t does.
BLOCKS_HALF = 200
# The largest blocks that the tail is drawn through.
PEAKS_MAX = 40
PEAKS_SHARE = 0.1


def student_limit(probability: float, freedom: float) -> float:
    """The value that Student's t with so many degrees of freedom exceeds with a probability.

    From 1e-300 to 0.5; by bisection, as nothing here is worth a dependency.
    """
    low, high = 0.0, 1.0
    while _log_tail(high, freedom) > math.log(probability):
        high *= 2
        if high > 1e12:
            return high
    for _ in range(60):
        middle = (low + high) / 2
        if _log_tail(middle, freedom) > math.log(probability):
            low = middle
        else:
            high = middle
    return high


def independent(series: FloatArray) -> FloatArray:
    """How many independent values each column of (n, k) is worth: n over its correlation time.

    The sum of autocorrelations ends where they first become negative (Geyer's initial sequence).
    """
    n = len(series)
    length = 1 << (2 * n - 1).bit_length()
    found = np.empty(series.shape[1])
    for column in range(series.shape[1]):
        centered = series[:, column] - series[:, column].mean()
        spectrum = np.abs(np.fft.rfft(centered, length)) ** 2
        correlation = np.fft.irfft(spectrum, length)[: max(n // 2, 1)]
        if correlation[0] <= 0:
            found[column] = n
            continue
        correlation /= correlation[0]
        negative = np.flatnonzero(correlation < 0)
        end = negative[0] if len(negative) else len(correlation)
        found[column] = n / (1 + 2 * correlation[1:end].sum())
    return found


def return_level(maxima: FloatArray, probability: float) -> FloatArray:
    """What a block's maximum exceeds with a probability, for each column of (blocks, k).

    Through the largest tenth of the blocks, an exponential tail; where their excesses vary more
    than an exponential's do, a Pareto tail of the index that its moments give.
    """
    blocks = len(maxima)
    peaks = min(PEAKS_MAX, max(4, int(PEAKS_SHARE * blocks)), blocks - 1)
    ordered = np.sort(maxima, axis=0)
    threshold = ordered[-peaks - 1]
    excess = ordered[-peaks:] - threshold
    mean = np.maximum(excess.mean(axis=0), 1e-9)
    squared = np.maximum(excess.var(axis=0), 1e-18)
    # Generalised Pareto by moments (Hosking and Wallis 1987); never lighter than exponential.
    shape = np.clip(0.5 * (1 - mean**2 / squared), 0.0, 0.3)
    scale = mean * (1 - shape)
    ratio = max(peaks / blocks / probability, 1.0)
    growth = np.where(shape > 1e-6, np.expm1(shape * math.log(ratio)), 0.0)
    far = np.where(shape > 1e-6, growth / np.maximum(shape, 1e-6), math.log(ratio))
    level: FloatArray = threshold + scale * far
    return level


def credibility(blocks: float) -> float:
    """How much the extremes of so many blocks count against Student's t, 0 to 1."""
    return blocks / (blocks + BLOCKS_HALF)


def _log_tail(t: float, freedom: float) -> float:
    """Log of the probability that Student's t exceeds t >= 0."""
    freedom = min(freedom, 1e7)
    x = freedom / (freedom + t * t)
    return _log_beta_share(freedom / 2, 0.5, x) - math.log(2)


def _log_beta_share(a: float, b: float, x: float) -> float:
    """Log of the regularised incomplete beta function, by its continued fraction (DLMF 8.17.22)."""
    if x >= 1:
        return 0.0
    if x <= 0:
        return -math.inf
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front += a * math.log(x) + b * math.log1p(-x)
    if x < (a + 1) / (a + b + 2):
        return front + math.log(_fraction(a, b, x) / a)
    return math.log1p(-min(math.exp(front) * _fraction(b, a, 1 - x) / b, 1 - 1e-16))


def _fraction(a: float, b: float, x: float) -> float:
    """Lentz's evaluation of the fraction; a few tens of steps are enough."""
    tiny = 1e-300
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > tiny else tiny)
    value = d
    for m in range(1, 300):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 + term * d
            d = 1 / (d if abs(d) > tiny else tiny)
            c = 1 + term / c
            c = c if abs(c) > tiny else tiny
            value *= c * d
        if abs(c * d - 1) < 1e-12:
            break
    return value
