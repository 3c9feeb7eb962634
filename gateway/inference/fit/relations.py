"""Relations: what a tag should be by the others, held-back as it is learned.

Everything is cross-fitted: each fold's errors come from coefficients that never saw the fold, so
that what is left over is what will be left over later. How the tags are related is chosen by the
size of these errors, without a label:

    rows        straight lines through single rows, from the inverse of their covariance; needs
                the least data
    lines       straight lines through levels and slopes
    curves      those and their products, where there are few tags and much data

Shrinkage is stronger for tags that drift: what was seen of them is no measure of what is to come,
and a relation that leans on them would carry their drift into the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gateway.frame import BoolArray, FloatArray
from gateway.inference.fit.detector import Index

__all__ = ["FOLDS", "Context", "Relations", "expectations", "relations"]

FOLDS = 4
CURVES_TAGS_MAX = 12  # 2n levels and slopes make n (2n + 1) products: 300 at 12
# A relation that leaves more than this of a tag's variance tells little that its level does not.
LEFT_SHARE_MAX = 0.5
# A tag worth fewer independent rows than this is held to be drifting.
STEADY_ROWS_MIN = 30
ROWS_SHRINKAGE = (0.01, 0.1, 1.0)
LINES_SHRINKAGE = (1e-4, 1e-2)
CURVES_SHRINKAGE = (1e-6, 1e-4)
SPREAD_SHRINKAGE = 1e-3
CHUNK = 16_384


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """Windows as relations see them: m windows, n tags."""

    base: FloatArray  # (m, 2n) levels and slopes, scaled
    fold: Index  # (m,) 0 .. FOLDS - 1
    pairs: Index  # (2, p) whose products may be used; p = 0 when there is too little data
    enough_for_lines: bool
    stride: int  # windows this far apart are different enough to learn from

    @property
    def tags(self) -> int:
        return int(self.base.shape[1]) // 2

    def columns(self, part: slice | Index, pairs: Index) -> FloatArray:
        """(k, 2n + p + 1) of some windows; the last column is 1."""
        base = self.base[part]
        width = base.shape[1]
        found = np.ones((len(base), width + pairs.shape[1] + 1))
        found[:, :width] = base
        # Column by column of the first factor: gathering both factors took four times as long.
        at = width
        for one, count in zip(*np.unique(pairs[0], return_counts=True), strict=True):
            others = base[:, pairs[1, at - width : at - width + count]]
            np.multiply(base[:, one, np.newaxis], others, out=found[:, at : at + count])
            at += count
        return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Relations:
    """What was chosen. c context columns; errors are of windows held back."""

    how: str  # "rows", "lines" or "curves"
    pairs: Index  # (2, p); c = 2n + p
    coefficients: FloatArray  # (c + 1, n)
    errors: FloatArray  # (m, n)
    left_share: FloatArray  # (n,) of the variance
    tells: BoolArray  # (n,) whether the relation is worth asking


def relations(
    context: Context, z: FloatArray, row_fold: Index, independent_rows: FloatArray
) -> Relations:
    """The best of all ways to say each tag's level by the others.

    `z` (rows, n) are the scaled rows themselves, `independent_rows` (n,) how many they are worth.
    """
    n = context.tags
    level = context.base[:, :n]
    around = np.empty_like(level)
    for k in range(FOLDS):
        around[context.fold == k] = level[context.fold == k] - level[context.fold != k].mean(axis=0)
    variance = np.maximum((around**2).mean(axis=0), 1e-18)
    best: Relations | None = None
    best_size = np.inf
    for found in _candidates(context, z, row_fold, independent_rows):
        share = (found.errors**2).mean(axis=0) / variance
        size = float(np.log(np.clip(share, 1e-6, 2)).mean())
        if size < best_size:
            best_size = size
            best = Relations(
                how=found.how,
                pairs=found.pairs,
                coefficients=found.coefficients,
                errors=found.errors,
                left_share=share,
                tells=(share < LEFT_SHARE_MAX) & (n > 1),
            )
    assert best is not None
    return best


def expectations(
    context: Context, wanted: FloatArray, pairs: Index
) -> tuple[FloatArray, FloatArray]:
    """Coefficients (c + 1, n) of something else by the context, and its held-back errors (m, n).

    Constants, where the context does not help or there is too little data.
    """
    n = context.tags
    constant = np.zeros((2 * n + pairs.shape[1] + 1, wanted.shape[1]))
    constant[-1] = wanted.mean(axis=0)
    around = np.empty_like(wanted)
    for k in range(FOLDS):
        inside = context.fold == k
        around[inside] = wanted[inside] - wanted[~inside].mean(axis=0)
    if not context.enough_for_lines:
        return constant, around
    everything = np.ones((n, constant.shape[0]), np.bool_)
    everything = everything[np.zeros(wanted.shape[1], np.int64)]
    grams = _Grams(context, wanted, pairs)
    coefficients, errors = grams.solve(context, wanted, everything, SPREAD_SHRINKAGE)
    if (errors**2).mean() >= (around**2).mean():
        return constant, around
    return coefficients, errors


def _candidates(
    context: Context, z: FloatArray, row_fold: Index, independent_rows: FloatArray
) -> Iterator[Relations]:
    n = context.tags
    none = np.zeros((2, 0), np.int64)
    level = context.base[:, :n]
    for shrinkage in ROWS_SHRINKAGE:
        errors = np.empty_like(level)
        for k in range(FOLDS):
            inside = context.fold == k
            by_rows = _by_rows(z[row_fold != k], shrinkage, independent_rows)
            errors[inside] = level[inside] - level[inside] @ by_rows[:n] - by_rows[-1]
        yield _candidate("rows", none, _by_rows(z, shrinkage, independent_rows), errors)
    if not context.enough_for_lines or n == 1:
        return
    ways = [("lines", none, LINES_SHRINKAGE)]
    if context.pairs.shape[1]:
        ways.append(("curves", context.pairs, CURVES_SHRINKAGE))
    for how, pairs, shrinkages in ways:
        grams = _Grams(context, level, pairs)
        allowed = np.ones((n, 2 * n + pairs.shape[1] + 1), np.bool_)
        for tag in range(n):  # nothing may be said by itself
            allowed[tag, tag] = False
            allowed[tag, 2 * n : -1] = ~(pairs == tag).any(axis=0)
        for shrinkage in shrinkages:
            coefficients, errors = grams.solve(context, level, allowed, shrinkage)
            yield _candidate(how, pairs, coefficients, errors)


def _candidate(how: str, pairs: Index, coefficients: FloatArray, errors: FloatArray) -> Relations:
    unknown = np.zeros(errors.shape[1])
    return Relations(
        how=how,
        pairs=pairs,
        coefficients=coefficients,
        errors=errors,
        left_share=unknown,
        tells=unknown > 0,
    )


def _by_rows(z: FloatArray, shrinkage: float, independent_rows: FloatArray) -> FloatArray:
    """(2n + 1, n): each tag by the others, from the inverse of the rows' shrunk covariance."""
    n = z.shape[1]
    mean = z.mean(axis=0)
    covariance = np.atleast_2d(np.cov(z.T))
    own = np.diag(covariance)
    drifting = np.maximum(1.0, STEADY_ROWS_MIN / independent_rows) ** 2
    covariance = covariance + np.diag(shrinkage * own * drifting + 1e-6)
    inverse = np.linalg.inv(covariance)
    found = np.zeros((2 * n + 1, n))
    found[:n] = -inverse / np.diag(inverse)
    np.fill_diagonal(found[:n], 0.0)
    found[-1] = mean - mean @ found[:n]
    return found


