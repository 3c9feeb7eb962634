"""An export read back is what was stored, in each format, with other people's readers."""

from __future__ import annotations

import builtins
import csv
import json
import os
import re
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.cli.export import COLUMNS, export
from gateway.cli.main import main
from gateway.frame import Frame
from gateway.tag import Quality, TagTable
from tests.cli.conftest import START_NS, STEPS, TAGS, make_table, turn_of
from tests.samples import make_tag

EX_UNAVAILABLE = 69
EVER = ["--from", "2026-01-01", "--to", "2026-01-02"]

Fill = Callable[..., Path]


def stored() -> list[tuple[int, str, Any, str]]:
    """Time, tag, value as what it is, quality of every sample in the spool."""
    names = [tag.name for tag in make_table()]
    rows = []
    for step in range(STEPS):
        for frame in turn_of(step).frames.values():
            values: list[Any] = [frame.value(row) for row in range(TAGS)]
            values[1] = int(values[1])
            values[2] = bool(values[2])
            values[4] = None
            for row in range(TAGS):
                quality = Quality(int(frame.quality[row])).name.lower()
                rows.append((int(frame.t_ns[row]), names[row], values[row], quality))
    return rows


def exported(plant: Path, form: str, *more: str) -> Path:
    out = plant.parent / f"out.{form}"
    command = ["spool", "export", str(plant), *more, *EVER, "--format", form, "--out", str(out)]
    assert main(command) == 0
    assert not list(plant.parent.glob("*.unfinished"))
    return out


def ns_of(text: str) -> int:
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return int(datetime.fromisoformat(whole + "+00:00").timestamp()) * 10**9 + int(fraction)


def test_csv_read_back_is_what_was_stored(plant: Path, spool_of: Fill) -> None:
    spool_of()
    kinds: dict[str, Callable[[str], Any]] = {
        "float": float, "integer": int, "bool": lambda text: text == "true",
        "string": str, "": lambda _: None,
    }  # fmt: skip
    with exported(plant, "csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    read = [
        (ns_of(row["time"]), row["tag"], kinds[row["type"]](row["value"]), row["quality"])
        for row in rows
    ]
    assert read == stored()
    assert json.loads(rows[0]["labels"]) == {"asset": "p 1", "site": "nørd, süd"}
    assert rows[0]["eng_unit"] == "m³/h"


def test_jsonl_read_back_is_what_was_stored(plant: Path, spool_of: Fill) -> None:
    spool_of()
    lines = exported(plant, "jsonl").read_text(encoding="utf-8").splitlines()
    rows = list(map(json.loads, lines))
    read = [(ns_of(row["time"]), row["tag"], row["value"], row["quality"]) for row in rows]
    assert read == stored()
    assert rows[3]["labels"] == {"asset": "p 1", "site": "nørd, süd"}


def test_parquet_read_back_is_what_was_stored(plant: Path, spool_of: Fill) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    spool_of()
    table = parquet.read_table(exported(plant, "parquet"))
    t_ns = table["time"].cast("int64").to_pylist()
    read = []
    for time, row in zip(t_ns, table.drop(["time"]).to_pylist(), strict=True):
        value: Any = row["value"] if row["exact"] is None else row["exact"]
        if row["type"] == "integer":
            value = int(value)
        elif row["type"] == "bool":
            value = bool(value)
        read.append((time, row["tag"], value, row["quality"]))
        assert (value is None) == (row["type"] == "")
    assert read == stored()
    assert table.schema.field("time").type.tz == "UTC"
    assert json.loads(table["labels"][0].as_py())["site"] == "nørd, süd"


def parse_line(line: str) -> tuple[str, dict[str, str], dict[str, Any], int]:
    """Line protocol by InfluxDB's reference, character by character; not the encoder's inverse."""

    def token(at: int, stops: str) -> tuple[str, int]:
        text = ""
        while line[at] not in stops:
            if line[at] == "\\" and line[at + 1] in ",= ":
                at += 1
            text += line[at]
            at += 1
        return text, at

    measurement, at = token(0, ", ")
    labels, fields = {}, {}
    while line[at] == ",":
        key, at = token(at + 1, "=")
        labels[key], at = token(at + 1, ", ")
    while line[at] != " " or not fields:
        key, at = token(at + 1, "=")
        at += 1
        if line[at] == '"':
            quoted = re.compile(r'"((?:[^"\\]|\\.)*)"').match(line, at)
            assert quoted
            fields[key] = re.sub(r'\\(["\\])', r"\1", quoted[1])
            at = quoted.end()
        else:
            text, at = token(at, ", ")
            fields[key] = (
                {"true": True, "false": False}[text] if text in ("true", "false")
                else int(text[:-1]) if text.endswith("i") else float(text)
            )  # fmt: skip
    return measurement, labels, fields, int(line[at + 1 :])


