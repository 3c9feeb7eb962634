"""A backtest is the live run once more: the same stages, the same scores, to the bit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gateway.backtest.replay import Outcome, Replay
from gateway.cli.export import export
from gateway.clock import ManualClock
from gateway.config.load import Config
from gateway.errors import RecordingInvalid, SluicegateError
from gateway.frame import Arrival, Frame, Lane
from gateway.inference.engine import Engine
from gateway.recordings import RecordingOptions
from gateway.spool.history import History
from gateway.spool.log import Spool
from gateway.tag import TagTable
from gateway.turns import Turns

Make = Callable[..., Config]
SECOND = 10**9
START_NS = 1_767_225_600 * SECOND
EVER = (0, 2**62)


def run_live(config: Config, seconds: int = 300, seed: int = 1) -> Path:
    """What a gateway does with a few minutes of both pumps: bad samples, gaps, idle turns."""
    random = np.random.default_rng(seed)
    directory = config.settings.gateway.data_dir / "spool"

    async def live() -> None:
        table = TagTable()
        ids = np.array([table.add(tag) for tag in config.tags], np.int32)
        settings = config.settings
        report_s = settings.gateway.deadband_report
        engine = Engine(settings.models, table, config.directory, deadband_report_s=report_s)
        turns = Turns(table, settings.aggregates, report_s, engine)
        clock = ManualClock()
        async with Spool.open(directory, settings.gateway.spool, table, clock) as spool:
            now_ns = START_NS
            level = np.full(len(ids), 40.0)
            for step in range(seconds * 4):
                now_ns += int(random.integers(240, 260)) * SECOND // 1000
                arrivals = []
                if random.random() < 0.5 and not 150 < step / 4 < 170:
                    level += random.normal(size=len(ids)) * 3
                    quality = random.choice([0] * 60 + [0x40, 0x81], len(ids))
                    taken_ns = now_ns - int(random.choice([2, 20, 20, 900, 5000])) * SECOND // 1000
                    frame = Frame.of(
                        taken_ns, ids, np.round(level), quality.astype(np.uint8)
                    ).where(random.random(len(ids)) < 0.9)
                    arrivals = [Arrival(frame)]
                durable = spool.append(turns.turn(arrivals, now_ns))
            await durable

    asyncio.run(live())
    return directory


def stored_scores(directory: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    table = TagTable()
    frame = History.open_readonly(directory, table).query_now(["*"], *EVER, lane=Lane.SCORE)
    return {
        table[i].asset: (frame.t_ns[frame.tag_ids == i], frame.values[frame.tag_ids == i])
        for i in np.unique(frame.tag_ids).tolist()
    }


def replayed(config: Config, directory: Path) -> Outcome:
    replay = Replay(config)
    return replay.run(replay.spooled(directory, *EVER))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_spool_replayed_gives_the_scores_of_the_live_run_to_the_bit(
    make_config: Make, seed: int
) -> None:
    config = make_config()
    directory = run_live(config, seed=seed)
    live, outcome = stored_scores(directory), replayed(config, directory)
    assert sorted(live) == [scores.asset for scores in outcome.scores] == ["pump-1", "pump-2"]
    for scores in outcome.scores:
        t_ns, values = live[scores.asset]
        both = slice(np.searchsorted(t_ns, scores.t_ns[0]), None)
        n = min(len(t_ns[both]), len(scores.t_ns))  # the gateway may have idled on
        assert np.array_equal(t_ns[both][:n], scores.t_ns[:n])
        assert values[both][:n].tobytes() == scores.values[:n].tobytes()
        assert np.isfinite(values).sum() > 50
        assert np.isnan(values[both]).any()


def test_an_export_of_the_spool_gives_the_same_scores(make_config: Make, tmp_path: Path) -> None:
    """Times of samples stand for times of arrival, so only prompt samples are compared."""
    config = make_config()
    table = TagTable()
    ids = [table.add(tag) for tag in config.tags]
    random = np.random.default_rng(4)
    level = np.cumsum(random.normal(size=(200, len(ids))), axis=0) + 5
    frames = [
        Frame.of(START_NS + i * SECOND + 7, np.array(ids, np.int32), level[i]) for i in range(200)
    ]
    export(frames, table, "csv", str(tmp_path / "r.csv"))
    export(frames, table, "parquet", str(tmp_path / "r.parquet"))
    found = []
    for name in ("r.csv", "r.parquet"):
        replay = Replay(config)
        _, turns = replay.recorded(tmp_path / name, RecordingOptions())
        outcome = replay.run(turns)
        assert outcome.turns == 200
        found.append([scores.values.tobytes() for scores in outcome.scores])
        assert all(np.isfinite(scores.values).sum() > 90 for scores in outcome.scores)
    assert found[0] == found[1]


def test_alarms_have_the_time_at_which_a_person_would_have_heard(
    make_config: Make, tmp_path: Path
) -> None:
    rows = ["time,pump-1.speed,pump-1.vibration"]
    rows += [f"{1_767_225_600 + i},{40 if 100 <= i < 160 else 1},1" for i in range(300)]
    (tmp_path / "r.csv").write_text("\n".join(rows))
    replay = Replay(make_config())
    outcome = replay.run(replay.recorded(tmp_path / "r.csv", RecordingOptions())[1])
    [alarm] = outcome.alarms
    seconds = (alarm.event.start_ns - START_NS) / SECOND
    assert 100 < seconds <= 106
    assert (alarm.opened_ns - alarm.event.start_ns) == 2 * SECOND  # the second score in a row
    assert not alarm.event.is_open
    assert alarm.event.top == "speed"


def test_what_is_open_in_the_end_lasts_until_then(make_config: Make, tmp_path: Path) -> None:
    rows = ["time,pump-1.speed,pump-1.vibration"]
    rows += [f"{1_767_225_600 + i},{40 if i > 20 else 1},1" for i in range(500)]
    (tmp_path / "r.csv").write_text("\n".join(rows))
    replay = Replay(make_config())
    outcome = replay.run(replay.recorded(tmp_path / "r.csv", RecordingOptions())[1])
    assert outcome.alarms[0].event.is_open
    assert outcome.alarms[0].event.duration_s > 460


def test_a_unit_that_is_not_the_configurations_is_refused(
    make_config: Make, tmp_path: Path
) -> None:
    (tmp_path / "r.csv").write_text("time,pump-1.speed [m/s],pump-1.vibration\n1,2,3\n")
    replay = Replay(make_config())
    with pytest.raises(RecordingInvalid, match="recorded in 'm/s', and configured in 'mm/s'"):
        replay.run(replay.recorded(tmp_path / "r.csv", RecordingOptions())[1])


def test_assets_that_are_not_declared_are_left_out_and_said(
    make_config: Make, tmp_path: Path
) -> None:
    (tmp_path / "r.csv").write_text("time,tag,value\n1,fan-1.speed,3\n1,pump-9.speed,3\n")
    replay = Replay(make_config())
    outcome = replay.run(replay.recorded(tmp_path / "r.csv", RecordingOptions())[1])
    assert "add [[asset]]" in outcome.left_out["fan-1"]
    assert outcome.samples == 1


def test_models_are_chosen_by_name_or_by_bundle(make_config: Make, tmp_path: Path) -> None:
    config = make_config()
    with pytest.raises(SluicegateError, match=r"no \[\[model\]\] nothing.*health"):
        Replay(config, ["nothing"])
    assert list(Replay(config, ["health"]).manifests) == ["health"]
    assert list(Replay(config, bundle=tmp_path / "bundle").manifests) == ["bundle"]
    (tmp_path / "bundle" / "model.onnx").write_bytes(b"")
    with pytest.raises(SluicegateError, match="models check"):
        Replay(config)


def test_tags_are_the_configurations_but_for_their_scaling(make_config: Make) -> None:
    config = make_config()
    replay = Replay(config)
    by_name = {tag.name: tag for tag in config.tags}
    tag = replay.table[replay._adopt(by_name["pump-1.vibration"])]
    assert (tag.scale, tag.offset, tag.deadband) == (1.0, 0.0, 0.05)
    assert by_name["pump-1.vibration"].scale == 0.1
