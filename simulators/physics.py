"""Pumps of a bottling line, all at once: hydraulics, heat, vibration, and the rhythm of batches.

Each pump lifts from its own tank through a control valve to its filler, at the speed and valve
position of the batch. Flow is where the pump's curve (scaled by the affinity laws) meets the
system's; currents and temperatures follow from the work done. A step is one pass of numpy over
all pumps; lags are solved exactly for the step's length, so a record made at 1 s steps is a
record made at 0.2 s steps, thinned.

Every pump draws from generators of its own, seeded by (seed, its number), and always as much:
pump 3 is the same pump in a plant of 4 and of 400, and a fault of one never moves another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from simulators.faults import FaultBoard, FloatArray
from simulators.noise import RandomRows, decay, follow, wander
from simulators.rhythm import Rhythm

__all__ = ["FEATURES", "PUMP_FAULTS", "RANGES", "Pumps"]

# Name and plausible range of what is measured; the range is in engineering units.
RANGES: dict[str, tuple[float, float]] = {
    "speed": (0.0, 3200.0),  # rpm
    "flow": (0.0, 60.0),  # m3/h
    "suction_pressure": (-1.0, 2.0),  # bar
    "discharge_pressure": (0.0, 10.0),  # bar
    "motor_current": (0.0, 30.0),  # A
    "motor_temperature": (-10.0, 155.0),  # degC
    "bearing_temperature": (-10.0, 130.0),  # degC
    "vibration": (0.0, 30.0),  # mm/s RMS
    "valve_position": (0.0, 100.0),  # %
    "tank_level": (0.0, 100.0),  # %
}
FEATURES = tuple(RANGES)
PUMP_FAULTS = (
    "bearing_wear",
    "cavitation",
    "closing_valve",
    "stuck_sensor",
    "drifting_sensor",
    "device_offline",
)
_LOWS, _HIGHS = np.array(list(RANGES.values())).T[:, :, np.newaxis]
_SPANS = (_HIGHS - _LOWS)[:, 0]
_FLOW, _CURRENT, _BEARING, _VIBRATION = (
    FEATURES.index(name) for name in ("flow", "motor_current", "bearing_temperature", "vibration")
)
_OF_DRIVE = [FEATURES.index("speed"), _CURRENT]

# One standard deviation of what a sensor adds to each sample, in the order of FEATURES ...
_NOISE = np.array([[1.2, 0.12, 0.008, 0.02, 0.05, 0.08, 0.08, 0.02, 0.1, 0.1]]).T
# ... and of its slow wandering: a share of its range. The drive's own speed does not wander.
_DRIFT = 0.0008 * (_HIGHS - _LOWS) * np.array([[0.0] + [1.0] * 9]).T

# Time constants of the lags and wobbles, s.
_TAUS = {
    "speed": 2.5,
    "valve": 2.0,
    "flow": 0.8,
    "turbulence": 4.0,
    "shaking": 6.0,
    "bursts": 0.5,
    "motor_heat": 420.0,
    "bearing_heat": 260.0,
    "drift": 6 * 3600.0,
}

# The pump at rated speed, and what it pumps through; bar and m3/h.
_RATED_RPM = 2900.0
_SHUT_OFF_BAR = 6.0
_PUMP_LOSS = 1.125e-3  # bar per (m3/h)^2
_SUCTION_LOSS = 8e-5
_LINE_LOSS = 6e-4
_VALVE_LOSS = 1.0e-3  # fully open
_STATIC_BAR = 1.0  # height of the filler
_BEST_FLOW = 38.0  # m3/h at rated speed
_TANK_M3 = 8.0
_TANK_INFLOW = 58.0  # m3/h while it is refilled
_TANK_LOW, _TANK_HIGH = 35.0, 85.0  # %


@dataclass(slots=True)
class _Build:
    """How each pump differs from the drawing: factors near 1, by (seed, number)."""

    head: FloatArray
    friction: FloatArray
    current: FloatArray
    heat: FloatArray
    vibration: FloatArray
    room: FloatArray  # degC above the hall's mean


def _build(seed: int, assets: int) -> _Build:
    rows = np.array([np.random.default_rng([seed, a, 2]).uniform(-1, 1, 6) for a in range(assets)])
    spread = np.array([0.02, 0.03, 0.02, 0.05, 0.12, 1.5]) * rows.reshape(assets, 6)
    head, friction, current, heat, vibration, room = spread.T.copy()
    return _Build(1 + head, 1 + friction, 1 + current, 1 + heat, 1 + vibration, room)


@dataclass(slots=True)
class _Machine:
    """The physical state, one row a pump."""

    speed: FloatArray  # share of rated
    valve: FloatArray  # share open, as the positioner reports it
    flow: FloatArray  # m3/h
    level: FloatArray  # %
    filling: npt.NDArray[np.bool_]
    motor_heat: FloatArray  # K above the room
    bearing_heat: FloatArray
    turbulence: FloatArray  # slow wobble of the flow, in standard deviations
    shaking: FloatArray  # the same of the vibration
    bursts: FloatArray  # and of the vapour, where there is any
    drift: FloatArray  # (features, assets) of the sensors, in standard deviations


class Pumps:
    """`assets` pumps, `step_s` seconds of plant time a step."""

    def __init__(
        self,
        assets: int,
        seed: int,
        *,
        step_s: float = 0.2,
        devices: Sequence[str] = (),
        steady: bool = False,
    ) -> None:
        self.names = tuple(f"pump-{k + 1}" for k in range(assets))
        self.step_s = step_s
        self.steps = 0
        self.board = _fault_board(self.names, devices)
        self._left = {name: decay(step_s, tau_s) for name, tau_s in _TAUS.items()}
        self._build = _build(seed, assets)
        self._rhythm = Rhythm(seed, assets, steady=steady)
        self._random = RandomRows(seed, assets, 2 * len(FEATURES) + 4)
        plant = np.random.default_rng([seed, 0, 3])
        self._day_start_s = plant.uniform(0, 86400)
        self.alarm = np.zeros(assets, np.bool_)
        self._machine = self._start(seed, assets)
        self.counters = _Counters.start(seed, assets)
        self.values = np.zeros((assets, len(FEATURES)))  # of the last step

    @property
    def now_s(self) -> float:
        """Plant time since the start."""
        return self.steps * self.step_s

    @property
    def set_point(self) -> FloatArray:
        """Speed asked for, % of rated."""
        return self._rhythm.speed * 100

    @property
    def litres(self) -> FloatArray:
        """Of the bottles being filled."""
        return self._rhythm.litres

    @property
    def is_running(self) -> npt.NDArray[np.bool_]:
        running: npt.NDArray[np.bool_] = self._machine.speed > 0.02
        return running

    @property
    def room(self) -> FloatArray:
        """Temperature around each pump, degC: the hall follows the day."""
        day = math.tau * ((self._day_start_s + self.now_s) / 86400 - 0.375)
        return 18 + 4.5 * math.sin(day) + self._build.room

    def step(self) -> FloatArray:
        """One step on; (assets, features) as measured. The array is new each time."""
        self.steps += 1
        self._rhythm.advance(self.now_s)
        self.board.advance(self.now_s)
        random = self._random.take()
        was_running = self.is_running
        true = self._true_values(random[-4:])
        self._measure(true, random)
        self.counters.add(self, true, was_running)
        self.board.bend(self.values)
        return self.values

    def run(self, steps: int) -> FloatArray:
        """(steps, assets, features)."""
        record = np.empty((steps, len(self.names), len(FEATURES)))
        for k in range(steps):
            record[k] = self.step()
        return record

    def _start(self, seed: int, assets: int) -> _Machine:
        """As if every pump had run its first batch for hours."""
        rhythm, nothing = self._rhythm, np.zeros(assets)
        rows = [np.random.default_rng([seed, asset, 4]).random(2) for asset in range(assets)]
        draw = np.array(rows).reshape(assets, 2).T
        machine = _Machine(
            speed=rhythm.speed.copy(),
            valve=rhythm.valve.copy(),
            flow=nothing.copy(),
            level=_TANK_LOW + (_TANK_HIGH - _TANK_LOW) * draw[0],
            filling=draw[1] < 0.5,
            motor_heat=nothing.copy(),
            bearing_heat=nothing.copy(),
            turbulence=nothing.copy(),
            shaking=nothing.copy(),
            bursts=nothing.copy(),
            drift=np.zeros((len(FEATURES), assets)),
        )
        self._machine = machine
        machine.flow = self._flow_goal(machine.valve, self._lift())
        current = self._current(self._lift(), nothing)
        machine.motor_heat = self._motor_heat_goal(current)
        machine.bearing_heat = self._bearing_heat_goal(nothing)
        return machine

    def _true_values(self, random: FloatArray) -> FloatArray:
        """(features, assets) as they are, before any sensor."""
        machine, levels, left = self._machine, self.board.levels, self._left
        wear, cavitation = levels["bearing_wear"], levels["cavitation"]
        follow(machine.speed, self._rhythm.speed, left["speed"])
        machine.speed[machine.speed < 0.01] = 0.0  # the drive's output stage opens
        follow(machine.valve, self._rhythm.valve, left["valve"])
        wander(machine.turbulence, random[0], left["turbulence"])
        wander(machine.shaking, random[1], left["shaking"])

        # Vapour in the impeller costs head, and bursts of it make head, flow and casing shake.
        wander(machine.bursts, random[2], left["bursts"])
        lift = self._lift() * np.maximum(1 - (0.25 - 0.1 * machine.bursts) * cavitation, 0.1)
        # A plug that slips on its stem closes while the positioner still reports the stem.
        opening = machine.valve * np.maximum(1 - 0.75 * levels["closing_valve"], 0.02)
        goal = self._flow_goal(opening, lift) * (1 + 0.012 * machine.turbulence)
        follow(machine.flow, goal, left["flow"])
        squared = machine.flow**2
        # What cavitates is starved: the strainer before it is clogged.
        suction = self._suction(squared) - 0.35 * cavitation * np.minimum(squared / 400, 1)
        discharge = np.maximum(suction + lift - _PUMP_LOSS * squared, _STATIC_BAR)
        self._fill_tank()

        current = self._current(lift, wear)
        follow(machine.motor_heat, self._motor_heat_goal(current), left["motor_heat"])
        follow(machine.bearing_heat, self._bearing_heat_goal(wear), left["bearing_heat"])
        vibration = self._vibration(wear, cavitation, random[3])
        room = self.room
        return np.stack(
            [
                machine.speed * _RATED_RPM,
                machine.flow,
                suction,
                discharge,
                current,
                room + machine.motor_heat,
                room + machine.bearing_heat,
                vibration,
                machine.valve * 100,
                machine.level,
            ]
        )

    def _measure(self, true: FloatArray, random: FloatArray) -> None:
        """What the sensors make of it, into `values`, and the classic alarm limits."""
        n, drift = len(FEATURES), self._machine.drift
        wander(drift, random[n : 2 * n], self._left["drift"])
        error = _DRIFT * drift
        noise = _NOISE * random[:n]
        noise[_VIBRATION] *= 1 + true[_VIBRATION]  # an accelerometer's grows with what it measures
        error += noise
        error[_OF_DRIVE] *= self.is_running  # a stopped drive says exactly 0
        error += true
        self.values = np.minimum(np.maximum(error, _LOWS), _HIGHS).T.copy()
        # 7.1 mm/s: zone D of ISO 10816-3 for this class of machine.
        self.alarm = (true[_VIBRATION] > 7.1) | (true[_BEARING] > 90)

    def _lift(self) -> FloatArray:
        lift: FloatArray = _SHUT_OFF_BAR * self._build.head * self._machine.speed**2
        return lift

    def _suction(self, squared: FloatArray) -> FloatArray:
        return 0.1 + 0.004 * self._machine.level - _SUCTION_LOSS * squared

    def _flow_goal(self, opening: FloatArray, lift: FloatArray) -> FloatArray:
        """Where the pump's curve meets the system's; none below the filler's height."""
        loss = _VALVE_LOSS / np.maximum(opening, 0.02) ** 2 + _LINE_LOSS * self._build.friction
        push = self._suction(np.zeros(1)) + lift - _STATIC_BAR
        flow: FloatArray = np.sqrt(np.maximum(push, 0) / (loss + _PUMP_LOSS + _SUCTION_LOSS))
        return flow

    def _current(self, lift: FloatArray, wear: FloatArray) -> FloatArray:
        machine = self._machine
        work_kw = np.maximum(lift - _PUMP_LOSS * machine.flow**2, 0) * machine.flow / 36
        shaft_kw = work_kw / 0.72 + 0.6 * machine.speed**3 + 0.45 * wear * machine.speed
        torque = 1.75 * shaft_kw / np.maximum(machine.speed, 0.05)
        magnetising = 4.2 * np.minimum(machine.speed / 0.1, 1)
        current: FloatArray = np.hypot(torque, magnetising) * self._build.current
        return current

    def _motor_heat_goal(self, current: FloatArray) -> FloatArray:
        goal: FloatArray = 52 * self._build.heat * (current / 13) ** 2
        return goal

    def _bearing_heat_goal(self, wear: FloatArray) -> FloatArray:
        machine = self._machine
        warmed = 16 * self._build.heat * machine.speed**1.5 + 0.25 * machine.motor_heat
        return warmed + 55 * wear * machine.speed

    def _vibration(
        self, wear: FloatArray, cavitation: FloatArray, random: FloatArray
    ) -> FloatArray:
        machine = self._machine
        best = np.maximum(_BEST_FLOW * machine.speed, 1.0)
        off_design = 1 + 0.9 * (machine.flow / best - 1) ** 2
        whole = 1.3 * machine.speed**2 * off_design * (1 + 0.04 * machine.shaking)
        worn = 5.0 * wear * machine.speed * (1 + 0.12 * machine.shaking + 0.08 * random)
        bubbles = 2.0 * cavitation * machine.speed * np.abs(1 + 0.35 * random)
        return 0.12 + self._build.vibration * whole + np.maximum(worn, 0) + bubbles

    def _fill_tank(self) -> None:
        machine = self._machine
        inflow = _TANK_INFLOW * machine.filling - machine.flow
        machine.level += inflow * self.step_s / 3600 / _TANK_M3 * 100
        machine.filling[machine.level < _TANK_LOW] = True
        machine.filling[machine.level > _TANK_HIGH] = False