def test_line_protocol_read_back_is_what_a_sink_sends(plant: Path, spool_of: Fill) -> None:
    spool_of()
    lines = exported(plant, "lineprotocol").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    read = []
    for line in lines:
        measurement, labels, fields, t_ns = parse_line(line)
        assert measurement == "pump"
        assert labels == {"asset": "p 1", "site": "nørd, süd"}
        assert fields.pop("quality") >= Quality.BAD  # the worst, the broken tag's
        read += [(t_ns, f"p.{field}", value) for field, value in fields.items()]
    # A bad sample has no value in line protocol.
    assert sorted(read) == sorted(row[:3] for row in stored() if row[2] is not None)


def test_lanes_tags_and_times_narrow_it(plant: Path, spool_of: Fill) -> None:
    spool_of()
    out = plant.parent / "few.csv"
    span = ["--from", "2026-01-01T00:00:10", "--to", "2026-01-01T00:00:12"]
    command = [
        "spool",
        "export",
        str(plant),
        "--tags",
        "p.fl*",
        "p.state",
        *span,
        "--out",
        str(out),
    ]
    assert main(command) == 0
    rows = list(csv.DictReader(out.open(encoding="utf-8", newline="")))
    assert [row["tag"] for row in rows] == ["p.flow", "p.state"] * 2
    assert main([*command, "--lane", "event"]) == 0
    assert len(out.read_text(encoding="utf-8").splitlines()) == 1


def test_without_a_name_it_goes_to_standard_output(
    plant: Path, spool_of: Fill, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    spool_of()
    assert main(["spool", "export", str(plant), "--tags", "p.flow", *EVER]) == 0
    printed = capfdbinary.readouterr()
    assert printed.out.count(b"\r\n") == STEPS + 1
    assert b"200 samples exported" in printed.err


def test_without_its_package_parquet_says_what_to_install(
    plant: Path, spool_of: Fill, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spool_of()
    real = builtins.__import__

    def refusing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refusing)
    out = plant.parent / "x.parquet"
    command = ["spool", "export", str(plant), "--format", "parquet", "--out", str(out)]
    assert main(command) == EX_UNAVAILABLE
    assert "sluicegate[parquet]" in capsys.readouterr().err
    assert not out.exists()


def test_a_place_that_cannot_be_written_is_said(
    plant: Path, spool_of: Fill, capsys: pytest.CaptureFixture[str]
) -> None:
    spool_of()
    out = str(plant.parent / "none" / "x.csv")
    assert main(["spool", "export", str(plant), "--out", out]) == EX_UNAVAILABLE
    assert out in capsys.readouterr().err


@pytest.mark.parametrize("out", ["", "."])
def test_what_is_no_file_name_is_said_to_be_none(
    plant: Path, spool_of: Fill, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    spool_of()
    assert main(["spool", "export", str(plant), "--out", out]) == EX_UNAVAILABLE
    assert "is no file" in capsys.readouterr().err


def test_what_stands_there_and_is_no_file_is_written_to_as_it_is(
    plant: Path, spool_of: Fill
) -> None:
    spool_of()
    pipe, link, file = (plant.parent / name for name in ("pipe", "link", "file"))
    os.mkfifo(pipe)
    link.symlink_to(file)
    heard: list[bytes] = []
    reading = threading.Thread(target=lambda: heard.append(pipe.read_bytes()))
    reading.start()
    for out in (pipe, link):
        assert main(["spool", "export", str(plant), "--from", "1000d", "--out", str(out)]) == 0
    reading.join(20)
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert heard == [file.read_bytes()]
    assert len(heard[0].splitlines()) > 100


@pytest.mark.parametrize("form", ["csv", "jsonl", "lineprotocol", "parquet"])
def test_memory_does_not_grow_with_what_is_exported(tmp_path: Path, form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    table = TagTable()
    table.add(make_tag("p.x"))

    def frames(count: int) -> Iterator[Frame]:
        for n in range(count):
            t_ns = START_NS + np.arange(2000, dtype=np.int64) + n * 2000
            yield Frame.of(t_ns, np.zeros(2000, np.int32), np.arange(2000.0))

    peaks = []
    for count in (10, 10, 60):  # the first warms up
        tracemalloc.start()
        told = export(frames(count), table, form, str(tmp_path / "out"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert told.samples == count * 2000
    assert peaks[2] < peaks[1] * 1.5


@pytest.mark.parametrize("how", ["a folder in its place", "damaged", "all gone meanwhile"])
def test_what_could_not_be_read_is_said(
    plant: Path, spool_of: Fill, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = spool_of()
    segment = sorted(directory.glob("raw-*.seg"))[1]
    data = segment.read_bytes()
    segment.unlink()
    if how == "a folder in its place":
        segment.mkdir()
    elif how == "damaged":
        segment.write_bytes(data[:4096] + bytes(2048) + data[4096 + 2048 :])
    else:
        for raw in directory.glob("raw-*.seg"):
            raw.unlink()
    out = plant.parent / "out.csv"
    code = main(["spool", "export", str(plant), *EVER, "--format", "csv", "--out", str(out)])
    said = capsys.readouterr().err
    assert "samples exported" in said
    assert code == (how != "all gone meanwhile")
    assert (segment.name in said) == (code == 1)
    assert out.exists()
