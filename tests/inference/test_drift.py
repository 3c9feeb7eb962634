from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from gateway.frame import Frame
from gateway.inference.config import ModelSettings
from gateway.inference.drift import BLOCK_NS, Drift, DriftRule
from gateway.inference.engine import Engine
from gateway.inference.events import DriftEvent
from gateway.inference.sensors import learn
from gateway.tag import TagTable
from tests.inference.bundles import make_model, write_bundle
from tests.samples import make_tag

SECOND = 10**9
START = 1_767_225_600
FIELDS = ("flow", "pressure", "speed", "load")
RULE = DriftRule(memory_s=3600.0, limit=0.5)
RNG = np.random.default_rng(0)
FITTED = RNG.normal(50, 5, (20_000, len(FIELDS)))
FACTS = learn(FITTED, np.ones(FITTED.shape, np.bool_), 1.0)


def hours(
    drift: Drift, count: float, shift: dict[tuple[int, str], float], *, begin_s: int = START
) -> list[DriftEvent]:
    """What is told in some hours of healthy input, shifted by so much for (asset, field)."""
    rng = np.random.default_rng(begin_s)
    told: list[DriftEvent] = []
    assets = len(drift.index)
    for second in range(begin_s, begin_s + int(count * 3600), 10):
        values = rng.normal(50, 5, (assets, len(FIELDS)))
        for (asset, field), by in shift.items():
            values[asset, FIELDS.index(field)] += by
        told += drift.take(second * SECOND, values, np.ones(assets, np.bool_)) or []
    return told


def new_drift(file: Path | None = None, assets: int = 3) -> Drift:
    drift = Drift("m", FACTS, FIELDS, RULE, file)
    for asset in range(assets):
        drift.add(f"pump-{asset}")
    return drift


def test_what_looks_like_the_fitting_does_not_drift() -> None:
    drift = new_drift()
    assert hours(drift, 20, {}) == []
    assert (drift.index < 0.1).all()


def test_one_input_alone_is_its_sensor_and_several_are_the_process() -> None:
    drift = new_drift()
    shift = {(0, "flow"): 8.0, (1, "flow"): 8.0, (1, "speed"): -8.0}
    told = hours(drift, 6, shift)
    assert [(e.asset, e.kind, e.fields, e.is_open) for e in told] == [
        ("pump-0", "sensor", "flow", True),
        ("pump-1", "process", "flow,speed", True),
    ]
    assert (drift.drifting, drift.refits_due) == (2, 1)
    assert [drift.describe(slot) for slot in range(3)] == ["sensor flow", "process flow,speed", ""]
    assert told[0].index > RULE.limit


def test_nothing_is_said_before_enough_was_seen_and_it_ends_when_all_is_as_before() -> None:
    drift = new_drift(assets=1)
    assert hours(drift, 0.5, {(0, "flow"): 9.0}) == []
    [opened] = hours(drift, 4, {(0, "flow"): 9.0}, begin_s=START + 1800)
    [closed] = hours(drift, 12, {}, begin_s=START + 5 * 3600)
    assert (opened.is_open, closed.is_open) == (True, False)
    assert closed.start_ns == opened.start_ns
    assert closed.duration_s > 3600


def test_a_wider_spread_is_a_shift_too() -> None:
    drift = new_drift(assets=1)
    rng = np.random.default_rng(1)
    told: list[DriftEvent] = []
    for second in range(START, START + 4 * 3600, 10):
        values = rng.normal(50, 5, (1, len(FIELDS)))
        values[0, 1] = 50 + 4 * (values[0, 1] - 50)
        told += drift.take(second * SECOND, values, np.ones(1, np.bool_)) or []
    assert [event.fields for event in told] == ["pressure"]


def test_values_that_come_in_few_steps_do_not_drift_by_themselves() -> None:
    fitted = np.round(FITTED / 10)
    fitted[:, 0] = 7.0  # a set point that never moves
    facts = learn(fitted, np.ones(fitted.shape, np.bool_), 1.0)
    drift = Drift("m", facts, FIELDS, RULE, None)
    drift.add("p")
    rng = np.random.default_rng(2)
    for second in range(START, START + 6 * 3600, 10):
        values = np.round(rng.normal(50, 5, (1, len(FIELDS))) / 10)
        values[0, 0] = 7.0
        assert not drift.take(second * SECOND, values, np.ones(1, np.bool_))
    assert (drift.index < 0.2).all()


