"""Records of pumps as arrays: the same physics as the line, as fast as it computes.

A hundred pumps cost little more than one, so ask for many at once.
"""

from __future__ import annotations

from simulators.faults import Fault, FloatArray
from simulators.physics import FEATURES, PUMP_FAULTS, Pumps

__all__ = ["FEATURES", "PUMP_FAULTS", "STEP_S", "healthy", "record", "with_fault"]

STEP_S = 1.0  # the sample period of every record


def healthy(seed: int, seconds: float, assets: int = 1) -> FloatArray:
    """(time, asset, feature) of healthy pumps, a row a second; features as FEATURES."""
    return Pumps(assets, seed, step_s=STEP_S).run(round(seconds / STEP_S))


def with_fault(
    seed: int,
    seconds: float,
    assets: int = 1,
    *,
    fault: str,
    start_s: float = 0.0,
    severity: float = 1.0,
    ramp_s: float | None = None,
    tag: str = "",
) -> FloatArray:
    """The pumps of `healthy`, all with one fault from `start_s` on; the same before it."""
    pumps = Pumps(assets, seed, step_s=STEP_S)
    for asset in pumps.names:
        wanted = Fault(
            name=fault, asset=asset, tag=tag, severity=severity, after_s=start_s, ramp_s=ramp_s
        )
        pumps.board.start(wanted, 0.0)
    return pumps.run(round(seconds / STEP_S))


def record(
    seed: int,
    hours: float,
    *,
    fault: str = "",
    start_s: float = 0.0,
    severity: float = 1.0,
    ramp_s: float | None = None,
) -> FloatArray:
    """(time, feature) of one pump at 1 Hz, healthy or with a fault from `start_s` on."""
    seconds = hours * 3600
    if not fault:
        return healthy(seed, seconds)[:, 0]
    found = with_fault(
        seed, seconds, fault=fault, start_s=start_s, severity=severity, ramp_s=ramp_s
    )
    return found[:, 0]
