"""Events are held against labels without favour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gateway.backtest.replay import Alarm, Outcome, Scores
from gateway.backtest.report import report_of, totals_of
from gateway.backtest.verdict import Fault, Verdict, faults_of_column, faults_of_file, judge
from gateway.errors import RecordingInvalid
from gateway.inference.events import AnomalyEvent, SensorEvent

SECOND = 10**9
DAY = 86400


def alarm_at(start_s: float, end_s: float, asset: str = "p") -> Alarm:
    event = AnomalyEvent(
        model="m", asset=asset, start_ns=round(start_s * SECOND), end_ns=round(end_s * SECOND),
        is_open=False, peak=2.5, score_last=0.1, top="flow",
    )  # fmt: skip
    return Alarm(event, event.start_ns + SECOND)


def outcome_of(*alarms: Alarm, seconds: int = 2 * DAY, unknown: int = 0) -> Outcome:
    t_ns = np.arange(0, seconds, 10) * SECOND
    values = np.zeros(len(t_ns))
    for alarm in alarms:
        values[(t_ns >= alarm.event.start_ns) & (t_ns <= alarm.event.end_ns)] = 2.0
    values[:unknown] = np.nan
    return Outcome(
        scores=[Scores("m", "p", t_ns, values)], alarms=list(alarms), samples=1, turns=1,
        start_ns=0, end_ns=seconds * SECOND,
    )  # fmt: skip


def verdict_of(outcome: Outcome, faults: list[Fault] | None, window_s: int = 60) -> Verdict:
    [verdict] = judge(outcome, faults, {"m": window_s * SECOND})
    return verdict


def fault(start_s: int, end_s: int, asset: str = "") -> Fault:
    return Fault(asset, start_s * SECOND, end_s * SECOND)


def test_a_fault_is_found_by_the_first_event_that_opens_in_it() -> None:
    outcome = outcome_of(alarm_at(1100, 1200), alarm_at(1300, 1400))
    verdict = verdict_of(outcome, [fault(1000, 1500), fault(5000, 6000)])
    assert [one.delay_s for one in verdict.judged] == [101.0, None]
    assert verdict.false_alarms == []


@pytest.mark.parametrize(
    ("start_s", "false"), [(998, 1), (999, 0), (1500, 0), (1550, 0), (1561, 1), (9000, 1)]
)
def test_an_event_counts_from_the_start_of_a_fault_to_a_window_after_it(
    start_s: int, false: int
) -> None:
    verdict = verdict_of(outcome_of(alarm_at(start_s, 9100)), [fault(1000, 1500)])
    assert len(verdict.false_alarms) == false
    assert (verdict.judged[0].alarm is None) == bool(false)


def test_false_alarms_are_a_day_of_healthy_known_time() -> None:
    outcome = outcome_of(alarm_at(50_000, 50_100), seconds=4 * DAY, unknown=DAY // 10)
    verdict = verdict_of(outcome, [fault(2 * DAY, 3 * DAY)])
    assert verdict.healthy_days == pytest.approx(2, abs=0.01)
    assert verdict.false_alarms_per_day == pytest.approx(0.5, abs=0.01)
    assert verdict.unknown_share == pytest.approx(0.25)
    assert verdict_of(outcome_of(seconds=0), []).false_alarms_per_day is None


def test_points_are_compared_as_they_are() -> None:
    verdict = verdict_of(outcome_of(alarm_at(2000, 2990), seconds=10_000), [fault(1000, 2990)])
    assert verdict.points_missed == pytest.approx(0.5, abs=0.01)
    assert verdict.points_false == 0
    assert verdict.f1 == pytest.approx(2 / 3, abs=0.01)
    assert verdict_of(outcome_of(), None).f1 is None


def test_faults_of_one_asset_are_not_anothers() -> None:
    outcome = outcome_of(alarm_at(1100, 1200))
    assert len(verdict_of(outcome, [fault(1000, 1500, "q")]).false_alarms) == 1
    assert verdict_of(outcome, [fault(1000, 1500, "p")]).false_alarms == []


def test_rows_that_are_labelled_become_faults() -> None:
    t_ns = np.concatenate([np.arange(10), np.arange(100, 110)]).astype(np.int64) * SECOND
    truths = np.zeros(20, np.bool_)
    truths[[2, 3, 4, 8, 9, 10, 11]] = True
    assert faults_of_column(t_ns, truths) == [fault(2, 4), fault(8, 9), fault(100, 101)]
    assert faults_of_column(t_ns, np.zeros(20, np.bool_)) == []


def test_faults_are_read_from_a_table(tmp_path: Path) -> None:
    path = tmp_path / "faults.csv"
    path.write_text("asset,start,end\np,1970-01-01 00:00:10,1970-01-01 00:00:20\n,5,7\n")
    with pytest.raises(RecordingInvalid, match="row 3, column 'start'"):
        faults_of_file(path)  # dates first, then numbers: that is a mistake, not a choice
    path.write_text("asset,start,end\np,10,20\n,5,7\n")
    assert faults_of_file(path) == [fault(5, 7), fault(10, 20, "p")]
    path.write_text("start,end\n7,5\n")
    with pytest.raises(RecordingInvalid, match="row 2: the end is before the start"):
        faults_of_file(path)
    path.write_text("begin,end\n7,9\n")
    with pytest.raises(RecordingInvalid, match="no column start"):
        faults_of_file(path)


def test_the_report_tells_of_all_of_it_and_escapes_texts() -> None:
    outcome = outcome_of(alarm_at(1100, 1200), alarm_at(9000, 9100))
    outcome.sensor_events = [
        SensorEvent(model="m", asset="<b>", start_ns=0, end_ns=9 * SECOND, is_open=False,
                    faults="flow frozen")
    ]  # fmt: skip
    outcome.left_out = {"<script>": "why"}
    faults = [fault(1000, 1500), fault(20_000, 21_000)]
    verdicts = judge(outcome, faults, {"m": 0})
    page = report_of("Backtest", ["<i>"], outcome, verdicts, faults)
    for said in (
        "1 of 2",
        "median delay 1.68 min",
        "missed",
        "false",
        "flow frozen",
        "&lt;script&gt;",
    ):
        assert said in page
    assert "<script" not in page
    totals = totals_of(verdicts)[0]
    assert (totals.found, totals.faults, totals.false_alarms) == (1, 2, 1)
    unlabelled = report_of("Backtest", [], outcome, judge(outcome, None, {}), None)
    assert "nothing is labelled" in unlabelled