def test_an_asset_that_is_not_well_is_neither_counted_nor_forgotten() -> None:
    drift = new_drift(assets=1)
    hours(drift, 4, {})
    before = drift.index.copy()
    rng = np.random.default_rng(3)
    for second in range(START + 4 * 3600, START + 40 * 3600, 10):
        values = rng.normal(90, 5, (1, len(FIELDS)))
        assert not drift.take(second * SECOND, values, np.zeros(1, np.bool_))
    assert drift.index == pytest.approx(before, abs=0.02)


def test_what_is_known_survives_a_restart_to_the_bit(tmp_path: Path) -> None:
    """Killed after any block, a replay from two blocks back goes on as if nothing had been."""
    file = tmp_path / "kept.npz"
    drift = new_drift(file)
    rng = np.random.default_rng(4)
    turns = [
        (second * SECOND, rng.normal(50, 5, (3, len(FIELDS))) + 8 * (second > START + 3000))
        for second in range(START, START + 3 * 3600, 10)
    ]
    well = np.ones(3, np.bool_)
    crash = len(turns) * 2 // 3 + 7

    def play(which: Drift, part: list[tuple[int, np.ndarray]]) -> list[DriftEvent]:
        told: list[DriftEvent] = []
        for t_ns, values in part:
            events = which.take(t_ns, values, well)
            if events is not None:
                which.save()
                told += events
        return told

    before = play(drift, turns[:crash])
    shutil.copy(file, tmp_path / "copy.npz")
    wanted = play(drift, turns[crash:])
    again = new_drift(tmp_path / "copy.npz")
    for slot in range(3):
        newest = [event for event in before if event.asset == f"pump-{slot}"]
        if newest:
            again.restore(slot, newest[-1])
    since_ns = turns[crash - 1][0] - 2 * BLOCK_NS
    play(again, [turn for turn in turns[:crash] if turn[0] >= since_ns])
    assert play(again, turns[crash:]) == wanted
    assert again.index.tobytes() == drift.index.tobytes()
    assert before or wanted


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nonsense", b"\x93NUMPY"])
def test_a_spoilt_file_begins_anew(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "kept.npz"
    file.write_bytes(content)
    assert hours(new_drift(file), 1, {}) == []


def test_the_engine_says_when_a_refit_is_due(tmp_path: Path) -> None:
    folder = write_bundle(
        tmp_path / "b", make_model(features=4), fields=FIELDS, format="2", threshold="500.0"
    )
    text = (folder / "bundle.toml").read_text()
    for field, fact in zip(FIELDS, FACTS, strict=True):
        assert fact is not None
        healthy = "".join(
            f"{key} = {list(value) if isinstance(value, tuple) else value}\n" for key, value in fact
        )
        line = f'field = "{field}"\neng_unit = "mm/s"\n'
        text = text.replace(line, f"{line}[feature.healthy]\n{healthy}")
    (folder / "bundle.toml").write_text(text)
    table = TagTable()
    ids = np.array([table.add(make_tag(f"p.{field}")) for field in FIELDS], np.int32)
    settings = ModelSettings.model_validate(
        {"name": "m", "bundle": folder, "isolate": "never", "drift_memory": 3600.0}
    )
    engine = Engine([settings], table, Path(), directory=tmp_path / "state")
    rng = np.random.default_rng(5)
    rows = []
    for second in range(START, START + 2 * 3600, 2):
        values = rng.normal(50, 5, len(FIELDS)) + np.array([9, 9, 0, 0])
        frame = Frame.of(second * SECOND, ids, values)
        _, events = engine.apply(frame, second * SECOND + 1)
        rows += [(table[int(i)].name, events.value(row)) for row, i in enumerate(events.tag_ids)]
    said = dict(rows)
    assert said["p.m.drift.state"] == "open"
    assert (said["p.m.drift.kind"], said["p.m.drift.fields"]) == ("process", "flow,pressure")
    stats = engine.stats["m"]
    assert (stats.drifting, stats.refits_due) == (1, 1)
    assert engine.status()["m"][0].drift == "process flow,pressure"
    assert list((tmp_path / "state").glob("m.*.drift.npz"))
