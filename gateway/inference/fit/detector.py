"""The detector: what is asked of each window, and how far each answer may be from its usual one.

    window (rows, tags), engineering units
      z         scaled by what was typical
      level, slope, spread of each tag, at one or more time scales (windows.py)
      context   the levels and slopes, within what was seen, and products of them where the
                relations between the tags are curved
      level     is the level of a tag where it was learned?                         "level"
      relation  is it where the other tags say it should be?  level - context @ C   "relation"
      spread    does it shake as much as it should, here?     log spread - context  "spread"
      band      and as fast, where there is more than a sample a second?            "band"
      overall   are the relations off together, if none is by itself?  log mean square  "overall"
      ratio     (answer - usual) / limit
      score     the largest ratio
      contributions   the tags' ratios to the fourth power. A tag that is off puts off every
                relation it is part of, so relations blame a tag by how little it leaves unexplained
                (after reconstruction-based contributions, Alcala and Qin 2009)

Limits are the whole of the calibration (limits.py): a score of 1 is where the stated rate is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from gateway.frame import BoolArray, FloatArray
from gateway.inference.fit.graph import Graph
from gateway.inference.fit.windows import Statistics, level_of, statistics, weights

__all__ = ["CONTRIBUTIONS", "INPUT", "SCORE", "Detector", "Kind", "Scale", "export"]

INPUT, SCORE, CONTRIBUTIONS = "window", "score", "contributions"

# A scaled value beyond this is as wrong as it can be; the squares of what follows stay finite.
SCALED_MAX = 1e4
# Keeps the logarithm of the overall surprise from falling to minus infinity.
OVERALL_FLOOR = 0.05
# Of the relations' squares, what even the tag that is at fault leaves unexplained.
LEFT_SHARE_MIN = 0.02
NEVER = 1e9  # a limit that is not reached

Index = npt.NDArray[np.int64]


class Kind(Enum):
    """What an answer is about; its value is the detector's name in reports."""

    LEVEL = "level"
    RELATION = "relation"
    SPREAD = "spread"
    BAND = "band"
    OVERALL = "overall"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scale:
    """All that was fitted at one time scale. n tags, c context columns, r relations, a answers."""

    rows: int
    fast_rows: int
    lags: tuple[int, ...]  # of the bands
    chance: FloatArray  # (n,) by which fast differs from slow in noise
    slope_scale: FloatArray  # (n,)
    spread_floor: FloatArray  # (s,), s = n (1 + lags): the spread, then each band
    context_low: FloatArray  # (2n,) of levels and slopes; nothing is extrapolated
    context_high: FloatArray
    pairs: Index  # (2, p) of the 2n whose products are context, too: c = 2n + p
    related: Index  # (r,) tags whose relation is asked
    relation: FloatArray  # (c + 1, r) coefficients; the last row is the constant
    relation_size: FloatArray  # (r,) usual size of what a relation leaves
    blame: FloatArray  # (1 or 2, r, n) directions in which a tag puts the relations off
    spread: FloatArray  # (c + 1, s)
    kinds: tuple[Kind, ...]  # (a,) of each answer
    tags: Index  # (a,) its tag; -1 when it is about all
    usual: FloatArray  # (a,)
    limit_low: FloatArray  # (a,) how far below usual, > 0
    limit_high: FloatArray  # (a,) how far above

    @property
    def has_overall(self) -> bool:
        return Kind.OVERALL in self.kinds

    def context(self, level: FloatArray, slope: FloatArray) -> FloatArray:
        """(m, c)."""
        base = np.concatenate([level, slope / self.slope_scale], axis=1)
        base = np.clip(base, self.context_low, self.context_high)
        return np.concatenate([base, base[:, self.pairs[0]] * base[:, self.pairs[1]]], axis=1)

    def statistics(self, z: FloatArray) -> Statistics:
        """Of every window of scaled rows."""
        return statistics(z, self.rows, self.fast_rows, self.lags)

    def answers(self, found: Statistics) -> FloatArray:
        """(m, a) of m windows."""
        level = level_of(found.slow, found.fast, self.chance)
        context = self.context(level, found.slope)
        off = level[:, self.related] - context @ self.relation[:-1] - self.relation[-1]
        shakes = np.log(found.spread + self.spread_floor)
        shakes -= context @ self.spread[:-1] + self.spread[-1]
        parts = [level, off, shakes]
        if self.has_overall:
            mean = np.mean((off / self.relation_size) ** 2, axis=1, keepdims=True)
            parts.append(0.5 * np.log(mean + OVERALL_FLOOR))
        return np.concatenate(parts, axis=1)

    def ratios(self, answers: FloatArray) -> FloatArray:
        """(m, a): 1 is at the limit."""
        off = answers - self.usual
        ratios: FloatArray = np.maximum(off / self.limit_high, -off / self.limit_low)
        return ratios


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Detector:
    """The scales, over one scaling of the tags."""

    center: FloatArray  # (n,)
    scale: FloatArray  # (n,)
    scales: tuple[Scale, ...]

    @property
    def window(self) -> int:
        return max(scale.rows for scale in self.scales)

    @property
    def answers(self) -> int:
        return sum(len(scale.kinds) for scale in self.scales)

    def scaled(self, values: FloatArray) -> FloatArray:
        z = (values - self.center) / self.scale
        return np.clip(z, -SCALED_MAX, SCALED_MAX)


