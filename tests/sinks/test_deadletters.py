from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from gateway.frame import Frame
from gateway.sinks.deadletters import DeadLetters
from gateway.tag import DataType, TagTable
from tests.samples import make_frame, make_tag


@pytest.fixture
def flow(table: TagTable) -> int:
    return table.add(make_tag("p1.flow"))


def test_two_files_of_bounded_size_are_kept(table: TagTable, tmp_path: Path, flow: int) -> None:
    letters = DeadLetters(tmp_path / "db.jsonl", file_bytes_max=2000)
    for t in range(100):
        letters.put(make_frame([(float(t), flow, 1.0)]), {0: "no"}, table)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["db.jsonl", "db.jsonl.1"]
    assert max(file.stat().st_size for file in files) <= 2000
    newest = json.loads(files[0].read_text().splitlines()[-1])
    assert newest["t_ns"] == 99 * 10**9
    assert (letters.letters_total, letters.letters_lost_total) == (100, 0)


def test_more_at_once_than_a_file_holds_is_cut_and_counted(
    table: TagTable, tmp_path: Path, flow: int
) -> None:
    letters = DeadLetters(tmp_path / "db.jsonl", file_bytes_max=2000)
    frame = make_frame([(float(t), flow, 1.0) for t in range(100)])
    letters.put(frame, dict.fromkeys(range(100), "no"), table)
    letters.put(frame, dict.fromkeys(range(100), "no"), table)
    kept = sum(len(file.read_text().splitlines()) for file in tmp_path.iterdir())
    assert kept + letters.letters_lost_total == letters.letters_total == 200
    assert max(file.stat().st_size for file in tmp_path.iterdir()) <= 2000


def test_any_sample_is_a_line_of_strict_json(table: TagTable, tmp_path: Path, flow: int) -> None:
    text = table.add(make_tag("p1.t\next", data_type=DataType.STRING))
    base = make_frame(
        [(1.0, flow, math.nan), (1.0, flow, math.inf), (1.0, text, math.nan), (1.0, flow, 0.5)],
        [0x85, 0, 0, 0xFF],
    )
    frame = Frame(base.t_ns, base.tag_ids, base.values, base.quality, {2: "\ud800\n" * 9999})
    letters = DeadLetters(tmp_path / "new" / "db.jsonl")
    letters.put(frame, dict.fromkeys(range(4), "x" * 999 + "\n"), table)
    lines = (tmp_path / "new" / "db.jsonl").read_bytes().splitlines()
    read = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [letter["value"] for letter in read[:2]] == ["nan", "inf"]
    assert read[2]["value"] == ("\ud800\n" * 500)
    assert [letter["quality"] for letter in read] == ["bad_sensor_failure", "good", "good", 255]
    assert all(len(letter["reason"]) == 255 for letter in read)


def test_a_disk_that_refuses_costs_the_letter_and_is_said_once(
    table: TagTable, tmp_path: Path, flow: int, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    letters = DeadLetters(tmp_path / "file" / "db.jsonl")
    frame = make_frame([(1.0, flow, 1.0)])
    for _ in range(3):
        letters.put(frame, {0: "no"}, table)
    assert letters.letters_lost_total == 3
    (tmp_path / "file").unlink()
    letters.put(frame, {0: "no"}, table)
    assert letters.letters_lost_total == 3
    assert caplog.text.count("sink.dead_letters_unwritable") == 1
