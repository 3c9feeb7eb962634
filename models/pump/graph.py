"""The pump detector: its formula in numpy, and the same formula as one ONNX graph.

    window (rows, samples, features), engineering units
      basis     1, then of each feature its level (mean) and its slope over the window, scaled
      context   products of up to three of the basis: where the pump is working, and how steadily
      targets   levels of what responds, and log spreads about the slope of what shakes
      surprise  (target - context @ coefficients) / (|basis| @ sizes): what the operating point
                does not explain, over the size such a rest has in so unsteady a window
      share     (surprise / its limit) ** 4, counted for the target's feature: contributions
      score     their sum ** 1/4: close to the largest surprise over its limit

The fourth power lets the worst target speak; the sum lets several that agree speak louder.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["Detector", "Float", "Index", "export"]

Float = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

OPSET = 18  # ONNX Runtime 1.14 and later
IR_VERSION = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """All that was fitted. n features, k context columns, j targets, b = 1 + 2n basis columns."""

    window: int
    center: Float  # (n,) typical level
    scale: Float  # (n,) typical difference from it
    slope_scale: Float  # (n,) in scaled units over a window
    basis_low: Float  # (b,) what was seen in fitting, 1 for the 1; nothing is extrapolated
    basis_high: Float  # (b,)
    factors: Index  # (3, k) the basis columns that make each context column
    coefficients: Float  # (k, j)
    spread_floor: Float  # (n,) added to a spread, so that a still signal has a logarithm
    targets: Index  # (j,) columns of (levels, log spreads)
    sizes: Float  # (b, j), none negative
    surprise_low: Float  # (j,) 0 where only too much is a surprise, else far below
    limits: Float  # (j,)

    @property
    def n(self) -> int:
        return len(self.center)

    def levels(self) -> Float:
        """(2, window): rows that make the mean and the slope over the window."""
        time = np.arange(self.window) - (self.window - 1) / 2
        slope = time * self.window / (time**2).sum()
        return np.stack([np.full(self.window, 1 / self.window), slope])

    def rest(self) -> Float:
        """(window, window): takes mean and slope away."""
        time = np.arange(self.window) - (self.window - 1) / 2
        one = np.full((self.window, self.window), 1 / self.window)
        return np.eye(self.window) - one - np.outer(time, time) / (time**2).sum()

    def features(self, windows: npt.NDArray[np.float32]) -> tuple[Float, Float]:
        """Basis (rows, b) and all possible targets (rows, 2n) of some windows."""
        scaled = (windows - self.center) / self.scale
        level, slope = np.moveaxis(self.levels() @ scaled, 1, 0)
        spread = np.sqrt(((self.rest() @ scaled) ** 2).mean(axis=1))
        basis = np.concatenate([np.ones((len(level), 1)), level, slope / self.slope_scale], axis=1)
        return basis, np.concatenate([level, np.log(spread + self.spread_floor)], axis=1)

    def context(self, seen: Float) -> Float:
        """(rows, k)."""
        first, second, third = self.factors
        return seen[:, first] * seen[:, second] * seen[:, third]

    def surprises(self, basis: Float, candidates: Float) -> Float:
        """(rows, j), before the limits."""
        seen = np.clip(basis, self.basis_low, self.basis_high)
        rest = candidates[:, self.targets] - self.context(seen) @ self.coefficients
        return np.maximum(rest / (np.abs(seen) @ self.sizes), self.surprise_low)

    def score(self, windows: npt.NDArray[np.float32]) -> Float:
        """(rows,): what the graph computes, in float64."""
        shares = (self.surprises(*self.features(windows)) / self.limits) ** 4
        total: Float = shares.sum(axis=1) ** 0.25
        return total


def export(detector: Detector, *, producer: str) -> onnx.ModelProto:
    """One graph from the window in engineering units to score and contributions."""
    node = helper.make_node
    count = len(detector.targets)
    owner = np.zeros((count, detector.n))
    owner[np.arange(count), detector.targets % detector.n] = 1
    floats = {
        "center": detector.center,
        "per_scale": 1 / detector.scale,
        "levels": detector.levels(),
        "rest": detector.rest(),
        "per_slope": 1 / detector.slope_scale,
        "spread_floor": detector.spread_floor,
        "basis_low": detector.basis_low,
        "basis_high": detector.basis_high,
        "coefficients": detector.coefficients,
        "sizes": detector.sizes,
        "surprise_low": detector.surprise_low,
        "per_limit": 1 / detector.limits,
        "owner": owner,
        "quarter": np.array(0.25),
    }
    integers = {
        "first": detector.factors[0],
        "second": detector.factors[1],
        "third": detector.factors[2],
        "targets": detector.targets,
        "first_column": np.array([0]),
        "axis_1": np.array([1]),
        "index_0": np.array(0),
        "index_1": np.array(1),
    }
    nodes = [
        node("Sub", ["window", "center"], ["centered"]),
        node("Mul", ["centered", "per_scale"], ["scaled"]),
        node("MatMul", ["levels", "scaled"], ["level_and_slope"]),
        node("Gather", ["level_and_slope", "index_0"], ["level"], axis=1),
        node("Gather", ["level_and_slope", "index_1"], ["slope_raw"], axis=1),
        node("Mul", ["slope_raw", "per_slope"], ["slope"]),
        node("MatMul", ["rest", "scaled"], ["wobble"]),
        node("Mul", ["wobble", "wobble"], ["wobble_squared"]),
        node("ReduceMean", ["wobble_squared", "axis_1"], ["variance"], keepdims=0),
        node("Sqrt", ["variance"], ["spread"]),
        node("Add", ["spread", "spread_floor"], ["spread_floored"]),
        node("Log", ["spread_floored"], ["log_spread"]),
        # Any column will do in the place of the ones: basis_low and basis_high make it 1.
        node("Gather", ["level", "first_column"], ["becomes_one"], axis=1),
        node("Concat", ["becomes_one", "level", "slope"], ["basis"], axis=1),
        node("Max", ["basis", "basis_low"], ["not_too_low"]),
        node("Min", ["not_too_low", "basis_high"], ["seen"]),
        node("Gather", ["seen", "first"], ["factor_1"], axis=1),
        node("Gather", ["seen", "second"], ["factor_2"], axis=1),
        node("Gather", ["seen", "third"], ["factor_3"], axis=1),
        node("Mul", ["factor_1", "factor_2"], ["factor_12"]),
        node("Mul", ["factor_12", "factor_3"], ["context"]),
        node("MatMul", ["context", "coefficients"], ["expected"]),
        node("Concat", ["level", "log_spread"], ["candidates"], axis=1),
        node("Gather", ["candidates", "targets"], ["found"], axis=1),
        node("Sub", ["found", "expected"], ["unexplained"]),
        node("Abs", ["seen"], ["seen_size"]),
        node("MatMul", ["seen_size", "sizes"], ["usual"]),
        node("Div", ["unexplained", "usual"], ["surprise_any"]),
        node("Max", ["surprise_any", "surprise_low"], ["surprise"]),
        node("Mul", ["surprise", "per_limit"], ["share_root"]),
        node("Mul", ["share_root", "share_root"], ["share_square"]),
        node("Mul", ["share_square", "share_square"], ["share"]),
        node("MatMul", ["share", "owner"], ["contributions"]),
        node("ReduceSum", ["contributions", "axis_1"], ["total"], keepdims=0),
        node("Pow", ["total", "quarter"], ["score"]),
    ]
    value = helper.make_tensor_value_info
    initializers = [
        numpy_helper.from_array(np.asarray(a, np.float32), name) for name, a in floats.items()
    ] + [numpy_helper.from_array(np.asarray(a, np.int64), name) for name, a in integers.items()]
    graph = helper.make_graph(
        nodes,
        "pump",
        [value("window", TensorProto.FLOAT, ["rows", detector.window, detector.n])],
        [
            value("score", TensorProto.FLOAT, ["rows"]),
            value("contributions", TensorProto.FLOAT, ["rows", detector.n]),
        ],
        initializers,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name=producer,
    )
    onnx.checker.check_model(model)
    return model
