"""Records for training are the line's own physics."""

from __future__ import annotations

import numpy as np

from simulators.line import LineSettings, run_line
from simulators.registers import PUMP_TAGS
from simulators.training import FEATURES, healthy, record, with_fault


def test_features_are_tags_of_the_register_map() -> None:
    assert set(FEATURES) <= {spec.tag for spec in PUMP_TAGS}


async def test_a_record_is_what_the_line_shows() -> None:
    async with run_line(LineSettings(servers=1, pumps_per_server=2, step_s=1.0, speed=0)) as line:
        shown = line.values()
    first = healthy(1, 1, 2)[0]
    for row, asset in enumerate(("pump-1", "pump-2")):
        assert [shown[f"{asset}.{feature}"] for feature in FEATURES] == first[row].tolist()


def test_a_record_is_the_first_pump() -> None:
    assert np.array_equal(record(5, 0.1), healthy(5, 360, 3)[:, 0])
    assert record(5, 0.1).shape == (360, len(FEATURES))


def test_a_faulty_record_is_healthy_until_the_fault_starts() -> None:
    good, bad = healthy(5, 600, 2), with_fault(5, 600, 2, fault="bearing_wear", start_s=300)
    assert np.array_equal(good[:299], bad[:299])
    worse = (bad - good)[400:, :, FEATURES.index("vibration")]
    assert (worse.mean(axis=0) > 0.5).all()
    assert np.array_equal(record(5, 600 / 3600, fault="bearing_wear", start_s=300), bad[:, 0])
