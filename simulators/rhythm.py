"""What each filler asks of its pump: batches by recipe, micro-stops, idle change-overs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Rhythm"]


@dataclass(frozen=True, slots=True)
class _Recipe:
    speed: float  # share of rated
    valve: float  # share open
    litres: float  # of a bottle


_RECIPES = (
    _Recipe(0.72, 0.60, 0.33),
    _Recipe(0.84, 0.72, 0.5),
    _Recipe(0.93, 0.80, 0.75),
    _Recipe(1.00, 0.92, 1.5),
)


class Rhythm:
    """What each filler asks for: batches, micro-stops, idle change-overs.

    `steady` fillers never stop: each fills its first batch for ever.
    """

    def __init__(self, seed: int, assets: int, *, steady: bool = False) -> None:
        self._generators = [np.random.default_rng([seed, asset, 1]) for asset in range(assets)]
        self._recipes = [_RECIPES[0]] * assets
        self._is_batch = np.zeros(assets, np.bool_)
        self._until_s = np.zeros(assets)
        self.speed = np.zeros(assets)
        self.valve = np.zeros(assets)
        self.litres = np.ones(assets)
        for asset, generator in enumerate(self._generators):
            self._batch(asset, 0.0, generator)
        if steady:
            self._until_s[:] = np.inf

    def advance(self, now_s: float) -> None:
        for asset in np.flatnonzero(self._until_s <= now_s).tolist():
            generator = self._generators[asset]
            draw = generator.random()
            if not self._is_batch[asset] or draw < 0.15:
                self._batch(asset, now_s, generator)
            elif draw < 0.7:  # bottles jam: throttled, soon over
                self._phase(asset, now_s, generator.uniform(6, 20), 0.6, 0.25)
            else:  # change-over: the pump stands still
                self._phase(asset, now_s, generator.uniform(25, 75), 0.0, 0.0)

    def _batch(self, asset: int, now_s: float, generator: np.random.Generator) -> None:
        # After a micro-stop the batch usually goes on; otherwise the next one begins.
        if self._until_s[asset] == 0 or self.speed[asset] == 0 or generator.random() < 0.3:
            self._recipes[asset] = _RECIPES[generator.integers(len(_RECIPES))]
        recipe = self._recipes[asset]
        speed = recipe.speed + generator.uniform(-0.015, 0.015)
        self._phase(asset, now_s, generator.uniform(150, 420), speed, recipe.valve)
        self._is_batch[asset] = True
        self.litres[asset] = recipe.litres

    def _phase(self, asset: int, now_s: float, lasts_s: float, speed: float, valve: float) -> None:
        self._is_batch[asset] = False
        self._until_s[asset] = now_s + lasts_s
        self.speed[asset] = speed
        self.valve[asset] = valve
