"""Metrics: the stats dataclasses as Prometheus text (exposition format 0.0.4).

Nothing is registered and nothing is counted twice: a field of a stats dataclass is a metric, so
a new counter needs one line, where it is counted. The rules:

    scans_total: int                  sluicegate_source_scans_total{source="plc"}          counter
    connected: bool                   sluicegate_source_connected{source="plc"} 1          gauge
    scan_ms_last: float               sluicegate_source_scan_last_seconds{source="plc"}    gauge
    errors_total: Counter[str]        ..._errors_total{source="plc",kind="timeout"}        counter
    lanes: dict[Lane, LaneStats]      sluicegate_spool_lane_...{lane="raw"}, its own fields
    state: str                        ..._state{sink="x",state="idle"} 1                   gauge

Other text, such as `error_last`, is no metric: a label with free text is a new series each time.
What a metric tells the operator (`# HELP`) are the words of its field, see `gateway.stats`.

Our own writer, not prometheus-client: that library keeps a second copy of every value in objects
of its own and starts with a registry of global state, for a format that is a page of code here.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from enum import Enum
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from gateway.ops.view import GatewayView, Stats
from gateway.stats import words_of

__all__ = ["CONTENT_TYPE", "Family", "exposition", "render"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_PREFIX = "sluicegate"
# Devices and brokers choose some label values; a page of text is no label.
_LABEL_CHARS_MAX = 128
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
_HELP_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n"})

Labels = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Family:
    """One metric: its samples stand together, as the format demands."""

    name: str
    kind: str
    words: str  # what it tells the operator
    samples: list[tuple[Labels, float]] = field(default_factory=list)


def exposition(view: GatewayView, further: Mapping[str, Stats] | None = None) -> str:
    """All metrics of a gateway; `further` are parts the view does not know of."""
    families = _Families()
    parts: list[tuple[str, Labels, Stats]] = [
        *(("source", (("source", source.name),), source.stats) for source in view.sources),
        *(("sink", (("sink", sink.name),), sink.stats) for sink in view.sinks),
        *(("model", (("model", name),), stats) for name, stats in view.models.items()),
        *((name, (), stats) for name, stats in view.parts.items()),
        *((name, (), stats) for name, stats in (further or {}).items()),
        ("loop", (), view.loop),
    ]
    for name, labels, stats in parts:
        families.add_stats(f"{_PREFIX}_{name}", labels, stats)
    for family in (*_of_gateway(view), *_of_process()):
        families.by_name[family.name] = family
    return render(families.by_name.values())


def render(families: Iterable[Family]) -> str:
    """Families as text; those without samples are left out."""
    lines = []
    for family in families:
        if not family.samples:
            continue
        lines.append(f"# HELP {family.name} {family.words.translate(_HELP_ESCAPES)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        lines += [
            f"{family.name}{_labels(labels)} {_number(value)}" for labels, value in family.samples
        ]
    return "\n".join(lines) + "\n"


class _Families:
    """What is found in stats, by name."""

    def __init__(self) -> None:
        self.by_name: dict[str, Family] = {}

    def add_stats(self, prefix: str, labels: Labels, stats: Stats) -> None:
        """The numbers of one part, and of what is nested in it."""
        for declared in fields(stats):
            value = getattr(stats, declared.name)
            if isinstance(value, Mapping):
                self._add_mapping(prefix, declared, labels, value)
            elif is_dataclass(value) and not isinstance(value, type):
                self.add_stats(f"{prefix}_{declared.name}", labels, value)
            elif isinstance(value, str):
                if declared.name == "state":
                    self._add(prefix, declared, (*labels, ("state", value)), 1)
            elif isinstance(value, Real):
                self._add(prefix, declared, labels, value)

    def _add_mapping(
        self, prefix: str, declared: Field[Any], labels: Labels, values: Mapping[object, object]
    ) -> None:
        for key, value in values.items():
            text = key.name.lower() if isinstance(key, Enum) else str(key)
            if is_dataclass(value) and not isinstance(value, type):
                word = declared.name.removesuffix("s")
                self.add_stats(f"{prefix}_{word}", (*labels, (word, text)), value)
            elif isinstance(value, Real):
                self._add(prefix, declared, (*labels, ("kind", text)), value)

    def _add(self, prefix: str, declared: Field[Any], labels: Labels, value: Real | int) -> None:
        name, kind, factor, unit = _metric(declared.name)
        name, words = f"{prefix}_{name}", words_of(declared)
        assert words, f"{name}: the class of its field is not made by gateway.stats"
        family = self.by_name.get(name)
        if family is None:
            family = self.by_name[name] = Family(name, kind, words + unit)
        family.samples.append((labels, _scaled(value, factor)))


def _of_gateway(view: GatewayView) -> Iterator[Family]:
    build: Labels = (("gateway", view.name), ("site", view.site), ("version", view.version))
    yield Family(f"{_PREFIX}_info", "gauge", "1; which gateway this is", [(build, 1)])
    words, uptime_s = "time since the start, in seconds", view.clock.monotonic_s() - view.started_s
    yield Family(f"{_PREFIX}_uptime_seconds", "gauge", words, [((), uptime_s)])
    words = "tags that the gateway knows, those of aggregates and scores among them"
    yield Family(f"{_PREFIX}_tags", "gauge", words, [((), len(view.table))])
    scores: list[tuple[Labels, float]] = [
        ((("asset", score.asset), ("model", score.model)), score.score) for score in view.scores()
    ]
    words = "newest anomaly score; 1 and more alarms, NaN: not known"
    yield Family(f"{_PREFIX}_anomaly_score", "gauge", words, scores)


def _metric(name: str) -> tuple[str, str, float, str]:
    """A field's name as Prometheus wants it: in base units, kind, factor to these, their words."""
    if name.endswith("_total"):
        return name, "counter", 1, ""
    words = name.split("_")
    for unit, factor in (("ms", 0.001), ("s", 1)):
        if unit in words:
            words.remove(unit)
            return "_".join([*words, "seconds"]), "gauge", factor, ", in seconds"
    return name, "gauge", 1, ""


def _scaled(value: Real | int, factor: float) -> float:
    """A plain number of what may be one of numpy's; whole numbers stay whole."""
    if factor == 1:
        return int(value) if isinstance(value, (Integral, bool)) else float(value)
    return float(value) * factor


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    pairs = (f'{name}="{_label_value(value)}"' for name, value in labels)
    return "{" + ",".join(pairs) + "}"


def _label_value(text: str) -> str:
    clean = text[:_LABEL_CHARS_MAX].encode("utf-8", "replace").decode()
    return clean.translate(_ESCAPES)


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(int(value))
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(float(value))


_STATM = Path("/proc/self/statm")
_FDS = Path("/proc/self/fd")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def _of_process() -> Iterator[Family]:
    """The usual process_* metrics; those of /proc only where there is one."""
    words = "CPU time that the gateway has used, in seconds"
    yield Family("process_cpu_seconds_total", "counter", words, [((), time.process_time())])
    try:
        size, resident = _STATM.read_text().split()[:2]
        open_fds = sum(1 for _ in _FDS.iterdir()) - 1  # less the one that lists them
    except OSError:
        return
    for what, words, number in (
        ("virtual_memory_bytes", "bytes of address space", int(size) * _PAGE_BYTES),
        ("resident_memory_bytes", "bytes of memory in use", int(resident) * _PAGE_BYTES),
        ("open_fds", "open files and connections", open_fds),
    ):
        yield Family(f"process_{what}", "gauge", words, [((), number)])
