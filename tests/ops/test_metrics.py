"""Every counter of every part is a metric, in text that Prometheus can read."""

from __future__ import annotations

import mmap
import os
import re
from collections import Counter
from dataclasses import dataclass, field, fields
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ops.metrics import Family, exposition, render
from gateway.sources import SourceStats
from gateway.stats import stat, stats
from tests.ops.fake_view import FakeView

_LINE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(?:,|$)')
_UNESCAPED = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}

Sample = tuple[str, tuple[tuple[str, str], ...]]


def parse(text: str) -> tuple[dict[str, str], dict[Sample, float]]:
    """Kinds by name, values by sample."""
    kinds, _, values = parse_all(text)
    return kinds, values


def parse_all(text: str) -> tuple[dict[str, str], dict[str, str], dict[Sample, float]]:
    """An independent reading of exposition format 0.0.4: kinds and help by name, and values.

    Stricter than the format: each metric has one help of one line, then its kind, then samples.
    """
    kinds: dict[str, str] = {}
    helps: dict[str, str] = {}
    values: dict[Sample, float] = {}
    current = ""
    assert text.endswith("\n")
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            _, _, current, escaped = line.split(" ", 3)
            assert current not in helps, f"{current} stands in two places"
            assert re.fullmatch(r"(?:[^\\\n]|\\[\\n])*", escaped), line
            helps[current] = re.sub(r"\\[\\n]", lambda m: _UNESCAPED[m[0]], escaped)
            continue
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == current, f"{name} has no help before its kind"
            assert name not in kinds, f"{name} stands in two places"
            kinds[name] = kind
            continue
        match = _LINE.fullmatch(line)
        assert match is not None, line
        name, inside, number = match.groups()
        assert name == current, line
        assert name in kinds, line
        labels = []
        position = 0
        while inside and position < len(inside):
            label = _LABEL.match(inside, position)
            assert label is not None, line
            value = re.sub(r'\\[\\"n]', lambda m: _UNESCAPED[m[0]], label[2])
            labels.append((label[1], value))
            position = label.end()
        key = (name, tuple(labels))
        assert key not in values, line
        values[key] = float(number)
    assert kinds.keys() == helps.keys()
    return kinds, helps, values


def test_every_number_of_a_source_is_a_metric_with_its_source(view: FakeView) -> None:
    stats = view.sources[0].stats
    stats.scans_total, stats.scan_ms_last, stats.error_last = 7, 3.5, "no metric"
    stats.errors_total = Counter(timeout=3, crc=1)
    kinds, values = parse(exposition(view))
    of_plc = {
        name: value for (name, labels), value in values.items() if ("source", "press-plc") in labels
    }
    for declared in fields(SourceStats):
        word = declared.name.replace("scan_ms_last", "scan_last_seconds")
        word = word.replace("lateness_ms_last", "lateness_last_seconds")
        assert (f"sluicegate_source_{word}" in of_plc) == (declared.name != "error_last")
    assert of_plc["sluicegate_source_scans_total"] == 7
    assert of_plc["sluicegate_source_connected"] == 1
    assert of_plc["sluicegate_source_scan_last_seconds"] == pytest.approx(0.0035)
    assert kinds["sluicegate_source_scans_total"] == "counter"
    assert kinds["sluicegate_source_scan_last_seconds"] == "gauge"
    plc = ("source", "press-plc")
    assert values["sluicegate_source_errors_total", (plc, ("kind", "timeout"))] == 3
    assert values["sluicegate_source_errors_total", (plc, ("kind", "crc"))] == 1


def test_a_sinks_state_is_a_label_and_its_lag_is_in_seconds(view: FakeView) -> None:
    view.sinks[0].stats.state = "parked"
    view.sinks[0].stats.lag_s = 12.5
    _, values = parse(exposition(view))
    sink = ("sink", "influx")
    assert values["sluicegate_sink_state", (sink, ("state", "parked"))] == 1
    assert values["sluicegate_sink_lag_seconds", (sink,)] == 12.5


class Lane(IntEnum):
    RAW = 3


@stats
class LaneStats:
    records_total: int = stat("records", default=4)


@stats
class Nested:
    lanes: dict[Lane, LaneStats] = field(default_factory=lambda: {Lane.RAW: LaneStats()})
    inner: LaneStats = field(default_factory=LaneStats)
    from_numpy_total: np.int64 = stat("of numpy", default=np.int64(5))
    ratio: float = stat("a ratio", default=float("inf"))
    unknown: float = stat("not known", default=float("nan"))


