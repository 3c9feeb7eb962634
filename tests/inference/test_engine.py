from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.frame import EMPTY_FRAME, Frame, Lane
from gateway.inference.config import ModelSettings
from gateway.inference.engine import Engine
from gateway.inference.records import EVENT_FIELDS
from gateway.tag import Quality, TagTable
from tests.inference.bundles import FIELDS, WINDOW, make_model, write_bundle
from tests.samples import make_tag

SECOND = 10**9
START = 1_767_225_600  # a multiple of the hop
HOP = 2

Turn = tuple[Frame, int]
Made = tuple[Frame, Frame]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


class Plant:
    """A table with some assets, frames of all their values, and an engine on them."""

    def __init__(self, folder: Path, assets: int = 3, **facts: object) -> None:
        self.table = TagTable()
        self.folder = folder
        self.settings = ModelSettings.model_validate({"name": "m", "bundle": folder} | facts)
        for i in range(assets):
            self.add(f"pump-{i}")
        self.engine = self.new_engine()

    def add(self, asset: str, **facts: object) -> list[int]:
        return [self.table.add(make_tag(f"{asset}.{field}", **facts)) for field in FIELDS]

    def new_engine(self) -> Engine:
        return Engine([self.settings], self.table, Path())

    def frame(self, asset: str, value: float, quality: int = 0) -> Frame:
        ids = np.array([self.table.id_of(f"{asset}.{f}") for f in FIELDS], np.int32)
        return Frame.of(0, ids, np.full(len(ids), value), quality)

    def all(self, value: float, quality: int = 0) -> Frame:
        assets = dict.fromkeys(tag.asset for tag in self.table if tag.lane is Lane.RAW)
        return Frame.concatenate([self.frame(asset, value, quality) for asset in assets])


def seconds(turns: Iterable[Frame], start_s: float = START + 0.5) -> list[Turn]:
    return [stamped(frame, round((start_s + i) * SECOND)) for i, frame in enumerate(turns)]


def stamped(frame: Frame, now_ns: int) -> Turn:
    """A turn whose samples were all taken now."""
    return Frame.of(now_ns, frame.tag_ids, frame.values, frame.quality, frame.exact), now_ns


def play(engine: Engine, turns: Sequence[Turn]) -> list[Made]:
    return [engine.apply(frame, now_ns) for frame, now_ns in turns]


def scores_of(made: Iterable[Made], table: TagTable, asset: str) -> list[float]:
    tag_id = table.id_of(f"{asset}.m.score")
    return [
        float(value)
        for scores, _ in made
        for value, i in zip(scores.values, scores.tag_ids, strict=True)
        if i == tag_id
    ]


def as_bytes(made: Iterable[Made]) -> list[tuple[bytes | object, ...]]:
    frames = [frame for pair in made for frame in pair if len(frame)]
    return [
        (f.t_ns.tobytes(), f.tag_ids.tobytes(), f.values.tobytes(), f.quality.tobytes(), f.exact)
        for f in frames
    ]


def as_rows(made: Iterable[Made], table: TagTable) -> list[tuple[object, ...]]:
    return [
        (table[int(f.tag_ids[i])].name, int(f.t_ns[i]), repr(f.value(i)), int(f.quality[i]))
        for pair in made
        for f in pair
        for i in range(len(f))
    ]


def test_scores_come_every_hop_at_the_ticks_time_once_the_window_is_there(folder: Path) -> None:
    plant = Plant(folder, assets=1)
    made = play(plant.engine, seconds([plant.all(2.0)] * 11))
    times = [int(t) for scores, _ in made for t in scores.t_ns]
    assert times == [(START + s) * SECOND for s in (2, 4, 6, 8, 10)]
    # Two features of |2| are 4, over the threshold of 10; 4 of 5 columns must be valid.
    assert scores_of(made, plant.table, "pump-0") == pytest.approx([np.nan, 0.4, 0.4, 0.4, 0.4], nan_ok=True)  # fmt: skip  # noqa: E501 - one table
    qualities = [int(q) for scores, _ in made for q in scores.quality]
    assert qualities == [Quality.BAD_WAITING] + [Quality.GOOD] * 4


