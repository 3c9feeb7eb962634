"""The bundle that ships: what its card promises, on pumps that no part of training has seen."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest

from gateway.frame import Frame
from gateway.inference.bundle import MANIFEST, MODEL, load_bundle
from gateway.inference.config import ModelSettings
from gateway.inference.engine import Engine
from gateway.inference.runtime import Runner
from gateway.tag import Tag, TagTable
from simulators.registers import PUMP_TAGS
from simulators.training import FEATURES, healthy, with_fault

FOLDER = Path(__file__).parents[2] / "models" / "pump"
UNSEEN_SEED = 77
SECOND = 10**9
START = 1_767_225_600

Float = npt.NDArray[np.float64]

# What a Modbus register leaves of a value: its scale is the smallest step.
STEPS = {tag.tag: tag.scale for tag in PUMP_TAGS if "int" in tag.data_type}
UNITS = {tag.tag: tag.eng_unit for tag in PUMP_TAGS}


@pytest.fixture(scope="module")
def trainer() -> Iterator[dict[str, ModuleType]]:
    """graph.py and fitting.py, which stand beside train.py and not in a package."""
    sys.path.insert(0, str(FOLDER))
    import fitting  # noqa: PLC0415 - from the folder just named
    import graph  # noqa: PLC0415

    yield {"fitting": fitting, "graph": graph}
    sys.path.remove(str(FOLDER))


def as_registers(samples: Float) -> Float:
    """The samples as they come out of the pump's registers."""
    rounded = samples.copy()
    for column, name in enumerate(FEATURES):
        if name in STEPS:
            rounded[..., column] = np.round(samples[..., column] / STEPS[name]) * STEPS[name]
    return rounded


def windows_of(samples: Float, hop: int) -> npt.NDArray[np.float32]:
    found = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float32), 30, axis=0)
    return found[::hop].transpose(0, 2, 1)


def watch(samples: Float, *, lost: float = 0.0) -> tuple[Engine, Float]:
    """The gateway's engine on (time, asset, feature) at 1 Hz; scores (score time, asset).

    A share of the scans is lost, asset by asset.
    """
    table = TagTable()
    seconds, assets, _ = samples.shape
    for asset in range(assets):
        for name in FEATURES:
            table.add(
                Tag(
                    name=f"pump-{asset}.{name}",
                    asset=f"pump-{asset}",
                    asset_class="pump",
                    field=name,
                    measurement="pump",
                    eng_unit=UNITS[name],
                )
            )
    ids = np.arange(assets * len(FEATURES), dtype=np.int32).reshape(assets, len(FEATURES))
    engine = Engine([ModelSettings(name="pump", bundle=FOLDER)], table, Path())
    rng = np.random.default_rng(1)
    scores = []
    for second in range(seconds):
        came = rng.random(assets) >= lost
        now_ns = (START + second) * SECOND + SECOND // 2
        frame = Frame.of(now_ns, ids[came].ravel(), samples[second, came].ravel())
        found, _ = engine.apply(frame, now_ns)
        if len(found):
            scores.append(found.values)
    return engine, np.array(scores)


def test_it_is_small() -> None:
    assert sum((FOLDER / name).stat().st_size for name in (MANIFEST, MODEL)) < 300_000


def test_its_card_is_about_this_bundle() -> None:
    size = sum((FOLDER / name).stat().st_size for name in (MANIFEST, MODEL))
    card = (FOLDER / "CARD.md").read_text()
    assert f"pump {load_bundle(FOLDER).manifest.version}\n" in card
    assert f"{size} bytes" in card


def test_its_features_and_units_are_the_pump_lines() -> None:
    manifest = load_bundle(FOLDER).manifest
    assert manifest.fields == FEATURES
    assert [f.eng_unit for f in manifest.features] == [UNITS[name] for name in FEATURES]


def test_a_bearing_at_the_demos_severity_is_an_event_within_a_minute() -> None:
    begins_s = 600
    samples = as_registers(with_fault(UNSEEN_SEED, 900, 12, fault="bearing_wear", start_s=begins_s))
    calm = as_registers(healthy(UNSEEN_SEED + 1, 900, 4))
    engine, _ = watch(np.concatenate([samples, calm], axis=1))
    events = {event.asset: event for event in engine.recent_events}
    assert len(engine.recent_events) == len(events) == 12
    assert events.keys() == {f"pump-{i}" for i in range(12)}
    for event in events.values():
        late_s = event.start_ns / SECOND - START - begins_s
        # A pump that stands still for a change-over (75 s at most) cannot show its bearing.
        assert 0 <= late_s <= 60 + 75
        assert "vibration" in event.top
    in_time = [e for e in events.values() if e.start_ns / SECOND - START - begins_s <= 60]
    assert len(in_time) >= 11


def test_healthy_pumps_are_quiet_for_two_days_though_scans_are_lost() -> None:
    samples = as_registers(healthy(UNSEEN_SEED, 6 * 3600, 8))
    engine, scores = watch(samples, lost=0.02)
    assert engine.stats["pump"].events_total == 0
    assert np.nanmax(scores) < 1
    assert np.isfinite(scores[20:]).mean() > 0.99


def test_a_score_is_the_same_to_the_bit_in_any_company() -> None:
    bundle = load_bundle(FOLDER)
    windows = windows_of(healthy(UNSEEN_SEED, 1200)[:, 0], 3)
    runner = bundle.runner

    def score(rows: npt.NDArray[np.float32]) -> bytes:
        runner.reserve(len(rows), *rows.shape[1:])
        runner.windows[: len(rows)] = rows
        scores, contributions = runner.run()
        return scores[: len(rows)].tobytes() + contributions[: len(rows)].tobytes()

    for row in (0, 57, 133):
        alone = score(windows[row : row + 1])
        for place, company in ((0, 5), (3, 17), (63, 64), (100, 131)):
            rows = windows[np.arange(company) * 7 % len(windows)]
            rows[place] = windows[row]
            among = score(rows)
            size = company * 4
            feature = size + place * len(FEATURES) * 4
            found = among[place * 4 : place * 4 + 4] + among[feature : feature + 4 * len(FEATURES)]
            assert found == alone


def test_the_graph_computes_the_formula_and_training_repeats_itself(
    trainer: dict[str, ModuleType],
) -> None:
    fitting, graph = trainer["fitting"], trainer["graph"]
    samples = healthy(UNSEEN_SEED, 3600, 4)
    windows = np.concatenate([windows_of(samples[:, i], 11) for i in range(4)])

    def fit_once() -> tuple[object, bytes]:
        detector = fitting.set_limits(fitting.fit(windows), [windows])
        return detector, graph.export(detector, producer="test").SerializeToString()

    detector, model = fit_once()
    assert fit_once()[1] == model
    runner = Runner(model, input_name="window", score="score", contributions="contributions")
    runner.reserve(len(windows), *windows.shape[1:])
    runner.windows[: len(windows)] = windows
    scores, contributions = runner.run()
    wanted = detector.score(windows)
    np.testing.assert_allclose(scores[: len(windows)], wanted, rtol=1e-3)
    np.testing.assert_allclose(contributions[: len(windows)].sum(axis=1), wanted**4, rtol=4e-3)
