"""Fitting the pump detector, in numpy: coefficients by ridge, sizes by non-negative least squares.

Which features say where a pump is working (drivers) and which follow from it (targets) is the
one thing known beforehand; all numbers come from the windows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations_with_replacement

import numpy as np
import numpy.typing as npt
from graph import Detector, Float

__all__ = ["FEATURES", "fit", "set_limits"]

FEATURES = (
    "speed",
    "flow",
    "suction_pressure",
    "discharge_pressure",
    "motor_current",
    "motor_temperature",
    "bearing_temperature",
    "vibration",
    "valve_position",
    "tank_level",
)
DRIVERS = ("speed", "valve_position", "suction_pressure", "tank_level")
# Level targets, each with what else its expectation may look at: heat lags behind the operating
# point, so how warm the neighbour is, and where the temperature is going, says what load was.
LEVELS: dict[str, tuple[str, ...]] = {
    "flow": (),
    "discharge_pressure": (),
    "motor_current": (),
    "motor_temperature": ("motor_current", "d motor_temperature"),
    "bearing_temperature": ("motor_temperature", "d bearing_temperature", "d motor_temperature"),
    "vibration": (),
}
# Too much wobble is a surprise; too little is what a deadband or a slow device gives.
SPREADS = ("flow", "discharge_pressure", "motor_current", "vibration")
RIDGE = 1e-4
# Fitted numbers are kept to so many digits: less than float32 holds, more than they are good for.
DIGITS = 6
NEVER = -1e6


def _columns() -> list[tuple[str, ...]]:
    """The context's columns: products of drivers up to the third power, their slopes, extras."""
    powers = [c for n in range(4) for c in combinations_with_replacement(DRIVERS, n)]
    slopes = [(f"d {name}",) for name in DRIVERS]
    slopes += [(f"d {name}", "speed") for name in DRIVERS]
    extras = {name for names in LEVELS.values() for name in names}
    return powers + slopes + [(name, *by) for name in sorted(extras) for by in ((), ("speed",))]


def _basis_index(name: str) -> int:
    if name.startswith("d "):
        return 1 + len(FEATURES) + FEATURES.index(name[2:])
    return 1 + FEATURES.index(name)


def fit(windows: npt.NDArray[np.float32]) -> Detector:
    """A detector whose limits are still all 1."""
    n = len(FEATURES)
    columns = _columns()
    factors = np.zeros((3, len(columns)), np.int64)
    for k, names in enumerate(columns):
        for place, name in enumerate(names):
            factors[place, k] = _basis_index(name)
    level = windows.mean(axis=1, dtype=np.float64)
    targets = np.array(
        [FEATURES.index(name) for name in LEVELS] + [n + FEATURES.index(name) for name in SPREADS]
    )
    detector = Detector(
        window=windows.shape[1],
        center=_rounded(np.median(level, axis=0)),
        scale=_rounded(level.std(axis=0)),
        slope_scale=np.ones(n),
        basis_low=np.zeros(1 + 2 * n),
        basis_high=np.zeros(1 + 2 * n),
        factors=factors,
        coefficients=np.zeros((len(columns), len(targets))),
        spread_floor=np.ones(n),
        targets=targets,
        sizes=np.zeros((1 + 2 * n, len(targets))),
        surprise_low=np.array([NEVER] * len(LEVELS) + [0.0] * len(SPREADS)),
        limits=np.ones(len(targets)),
    )
    basis, candidates = detector.features(windows)
    spread = np.exp(candidates[:, n:]) - 1
    detector = replace(
        detector,
        slope_scale=_rounded(basis[:, 1 + n :].std(axis=0)),
        spread_floor=_rounded(np.median(spread, axis=0) / 4),
    )
    basis, candidates = detector.features(windows)
    detector = replace(
        detector, basis_low=_rounded(basis.min(axis=0)), basis_high=_rounded(basis.max(axis=0))
    )
    return _with_expectations(detector, columns, basis, candidates)


def _with_expectations(
    detector: Detector, columns: Sequence[tuple[str, ...]], basis: Float, candidates: Float
) -> Detector:
    context = detector.context(basis)
    found = candidates[:, detector.targets]
    coefficients = np.zeros_like(detector.coefficients)
    sizes = np.zeros_like(detector.sizes)
    unsteady = [0] + [_basis_index(f"d {name}") for name in FEATURES]
    extras = {name for names in LEVELS.values() for name in names}
    for j in range(len(detector.targets)):
        own = list(LEVELS.values())[j] if j < len(LEVELS) else ()
        allowed = [k for k, names in enumerate(columns) if not extras.intersection(names) - {*own}]
        coefficients[allowed, j] = _ridge(context[:, allowed], found[:, j])
        rest = np.abs(found[:, j] - context @ coefficients[:, j])
        sizes[unsteady, j] = _non_negative(np.abs(basis[:, unsteady]), rest)
    return replace(detector, coefficients=_rounded(coefficients), sizes=_rounded(sizes))


def set_limits(detector: Detector, pumps: Iterable[npt.NDArray[np.float32]]) -> Detector:
    """The detector with each target's limit at the largest surprise of some healthy pumps."""
    limits = np.zeros(len(detector.targets))
    for windows in pumps:
        surprises = np.abs(detector.surprises(*detector.features(windows)))
        limits = np.maximum(limits, surprises.max(axis=0))
    return replace(detector, limits=_rounded(limits))


def _ridge(columns: Float, wanted: Float) -> Float:
    size = np.sqrt((columns**2).mean(axis=0))
    scaled = columns / size
    gram = scaled.T @ scaled + RIDGE * len(scaled) * np.eye(scaled.shape[1])
    found: Float = np.linalg.solve(gram, scaled.T @ wanted) / size
    return found


def _non_negative(columns: Float, wanted: Float) -> Float:
    """Least squares with no coefficient below 0, by coordinate descent; the first is kept > 0."""
    gram, goal = columns.T @ columns, columns.T @ wanted
    found = np.zeros(columns.shape[1])
    found[0] = wanted.mean()
    for _ in range(500):
        for i in range(len(found)):
            step = (goal[i] - gram[i] @ found) / gram[i, i]
            found[i] = max(found[i] + step, 0.0)
    found[0] = max(found[0], 0.25 * float(np.median(wanted)))
    return found


def _rounded(values: Float) -> Float:
    """To DIGITS significant digits, so that another machine's last bits make no other bundle."""
    size = np.floor(np.log10(np.where(values == 0, 1.0, np.abs(values))))
    power = 10.0 ** (DIGITS - 1 - size)
    rounded: Float = np.round(values * power) / power
    return rounded