def test_scores_are_samples_of_the_score_lane_with_the_assets_labels(folder: Path) -> None:
    plant = Plant(folder, assets=1)
    play(plant.engine, seconds([plant.all(2.0)] * 3))
    tag = plant.table[plant.table.id_of("pump-0.m.score") or 0]
    assert (tag.lane, tag.measurement, tag.field) == (Lane.SCORE, "anomaly_score", "score")
    assert tag.labels == (("asset", "pump-0"), ("model", "m"))
    assert (tag.asset, tag.asset_class) == ("pump-0", "pump")


def test_an_event_is_told_at_its_opening_and_its_closing_at_one_time(folder: Path) -> None:
    plant = Plant(folder, assets=2)
    values = [1.0] * 10 + [20.0] * 10 + [1.0] * 20
    turns = seconds(
        Frame.concatenate([plant.frame("pump-0", v), plant.frame("pump-1", 1.0)]) for v in values
    )
    made = play(plant.engine, turns)
    rows = [
        {plant.table[int(i)].field: f.value(row) for row, i in enumerate(f.tag_ids)}
        | {"t": int(f.t_ns[0])}
        for _, f in made
        if len(f)
    ]
    assert [row["state"] for row in rows] == ["open", "closed"]
    opened, closed = rows
    assert opened.keys() == EVENT_FIELDS.keys() | {"t", "window"}
    assert closed.keys() == EVENT_FIELDS.keys() | {"t"}
    snapshot = json.loads(str(opened["window"]))
    assert snapshot["fields"] == list(FIELDS)
    assert (len(snapshot["rows"]), snapshot["rows"][-1]) == (WINDOW, [20.0, 20.0])
    assert (opened["severity"], closed["severity"]) == ("major", "critical")
    assert closed["deviation"] == "speed 20 mm/s, vibration 20 mm/s"
    assert rows[0]["t"] == rows[1]["t"]
    assert rows[1]["peak"] == 4.0
    assert rows[1]["end"] == rows[1]["t"] + round(float(rows[1]["duration_s"]) * SECOND)
    assert rows[1]["top"] == "speed,vibration"
    assert [(e.asset, e.is_open) for e in plant.engine.recent_events] == [("pump-0", False)]
    stats = plant.engine.stats["m"]
    assert (stats.events_total, stats.events_open) == (1, 0)


def test_status_says_ok_anomaly_or_unknown(folder: Path) -> None:
    plant = Plant(folder, assets=3)
    frame = Frame.concatenate([plant.frame("pump-0", 1.0), plant.frame("pump-1", 20.0)])
    play(plant.engine, seconds([frame] * 12))
    assert [s.state for s in plant.engine.status()["m"]] == ["ok", "anomaly", "unknown"]
    assert plant.engine.status()["m"][1].top == "speed,vibration"


def test_bad_quality_makes_the_score_unknown_and_neither_opens_nor_closes(folder: Path) -> None:
    plant = Plant(folder, assets=1)
    high, bad = plant.all(20.0), plant.all(0.0, Quality.BAD_NO_COMMUNICATION)
    made = play(plant.engine, seconds([high] * 10 + [bad] * 20))
    assert np.isnan(scores_of(made, plant.table, "pump-0")[-1])
    assert plant.engine.status()["m"][0].state == "anomaly"
    assert [e.is_open for e in plant.engine.recent_events] == [True]


def test_silence_makes_the_score_unknown_after_three_periods(folder: Path) -> None:
    plant = Plant(folder, assets=1)
    made = play(plant.engine, seconds([plant.all(1.0)] * 8 + [EMPTY_FRAME] * 8))
    known = np.isfinite(scores_of(made, plant.table, "pump-0")).tolist()
    # Samples until 7.5; columns are valid until 10, so at 12 two of five are missing.
    assert known == [False, True, True, True, True, False, False]


