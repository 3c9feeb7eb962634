"""Files: synced before they count, bounded, whole lines after any crash."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gateway.errors import SinkParked, SinkUnavailable
from gateway.sinks.config import FileSinkSettings
from gateway.sinks.file import FileSink, build
from gateway.tag import TagTable
from tests.samples import make_frame, make_tag


def sink_in(folder: Path, **more: object) -> FileSink:
    table = TagTable()
    table.add(make_tag("pump.flow", eng_unit="m3/h"))
    table.add(make_tag("pump.time"))  # a name that line protocol does not carry
    facts = {"type": "file", "name": "stick", "directory": str(folder / "out"), "format": "csv"}
    return build(FileSinkSettings.model_construct(**facts_of(facts | more)), table)


def facts_of(facts: dict[str, object]) -> dict[str, object]:
    """Small bounds are for tests only, so the settings are made without their validation."""
    return {"file_bytes_max": 2**20, "bytes_max": 2**24} | facts


async def put(sink: FileSink, *values: float, tag: int = 0) -> dict[int, str]:
    rows = [(1_767_225_600.0 + i, tag, value) for i, value in enumerate(values)]
    return dict((await sink.write(make_frame(rows))).rejected)


async def test_what_is_written_is_on_disk_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fdatasync

    def fdatasync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    sink = sink_in(tmp_path)
    async with sink.session():
        await put(sink, 1.5)
        text = (tmp_path / "out" / "stick-000001.csv").read_text()
    assert text == (
        "time,tag,value,unit,quality\n2026-01-01T00:00:00.000000000Z,pump.flow,1.5,m3/h,good\n"
    )
    assert synced[-1] == len(text) + 2  # text mode reads a line break of two bytes as one
    assert sink.stats.bytes_total > 0


async def test_a_torn_line_is_cut_off_at_the_next_start(tmp_path: Path) -> None:
    async with (sink := sink_in(tmp_path, format="jsonl")).session():
        await put(sink, 1.0, 2.0)
    path = tmp_path / "out" / "stick-000001.jsonl"
    path.write_bytes(path.read_bytes() + b'{"time":"2026-01-01T0')
    async with (sink := sink_in(tmp_path, format="jsonl")).session():
        await put(sink, 3.0)
    assert [json.loads(line)["value"] for line in path.read_text().splitlines()] == [1, 2, 3]


@pytest.mark.parametrize("zeros", [1, 256 * 1024, 300_000, 1_000_000])
async def test_what_a_power_cut_leaves_of_a_long_batch_costs_nothing_before_it(
    tmp_path: Path, zeros: int
) -> None:
    async with (sink := sink_in(tmp_path, format="jsonl")).session():
        for i in range(100):
            await put(sink, float(i))
    path = tmp_path / "out" / "stick-000001.jsonl"
    path.write_bytes(path.read_bytes() + bytes(zeros))
    async with (sink := sink_in(tmp_path, format="jsonl")).session():
        await put(sink, 100.0)
    values = [json.loads(line)["value"] for line in path.read_text().splitlines()]
    assert values == list(range(101))


async def test_files_are_finished_and_the_oldest_deleted(tmp_path: Path) -> None:
    sink = sink_in(tmp_path, file_bytes_max=200, bytes_max=1000)
    async with sink.session():
        for i in range(40):
            await put(sink, float(i))
    files = sorted((tmp_path / "out").iterdir())
    assert len(files) > 2
    assert sum(path.stat().st_size for path in files) <= 1000
    assert all(path.stat().st_size <= 200 for path in files)
    assert all(path.read_bytes().startswith(b"time,tag,") for path in files)
    last = files[-1].read_text().splitlines()[-1]
    assert ",39.0," in last
    async with (sink := sink_in(tmp_path, file_bytes_max=200, bytes_max=1000)).session():
        await put(sink, 40.0)
    assert max((tmp_path / "out").iterdir()) >= files[-1]


async def test_what_line_protocol_cannot_carry_is_refused_alone(tmp_path: Path) -> None:
    sink = sink_in(tmp_path, format="lineprotocol")
    async with sink.session():
        assert await put(sink, 1.0) == {}
        assert "InfluxDB's own" in (await put(sink, 1.0, tag=1))[0]
    text = (tmp_path / "out" / "stick-000001.lp").read_text()
    assert text == "pump,asset=pump flow=1.0,quality=0i 1767225600000000000\n"


async def test_a_full_disk_leaves_whole_lines_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = sink_in(tmp_path, format="jsonl")
    real = os.write
    is_full = False

    def write(descriptor: int, data: memoryview) -> int:
        if is_full and len(data) < 100:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[:60] if is_full else data)

    monkeypatch.setattr(os, "write", write)
    async with sink.session():
        await put(sink, 1.0)
        is_full = True
        with pytest.raises(SinkUnavailable, match="No space left"):
            await put(sink, 2.0)
        path = tmp_path / "out" / "stick-000001.jsonl"
        assert len(path.read_text().splitlines()) == 1
        is_full = False
        await put(sink, 2.0)
    assert [json.loads(line)["value"] for line in path.read_text().splitlines()] == [1, 2]


async def test_a_stick_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    sink = sink_in(tmp_path / "stick")
    async with sink.session():
        with pytest.raises(SinkUnavailable, match="No such file"):
            await put(sink, 1.0)
        (tmp_path / "stick").mkdir()
        await put(sink, 1.0)


async def test_a_folder_that_is_deleted_underneath_is_made_anew(tmp_path: Path) -> None:
    sink = sink_in(tmp_path)
    async with sink.session():
        await put(sink, 1.0)
        (tmp_path / "out" / "stick-000001.csv").unlink()
        (tmp_path / "out").rmdir()
        await put(sink, 2.0)
    assert ",2.0," in (tmp_path / "out" / "stick-000001.csv").read_text()


def values_in(path: Path) -> list[float]:
    """What a file holds, which must be whole: JSON lines, or CSV below its header."""
    lines = path.read_text().splitlines()
    if path.suffix.startswith(".jsonl"):
        return [json.loads(line)["value"] for line in lines]
    assert lines[0] == "time,tag,value,unit,quality"
    return [float(line.split(",")[2]) for line in lines[1:]]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
async def test_a_file_that_is_copied_and_emptied_begins_anew(tmp_path: Path, form: str) -> None:
    """As logrotate does with `copytruncate`."""
    sink = sink_in(tmp_path, format=form)
    path = tmp_path / "out" / f"stick-000001.{form}"
    copy = tmp_path / f"copy.{form}"
    async with sink.session():
        await put(sink, 1.0, 2.0)
        copy.write_bytes(path.read_bytes())
        os.truncate(path, 0)
        await put(sink, 3.0)
        await put(sink, 4.0)
    assert values_in(copy) == [1, 2]
    assert values_in(path) == [3, 4]


@pytest.mark.parametrize("is_made_anew", [False, True])
@pytest.mark.parametrize("form", ["csv", "jsonl"])
async def test_a_file_that_is_moved_away_is_left_alone_from_then_on(
    tmp_path: Path, form: str, *, is_made_anew: bool
) -> None:
    """As logrotate does with `create`, or `nocreate`."""
    sink = sink_in(tmp_path, format=form)
    path = tmp_path / "out" / f"stick-000001.{form}"
    moved = tmp_path / "out" / f"moved.{form}"
    async with sink.session():
        await put(sink, 1.0, 2.0)
        path.rename(moved)
        if is_made_anew:
            path.touch()
        await put(sink, 3.0)
        await put(sink, 4.0)
    assert values_in(moved) == [1, 2]
    assert values_in(path) == [3, 4]


async def test_a_folder_that_is_moved_away_is_left_alone_from_then_on(tmp_path: Path) -> None:
    sink = sink_in(tmp_path)
    async with sink.session():
        await put(sink, 1.0)
        (tmp_path / "out").rename(tmp_path / "taken")
        await put(sink, 2.0)
    assert values_in(tmp_path / "taken" / "stick-000001.csv") == [1]
    assert values_in(tmp_path / "out" / "stick-000001.csv") == [2]


async def test_a_file_that_somebody_cut_within_a_line_goes_on_with_whole_lines(
    tmp_path: Path,
) -> None:
    sink = sink_in(tmp_path)
    path = tmp_path / "out" / "stick-000001.csv"
    async with sink.session():
        await put(sink, 1.0, 2.0)
        os.truncate(path, path.stat().st_size - 10)
        await put(sink, 3.0)
    assert values_in(path) == [1, 3]


async def test_a_folder_that_may_not_be_written_parks_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    sink = sink_in(tmp_path)
    async with sink.session():
        with pytest.raises(SinkParked, match="ReadWritePaths"):
            await put(sink, 1.0)


def test_files_are_written_in_the_order_of_the_samples_unless_asked_otherwise() -> None:
    settings = FileSinkSettings.model_validate({"type": "file", "name": "s", "directory": "/x"})
    assert not settings.live_first