def export(detector: Detector) -> bytes:
    """The detector as one ONNX file."""
    n = len(detector.center)
    graph = Graph(INPUT, detector.window, n)
    # As one long row a window: ONNX Runtime broadcasts over few tags five times as slowly.
    z = graph.add("Reshape", INPUT, graph.integers(-1, detector.window * n))
    z = graph.add("Sub", z, graph.floats(np.tile(detector.center, detector.window)))
    z = graph.add("Mul", z, graph.floats(np.tile(1 / detector.scale, detector.window)))
    z = graph.add("Clip", z, graph.floats(-SCALED_MAX), graph.floats(SCALED_MAX))
    z = graph.add("Reshape", z, graph.integers(-1, detector.window, n))
    ratios, shares = zip(
        *(_export_scale(graph, z, scale, detector.window, n) for scale in detector.scales),
        strict=True,
    )
    joined = _joined(graph, ratios)
    graph.output(graph.add("ReduceMax", joined, graph.integers(1), keepdims=0), SCORE)
    graph.output(shares[0] if len(shares) == 1 else graph.add("Sum", *shares), CONTRIBUTIONS, n)
    return graph.model()


def _export_scale(graph: Graph, z: str, scale: Scale, window: int, n: int) -> tuple[str, str]:
    """Ratios (rows, a) and contributions (rows, n) of one scale."""
    means = graph.add("MatMul", graph.floats(weights(window, scale.rows, scale.fast_rows)), z)
    slow_3d = graph.add("Slice", means, *(graph.integers(k) for k in (0, 1, 1)))
    slow, fast, slope = (graph.add("Gather", means, graph.scalar(k), axis=1) for k in range(3))
    apart = graph.add("Sub", fast, slow)
    chance = graph.floats(scale.chance)
    kept = graph.add("Max", graph.add("Min", apart, chance), graph.floats(-scale.chance))
    level = graph.add("Add", slow, graph.add("Sub", apart, kept))
    spread = _export_spread(graph, z, slow_3d, slope, scale, window)
    context = _export_context(graph, level, slope, scale)
    shakes = graph.add("Sub", spread, _affine(graph, context, level, scale.spread, n))
    parts, off = [level], ""
    if len(scale.related):
        found = graph.add("Gather", level, graph.integers(*scale.related.tolist()), axis=1)
        off = graph.add("Sub", found, _affine(graph, context, level, scale.relation, n))
        parts.append(off)
    parts.append(shakes)
    sized = ""
    if len(scale.related):
        sized = graph.add("Mul", off, graph.floats(1 / scale.relation_size))
    if scale.has_overall:
        square = graph.add("Mul", sized, sized)
        mean = graph.add("ReduceMean", square, graph.integers(1), keepdims=1)
        log = graph.add("Log", graph.add("Add", mean, graph.floats(OVERALL_FLOOR)))
        parts.append(graph.add("Mul", log, graph.floats(0.5)))
    far = graph.add("Sub", _joined(graph, parts), graph.floats(scale.usual))
    ratio = graph.add(
        "Max",
        graph.add("Mul", far, graph.floats(1 / scale.limit_high)),
        graph.add("Mul", far, graph.floats(-1 / scale.limit_low)),
    )
    return ratio, _export_shares(graph, ratio, sized, scale, n)


