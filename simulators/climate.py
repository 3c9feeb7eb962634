"""Bays of a greenhouse, all at once: sun through glass, air, carbon dioxide, soil and its watering.

As with the pumps: a step is one pass of numpy, lags are exact for its length, every bay draws
from a generator of its own.
"""

from __future__ import annotations

import math

import numpy as np

from simulators.faults import FaultBoard, FloatArray
from simulators.noise import RandomRows, decay, follow, wander

__all__ = ["BAY_FAULTS", "BAY_RANGES", "BAY_TAGS", "Bays"]

# Name and plausible range, engineering units.
BAY_RANGES: dict[str, tuple[float, float]] = {
    "air_temperature": (-10.0, 60.0),  # degC
    "humidity": (0.0, 100.0),  # %
    "co2": (200.0, 3000.0),  # ppm
    "par": (0.0, 2500.0),  # umol/(m2 s): photosynthetically active radiation
    "soil_moisture": (0.0, 60.0),  # % by volume
    "soil_temperature": (-5.0, 45.0),  # degC
    "water_flow": (0.0, 60.0),  # l/min
}
BAY_TAGS = tuple(BAY_RANGES)
BAY_FAULTS = ("closing_valve", "stuck_sensor", "drifting_sensor", "device_offline")

_LOWS, _HIGHS = np.array(list(BAY_RANGES.values())).T[:, :, np.newaxis]
_SPANS = (_HIGHS - _LOWS)[:, 0]
_NOISE = np.array([[0.05, 0.3, 4.0, 3.0, 0.05, 0.04, 0.1]]).T
_PAR_NOON = 1600.0
_MOIST_LOW, _MOIST_HIGH = 26.0, 36.0  # % between which the soil is watered
_FULL_FLOW = 40.0  # l/min
_DAY_START_S = 9.5 * 3600  # plants start in the morning: there is sun to see


class Bays:
    """`assets` bays, `step_s` seconds of plant time a step."""

    def __init__(self, assets: int, seed: int, *, step_s: float) -> None:
        self.names = tuple(f"bay-{k + 1}" for k in range(assets))
        self.step_s = step_s
        self.steps = 0
        self.board = FaultBoard(
            assets=self.names,
            tags=BAY_TAGS,
            spans=_SPANS,
            kinds=BAY_FAULTS,
            default_tags={"stuck_sensor": "humidity", "drifting_sensor": "co2"},
        )
        self._random = RandomRows(seed, assets, len(BAY_TAGS) + 2)
        rows = [np.random.default_rng([seed, bay, 2]).random(3) for bay in range(assets)]
        draw = np.array(rows).reshape(assets, 3).T
        self._shade = 0.85 + 0.15 * draw[0]
        self._drainage = 0.8 + 0.4 * draw[1]
        self._cloud = np.zeros(assets)
        self._gust = np.zeros(assets)
        self._air = np.full(assets, 21.0)
        self._soil = np.full(assets, 19.0)
        self._co2 = np.full(assets, 600.0)
        self._moisture = _MOIST_LOW + (_MOIST_HIGH - _MOIST_LOW) * draw[2]
        self.is_watered = np.zeros(assets, np.bool_)
        self.values = np.zeros((assets, len(BAY_TAGS)))  # of the last step

    @property
    def now_s(self) -> float:
        """Plant time since the start."""
        return self.steps * self.step_s

    def step(self) -> FloatArray:
        """One step on; (assets, tags) as measured. The array is new each time."""
        self.steps += 1
        self.board.advance(self.now_s)
        random = self._random.take()
        true = self._true_values(random[-2:])
        noise = _NOISE * random[: len(BAY_TAGS)]
        noise[BAY_TAGS.index("par")] *= true[BAY_TAGS.index("par")] > 0
        noise[BAY_TAGS.index("water_flow")] *= true[BAY_TAGS.index("water_flow")] > 0
        self.values = np.minimum(np.maximum(true + noise, _LOWS), _HIGHS).T.copy()
        self.board.bend(self.values)
        return self.values

    def _true_values(self, random: FloatArray) -> FloatArray:
        step_s = self.step_s
        wander(self._cloud, random[0], decay(step_s, 300))
        wander(self._gust, random[1], decay(step_s, 60))
        angle = math.tau * ((_DAY_START_S + self.now_s) / 86400 - 0.25)
        clear = np.clip(0.75 + 0.25 * self._cloud, 0.15, 1.0) * self._shade
        par = _PAR_NOON * max(0.0, math.sin(angle)) ** 1.2 * clear

        outside = 12 + 6 * math.sin(angle - 0.6)
        warmed = np.maximum(outside + 0.011 * par + 0.3 * self._gust, 16.0)  # heated below 16
        follow(self._air, warmed, decay(step_s, 900))
        follow(self._soil, 0.6 * self._air + 6.5, decay(step_s, 4 * 3600))
        # Plants eat by day; a burner feeds them up to a limit.
        follow(self._co2, 800 - 0.22 * par + 15 * self._gust, decay(step_s, 1200))
        drying = 1.2e-4 * self._drainage * (1 + par / 500)  # % a second
        flow = self._water()
        self._moisture += step_s * (flow / _FULL_FLOW * 0.02 - drying)
        np.clip(self._moisture, 2.0, 55.0, out=self._moisture)
        humidity = 62 + 1.1 * (self._moisture - 30) - 1.6 * (self._air - 21) + 1.5 * self._gust
        return np.stack([self._air, humidity, self._co2, par, self._moisture, self._soil, flow])

    def _water(self) -> FloatArray:
        """Litres a minute that reach the soil; a closing valve lets less through than it says."""
        self.is_watered[self._moisture < _MOIST_LOW] = True
        self.is_watered[self._moisture > _MOIST_HIGH] = False
        passed = np.maximum(1 - 0.9 * self.board.levels["closing_valve"], 0.0)
        return np.where(self.is_watered, _FULL_FLOW * passed, 0.0)
