"""Sensors: what an input looks like while all is well, learnt from healthy data. Pure numpy.

`learn` gives, for each feature, the facts that a bundle carries (`Healthy`, in the manifest).
"""

from __future__ import annotations

import numpy as np

from gateway.frame import BoolArray, FloatArray
from gateway.inference.manifest import Healthy

__all__ = ["learn", "still_max"]

# A change of less than this share of the usual one is none: the noise that every live input has
# is gone. Zero for an input that is usually still, and then only the very same value counts.
STILL_SHARE = 0.05
_DECILES = np.arange(1, 10) * 10


def still_max(noise: float) -> float:
    """The largest change from a tick to the next that counts as standing still."""
    return STILL_SHARE * noise


def learn(values: FloatArray, usable: BoolArray, period_s: float) -> list[Healthy | None]:
    """The healthy facts of each feature; None for one that is never usable.

    `values` and `usable` are (ticks, features): what the model's input was at each tick of its
    sample period, in engineering units, and whether it was there and healthy. Rows left out of a
    recording need a row that is not usable in their place, lest the step across the gap count.
    """
    assert values.shape == usable.shape
    assert period_s > 0
    usable = usable & np.isfinite(values)
    return [_learn_one(values[:, i], usable[:, i]) for i in range(values.shape[1])]


def _learn_one(values: FloatArray, usable: BoolArray) -> Healthy | None:
    there = values[usable]
    if not len(there):
        return None
    steps = np.abs(np.diff(values))[usable[1:] & usable[:-1]]
    noise = float(np.median(steps)) if len(steps) else 0.0
    with np.errstate(invalid="ignore"):
        still = usable[1:] & usable[:-1] & (np.abs(np.diff(values)) <= still_max(noise))
    return Healthy(
        low=float(there.min()),
        high=float(there.max()),
        noise=noise,
        step_max=float(steps.max(initial=0.0)),
        flat_max=_longest_run(still),
        deciles=tuple(np.percentile(there, _DECILES).tolist()),
    )


def _longest_run(flags: BoolArray) -> int:
    """The most `True` in a row."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))
