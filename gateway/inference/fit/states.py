"""Operating states: running, idle, start-up, as clusters of where the tags were.

For the report only. The detector needs no state: its relations hold in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gateway.frame import FloatArray
from gateway.inference.fit.detector import Index
from gateway.inference.fit.fitted import State

__all__ = ["operating_states"]

STATES_MAX = 4
# One state more must explain this share of what fewer leave.
WORTH_SHARE = 0.5
# A state that was seen for less of the time than this is chance.
SHARE_MIN = 0.005
ROWS_MAX = 5000
ROUNDS = 25


@dataclass(frozen=True, slots=True, eq=False)
class _Clusters:
    centers: FloatArray
    member: Index
    left: float  # mean squared distance


def operating_states(values: FloatArray, z: FloatArray, seed: int) -> tuple[State, ...]:
    """Of rows (m, n) in engineering units and scaled; the longest first."""
    rows = np.linspace(0, len(z) - 1, min(len(z), ROWS_MAX)).astype(np.int64)
    scaled, values = np.clip(z[rows], -10, 10), values[rows]
    random = np.random.default_rng(seed)
    best = _clusters(scaled, 1, random)
    for count in range(2, STATES_MAX + 1):
        more = _clusters(scaled, count, random)
        shares = np.bincount(more.member, minlength=count) / len(scaled)
        if more.left > WORTH_SHARE * best.left or shares.min() < SHARE_MIN:
            break
        best = more
    levels = [np.median(values[best.member == k], axis=0) for k in range(len(best.centers))]
    shares = np.bincount(best.member, minlength=len(levels)) / len(scaled)
    order = np.argsort(-shares, kind="stable")
    names = _names([levels[k] for k in order])
    return tuple(
        State(name=name, share=float(shares[k]), levels=tuple(levels[k].tolist()))
        for name, k in zip(names, order, strict=True)
    )


def _names(levels: Sequence[FloatArray]) -> list[str]:
    """By how much goes on: the quietest is idle, if it is much quieter than the busiest."""
    most = np.maximum(np.max(np.abs(levels), axis=0), 1e-12)
    busy = [float(np.mean(np.abs(level) / most)) for level in levels]
    quietest = int(np.argmin(busy))
    is_idle = len(levels) > 1 and busy[quietest] < 0.75 * max(busy)
    names, count = [], 0
    for k in range(len(levels)):
        if is_idle and k == quietest:
            names.append("idle")
        else:
            count += 1
            names.append("running" if count == 1 else f"running {count}")
    return names


def _clusters(z: FloatArray, count: int, random: np.random.Generator) -> _Clusters:
    """k-means, started far apart (k-means++)."""
    centers = z[[int(random.integers(len(z)))]]
    for _ in range(count - 1):
        nearest = _distances(z, centers).min(axis=1)
        total = nearest.sum()
        if total <= 0:
            break
        centers = np.vstack([centers, z[random.choice(len(z), p=nearest / total)]])
    member = np.zeros(len(z), np.int64)
    for _ in range(ROUNDS):
        member = np.argmin(_distances(z, centers), axis=1)
        centers = np.stack(
            [
                z[member == k].mean(axis=0) if (member == k).any() else centers[k]
                for k in range(len(centers))
            ]
        )
    return _Clusters(centers, member, float(_distances(z, centers).min(axis=1).mean()))


def _distances(z: FloatArray, centers: FloatArray) -> FloatArray:
    squares: FloatArray = ((z[:, np.newaxis, :] - centers) ** 2).sum(axis=2)
    return squares