@dataclass(slots=True)
class _Counters:
    """What a controller counts; exact integers leave as integers."""

    running_s: FloatArray
    bottles: FloatArray
    energy_mj: npt.NDArray[np.uint64]  # millijoules
    starts: npt.NDArray[np.int64]
    _energy_rest: FloatArray = field(repr=False)

    @staticmethod
    def start(seed: int, assets: int) -> _Counters:
        """After some twenty years of service: more millijoules than a float64 can count."""
        rows = [np.random.default_rng([seed, asset, 5]).random(4) for asset in range(assets)]
        draw = np.array(rows).reshape(assets, 4).T
        return _Counters(
            running_s=np.floor(3600 * (120_000 + 20_000 * draw[0])),
            bottles=np.floor(3e8 * (1 + draw[1])),
            energy_mj=(9.1e15 + 4e14 * draw[2]).astype(np.uint64) | np.uint64(1),
            starts=(20_000 + 5_000 * draw[3]).astype(np.int64),
            _energy_rest=np.zeros(assets),
        )

    def add(self, pumps: Pumps, true: FloatArray, was_running: npt.NDArray[np.bool_]) -> None:
        running = pumps.is_running
        self.running_s += pumps.step_s * running
        litres = true[_FLOW] * running * pumps.step_s / 3.6
        self.bottles += litres / pumps.litres
        self.starts += running & ~was_running
        # 400 V, power factor 0.86.
        watts = 400 * math.sqrt(3) * 0.86 * true[_CURRENT]
        self._energy_rest += watts * pumps.step_s * 1000
        whole = np.floor(self._energy_rest)
        self._energy_rest -= whole
        self.energy_mj += whole.astype(np.uint64)


def _fault_board(names: Sequence[str], devices: Sequence[str]) -> FaultBoard:
    return FaultBoard(
        assets=names,
        tags=FEATURES,
        spans=_SPANS,
        kinds=PUMP_FAULTS,
        default_tags={"stuck_sensor": "flow", "drifting_sensor": "discharge_pressure"},
        devices=devices,
    )
