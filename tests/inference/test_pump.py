"""The bundle that ships: what its card promises, on pumps that no part of training has seen."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest

from gateway.inference.bundle import MANIFEST, MODEL, load_bundle
from simulators.training import FEATURES, healthy, with_fault

FOLDER = Path(__file__).parents[2] / "models" / "pump"
UNSEEN_SEED = 77


@pytest.fixture(scope="module")
def train() -> ModuleType:
    """train.py, which stands beside the bundle and not in a package."""
    spec = importlib.util.spec_from_file_location("train_pump", FOLDER / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def test_it_is_small() -> None:
    assert sum((FOLDER / name).stat().st_size for name in (MANIFEST, MODEL)) < 300_000


def test_its_card_is_about_this_bundle() -> None:
    size = sum((FOLDER / name).stat().st_size for name in (MANIFEST, MODEL))
    card = (FOLDER / "CARD.md").read_text()
    assert f"pump {load_bundle(FOLDER).manifest.version}\n" in card
    assert f"{size} bytes" in card


def test_its_features_and_units_are_the_pump_lines(train: ModuleType) -> None:
    manifest = load_bundle(FOLDER).manifest
    assert manifest.fields == FEATURES
    assert [f.eng_unit for f in manifest.features] == [train.UNITS[name] for name in FEATURES]


def test_a_bearing_at_the_demos_severity_is_an_event_within_a_minute(train: ModuleType) -> None:
    begins_s = 600
    samples = with_fault(UNSEEN_SEED, 900, 12, fault="bearing_wear", start_s=begins_s)
    calm = healthy(UNSEEN_SEED + 1, 900, 4)
    told = train.watch(FOLDER, np.concatenate([samples, calm], axis=1))
    events = {event.asset: event for event in told.anomalies}
    assert len(told.anomalies) == len(events) == 12
    assert events.keys() == {f"pump-{i}" for i in range(12)}
    late_s = {a: e.end_ns / 1e9 - train.START_S - begins_s for a, e in events.items()}
    # A pump that stands still for a change-over (75 s at most) cannot show its bearing.
    assert all(0 <= late <= 60 + 75 for late in late_s.values())
    assert sum(late <= 60 for late in late_s.values()) >= 11
    blamed = [event.top for event in events.values()]
    assert sum("vibration" in top for top in blamed) >= 10, blamed


def test_a_sensor_that_sticks_is_told_as_a_sensor(train: ModuleType) -> None:
    samples = with_fault(UNSEEN_SEED, 900, 4, fault="stuck_sensor", start_s=300)
    told = train.watch(FOLDER, samples)
    assert {event.asset for event in told.sensors} == {f"pump-{i}" for i in range(4)}
    assert {event.faults for event in told.sensors} == {"flow frozen"}


def test_healthy_pumps_are_quiet_for_two_days_though_scans_are_lost(train: ModuleType) -> None:
    told = train.watch(FOLDER, healthy(UNSEEN_SEED, 6 * 3600, 8), lost=0.02)
    assert told.anomalies == []


def test_a_score_is_the_same_to_the_bit_in_any_company() -> None:
    bundle = load_bundle(FOLDER)
    window, hop = bundle.manifest.window, 3
    samples = healthy(UNSEEN_SEED, 1200)[:, 0].astype(np.float32)
    found = np.lib.stride_tricks.sliding_window_view(samples, window, axis=0)
    windows = found[::hop].transpose(0, 2, 1)
    runner = bundle.runner

    def score(rows: npt.NDArray[np.float32]) -> tuple[list[bytes], npt.NDArray[np.float32]]:
        runner.reserve(len(rows), *rows.shape[1:])
        runner.windows[: len(rows)] = rows
        scores, contributions = runner.run()
        return [one.tobytes() for one in scores[: len(rows)]], contributions[: len(rows)].copy()

    for row in (0, 57, 133):
        [alone], [shares] = score(windows[row : row + 1])
        for place, company in ((0, 5), (3, 17), (63, 64), (100, 131)):
            rows = windows[np.arange(company) * 7 % len(windows)]
            rows[place] = windows[row]
            among, shares_among = score(rows)
            assert among[place] == alone
            np.testing.assert_allclose(shares_among[place], shares, rtol=1e-4)
