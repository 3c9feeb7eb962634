"""Seeded noise and the two ways a state moves: towards a goal, and about where it was."""

from __future__ import annotations

import math

import numpy as np

from simulators.faults import FloatArray

__all__ = ["RandomRows", "decay", "follow", "wander"]

_CHUNK = 256  # steps drawn at once: the loop over generators is paid once for so many


class RandomRows:
    """Standard normal numbers, `width` for each asset and step, from one generator an asset."""

    def __init__(self, seed: int, assets: int, width: int) -> None:
        self._generators = [np.random.default_rng([seed, asset]) for asset in range(assets)]
        self._width = width
        self._rows = np.empty((0, assets, width))
        self._used = 0

    def take(self) -> FloatArray:
        """(width, assets), to be read before the next call."""
        if self._used == len(self._rows):
            shape = (_CHUNK, self._width)
            drawn = [generator.standard_normal(shape) for generator in self._generators]
            self._rows = np.ascontiguousarray(np.stack(drawn, axis=2))
            self._used = 0
        self._used += 1
        row: FloatArray = self._rows[self._used - 1]
        return row


def decay(step_s: float, tau_s: float) -> float:
    """What is left after a step of a first-order lag's distance to its goal."""
    return math.exp(-step_s / tau_s)


def follow(state: FloatArray, goal: FloatArray, left: float) -> None:
    """A first-order lag towards `goal`, in place."""
    state += (1 - left) * (goal - state)


def wander(state: FloatArray, random: FloatArray, left: float) -> None:
    """One step of a stationary wobble with unit deviation (Ornstein-Uhlenbeck), in place."""
    state *= left
    state += math.sqrt(1 - left * left) * random
