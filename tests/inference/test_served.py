"""A new bundle beside the old one: compared, promoted without a gap, rolled back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gateway.errors import BundleInvalid, SluicegateError
from gateway.frame import Frame
from gateway.inference.config import ModelSettings
from gateway.inference.engine import Engine
from gateway.inference.served import STANDBY_NS, ServedState
from gateway.tag import TagTable
from tests.inference.bundles import FIELDS, write_bundle
from tests.samples import make_tag

SECOND = 10**9
START = 1_767_225_600


class Rig:
    """Two bundles, an engine on three pumps, and its clock."""

    def __init__(self, tmp_path: Path, **facts: object) -> None:
        self.tmp_path = tmp_path
        self.old = write_bundle(tmp_path / "old")
        self.new = write_bundle(tmp_path / "new", version='"2"')
        self.table = TagTable()
        self.ids = np.array(
            [self.table.add(make_tag(f"pump-{i}.{f}")) for i in range(3) for f in FIELDS], np.int32
        )
        said = {"name": "m", "bundle": self.old, "isolate": "never"} | facts
        self.settings = ModelSettings.model_validate(said)
        self.second = START
        self.engine = self.new_engine()

    def new_engine(self) -> Engine:
        return Engine([self.settings], self.table, Path(), directory=self.tmp_path / "state")

    def play(self, seconds: int, *levels: float) -> list[tuple[int, list[float]]]:
        """Scores by time, each pump at its level; the last level is that of the rest, too."""
        made = []
        for _ in range(seconds):
            self.second += 1
            level = np.repeat([levels[min(i, len(levels) - 1)] for i in range(3)], len(FIELDS))
            frame = Frame.of(self.second * SECOND, self.ids, level)
            scores, _ = self.engine.apply(frame, self.second * SECOND + SECOND // 2)
            if len(scores):
                made.append((int(scores.t_ns[0]) // SECOND, scores.values.tolist()))
        return made

    @property
    def version(self) -> str:
        return self.engine.stats["m"].version

    def start_shadow(self, path: Path | None = None) -> None:
        self.engine.offer("m", self.engine.load("m", path or self.new))


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_a_shadow_is_compared_and_changes_nothing(rig: Rig) -> None:
    alone = [scores for _, scores in rig.play(30, 1.0, 20.0)]
    rig.start_shadow(write_bundle(rig.tmp_path / "low", threshold="3.0", version='"3"'))
    beside = [scores for _, scores in rig.play(30, 1.0, 20.0)]
    assert beside[-1] == alone[-1] == pytest.approx([0.2, 4.0, 4.0])
    stats = rig.engine.stats["m"]
    assert (stats.version, stats.shadow_version) == ("1", "3")
    assert stats.shadow_windows_total == stats.shadow_agreed_total > 20
    rig.play(30, 2.0, 20.0)  # 4 of 10, and of 3
    assert stats.shadow_agreed_total < stats.shadow_windows_total
    assert {event.asset for event in rig.engine.recent_events} == {"pump-1", "pump-2"}


def test_a_promotion_leaves_no_gap_and_no_second_event(rig: Rig) -> None:
    rig.play(30, 1.0, 20.0)
    rig.start_shadow()
    rig.play(30, 1.0, 20.0)
    events = list(rig.engine.recent_events)
    rig.engine.served("m").promote()
    times = [t for t, scores in rig.play(30, 1.0, 20.0) if np.isfinite(scores).all()]
    assert rig.version == "2"
    assert times == list(range(times[0], times[0] + 30, 2))
    assert [(e.asset, e.start_ns) for e in rig.engine.recent_events] == [
        (e.asset, e.start_ns) for e in events
    ]
    rig.play(30, 1.0)
    assert not any(event.is_open for event in rig.engine.recent_events)
    stats = rig.engine.stats["m"]
    assert (stats.events_open, stats.events_total, stats.standby_version) == (0, 2, "1")


def test_an_event_that_only_the_shadow_had_open_is_told_when_it_takes_over(rig: Rig) -> None:
    rig.start_shadow(write_bundle(rig.tmp_path / "low", threshold="3.0", version='"3"'))
    rig.play(30, 2.0, 1.0)
    assert not rig.engine.recent_events
    rig.engine.served("m").promote()
    rig.play(4, 2.0, 1.0)
    assert [(e.asset, e.is_open) for e in rig.engine.recent_events] == [("pump-0", True)]


def test_what_was_promoted_is_at_work_after_a_restart_and_a_new_configuration_wins(
    rig: Rig,
) -> None:
    rig.start_shadow()
    rig.play(10, 1.0)
    rig.engine.served("m").promote()
    rig.play(2, 1.0)
    rig.engine.close()
    rig.engine = rig.new_engine()
    assert rig.version == "2"
    other = write_bundle(rig.tmp_path / "other", version='"9"')
    rig.settings = rig.settings.model_copy(update={"bundle": other})
    assert rig.new_engine().stats["m"].version == "9"


def test_a_shadow_goes_on_after_a_restart_with_its_figures(rig: Rig) -> None:
    rig.start_shadow()
    rig.play(60, 1.0)
    rig.engine.served("m").state.save(rig.tmp_path / "state" / "m.json")
    before = rig.engine.stats["m"].shadow_windows_total
    rig.engine.close()
    rig.engine = rig.new_engine()
    rig.play(4, 1.0)
    stats = rig.engine.stats["m"]
    assert (stats.shadow_version, stats.version) == ("2", "1")
    assert stats.shadow_windows_total >= before


def test_a_promoted_bundle_that_is_gone_or_spoilt_gives_way_to_the_configured_one(
    rig: Rig,
) -> None:
    rig.start_shadow()
    rig.play(2, 1.0)
    rig.engine.served("m").promote()
    rig.play(2, 1.0)
    rig.engine.close()
    (rig.new / "model.onnx").write_bytes(b"spoilt")
    assert rig.new_engine().stats["m"].version == "1"


def fail_runs(rig: Rig) -> None:
    class Broken:
        def run_with_iobinding(self, _binding: object) -> None:
            raise RuntimeError("spoilt")

    rig.engine.served("m").active.bundle.runner._session = Broken()  # type: ignore[union-attr]


def test_one_that_fails_after_its_promotion_is_rolled_back_by_itself(rig: Rig) -> None:
    rig.start_shadow()
    rig.play(20, 1.0)
    rig.engine.served("m").promote()
    rig.play(2, 1.0)
    assert rig.version == "2"
    fail_runs(rig)
    unknown = [t for t, scores in rig.play(20, 1.0) if np.isnan(scores).any()]
    assert rig.version == "1"
    assert len(unknown) == 3
    assert json.loads((rig.tmp_path / "state" / "m.json").read_text())["active"] == ""
    assert rig.engine.stats["m"].state == "running"


def test_going_back_is_possible_for_a_while(rig: Rig) -> None:
    served = rig.engine.served("m")
    with pytest.raises(SluicegateError, match="nothing to go back to"):
        served.roll_back()
    rig.start_shadow()
    rig.play(20, 1.0)
    served.promote()
    rig.play(2, 1.0)
    served.roll_back()
    assert all(np.isfinite(scores).all() for _, scores in rig.play(20, 1.0))
    assert rig.version == "1"
    rig.start_shadow()
    rig.play(2, 1.0)
    served.promote()
    rig.play(2, 1.0)
    rig.second += STANDBY_NS // SECOND
    rig.play(2, 1.0)
    with pytest.raises(SluicegateError):
        served.roll_back()


def test_a_shadow_that_fails_is_dropped_and_the_old_one_goes_on(rig: Rig) -> None:
    rig.start_shadow()
    rig.play(20, 1.0)

    class Broken:
        def run_with_iobinding(self, _binding: object) -> None:
            raise RuntimeError("spoilt")

    served = rig.engine.served("m")
    assert served.beside is not None
    served.beside.bundle.runner._session = Broken()  # type: ignore[union-attr]
    assert all(np.isfinite(scores).all() for _, scores in rig.play(20, 1.0))
    stats = rig.engine.stats["m"]
    assert (stats.shadow_version, stats.shadow_error) == ("", "the run failed: spoilt")


def test_a_bad_bundle_is_refused_and_the_old_one_never_notices(rig: Rig) -> None:
    rig.play(10, 1.0)
    (rig.new / "model.onnx").write_bytes(b"spoilt")
    with pytest.raises(BundleInvalid):
        rig.start_shadow()
    assert all(np.isfinite(scores).all() for _, scores in rig.play(10, 1.0))


def test_by_the_rule_a_shadow_takes_over_once_it_has_agreed_long_enough(tmp_path: Path) -> None:
    rig = Rig(tmp_path, promote="auto", shadow_for=60.0, shadow=tmp_path / "new")
    rig.play(30, 1.0, 20.0)
    assert rig.version == "1"
    assert "of 0.0 h" in rig.engine.stats["m"].shadow_error
    rig.play(40, 1.0, 20.0)
    assert rig.version == "2"


@pytest.mark.parametrize(
    ("levels", "objection"), [((2.0, 2.0), "it agrees in"), ((2.0, 1.0), "it agrees in")]
)
def test_by_the_rule_one_that_disagrees_does_not(
    tmp_path: Path, levels: tuple[float, ...], objection: str
) -> None:
    low = write_bundle(tmp_path / "low", threshold="3.0", version='"3"')
    rig = Rig(tmp_path, promote="auto", shadow_for=60.0, shadow=low)
    rig.play(100, *levels)
    assert rig.version == "1"
    assert objection in rig.engine.stats["m"].shadow_error


def test_by_the_rule_one_that_alarms_more_often_than_it_states_does_not(tmp_path: Path) -> None:
    low = write_bundle(tmp_path / "low", threshold="3.0", version='"3"')
    rig = Rig(tmp_path, promote="auto", shadow_for=60.0, agreement_min=0.0, shadow=low)
    rig.play(100, 2.0)
    assert rig.version == "1"
    assert "it alone opened 3 events" in rig.engine.stats["m"].shadow_error


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"active": 7}', '{"windows": "many"}'])
def test_a_spoilt_state_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    file = tmp_path / "m.json"
    file.write_text(content)
    assert ServedState.load(file) == ServedState()


def test_nothing_to_promote_is_said(rig: Rig) -> None:
    for ask in (rig.engine.served("m").promote, rig.engine.served("m").end_shadow):
        with pytest.raises(SluicegateError, match="no shadow"):
            ask()
    with pytest.raises(SluicegateError, match="'x'"):
        rig.engine.served("x")


def test_a_model_whose_bundle_is_bad_gets_one_that_is_offered(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.engine.close()
    (rig.old / "model.onnx").write_bytes(b"spoilt")
    rig.engine = rig.new_engine()
    assert not rig.engine.stats["m"].active
    rig.start_shadow()
    assert np.isfinite([scores for _, scores in rig.play(20, 1.0)][-1]).all()
    assert rig.version == "2"