def test_nested_stats_become_names_and_labels(view: FakeView) -> None:
    _, values = parse(exposition(view, {"deep": Nested()}))
    assert values["sluicegate_deep_lane_records_total", (("lane", "raw"),)] == 4
    assert values["sluicegate_deep_inner_records_total", ()] == 4
    assert values["sluicegate_deep_from_numpy_total", ()] == 5
    assert values["sluicegate_deep_ratio", ()] == float("inf")
    assert np.isnan(values["sluicegate_deep_unknown", ()])


def test_the_process_is_measured(view: FakeView) -> None:
    _, before = parse(exposition(view))
    # Pages that nobody has had: what the process has freed would serve for a bytearray.
    ballast = mmap.mmap(-1, 30 * 2**20)
    ballast.write(os.urandom(2**20) * 30)
    descriptors = [os.open("/dev/null", os.O_RDONLY) for _ in range(5)]
    try:
        _, after = parse(exposition(view))
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
        size = len(ballast)
        ballast.close()
    rss, fds = "process_resident_memory_bytes", "process_open_fds"
    assert after[rss, ()] - before[rss, ()] > size * 0.8
    assert after[fds, ()] - before[fds, ()] == 5
    assert after["process_cpu_seconds_total", ()] >= before["process_cpu_seconds_total", ()] > 0


def test_uptime_follows_the_clock(view: FakeView) -> None:
    view.clock.advance(42)
    _, values = parse(exposition(view))
    assert values["sluicegate_uptime_seconds", ()] == 42


def test_two_sources_share_one_type_line(view: FakeView) -> None:
    text = exposition(view)
    assert text.count("# TYPE sluicegate_source_scans_total counter\n") == 1
    _, values = parse(text)
    sources = {labels for name, labels in values if name == "sluicegate_source_scans_total"}
    assert sources == {(("source", "press-plc"),), (("source", "greenhouse"),)}


@given(st.text(max_size=100) | st.text(alphabet='\\"\n{},= a\udc80', max_size=100))
def test_any_label_reads_back(text: str) -> None:
    rendered = render([Family("m_total", "counter", "m", [((("topic", text), ("b", "c")), 1)])])
    _, values = parse(rendered)
    expected = text.encode("utf-8", "replace").decode()
    assert values == {("m_total", (("topic", expected), ("b", "c"))): 1.0}


@given(st.text(st.characters(codec="utf-8")) | st.text(alphabet='\\\n"# {}a', max_size=100))
def test_any_help_reads_back(text: str) -> None:
    rendered = render([Family("m_total", "counter", text, [((), 1)])])
    _, helps, _ = parse_all(rendered)
    assert helps == {"m_total": text}


def test_what_is_counted_in_milliseconds_is_said_to_be_in_seconds(view: FakeView) -> None:
    _, helps, _ = parse_all(exposition(view))
    words = helps["sluicegate_source_scan_last_seconds"]
    assert words == "how long the newest scan took, in seconds"


def test_a_number_without_words_is_refused_where_it_is_written() -> None:
    with pytest.raises(TypeError, match=r"Part.lost_total needs its words: write stat\(...\)"):

        @stats
        class Part:
            kept_total: int = stat("samples kept")
            lost_total: int = 0


def test_numbers_that_are_not_of_such_a_class_are_no_metrics(view: FakeView) -> None:
    view.parts["part"] = Plain()
    with pytest.raises(AssertionError, match="sluicegate_part_samples_total"):
        exposition(view)


@dataclass(slots=True)
class Plain:
    samples_total: int = 0


ROOT = Path(__file__).parents[2]
STATS_CLASS = re.compile(r"^@stats\nclass (\w+):", re.MULTILINE)
DOCUMENTED = re.compile(r"^\| `sluicegate_.* \| ((?:`\w+Stats`(?:, )?)+) in `(.+?)`", re.MULTILINE)


def test_the_documentation_names_every_class_of_numbers_and_where_it_stands() -> None:
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    said = {
        (name, row[2])
        for row in DOCUMENTED.finditer(page)
        for name in re.findall(r"`(\w+)`", row[1])
    }
    written = {
        (name, path.relative_to(ROOT).as_posix())
        for path in (ROOT / "gateway").rglob("*.py")
        for name in STATS_CLASS.findall(path.read_text("utf-8"))
    }
    assert said == written
