"""A model is fitted from what the machines did, by one command, and is what a gateway takes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gateway.cli.main import main
from gateway.inference.bundle import load_bundle
from tests.inference.bundles import write_bundle
from tests.inference.test_aside import bomb

EX_DATA, EX_UNAVAILABLE, EX_CONFIG = 65, 69, 78
START_S = 1_769_860_800
Capture = pytest.CaptureFixture[str]
Write = Callable[..., Path]


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a recording of two signals that belong together, and a counter."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))

    def write(name: str = "pump-7.csv", seconds: int = 1800, separator: str = ",") -> Path:
        random = np.random.default_rng(5)
        load = np.sin(np.arange(seconds) / 60) + random.normal(size=seconds) / 50
        rows = np.stack(
            [START_S + np.arange(seconds), 10 + load, 3 - load / 2, np.arange(seconds)], axis=1
        )
        path = tmp_path / name
        header = separator.join(["time", "flow [m3/h]", "pressure [bar]", "total"])
        lines = (separator.join(f"{value:.6f}" for value in row) for row in rows.tolist())
        path.write_text("\n".join([header, *lines]) + "\n")
        return path

    return write


def fit(path: Path, out: Path, *more: str) -> int:
    command = ["models", "fit", "--asset-class", "pump", "--recording", str(path)]
    return main([*command, "--out", str(out), *more])


def test_a_recording_becomes_a_signed_bundle(
    recorded: Write, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "bundles" / "pump-7"
    assert fit(recorded(), out, "--false-alarms", "2/week") == 0
    said = capsys.readouterr().out
    assert "30.0 minutes of pump-7: 2 fields, every 1 s" in said
    assert "total: it only ever rises" in said
    assert f'bundle = "{out}"' in said
    assert main(["models", "key"]) == 0
    public = capsys.readouterr().out.strip()
    bundle = load_bundle(out, [public])
    assert bundle.manifest.fields == ("flow", "pressure")
    assert [feature.eng_unit for feature in bundle.manifest.features] == ["m3/h", "bar"]
    assert bundle.manifest.false_alarms is not None
    assert bundle.manifest.false_alarms.per_week == pytest.approx(2)
    assert main(["models", "check", str(out)]) == 0
    assert f"signed by {public}" in capsys.readouterr().out
    assert main(["models", "show", str(out)]) == 0
    assert "healthy 2." in capsys.readouterr().out


def test_a_part_of_a_recording_is_named_by_dates(
    recorded: Write, tmp_path: Path, capsys: Capture
) -> None:
    span = ("--from", "2026-01-31T12:05", "--to", "2026-01-31T12:25")
    assert fit(recorded(), tmp_path / "b", *span) == 0
    assert "20.0 minutes of pump-7" in capsys.readouterr().out


def test_the_same_recording_gives_the_same_model(recorded: Write, tmp_path: Path) -> None:
    path = recorded()
    assert fit(path, tmp_path / "a") == 0
    assert fit(path, tmp_path / "b", "--no-signature") == 0
    models = {(tmp_path / name / "model.onnx").read_bytes() for name in "ab"}
    assert len(models) == 1
    assert load_bundle(tmp_path / "b").signed_by == ""


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--asset-class", "fan", "--asset", "x*"], "no samples of assets x* of class 'fan'"),
        (["--fields", "nothing"], "no column of"),
        (["--false-alarms", "often"], '"1/week"'),
        (["--period", "soon"], '"500ms"'),
        (["--period", "2h"], "10ms to 1h"),
        (["--window", "1"], "2 to 10,000"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(
    recorded: Write, tmp_path: Path, capsys: Capture, more: list[str], said: str
) -> None:
    assert fit(recorded(), tmp_path / "b", *more) in (EX_UNAVAILABLE, EX_DATA)
    assert said in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_a_recording_that_is_wrong_is_said_with_its_place(
    recorded: Write, tmp_path: Path, capsys: Capture
) -> None:
    path = recorded()
    path.write_text(path.read_text().replace("\n1769860900.000000,", "\n1769860900.000000,x"))
    assert fit(path, tmp_path / "b") == EX_DATA
    assert "row 102, column 'flow [m3/h]'" in capsys.readouterr().err


def test_too_little_history_is_said_in_words(
    recorded: Write, tmp_path: Path, capsys: Capture
) -> None:
    assert fit(recorded(seconds=20), tmp_path / "b") == EX_UNAVAILABLE
    assert capsys.readouterr().err.startswith("sluicegate: ")
    assert not (tmp_path / "b").exists()


def test_without_the_package_it_needs_the_command_says_so(
    recorded: Write, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert fit(recorded(), tmp_path / "b") == EX_UNAVAILABLE
    assert "pip install 'sluicegate[fit]'" in capsys.readouterr().err


def test_check_says_what_is_wrong_with_a_bundle(
    recorded: Write, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "b"
    assert fit(recorded(), out) == 0
    capsys.readouterr()
    with (out / "bundle.toml").open("a") as manifest:
        manifest.write("# by hand\n")
    assert main(["models", "check", str(out)]) == EX_CONFIG
    assert "changed after it was signed" in capsys.readouterr().err
    (out / "signature.toml").unlink()
    assert main(["models", "check", str(out)]) == 0
    (out / "model.onnx").write_bytes(b"nothing")
    assert main(["models", "check", "--json", str(out)]) == EX_CONFIG
    assert "sha256" in capsys.readouterr().out
    assert main(["models", "check", str(tmp_path / "absent")]) == EX_CONFIG
    (out / "bundle.toml").unlink()
    capsys.readouterr()
    assert main(["models", "check", str(out)]) == EX_CONFIG
    assert "A model of your own needs a bundle.toml" in capsys.readouterr().err


def test_no_configuration_and_no_recording_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["models", "fit", "--asset-class", "pump", "--out", "b"]) == EX_UNAVAILABLE
    assert "--recording" in capsys.readouterr().err


def test_a_spool_without_the_class_is_said(plant: Path, spool_of: Write, capsys: Capture) -> None:
    spool_of()
    command = ["models", "fit", str(plant), "--asset-class", "pump", "--from", "2025-01-01"]
    assert main([*command, "--asset", "nobody", "--out", "b"]) == EX_UNAVAILABLE
    assert "the spool has no samples of assets nobody" in capsys.readouterr().err


def test_a_strangers_bundle_is_looked_at_in_a_process_of_its_own(
    plant: Path, capsys: Capture
) -> None:
    folder = write_bundle(plant.parent / "bomb", bomb(3))  # 400 MB a run: more than it may
    with plant.open("a") as config:
        config.write('\n[[model]]\nname = "m"\nclass = "press"\nbundle = "bomb"\n')
    assert main(["models", "check", str(folder)]) == EX_CONFIG
    assert "model.onnx" in capsys.readouterr().err
    assert main(["models", "show", str(folder)]) == EX_UNAVAILABLE
    capsys.readouterr()
    main(["models", "list", str(plant)])
    assert "not good" in capsys.readouterr().out