class _Grams:
    """Ridge by normal equations that are summed once and then solved for many subsets."""

    def __init__(self, context: Context, wanted: FloatArray, pairs: Index) -> None:
        columns = context.base.shape[1] + pairs.shape[1] + 1
        self._pairs = pairs
        self._gram = np.zeros((FOLDS, columns, columns))
        self._goal = np.zeros((FOLDS, columns, wanted.shape[1]))
        chosen = np.arange(0, len(wanted), context.stride)
        for start in range(0, len(chosen), CHUNK):
            part = chosen[start : start + CHUNK]
            found, fold = context.columns(part, pairs), context.fold[part]
            for k in range(FOLDS):
                inside = found[fold == k]
                self._gram[k] += inside.T @ inside
                self._goal[k] += inside.T @ wanted[part][fold == k]

    def solve(
        self, context: Context, wanted: FloatArray, allowed: BoolArray, shrinkage: float
    ) -> tuple[FloatArray, FloatArray]:
        """Coefficients from everything; errors of each fold by the coefficients of the others."""
        gram, goal = self._gram.sum(axis=0), self._goal.sum(axis=0)
        by_fold = [
            _ridge(gram - self._gram[k], goal - self._goal[k], allowed, shrinkage)
            for k in range(FOLDS)
        ]
        errors = np.empty_like(wanted)
        for start in range(0, len(wanted), CHUNK):
            part = slice(start, start + CHUNK)
            found, fold = context.columns(part, self._pairs), context.fold[part]
            for k in np.unique(fold):
                inside = fold == k
                errors[part][inside] = wanted[part][inside] - found[inside] @ by_fold[k]
        return _ridge(gram, goal, allowed, shrinkage), errors


def _ridge(gram: FloatArray, goal: FloatArray, allowed: BoolArray, shrinkage: float) -> FloatArray:
    """(columns, targets); the constant, which is the last column, is not shrunk."""
    found = np.zeros_like(goal)
    size = np.sqrt(np.maximum(np.diag(gram), 1e-12))
    scaled, wanted = gram / np.outer(size, size), goal / size[:, np.newaxis]
    penalty = np.full(len(gram), shrinkage)
    penalty[-1] = 1e-12
    if (allowed == allowed[0]).all():
        return np.linalg.solve(scaled + np.diag(penalty + 1e-9), wanted) / size[:, np.newaxis]
    for target, columns in enumerate(allowed):
        at = np.flatnonzero(columns)
        system = scaled[np.ix_(at, at)] + np.diag(penalty[at] + 1e-9)
        found[at, target] = np.linalg.solve(system, wanted[at, target]) / size[at]
    return found
