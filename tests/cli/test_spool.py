"""`sluicegate spool` shows and verifies beside a gateway, and moves cursors only without one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.cli.main import main
from gateway.frame import Lane
from gateway.spool.cursor import Cursor
from gateway.spool.disk import Disk
from tests.cli.conftest import STEPS, TAGS

EX_UNAVAILABLE = 69
SAMPLES = STEPS * TAGS

Fill = Callable[..., Path]
Capture = pytest.CaptureFixture[str]


def place_of(directory: Path) -> int | None:
    cursor = Cursor(directory / "cursors" / "plant.cursor")
    assert cursor.load(Disk())
    return cursor.place(Lane.RAW)


def test_show_says_what_is_stored_and_how_far_each_sink_is(
    plant: Path, spool_of: Fill, capsys: Capture
) -> None:
    directory = spool_of()
    lock = Disk().lock(directory / "lock")  # a gateway runs
    try:
        assert main(["spool", "show", str(plant)]) == 0
        lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
        assert any(line.startswith("raw ") and f" {SAMPLES:,} " in line for line in lines)
        assert any(line.startswith("raw ") and "2026-01-01T00:00:00Z" in line for line in lines)
        assert any("plant raw at 300: 700 samples behind" in line for line in lines)
        assert main(["spool", "show", "--json", str(plant)]) == 0
        shown = json.loads(capsys.readouterr().out)
    finally:
        lock.close()
    raw = shown["lanes"][Lane.RAW]
    assert raw["samples"] == SAMPLES
    assert raw["segments"] > 1
    assert shown["sinks"][0]["lag_samples"] == SAMPLES - 300
    assert shown["findings"] == []


def test_show_says_what_was_deleted(plant: Path, spool_of: Fill, capsys: Capture) -> None:
    spool_of(delivered=0, bytes_max=16 * 2**10, segment_bytes=4096)
    assert main(["spool", "show", str(plant)]) == 0
    shown = capsys.readouterr().out
    assert "Deleted, as far as it is on record" in shown
    assert "(space)" in shown


def test_show_of_no_spool_is_an_empty_one(plant: Path, capsys: Capture) -> None:
    assert main(["spool", "show", str(plant)]) == 0
    assert "plant" in capsys.readouterr().out  # the sink begins with the oldest


def test_verify_says_all_is_well_and_exits_0(plant: Path, spool_of: Fill, capsys: Capture) -> None:
    spool_of()
    assert main(["spool", "verify", str(plant)]) == 0
    assert f"{SAMPLES:,} samples" in (said := capsys.readouterr().out)
    assert "all is as it was written" in said


def test_verify_of_no_spool_is_an_error(plant: Path, capsys: Capture) -> None:
    assert main(["spool", "verify", str(plant)]) == EX_UNAVAILABLE
    said = capsys.readouterr()
    assert "there is no spool in" in said.err
    assert "as it was written" not in said.out


def test_verify_names_what_is_damaged_and_exits_1(
    plant: Path, spool_of: Fill, capsys: Capture
) -> None:
    directory = spool_of()
    segment = min(directory.glob("raw-*.seg"))
    data = bytearray(segment.read_bytes())
    data[4096 + 40 : 4096 + 5000] = bytes(4960)  # a page of zeros and more
    segment.write_bytes(data)
    assert main(["spool", "verify", "--json", str(plant)]) == 1
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["samples_lost"] > 0
    assert verdict["samples"] + verdict["samples_lost"] == SAMPLES
    assert verdict["findings"][0]["file"] == segment.name
    assert main(["spool", "verify", str(plant)]) == 1
    said = capsys.readouterr().out
    assert f"{verdict['samples_lost']:,} samples lost; the rest is served" in said


@pytest.mark.parametrize(
    ("verb", "to", "expected"),
    [("rewind", "oldest", 0), ("skip", "newest", SAMPLES), ("skip", "2026-01-01T00:01:40", 500)],
)
def test_a_cursor_moves_only_when_told_twice(
    plant: Path, spool_of: Fill, capsys: Capture, verb: str, to: str, expected: int
) -> None:
    directory = spool_of()
    command = ["spool", verb, str(plant), "plant", "--to", to, "--lane", "raw"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert f"{abs(expected - 300):,} samples" in said
    assert "nothing was changed" in said
    assert place_of(directory) == 300
    assert main([*command, "--yes"]) == 0
    assert place_of(directory) == expected


def test_a_lane_is_moved_once_and_only_if_the_sink_reads_it(
    plant: Path, spool_of: Fill, capsys: Capture
) -> None:
    spool_of()
    command = ["spool", "rewind", str(plant), "plant", "--to", "oldest"]
    assert main([*command, "--lane", "raw", "--lane", "raw"]) == 0
    assert capsys.readouterr().out.count("would be sent again") == 1
    plant.write_text(
        plant.read_text().replace('bucket = "plant"', 'bucket = "plant"\nlanes = ["raw"]')
    )
    assert main([*command, "--lane", "event", "--yes"]) == EX_UNAVAILABLE
    assert "does not read the lane event" in capsys.readouterr().err


def test_a_rewind_gives_nothing_up_and_a_skip_sends_nothing_again(
    plant: Path, spool_of: Fill, capsys: Capture
) -> None:
    directory = spool_of()
    for verb, to in (("rewind", "newest"), ("skip", "oldest")):
        main(["spool", verb, str(plant), "plant", "--to", to, "--lane", "raw", "--yes"])
        assert "stays where it is" in capsys.readouterr().out
        assert place_of(directory) == 300


def test_beside_a_running_gateway_a_cursor_is_not_moved(
    plant: Path, spool_of: Fill, capsys: Capture
) -> None:
    directory = spool_of()
    lock = Disk().lock(directory / "lock")
    try:
        command = ["spool", "rewind", str(plant), "plant", "--to", "oldest", "--yes"]
        assert main(command) == EX_UNAVAILABLE
    finally:
        lock.close()
    assert "stop it first" in capsys.readouterr().err
    assert place_of(directory) == 300


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
def test_what_root_moves_stays_the_services_to_move(plant: Path, spool_of: Fill) -> None:
    directory = spool_of()
    shutil.rmtree(directory / "cursors")
    (directory / "lock").unlink()
    os.chown(directory, 65534, 65534)
    assert (
        main(["spool", "skip", str(plant), "plant", "--to", "newest", "--lane", "raw", "--yes"])
        == 0
    )
    made = [directory / "lock", directory / "cursors", *(directory / "cursors").iterdir()]
    assert len(made) == 3
    assert {path.stat().st_uid for path in made} == {65534}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
def test_what_root_only_looks_at_stays_the_services(plant: Path, spool_of: Fill) -> None:
    directory = spool_of()
    (directory / "lock").unlink()
    os.chown(directory, 65534, 65534)
    main(["spool", "rewind", str(plant), "plant", "--to", "oldest"])  # without --yes
    assert (directory / "lock").stat().st_uid == 65534


def test_a_sink_that_nobody_knows_is_refused(plant: Path, spool_of: Fill, capsys: Capture) -> None:
    spool_of()
    command = ["spool", "rewind", str(plant), "palnt", "--to", "oldest"]
    assert main(command) == EX_UNAVAILABLE
    assert "plant" in capsys.readouterr().err
