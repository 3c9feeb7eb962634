"""What the detection bench says is what it measures."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import detection
from bench.scoring import Scored, events, nab_gain, nab_score, points, vus_pr
from gateway.inference.fit import FitSettings

SHARED = Path(os.environ.get("SLUICEGATE_SHARED", Path(__file__).parents[2] / "shared"))


def scored(fault: np.ndarray, alarm: np.ndarray) -> Scored:
    return Scored(
        name="",
        t_s=np.arange(len(fault), dtype=np.float64),
        fault=fault,
        alarm=alarm,
        score=alarm.astype(np.float64),
    )


def rows(*spans: tuple[int, int], n: int = 1000) -> np.ndarray:
    found = np.zeros(n, np.bool_)
    for first, last in spans:
        found[first:last] = True
    return found


def test_an_alarm_that_never_ends_finds_no_event() -> None:
    found = [scored(rows((400, 800)), rows((0, 1000)))]
    assert points(found)["FAR %"] == 100
    assert events(found)["event F1"] == 0
    assert events(found)["false alarms/h"] == pytest.approx(6)  # one, in ten minutes


def test_an_event_is_found_by_its_onset_and_its_delay_is_counted() -> None:
    found = events([scored(rows((400, 800)), rows((100, 120), (430, 500), (505, 900)))])
    assert found["found"] == 1
    assert found["delay s, median"] == 30
    assert found["event F1"] == pytest.approx(2 / 3)  # one of two alarms was false


def test_points_are_not_adjusted() -> None:
    found = points([scored(rows((400, 800)), rows((790, 900)))])
    assert found["MAR %"] == pytest.approx(100 * 390 / 400)
    assert found["F1"] == pytest.approx(2 * 10 / (400 + 110))


def test_the_volume_is_one_for_a_score_that_knows_and_low_for_one_that_does_not() -> None:
    fault = rows((400, 800))
    chance = np.random.default_rng(0).random(1000)
    knows, guesses = scored(fault, fault), scored(fault, fault)
    assert vus_pr([knows], 0) == pytest.approx(1.0, abs=1e-3)
    object.__setattr__(guesses, "score", chance)
    assert vus_pr([guesses], 0) < 0.55


def test_nab_pays_for_finding_early_and_charges_for_false_alarms() -> None:
    windows = [(500, 600)]
    gains = [nab_gain(rows((at, at + 1)), windows) for at in (500, 590, 300, 900)]
    scores = [nab_score([gain], [1]) for gain in gains]
    assert scores[0] == pytest.approx(100, abs=0.5)
    assert 50 < scores[1] < 80
    assert scores[2] == pytest.approx(-5.5, abs=0.1)  # -0.11 of 2
    assert nab_score([nab_gain(rows(), windows)], [1]) == 0


def test_other_data_of_the_same_layouts_is_found_and_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    for number in range(2):
        values = 10 + random.normal(size=(800, 2))
        values[550 + 20 * number : 700, 0] += 4
        fault = rows((550 + 20 * number, 700), n=800)
        lines = ["datetime;Torque;Head;anomaly;changepoint"] + [
            f"2026-01-01 00:{k // 60:02}:{k % 60:02};{a:.4f};{b:.4f};{float(f)};0.0"
            for k, ((a, b), f) in enumerate(zip(values, fault, strict=True))
        ]
        folder = tmp_path / "skab" / "my-rig"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.csv").write_text("\n".join(lines))
    tep = tmp_path / "tep"
    tep.mkdir()
    healthy, faulty = random.normal(size=(500, 4)), random.normal(size=(400, 4))
    faulty[160:, 2] += 5
    np.savetxt(tep / "d00.dat", healthy)
    np.savetxt(tep / "d17_te.dat", faulty)
    nab = tmp_path / "nab"
    (nab / "labels").mkdir(parents=True)
    (nab / "plant").mkdir()
    series = random.normal(size=2000)
    series[1500:1600] += 8
    stamps = [
        str(np.datetime64("2026-01-01T00:00:00") + 300 * k).replace("T", " ") for k in range(2000)
    ]
    body = ["timestamp,value", *(f"{s},{v:.4f}" for s, v in zip(stamps, series, strict=True))]
    (nab / "plant" / "press.csv").write_text("\n".join(body))
    label = {"plant/press.csv": [[stamps[1480] + ".000000", stamps[1620] + ".000000"]]}
    (nab / "labels" / "combined_windows.json").write_text(json.dumps(label))

    monkeypatch.setattr(sys, "argv", ["detection", "--data", str(tmp_path)])
    detection.main()
    said = capsys.readouterr().out
    of_rig = next(line for line in said.splitlines() if line.startswith("| my-rig"))
    assert float(of_rig.split("|")[2]) > 0.8
    of_fault = next(line for line in said.splitlines() if line.startswith("| 17"))
    assert float(of_fault.split("|")[2]) > 95
    of_press = next(line for line in said.splitlines() if line.startswith("| plant/press.csv"))
    assert of_press.split("|")[3].strip() == "1"


@pytest.mark.skipif(not (SHARED / "data/skab").is_dir(), reason=f"no SKAB in {SHARED}/data")
def test_faults_of_a_real_rig_are_found_with_the_defaults() -> None:
    files = [one for one in detection.load_skab(SHARED / "data/skab") if one.group == "valve1"]
    found = detection.score_skab(files, FitSettings())
    assert points(found)["F1"] > 0.84
    assert points(found)["FAR %"] < 13
    assert events(found)["event F1"] > 0.8
    assert events(found)["false alarms/h"] < 3