def _export_spread(graph: Graph, z: str, slow: str, slope: str, scale: Scale, window: int) -> str:
    """Log of the spread about the line, over the scale's own rows."""
    rows = scale.rows
    own = z
    if rows < window:
        own = graph.add("Slice", z, *(graph.integers(k) for k in (window - rows, window, 1)))
    centered = graph.add("Sub", own, slow)
    square = graph.add("Mul", centered, centered)
    mean = graph.add("ReduceMean", square, graph.integers(1), keepdims=0)
    # The slope is over the whole window: rows times the slope of a row.
    of_line = graph.add(
        "Mul", graph.add("Mul", slope, slope), graph.floats((rows**2 - 1) / 12 / rows**2)
    )
    squares = [graph.add("Relu", graph.add("Sub", mean, of_line))]
    for lag in scale.lags:
        later = graph.add("Slice", own, *(graph.integers(k) for k in (lag, rows, 1)))
        sooner = graph.add("Slice", own, *(graph.integers(k) for k in (0, rows - lag, 1)))
        apart = graph.add("Sub", later, sooner)
        square = graph.add("Mul", apart, apart)
        squares.append(graph.add("ReduceMean", square, graph.integers(1), keepdims=0))
    spread = graph.add("Sqrt", _joined(graph, squares))
    return graph.add("Log", graph.add("Add", spread, graph.floats(scale.spread_floor)))


def _export_context(graph: Graph, level: str, slope: str, scale: Scale) -> str:
    sloping = graph.add("Mul", slope, graph.floats(1 / scale.slope_scale))
    base = graph.add("Concat", level, sloping, axis=1)
    base = graph.add("Max", base, graph.floats(scale.context_low))
    base = graph.add("Min", base, graph.floats(scale.context_high))
    if not scale.pairs.shape[1]:
        return base
    # A product with ones and zeros picks columns exactly and ten times as fast as Gather, which
    # takes them value by value; the matrices are made when the graph is loaded.
    every = graph.floats(np.eye(len(scale.context_low)))
    one, two = (
        graph.add("MatMul", base, graph.add("Gather", every, graph.integers(*k.tolist()), axis=1))
        for k in scale.pairs
    )
    return graph.add("Concat", base, graph.add("Mul", one, two), axis=1)


def _export_shares(graph: Graph, ratio: str, sized: str, scale: Scale, n: int) -> str:
    """(rows, n): each answer's ratio to the fourth power, to its tag or by the relations' blame."""
    square = graph.add("Mul", *[graph.add("Relu", ratio)] * 2)
    fourth = graph.add("Mul", square, square)
    owner = np.zeros((len(scale.kinds), n))
    of_relations = np.zeros((len(scale.kinds), 1))
    for answer, (kind, tag) in enumerate(zip(scale.kinds, scale.tags, strict=True)):
        if kind in (Kind.RELATION, Kind.OVERALL):
            of_relations[answer] = 1
        else:
            owner[answer, tag] = 1
    shares = graph.add("MatMul", fourth, graph.floats(owner))
    if not sized:
        return shares
    all_squares = graph.add("Mul", sized, sized)
    energy = graph.add("ReduceSum", all_squares, graph.integers(1), keepdims=1)
    along = [graph.add("MatMul", sized, graph.floats(blame)) for blame in scale.blame]
    explained = graph.add("Sum", *(graph.add("Mul", one, one) for one in along))
    left = graph.add("Relu", graph.add("Sub", energy, explained))
    noise = graph.add("Mul", energy, graph.floats(LEFT_SHARE_MIN))
    left = graph.add("Add", left, graph.add("Add", noise, graph.floats(LEFT_SHARE_MIN)))
    likely = graph.add("Reciprocal", graph.add("Mul", left, left))
    total = graph.add("ReduceSum", likely, graph.integers(1), keepdims=1)
    part = graph.add("Div", likely, total)
    amount = graph.add("MatMul", fourth, graph.floats(of_relations))
    return graph.add("Add", shares, graph.add("Mul", part, amount))


def _affine(graph: Graph, context: str, level: str, coefficients: FloatArray, n: int) -> str:
    """Of the context, of the n levels alone, or a constant: of whatever has coefficients."""
    constant = graph.floats(coefficients[-1])
    if not coefficients[:-1].any():
        return constant
    of_levels = not coefficients[n:-1].any()
    product = graph.add(
        "MatMul",
        level if of_levels else context,
        graph.floats(coefficients[: n if of_levels else -1]),
    )
    return graph.add("Add", product, constant)


def _joined(graph: Graph, parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else graph.add("Concat", *parts, axis=1)


def is_two_sided(kinds: Sequence[Kind]) -> BoolArray:
    """A level or relation may be off both ways; only too much shaking is a surprise."""
    return np.array([kind in (Kind.LEVEL, Kind.RELATION) for kind in kinds], np.bool_)
