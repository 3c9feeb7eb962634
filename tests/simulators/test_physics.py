"""The pumps: the same by seed, plausible when healthy, and each fault shows where it should."""

from __future__ import annotations

import numpy as np
import pytest

from simulators.faults import Fault, FloatArray
from simulators.physics import FEATURES, RANGES, Pumps

SEED, ASSETS, VICTIM = 7, 4, 2


def column(record: FloatArray, feature: str) -> FloatArray:
    """(time, asset) of one feature."""
    found: FloatArray = record[:, :, FEATURES.index(feature)]
    return found


@pytest.fixture(scope="module")
def healthy() -> FloatArray:
    return Pumps(ASSETS, SEED, step_s=1.0).run(7200)


def test_the_same_seed_gives_the_same_values() -> None:
    first, again = (Pumps(ASSETS, SEED).run(600) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, Pumps(ASSETS, SEED + 1).run(600))


def test_a_pump_is_the_same_in_a_plant_of_any_size() -> None:
    few, many = Pumps(2, SEED).run(600), Pumps(9, SEED).run(600)
    assert np.array_equal(few, many[:, :2])


def test_pumps_differ_from_each_other(healthy: FloatArray) -> None:
    assert len(np.unique(healthy[100, :, FEATURES.index("vibration")])) == ASSETS


def test_everything_stays_inside_its_range(healthy: FloatArray) -> None:
    assert np.isfinite(healthy).all()
    for feature, (low, high) in RANGES.items():
        values = column(healthy, feature)
        assert low <= values.min() <= values.max() <= high, feature
    # Healthy is far from the ends that alarm.
    assert column(healthy, "vibration").max() < 4.5
    assert column(healthy, "bearing_temperature").max() < 70


def test_an_idle_pump_stands_still_and_cools(healthy: FloatArray) -> None:
    idle = column(healthy, "speed") == 0
    assert 0.01 < idle.mean() < 0.5  # there are idle phases, and they are not all there is
    assert column(healthy, "motor_current")[idle].max() == 0.0
    long_idle = idle & np.roll(idle, 10, axis=0)
    assert column(healthy, "flow")[long_idle].max() < 1.0
    assert column(healthy, "vibration")[long_idle].max() < 0.3
    heat = column(healthy, "motor_temperature")
    falls = np.diff(heat, axis=0)[long_idle[1:] & long_idle[:-1]]
    assert falls.mean() < -0.02


def test_faster_means_more_flow_pressure_current_and_vibration(healthy: FloatArray) -> None:
    speed = column(healthy, "speed").ravel()
    slow, fast = (speed > 2000) & (speed < 2300), speed > 2800
    assert slow.sum() > 100
    assert fast.sum() > 100
    for feature in ("flow", "discharge_pressure", "motor_current", "vibration"):
        values = column(healthy, feature).ravel()
        assert np.median(values[fast]) > 1.1 * np.median(values[slow]), feature


def test_throttling_lowers_flow_and_raises_pressure_at_one_speed(healthy: FloatArray) -> None:
    speed, valve = column(healthy, "speed").ravel(), column(healthy, "valve_position").ravel()
    flow, pressure = column(healthy, "flow").ravel(), column(healthy, "discharge_pressure").ravel()
    ratio = pressure / np.maximum(speed / 2900, 0.1) ** 2  # affinity: pressure goes with speed^2
    throttled, open_ = (valve > 20) & (valve < 30) & (speed > 1500), (valve > 70) & (speed > 2200)
    assert flow[throttled].mean() < 0.6 * flow[open_].mean()
    assert ratio[throttled].mean() > 1.2 * ratio[open_].mean()


def test_the_tank_falls_while_pumping_and_is_refilled(healthy: FloatArray) -> None:
    level = column(healthy, "tank_level")
    assert level.min() > 25
    assert level.max() < 95
    assert (level.max(axis=0) - level.min(axis=0) > 30).all()


def test_records_at_other_steps_say_the_same() -> None:
    coarse = Pumps(40, SEED, step_s=1.0).run(1800)
    fine = Pumps(40, SEED, step_s=0.2).run(9000)[4::5]
    for feature in FEATURES:
        a, b = column(coarse, feature), column(fine, feature)
        span = RANGES[feature][1] - RANGES[feature][0]
        assert abs(a.mean() - b.mean()) < 0.01 * span, feature
        steps = np.median(np.abs(np.diff(a, axis=0))), np.median(np.abs(np.diff(b, axis=0)))
        assert 0.8 < steps[0] / max(steps[1], 1e-9) < 1.25 or max(steps) == 0, feature