def test_a_tag_with_a_deadband_may_be_silent_until_its_report_is_due(folder: Path) -> None:
    plant = Plant(folder, assets=0)
    plant.add("pump-0", deadband=0.1)
    made = play(plant.engine, seconds([plant.all(1.0)] + [EMPTY_FRAME] * 80))
    known = np.isfinite(scores_of(made, plant.table, "pump-0"))
    assert known[3:30].all()
    assert not known[35:].any()


def test_nan_from_the_model_is_unknown_and_counted(folder: Path) -> None:
    plant = Plant(folder, assets=2)
    frame = Frame.concatenate([plant.frame("pump-0", 1.0), plant.frame("pump-1", 900.0)])
    made = play(plant.engine, seconds([frame] * 12))
    assert np.isfinite(scores_of(made, plant.table, "pump-0")[2:]).all()
    assert np.isnan(scores_of(made, plant.table, "pump-1")).all()
    assert made[-2][0].quality.tolist() == [Quality.GOOD, Quality.BAD]
    assert plant.engine.stats["m"].windows_unknown_total == 2 + 4
    assert not plant.engine.recent_events


def test_a_run_that_fails_is_counted_said_once_and_after_three_the_model_rests(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plant = Plant(folder, assets=1)
    play(plant.engine, seconds([plant.all(1.0)] * 8))
    runner = plant.engine.served("m").active.bundle.runner

    class Broken:
        def run_with_iobinding(self, _binding: object) -> None:
            raise RuntimeError("out of memory")

    monkeypatch.setattr(runner, "_session", Broken())
    with caplog.at_level(logging.ERROR):
        made = play(plant.engine, seconds([plant.all(1.0)] * 8, START + 8.5))
    assert np.isnan(scores_of(made, plant.table, "pump-0")).all()
    stats = plant.engine.stats["m"]
    assert (stats.runs_failed_total, stats.state, stats.active) == (3, "quarantined", False)
    assert stats.error_last == "the run failed: out of memory"
    assert [r.getMessage() for r in caplog.records] == [
        "model.run_failed model=m error=the run failed: out of memory",
        "model.quarantined model=m failures=3",
    ]
    assert {int(q) for scores, _ in made for q in scores.quality} == {Quality.BAD}


def test_a_bad_bundle_is_said_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = write_bundle(tmp_path / "good")
    bad = write_bundle(tmp_path / "bad")
    (bad / "model.onnx").write_bytes(b"no model")
    table = TagTable()
    for field in FIELDS:
        table.add(make_tag(f"p.{field}"))
    models = [
        ModelSettings(name="bad", bundle=bad),
        ModelSettings(name="gone", bundle=tmp_path / "gone"),
        ModelSettings(name="m", bundle=good.relative_to(tmp_path)),
    ]
    engine = Engine(models, table, tmp_path)
    assert [engine.stats[name].active for name in ("bad", "gone", "m")] == [False, False, True]
    assert "sha256" in engine.stats["bad"].error_last
    assert sum("model.bundle_invalid" in r.getMessage() for r in caplog.records) == 2
    ids = np.array([0, 1], np.int32)
    made = play(engine, seconds([Frame.of(0, ids, np.array([1.0, 1.0]))] * 8))
    assert scores_of(made, table, "p")[-1] == pytest.approx(0.2)


def test_foreign_tags_pass_by(folder: Path) -> None:
    """Other assets, classes and fields, strings, and the engine's own derived tags."""
    plant = Plant(folder, assets=1)
    ours = plant.all(1.0)
    plant.engine.apply(ours, START * SECOND)
    other = [
        plant.table.add(make_tag("valve-1.speed", asset_class="valve")),
        plant.table.add(make_tag("pump-0.colour")),
        plant.table.id_of("pump-0.m.score"),
    ]
    noise = Frame.of(0, np.array(other, np.int32), np.array([1e9, np.nan, 77.0]), exact={1: "red"})
    made = play(plant.engine, seconds([Frame.concatenate([ours, noise])] * 10))
    assert scores_of(made, plant.table, "pump-0")[-1] == pytest.approx(0.2)
    assert plant.engine.stats["m"].assets == 1


def test_a_tag_in_another_unit_is_not_scored(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plant = Plant(folder, assets=0)
    plant.add("pump-0", eng_unit="in/s")
    made = play(plant.engine, seconds([plant.all(1.0)] * 10))
    assert scores_of(made, plant.table, "pump-0") == []
    assert "model.unit_differs model=m tag=pump-0.speed unit=in/s fitted_in=mm/s" in caplog.text


def test_an_asset_may_appear_while_running_and_disturbs_no_other(folder: Path) -> None:
    plant = Plant(folder, assets=1)
    alone = play(plant.new_engine(), seconds([plant.all(1.0 + i) for i in range(30)]))
    made = play(plant.engine, seconds([plant.all(1.0 + i) for i in range(10)]))
    for i in range(20):  # more than the rings had room for
        plant.add(f"late-{i}")
    turns = seconds([plant.all(1.0 + i) for i in range(10, 30)], START + 10.5)
    made += play(plant.engine, turns)
    assert scores_of(made, plant.table, "pump-0") == pytest.approx(
        scores_of(alone, plant.table, "pump-0"), nan_ok=True, abs=0, rel=0
    )
    assert np.isfinite(scores_of(made, plant.table, "late-19")[-5:]).all()
    assert plant.engine.stats["m"].assets == 21


def test_a_full_tag_table_refuses_the_asset_not_the_turn(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = TagTable(tags_max=2)
    for field in FIELDS:
        table.add(make_tag(f"p.{field}"))
    engine = Engine([ModelSettings(name="m", bundle=folder)], table, Path())
    frame = Frame.of(0, np.array([0, 1], np.int32), np.array([1.0, 1.0]))
    assert play(engine, seconds([frame] * 4))[-1] == (EMPTY_FRAME, EMPTY_FRAME)
    assert caplog.text.count("model.asset_refused") == 1


def test_a_gap_is_worked_off_as_if_the_gateway_had_turned_all_along(folder: Path) -> None:
    plant = Plant(folder)
    before = seconds([plant.all(3.0)] * 10)
    after = seconds([plant.all(4.0)] * 10, START + 40.5)
    idle = seconds([EMPTY_FRAME] * 30, START + 10.5)
    assert as_rows(play(plant.new_engine(), before + after), plant.table) == as_rows(
        play(plant.new_engine(), before + idle + after), plant.table
    )


def test_a_gap_of_days_costs_a_bounded_number_of_ticks(folder: Path) -> None:
    plant = Plant(folder, assets=1)
    play(plant.engine, seconds([plant.all(20.0)] * 10))
    week = 7 * 86400
    made = play(plant.engine, seconds([plant.all(20.0)] * 10, START + week + 0.5))
    scores = scores_of(made, plant.table, "pump-0")
    assert len(scores) < 60
    assert np.isfinite(scores[-3:]).all()
    assert np.isnan(scores[:-5]).all()
    assert plant.engine.stats["m"].events_total == 1


def test_a_clock_set_back_goes_on_from_there(folder: Path) -> None:
    plant = Plant(folder, assets=1)
    play(plant.engine, seconds([plant.all(20.0)] * 10))
    made = play(plant.engine, seconds([plant.all(1.0)] * 20, START - 3600 + 0.5))
    scores = scores_of(made, plant.table, "pump-0")
    assert len(scores) >= 9
    assert np.isfinite(scores).all()
    assert all(t % SECOND == 0 for found, _ in made for t in found.t_ns)
    [event] = plant.engine.recent_events
    assert not event.is_open
    assert event.duration_s == 0.0  # it ended before it began, by the clock


def test_a_restored_event_closes_though_the_clock_was_set_back_before_it(folder: Path) -> None:
    plant = Plant(folder, assets=1)
    made = play(plant.engine, seconds([plant.all(20.0)] * 10, START + 100.5))
    again = plant.new_engine()
    again.restore_events(Frame.concatenate([events for _, events in made]))
    again.apply(EMPTY_FRAME, (START + 120) * SECOND)
    play(again, seconds([plant.all(1.0)] * 20, START - 3600 + 0.5))
    assert [event.is_open for event in again.recent_events] == [False]


def test_top_names_only_fields_with_a_share_worth_naming(folder: Path) -> None:
    plant = Plant(folder, assets=1)
    ids = np.array([plant.table.id_of(f"pump-0.{field}") for field in FIELDS], np.int32)
    play(plant.engine, seconds([Frame.of(0, ids, np.array([2.0, 40.0]))] * 10))
    assert [event.top for event in plant.engine.recent_events] == ["vibration"]


def test_a_batch_mate_changes_no_bit_of_a_score(folder: Path) -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(0, 5, 40)
    alone = Plant(folder, assets=1)
    crowd = Plant(folder, assets=19)
    made_alone = play(alone.engine, seconds([alone.all(v) for v in values]))
    turns = []
    for v in values:
        rest = [crowd.frame(f"pump-{i}", float(rng.normal(0, 50))) for i in range(1, 19)]
        turns.append(Frame.concatenate([crowd.frame("pump-0", v), *rest]))
    made_crowd = play(crowd.engine, seconds(turns))
    assert (
        np.array(scores_of(made_alone, alone.table, "pump-0")).tobytes()
        == np.array(scores_of(made_crowd, crowd.table, "pump-0")).tobytes()
    )


def random_turns(plant: Plant, rng: np.random.Generator, n: int) -> list[Turn]:
    """Irregular turns: some assets, some bad, some empty, some gaps, levels that come and go.

    The first asset's events outlast the horizon, the others' are shorter than it.
    """
    now_ns = START * SECOND
    turns = []
    for _ in range(n):
        now_ns += int(rng.choice([10, 200, 500, 1000, 1000, 7000], p=[0.1, 0.2, 0.3, 0.2, 0.18, 0.02]) * 1e6)  # fmt: skip  # noqa: E501 - one table
        frames = []
        for i in range(3):
            if rng.random() < 0.7:
                phase_s = 300 if i == 0 else 40
                level = 20.0 if (now_ns // (phase_s * SECOND) + i) % 3 == 0 else 2.0
                bad = Quality.BAD_TIMEOUT if rng.random() < 0.03 else 0
                frames.append(plant.frame(f"pump-{i}", level * rng.uniform(0.5, 1.1), bad))
        turns.append(stamped(Frame.concatenate(frames), now_ns))
    return turns


def test_the_same_turns_give_the_same_bits(folder: Path) -> None:
    plant = Plant(folder)
    turns = random_turns(plant, np.random.default_rng(1), 600)
    first = play(plant.engine, turns)
    assert sum(len(events) for _, events in first) > 6
    assert as_bytes(first) == as_bytes(play(plant.new_engine(), turns))


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 10_000), cut=st.floats(0.4, 0.9), slack=st.integers(0, 50))
def test_after_a_crash_a_replay_of_the_horizon_goes_on_to_the_bit(
    folder: Path, seed: int, cut: float, slack: int
) -> None:
    """Events restored from their newest samples, then `horizon_ns` of turns; empty ones are not
    in the raw lane, so they are not replayed.
    """
    plant = Plant(folder)
    turns = random_turns(plant, np.random.default_rng(seed), 1500)
    crash = int(cut * len(turns))
    made = play(plant.engine, turns)
    again = plant.new_engine()
    tail = Frame.concatenate([events for _, events in made[:crash]])
    again.restore_events(tail.rows(max(0, len(tail) - 101), len(tail)))
    since_ns = turns[crash - 1][1] - again.horizon_ns - slack * SECOND
    play(again, [turn for turn in turns[:crash] if turn[1] >= since_ns and len(turn[0])])
    # What an empty turn made is made again by the next that is not: compare once both have.
    live = play(again, turns[crash:])
    wanted = as_rows(made[crash:], plant.table)
    got = as_rows(live, plant.table)
    assert got[len(got) - len(wanted) :] == wanted
    assert len(got) - len(wanted) <= 3 * 3
    assert again.stats["m"].events_open == plant.engine.stats["m"].events_open
    assert {(e.asset, e.start_ns) for e in again.recent_events} <= {
        (e.asset, e.start_ns) for e in plant.engine.recent_events
    }


def test_a_record_cut_off_by_the_spools_tail_is_left_out(folder: Path) -> None:
    plant = Plant(folder, assets=1)
    made = play(plant.engine, seconds([plant.all(20.0)] * 10))
    events = Frame.concatenate([frame for _, frame in made])
    again = plant.new_engine()
    again.restore_events(events.rows(1, len(events)))
    assert not again.recent_events
    again.restore_events(events)
    assert [e.is_open for e in again.recent_events] == [True]


def test_the_horizon_covers_window_rows_age_and_updates(folder: Path) -> None:
    plant = Plant(folder, open_after=4, close_after=7)
    window_s, rows_s, hop_s, age_s, report_s, update_s = WINDOW, 7 * HOP, HOP, 3, 60, 60
    assert plant.engine.horizon_ns >= (
        (window_s + rows_s + hop_s + age_s + report_s + update_s) * SECOND
    )


def test_a_bundle_says_what_opens_an_event_and_the_model_may_say_otherwise(folder: Path) -> None:
    manifest = folder / "bundle.toml"
    text = manifest.read_text().replace("format = 1", "format = 2")
    manifest.write_text(text + "[events]\nopen_after = 3\nclose_after = 2\nclose_below = 0.5\n")
    for facts, hops in (({}, 3), ({"open_after": 1}, 1)):
        plant = Plant(folder, assets=1, **facts)
        made = play(plant.engine, seconds([plant.all(20.0)] * 30))
        known = [i for i, (scores, _) in enumerate(made) if np.isfinite(scores.values).any()]
        opened = next(i for i, (_, events) in enumerate(made) if len(events))
        assert opened == known[hops - 1]


def test_closed_it_scores_no_more(folder: Path) -> None:
    plant = Plant(folder, assets=1)
    with plant.engine as engine:
        pass
    assert play(engine, seconds([plant.all(1.0)] * 5))[-1] == (EMPTY_FRAME, EMPTY_FRAME)
    assert not engine.stats["m"].active


def test_onnx_runtime_is_loaded_only_with_a_model() -> None:
    """A gateway without a model does not pay for one, in memory or in start-up time."""
    program = (
        "import sys, gateway.inference, gateway.inference.config, gateway.inference.engine\n"
        "from gateway.tag import TagTable\n"
        "from pathlib import Path\n"
        "gateway.inference.engine.Engine([], TagTable(), Path())\n"
        "assert 'onnxruntime' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_model_of_three_features_watches_three(tmp_path: Path) -> None:
    fields = ("speed", "vibration", "flow")
    folder = write_bundle(tmp_path / "three", make_model(features=3), fields=fields)
    plant = Plant(folder, assets=1)
    flow = plant.table.add(make_tag("pump-0.flow"))
    half = plant.all(1.0)
    made = play(plant.new_engine(), seconds([half] * 10))
    assert np.isnan(scores_of(made, plant.table, "pump-0")).all()
    whole = Frame.concatenate([plant.frame("pump-0", 1.0), Frame.of(0, np.array([flow], np.int32), np.array([4.0]))])  # fmt: skip  # noqa: E501
    made = play(plant.new_engine(), seconds([whole] * 10))
    assert scores_of(made, plant.table, "pump-0")[-1] == pytest.approx(0.6)


HEALTHY = """[feature.healthy]
low = 0.5
high = 2.5
noise = 0.1
step_max = 0.4
flat_max = 0
deciles = [1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8]
"""


@pytest.fixture
def knowing(tmp_path: Path) -> Path:
    """A bundle that knows what is healthy: it can tell a sensor's fault."""
    folder = write_bundle(tmp_path / "knowing", format="2")
    text = (folder / "bundle.toml").read_text()
    parts = text.split("[[golden]]")
    first, second = parts[0].rsplit("[[feature]]", 1)
    text = f"{first}{HEALTHY}[[feature]]{second}{HEALTHY}[[golden]]{parts[1]}"
    (folder / "bundle.toml").write_text(text)
    return folder


def lively(plant: Plant, rng: np.random.Generator, asset: str, **stuck: float) -> Frame:
    """Healthy values of an asset, but for the fields that are named."""
    ids = np.array([plant.table.id_of(f"{asset}.{f}") for f in FIELDS], np.int32)
    values = np.array([stuck.get(f, rng.normal(1.5, 0.1)) for f in FIELDS])
    return Frame.of(0, ids, values)


def sensor_records(made: Iterable[Made], table: TagTable) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for _, frame in made:
        rows = [
            row for row in range(len(frame)) if ".sensor." in table[int(frame.tag_ids[row])].name
        ]
        for chunk in range(0, len(rows), 4):
            record = {table[int(frame.tag_ids[r])].field: frame.value(r) for r in rows[chunk : chunk + 4]}  # fmt: skip  # noqa: E501
            found.append(record | {"t": int(frame.t_ns[rows[chunk]])})
    return found


def test_a_sensor_that_sticks_is_no_machine_fault(knowing: Path) -> None:
    plant = Plant(knowing, assets=2)
    rng = np.random.default_rng(1)
    turns = [
        Frame.concatenate(
            [
                lively(plant, rng, "pump-0", **({"speed": 900.0} if 100 <= i < 160 else {})),
                lively(plant, rng, "pump-1"),
            ]
        )
        for i in range(260)
    ]
    made = play(plant.engine, seconds(turns))
    rows = sensor_records(made, plant.table)
    assert [row["state"] for row in rows] == ["open", "closed"]
    assert rows[-1]["faults"] == "speed out of range"
    assert {row["t"] for row in rows} == {(START + 102) * SECOND}
    assert not plant.engine.recent_events
    qualities = [int(q) for scores, _ in made[104:160] for q in scores.quality]
    assert set(qualities) == {Quality.BAD_SENSOR_FAILURE, Quality.GOOD}
    assert np.isnan(scores_of(made[104:160], plant.table, "pump-0")).all()
    assert np.isfinite(scores_of(made[20:], plant.table, "pump-1")).all()
    stats = plant.engine.stats["m"]
    assert (stats.sensor_faults, stats.sensor_faults_total) == (0, 1)
    assert stats.windows_gated_total > 20


def test_status_names_the_sensor_that_is_not_believed(knowing: Path) -> None:
    plant = Plant(knowing, assets=1)
    rng = np.random.default_rng(1)
    play(plant.engine, seconds([lively(plant, rng, "pump-0", vibration=1.5) for _ in range(60)]))
    [status] = plant.engine.status()["m"]
    assert (status.state, status.sensor) == ("sensor", "vibration frozen")


def test_a_value_outside_of_the_tags_own_range_is_not_believed(knowing: Path) -> None:
    plant = Plant(knowing, assets=1)
    rng = np.random.default_rng(1)
    turns = [lively(plant, rng, "pump-0") for _ in range(60)]
    quality = np.array([Quality.UNCERTAIN_RANGE, Quality.GOOD], np.uint8)
    outside = [Frame(f.t_ns, f.tag_ids, f.values, quality) for f in turns]
    made = play(plant.engine, seconds(turns + outside[:6] + turns))
    rows = sensor_records(made, plant.table)
    assert [row["faults"] for row in rows] == ["speed out of range"] * 2


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 10_000), cut=st.floats(0.5, 0.9))
def test_after_a_crash_sensor_events_go_on_to_the_bit(knowing: Path, seed: int, cut: float) -> None:
    rng = np.random.default_rng(seed)
    plant = Plant(knowing, assets=2)
    stuck: dict[int, dict[str, float]] = {}
    for asset in range(2):
        for _ in range(4):
            at, field = int(rng.integers(0, 900)), FIELDS[rng.integers(2)]
            value = float(rng.choice([1.5, 900.0]))
            for i in range(at, at + int(rng.integers(10, 300))):
                stuck.setdefault(asset * 1000 + i, {})[field] = value
    frames = [
        Frame.concatenate(
            [lively(plant, rng, f"pump-{a}", **stuck.get(a * 1000 + i, {})) for a in range(2)]
        )
        for i in range(1000)
    ]
    turns = seconds(frames)
    made = play(plant.engine, turns)
    crash = int(cut * len(turns))
    again = plant.new_engine()
    again.restore_events(Frame.concatenate([events for _, events in made[:crash]]))
    since_ns = turns[crash - 1][1] - again.horizon_ns
    play(again, [turn for turn in turns[:crash] if turn[1] >= since_ns])
    live = play(again, turns[crash:])
    assert as_rows(live, plant.table) == as_rows(made[crash:], plant.table)
    assert sensor_records(made, plant.table)


def test_a_backlog_is_not_taken_for_the_present(folder: Path) -> None:
    """A broker gives what it kept in one go: an hour of high values, while now all is quiet."""
    plant = Plant(folder, assets=2)
    quiet = seconds([plant.all(1.0)] * 20)
    made = play(plant.engine, quiet)
    backlog = [
        Frame.of((START - 3600 + s) * SECOND, f.tag_ids, f.values)
        for s in range(600)
        for f in [plant.frame("pump-0", 90.0)]
    ]
    came = Frame.concatenate(backlog)
    made += play(plant.engine, [(came, (START + 20) * SECOND)])
    made += play(plant.engine, seconds([plant.all(1.0)] * 20, START + 20.5))
    assert np.nanmax(scores_of(made, plant.table, "pump-0")) < 1
    assert np.isfinite(scores_of(made[10:], plant.table, "pump-0")).all()
    assert plant.engine.stats["m"].samples_late_total == 1200


def test_while_only_old_samples_come_the_score_is_not_known(folder: Path) -> None:
    plant = Plant(folder, assets=1)
    old = [
        (Frame.of(now_ns - 30 * SECOND, frame.tag_ids, frame.values), now_ns)
        for frame, now_ns in seconds([plant.all(90.0)] * 30)
    ]
    made = play(plant.engine, old)
    assert np.isnan(scores_of(made, plant.table, "pump-0")).all()
    assert not plant.engine.recent_events


def test_a_sample_that_overtook_an_older_one_stays(folder: Path) -> None:
    plant = Plant(folder, assets=1)
    turns = []
    for frame, now_ns in seconds([plant.all(1.0)] * 20):
        before = Frame.of(now_ns - SECOND // 2, frame.tag_ids, frame.values * 90)
        turns += [(frame, now_ns), (before, now_ns + 10**6)]
    assert np.nanmax(scores_of(play(plant.engine, turns), plant.table, "pump-0")) < 1


def test_a_clock_ahead_of_ours_is_no_reason_to_doubt_a_sample(folder: Path) -> None:
    plant = Plant(folder, assets=1)
    ahead = [
        (Frame.of(now_ns + 3600 * SECOND, frame.tag_ids, frame.values), now_ns)
        for frame, now_ns in seconds([plant.all(1.0)] * 20)
    ]
    made = play(plant.engine, ahead + [(EMPTY_FRAME, t + 20 * SECOND) for _, t in ahead])
    known = np.isfinite(scores_of(made, plant.table, "pump-0"))
    assert known[3:9].all()
    assert not known[15:].any()  # nor for believing it an hour longer
