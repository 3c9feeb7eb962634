"""`sluicegate backtest` says what the models would have made of a history."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from gateway.cli.main import main
from tests.backtest.conftest import CONFIG, MAP
from tests.inference.bundles import write_bundle

EX_DATA, EX_UNAVAILABLE = 65, 69
START_S = 1_767_225_600
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "plc.csv").write_text(MAP)
    write_bundle(tmp_path / "bundle")
    path = tmp_path / "sluicegate.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Broken twice; the second time it does not show."""
    rows = ["time,pump-1.speed,pump-1.vibration,anomaly"]
    for i in range(600):
        broken, shows = 100 <= i < 160 or 400 <= i < 450, 100 <= i < 160
        rows.append(f"{START_S + i},{40 if shows else 1},1,{int(broken)}")
    path = tmp_path / "history.csv"
    path.write_text("\n".join(rows))
    return path


def test_it_says_what_was_found_how_late_and_what_was_false(
    config: Path, recording: Path, tmp_path: Path, capsys: Capture
) -> None:
    report, scores = tmp_path / "report.html", tmp_path / "scores.csv"
    command = ["backtest", str(config), str(recording)]
    assert main([*command, "--out", str(report), "--scores", str(scores)]) == 0
    said = capsys.readouterr().out
    for words in ("found 1 of 2 faults", "median delay", "0 false alarms", "point by point"):
        assert words in said
    assert "1 of 2" in report.read_text()
    rows = list(csv.DictReader(scores.open()))
    assert len(rows) == 300
    assert {row["asset"] for row in rows} == {"pump-1"}
    assert rows[0]["score"] == ""
    assert max(float(row["score"] or 0) for row in rows) == pytest.approx(4.1)


def test_for_programs_it_prints_json(config: Path, recording: Path, capsys: Capture) -> None:
    assert main(["backtest", str(config), str(recording), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    [verdict] = told["verdicts"]
    assert [fault["found"] for fault in verdict["faults"]] == [True, False]
    assert 0 < verdict["faults"][0]["delay_s"] < 15
    assert told["alarms"][0]["top"] == "speed"


def test_labels_may_be_a_file_and_another_bundle_may_be_tried(
    config: Path, recording: Path, tmp_path: Path, capsys: Capture
) -> None:
    write_bundle(tmp_path / "stricter", threshold="1.5")
    labels = tmp_path / "labels.csv"
    labels.write_text(f"start,end\n{START_S + 500},{START_S + 510}\n")
    command = ["backtest", str(config), str(recording), "--labels", str(labels)]
    assert main([*command, "--bundle", str(tmp_path / "stricter")]) == 0
    said = capsys.readouterr().out
    assert "stricter: 1 alarm" in said
    assert "found 0 of 1 faults" in said
    assert "1 false alarm" in said


def test_what_cannot_be_replayed_is_said(
    config: Path, recording: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["backtest", str(config)]) == EX_UNAVAILABLE
    assert "has no samples in that time" in capsys.readouterr().err
    (tmp_path / "other.csv").write_text("time,flow\n1,2\n2,3\n")
    assert main(["backtest", str(config), str(tmp_path / "other.csv")]) == EX_DATA
    assert "none of its tags is wanted here: other.flow" in capsys.readouterr().err
    recording.write_text("time,pump-1.speed\n1,fast\n2,3\n")
    assert main(["backtest", str(config), str(recording)]) == EX_DATA
    assert "'fast' is not a number" in capsys.readouterr().err
    assert main(["backtest", str(config), str(recording), "--model", "x"]) == EX_UNAVAILABLE
    assert "it has health" in capsys.readouterr().err


def test_a_part_of_a_recording_is_named_by_dates(
    config: Path, recording: Path, capsys: Capture
) -> None:
    command = ["backtest", str(config), str(recording), "--json", "--from", "2026-01-01T00:05"]
    assert main([*command, "--to", "2026-01-01T00:07"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["turns"] == 120
    assert main(["backtest", str(config), str(recording), "--from", "5m"]) == EX_UNAVAILABLE
    assert "no time of a recording" in capsys.readouterr().err
