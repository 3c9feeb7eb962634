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

Our own writer, not prometheus-client: that library keeps a second copy of every value in objects
of its own and starts with a registry of global state, for a format that is a page of code here.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from numbers import Integral, Real
from pathlib import Path

from gateway.ops.view import GatewayView, Stats

__all__ = ["CONTENT_TYPE", "exposition", "render"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_PREFIX = "sluicegate"
# Devices and brokers choose some label values; a page of text is no label.
_LABEL_CHARS_MAX = 128
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})

Labels = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _Family:
    """One metric: its samples stand together, as the format demands."""

    kind: str
    samples: list[tuple[Labels, float]] = field(default_factory=list)


def exposition(view: GatewayView, further: Mapping[str, Stats] | None = None) -> str:
    """All metrics of a gateway; `further` are parts the view does not know of."""
    families: dict[str, _Family] = {}
    parts: list[tuple[str, Labels, Stats]] = [
        *(("source", (("source", source.name),), source.stats) for source in view.sources),
        *(("sink", (("sink", sink.name),), sink.stats) for sink in view.sinks),
        *(("model", (("model", name),), stats) for name, stats in view.models.items()),
        *((name, (), stats) for name, stats in view.parts.items()),
        *((name, (), stats) for name, stats in (further or {}).items()),
        ("loop", (), view.loop),
    ]
    for name, labels, stats in parts:
        _add_stats(families, f"{_PREFIX}_{name}", labels, stats)
    build: Labels = (("gateway", view.name), ("site", view.site), ("version", view.version))
    uptime_s = view.clock.monotonic_s() - view.started_s
    _add(families, f"{_PREFIX}_info", "gauge", build, 1)
    _add(families, f"{_PREFIX}_uptime_seconds", "gauge", (), uptime_s)
    _add(families, f"{_PREFIX}_tags", "gauge", (), len(view.table))
    for score in view.scores():
        labels = (("asset", score.asset), ("model", score.model))
        _add(families, f"{_PREFIX}_anomaly_score", "gauge", labels, score.score)
    for name, kind, value in _process():
        _add(families, name, kind, (), value)
    return render(
        (name, family.kind, labels, value)
        for name, family in families.items()
        for labels, value in family.samples
    )


def render(samples: Iterable[tuple[str, str, Labels, float]]) -> str:
    """Samples (name, kind, labels, value), those of a name in a row, as text."""
    lines = []
    before = ""
    for name, kind, labels, value in samples:
        if name != before:
            lines.append(f"# TYPE {name} {kind}")
            before = name
        lines.append(f"{name}{_labels(labels)} {_number(value)}")
    return "\n".join(lines) + "\n"


def _add(families: dict[str, _Family], name: str, kind: str, labels: Labels, value: float) -> None:
    families.setdefault(name, _Family(kind)).samples.append((labels, value))


def _add_stats(families: dict[str, _Family], prefix: str, labels: Labels, stats: Stats) -> None:
    for declared in fields(stats):
        value = getattr(stats, declared.name)
        if isinstance(value, Mapping):
            _add_mapping(families, prefix, declared.name, labels, value)
        elif is_dataclass(value) and not isinstance(value, type):
            _add_stats(families, f"{prefix}_{declared.name}", labels, value)
        elif isinstance(value, str):
            if declared.name == "state":
                _add(families, f"{prefix}_state", "gauge", (*labels, ("state", value)), 1)
        elif isinstance(value, Real):
            name, kind, factor = _metric(declared.name)
            _add(families, f"{prefix}_{name}", kind, labels, _scaled(value, factor))


def _add_mapping(
    families: dict[str, _Family],
    prefix: str,
    name: str,
    labels: Labels,
    values: Mapping[object, object],
) -> None:
    for key, value in values.items():
        text = key.name.lower() if isinstance(key, Enum) else str(key)
        if is_dataclass(value) and not isinstance(value, type):
            word = name.removesuffix("s")
            _add_stats(families, f"{prefix}_{word}", (*labels, (word, text)), value)
        elif isinstance(value, Real):
            metric, kind, factor = _metric(name)
            number = _scaled(value, factor)
            _add(families, f"{prefix}_{metric}", kind, (*labels, ("kind", text)), number)


def _metric(name: str) -> tuple[str, str, float]:
    """A field's name as Prometheus wants it: name in base units, kind, factor to the base unit."""
    if name.endswith("_total"):
        return name, "counter", 1
    words = name.split("_")
    for unit, factor in (("ms", 0.001), ("s", 1)):
        if unit in words:
            words.remove(unit)
            return "_".join([*words, "seconds"]), "gauge", factor
    return name, "gauge", 1


def _scaled(value: Real, factor: float) -> float:
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


def _process() -> Iterator[tuple[str, str, float]]:
    """The usual process_* metrics; those of /proc only where there is one."""
    yield "process_cpu_seconds_total", "counter", time.process_time()
    try:
        size, resident = _STATM.read_text().split()[:2]
        open_fds = sum(1 for _ in _FDS.iterdir()) - 1  # less the one that lists them
    except OSError:
        return
    yield "process_virtual_memory_bytes", "gauge", int(size) * _PAGE_BYTES
    yield "process_resident_memory_bytes", "gauge", int(resident) * _PAGE_BYTES
    yield "process_open_fds", "gauge", open_fds