EFFECTS = {
    "bearing_wear": {"vibration": +3.0, "bearing_temperature": +3.0, "motor_current": +0.3},
    "cavitation": {"flow": -3.0, "discharge_pressure": -0.5, "vibration": +1.0},
    "closing_valve": {"flow": -10.0, "discharge_pressure": +0.4},
    "drifting_sensor": {"discharge_pressure": +0.5},
}


@pytest.mark.parametrize("name", EFFECTS)
def test_a_fault_moves_what_it_should_within_forty_seconds_and_no_other_asset(name: str) -> None:
    pumps, twin = Pumps(ASSETS, SEED), Pumps(ASSETS, SEED)
    before = pumps.run(50) - twin.run(50)
    assert not before.any()
    pumps.board.start(Fault(name=name, asset=pumps.names[VICTIM]), pumps.now_s)
    assert twin.values[VICTIM, FEATURES.index("speed")] > 2000  # else nothing could show
    moved = (pumps.run(250) - twin.run(250))[-50:]  # 40 to 50 s after it began
    assert not np.delete(moved, VICTIM, axis=1).any()
    means = dict(zip(FEATURES, moved[:, VICTIM].mean(axis=0), strict=True))
    for feature, least in EFFECTS[name].items():
        assert means[feature] * np.sign(least) > abs(least), (feature, means)
    assert means["speed"] == means["valve_position"] == 0  # what was asked for is as before


@pytest.mark.parametrize("feature", ["flow", "discharge_pressure", "vibration"])
def test_cavitation_is_noisy(feature: str) -> None:
    def wobble(pumps: Pumps) -> float:
        return float(np.std(np.diff(column(pumps.run(100), feature)[:, VICTIM])))

    pumps, twin = Pumps(ASSETS, SEED), Pumps(ASSETS, SEED)
    pumps.board.start(Fault(name="cavitation", asset=pumps.names[VICTIM], ramp_s=0), 0)
    assert wobble(pumps) > 2 * wobble(twin)


def test_a_stuck_sensor_repeats_itself_and_the_pump_does_not_notice() -> None:
    pumps, twin = Pumps(ASSETS, SEED), Pumps(ASSETS, SEED)
    pumps.board.start(Fault(name="stuck_sensor", asset="pump-3", tag="vibration"), 0)
    record, healthy = pumps.run(200), twin.run(200)
    stuck = column(record, "vibration")[:, VICTIM]
    assert len(np.unique(stuck)) == 1
    others = np.delete(record - healthy, FEATURES.index("vibration"), axis=2)
    assert not others.any()


def test_a_steady_line_never_stops() -> None:
    steady = column(Pumps(ASSETS, SEED, step_s=1.0, steady=True).run(3600), "speed")
    usual = column(Pumps(ASSETS, SEED, step_s=1.0).run(3600), "speed")
    assert steady[60:].min() > 1900
    assert usual[60:].min() == 0
    assert np.array_equal(steady[60:140], usual[60:140])


def test_a_slow_ramp_is_slow() -> None:
    pumps, twin = Pumps(1, SEED, step_s=1.0), Pumps(1, SEED, step_s=1.0)
    pumps.board.start(Fault(name="bearing_wear", asset="pump-1", ramp_s=86400), 0)
    worse = column(pumps.run(3600) - twin.run(3600), "vibration")
    assert worse[:60].max() < 0.01
    assert 0.05 < worse[-600:].max() < 0.5


def test_a_fault_that_ends_leaves_no_trace_in_the_vibration() -> None:
    pumps, twin = Pumps(1, SEED), Pumps(1, SEED)
    pumps.board.start(Fault(name="bearing_wear", asset="pump-1", ramp_s=0), 0)
    pumps.run(100)
    twin.run(100)
    pumps.board.stop()
    assert not column(pumps.run(50) - twin.run(50), "vibration").any()


def test_counters_only_rise_and_energy_is_beyond_what_a_float_counts() -> None:
    pumps = Pumps(ASSETS, SEED, step_s=1.0)
    counters = pumps.counters
    energy, bottles = counters.energy_mj.copy(), counters.bottles.copy()
    hours, starts = counters.running_s.copy(), counters.starts.copy()
    current = column(pumps.run(3600), "motor_current")
    assert (energy > 2**53).all()
    assert (counters.bottles > bottles).all()
    assert (counters.running_s - hours <= 3600).all()
    assert (counters.starts >= starts).all()
    assert counters.starts.sum() > starts.sum()
    # Energy is current x time: within what noise and rounding do.
    joules = (counters.energy_mj - energy).astype(float) / 1000
    expected = (current * 400 * np.sqrt(3) * 0.86).sum(axis=0)
    assert np.allclose(joules, expected, rtol=0.01)
