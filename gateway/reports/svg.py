"""Drawings: inline SVG as text. Colours come from the page's style, so that they follow its mode.

A series of any length is thinned to the pixels it is drawn on, by its extremes, so that no peak
is lost; a drawing is some ten kilobytes at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from gateway.frame import TimeArray
from gateway.reports.page import Html, text

__all__ = ["Band", "bars", "grid_of_shares", "histogram", "interval", "over_time", "spark"]

Numbers = npt.NDArray[np.floating]

WIDTH = 960.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 8.0, 8.0, 22.0
# Steps of a time axis, in seconds, and how its labels are written.
_STEPS = (
    (1, "%H:%M:%S"), (5, "%H:%M:%S"), (15, "%H:%M:%S"), (60, "%H:%M"), (300, "%H:%M"),
    (900, "%H:%M"), (3600, "%H:%M"), (3 * 3600, "%H:%M"), (6 * 3600, "%d.%m. %Hh"),
    (12 * 3600, "%d.%m. %Hh"), (86400, "%Y-%m-%d"), (7 * 86400, "%Y-%m-%d"),
    (30 * 86400, "%Y-%m-%d"), (365 * 86400, "%Y"),
)  # fmt: skip
_TICKS_MAX = 9


@dataclass(frozen=True, slots=True)
class Band:
    """A stretch of time that is shaded; `kind` is a class of the style."""

    start_ns: int
    end_ns: int
    kind: str = "shade"
    title: str = ""


def over_time(
    t_ns: TimeArray,
    values: Numbers,
    *,
    limit: float | None = None,
    bands: Sequence[Band] = (),
    marks: Sequence[Band] = (),
    height: float = 170.0,
) -> Html:
    """A series with its extremes, shaded stretches behind, and marks on a line of their own.

    With a limit the axis is even up to twice the limit, and logarithmic beyond.
    """
    known = np.isfinite(values)
    if not known.any():
        return _svg(height, f'<text x="{_LEFT}" y="{height / 2:.0f}">nothing is known</text>')
    start, end = int(t_ns[0]), max(int(t_ns[-1]), int(t_ns[0]) + 1)
    scale = _scale(values[known], limit, height)

    def x_of(at_ns: float) -> float:
        share = (at_ns - start) / (end - start)
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * min(1.0, max(0.0, share))

    parts = [
        _band(x_of(band.start_ns), x_of(band.end_ns), _TOP, height - _BOTTOM, band)
        for band in bands
    ]
    parts += scale.grid()
    parts += _time_axis(start, end, x_of, height)
    parts += _series(t_ns, values, start, end, scale)
    if limit is not None:
        y = scale.y_of(limit)
        parts.append(f'<path class="limit" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
    parts += [
        _band(x_of(mark.start_ns), x_of(mark.end_ns), height - _BOTTOM - 5, height - _BOTTOM, mark)
        for mark in marks
    ]
    return _svg(height, "".join(parts))


def spark(values: Numbers, points: int = 120) -> Html:
    """The shape of a signal, as small as a word."""
    width, height = 150.0, 26.0
    known = values[np.isfinite(values)]
    if not len(known):
        return Html("")
    low, high = _extremes(values, points)
    span = float(known.max() - known.min()) or 1.0
    y = [height - 2 - (height - 4) * (edge - known.min()) / span for edge in (low, high)]
    step = width / max(1, len(low))
    path = "".join(
        f"M{i * step:.1f} {bottom:.1f}V{min(top, bottom - 0.7):.1f}"
        for i, (bottom, top) in enumerate(zip(*y, strict=True))
        if math.isfinite(bottom)
    )
    return Html(
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img"><path class="a" d="{path}"/></svg>'
    )


def bars(rows: Sequence[tuple[str, float, float]], height_each: float = 22.0) -> Html:
    """Two shares (0 to 1) of each name: the first as a bar, the second as a thin one below."""
    left, room = 200.0, WIDTH - 200.0 - 70.0
    parts = []
    most = max([1e-9, *(max(a, b) for _, a, b in rows)])
    for i, (name, first, second) in enumerate(rows):
        y = 4 + i * height_each
        parts.append(_name(name, left, y + 12, 30))
        parts.append(
            f'<rect class="bar" x="{left}" y="{y:.1f}" height="9"'
            f' width="{room * first / most:.1f}"/>'
        )
        parts.append(
            f'<rect class="barbad" x="{left}" y="{y + 10:.1f}"'
            f' width="{room * second / most:.1f}" height="5"/>'
        )
        parts.append(
            f'<text x="{left + room * max(first, second) / most + 6:.1f}" y="{y + 12:.1f}">'
            f"{first:.0%} / {second:.0%}</text>"
        )
    return _svg(8 + len(rows) * height_each, "".join(parts))


def grid_of_shares(
    rows: Sequence[str], columns: Sequence[str], shares: Numbers, words: Sequence[Sequence[str]]
) -> Html:
    """Cells by a share from 0 (missed) to 1 (caught), NaN for none, with a word in each."""
    left, top, cell_height = 170.0, 34.0, 24.0
    width = min(110.0, (WIDTH - left - 8) / max(1, len(columns)))
    parts = [
        f'<text class="mid" x="{left + (j + 0.5) * width:.1f}" y="{top - 8}">'
        f"{_cut(name, max(4, int(width / 6)))}</text>"
        for j, name in enumerate(columns)
    ]
    for i, name in enumerate(rows):
        y = top + i * cell_height
        parts.append(_name(name, left, y + 16, 26))
        for j in range(len(columns)):
            share = float(shares[i, j])
            if math.isnan(share):
                continue
            kind = "good" if share >= 0.5 else "bad"
            strength = 0.15 + 0.6 * abs(share - 0.5) * 2
            x = left + j * width
            parts.append(
                f'<rect class="cell {kind}" fill-opacity="{strength:.2f}" x="{x:.1f}" y="{y:.1f}"'
                f' width="{width:.1f}" height="{cell_height}"/>'
                f'<text class="mid ink" x="{x + width / 2:.1f}" y="{y + 16:.1f}">'
                f"{text(words[i][j])}</text>"
            )
    return _svg(top + len(rows) * cell_height + 6, "".join(parts))


def histogram(values: Numbers, *, limit: float, height: float = 150.0) -> Html:
    """How often a score was how large, on a logarithmic axis; the last bar has all beyond."""
    known = values[np.isfinite(values)]
    if not len(known):
        return Html("")
    top = max(limit * 1.5, min(float(known.max()), limit * 4))
    counts, edges = np.histogram(np.minimum(known, top), bins=60, range=(0, top))
    most = math.log10(counts.max() + 1)
    room = WIDTH - _LEFT - _RIGHT
    parts = []
    for count, edge in zip(counts.tolist(), edges.tolist(), strict=False):
        if not count:
            continue
        x = _LEFT + room * edge / top
        y = (height - _BOTTOM - _TOP) * math.log10(count + 1) / most
        kind = "bar" if edge < limit else "barbad"
        parts.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{height - _BOTTOM - y:.1f}"'
            f' width="{room / 60 - 1:.1f}" height="{y:.1f}"/>'
        )
    for i in range(int(most) + 1):
        y = height - _BOTTOM - (height - _BOTTOM - _TOP) * math.log10(10**i + 1) / most
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="end" x="{_LEFT - 6}" y="{y + 4:.1f}">{10**i:,}</text>')
    x = _LEFT + room * limit / top
    parts.append(f'<path class="limit" d="M{x:.1f} {_TOP}V{height - _BOTTOM}"/>')
    for value in np.arange(0, top + 1e-9, 0.5):
        at = _LEFT + room * value / top
        parts.append(f'<text class="mid" x="{at:.1f}" y="{height - 7}">{value:g}</text>')
    return _svg(height, "".join(parts))


def interval(low: float, expected: float, high: float, wanted: float, unit: str) -> Html:
    """A rate with how sure it is, on a logarithmic axis."""
    # Once in a million years is never.
    low, expected, high, wanted = (min(value, 1e9) for value in (low, expected, high, wanted))
    positive = [value for value in (low, expected, high, wanted) if value > 1e-9]
    if not positive:
        return Html("")
    left = math.floor(math.log10(min(positive)) - 0.3)
    right = math.ceil(math.log10(max(positive)) + 0.3)
    height = 64.0

    def x_of(value: float) -> float:
        share = (math.log10(max(value, 10**left)) - left) / (right - left)
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * share

    parts = []
    for power in range(left, right + 1):
        x = x_of(10.0**power)
        parts.append(f'<path class="grid" d="M{x:.1f} 6V42"/>')
        anchor, word = ("end", f" {text(unit)}") if power == right else ("mid", "")
        parts.append(f'<text class="{anchor}" x="{x:.1f}" y="58">{10.0**power:g}{word}</text>')
    parts.append(f'<rect class="area" x="{x_of(low):.1f}" y="16"'
                 f' width="{max(2.0, x_of(high) - x_of(low)):.1f}" height="16"/>')  # fmt: skip
    parts.append(f'<circle class="dot" cx="{x_of(expected):.1f}" cy="24" r="5"/>')
    parts.append(f'<path class="limit" d="M{x_of(wanted):.1f} 6V42"/>')
    return _svg(height, "".join(parts))


class _scale:  # noqa: N801 - built like a function, read like one
    """Values to heights."""

    def __init__(self, values: Numbers, limit: float | None, height: float) -> None:
        self._limit = limit
        self._bottom, self._room = height - _BOTTOM, height - _BOTTOM - _TOP
        low, high = float(values.min()), float(values.max())
        if limit is not None:
            low, high = min(0.0, low), max(high, 2 * limit)
        if high == low:  # half is lost on a number as large as 2**53
            low, high = low - 0.5 - abs(low) / 1e6, high + 0.5 + abs(high) / 1e6
        self._low, self._high = low, high
        self._from, self._to = self._bent(low), self._bent(high)

    def _bent(self, value: float) -> float:
        limit = self._limit
        if limit is None or value <= 2 * limit:
            return value
        return 2 * limit * (1 + math.log(value / (2 * limit)))

    def y_of(self, value: float) -> float:
        share = (self._bent(value) - self._from) / (self._to - self._from)
        return self._bottom - self._room * share

    def grid(self) -> list[str]:
        if self._limit is None:
            ticks = np.linspace(self._low, self._high, 4).tolist()
        else:
            ticks = [0.0, self._limit, 2 * self._limit]
            ticks += [self._limit * 10**i * k for i in range(1, 12) for k in (0.5, 1)
                      if 4 * self._limit <= self._limit * 10**i * k <= self._high]  # fmt: skip
            ticks = ticks if len(ticks) < 8 else ticks[:3] + ticks[3::2]
        return [
            f'<path class="grid" d="M{_LEFT} {self.y_of(tick):.1f}H{WIDTH - _RIGHT}"/>'
            f'<text class="end" x="{_LEFT - 6}" y="{self.y_of(tick) + 4:.1f}">{_short(tick)}</text>'
            for tick in ticks
        ]


def _series(t_ns: TimeArray, values: Numbers, start: int, end: int, scale: _scale) -> list[str]:
    """The line through the largest, over an area down to the smallest, of each pixel."""
    buckets = int(WIDTH - _LEFT - _RIGHT)
    of = ((t_ns - start).astype(np.float64) / (end - start) * (buckets - 1)).astype(np.int64)
    low, high = np.full(buckets, np.inf), np.full(buckets, -np.inf)
    known = np.isfinite(values)
    np.minimum.at(low, of[known], values[known])
    np.maximum.at(high, of[known], values[known])
    there = np.flatnonzero(high > -np.inf)
    breaks = np.flatnonzero(np.diff(there) > _gap_of(t_ns, end - start, buckets)) + 1
    parts = []
    for run in np.split(there, breaks):
        x = _LEFT + run + 0.5
        upper = [f"{a:.0f} {scale.y_of(b):.1f}" for a, b in zip(x, high[run], strict=True)]
        lower = [f"{a:.0f} {scale.y_of(b):.1f}" for a, b in zip(x, low[run], strict=True)]
        if (low[run] < high[run]).any():
            parts.append(f'<path class="area" d="M{"L".join(upper + lower[::-1])}Z"/>')
        ending = "h1" if len(run) == 1 else ""
        parts.append(f'<path class="a" d="M{"L".join(upper)}{ending}"/>')
    return parts


def _gap_of(t_ns: TimeArray, span_ns: int, buckets: int) -> float:
    """Pixels without a value that are a break: three of the usual distances."""
    usual_ns = float(np.median(np.diff(t_ns))) if len(t_ns) > 1 else 0.0
    return max(2.0, 3 * usual_ns / span_ns * buckets)


def _extremes(values: Numbers, points: int) -> tuple[Numbers, Numbers]:
    edges = np.linspace(0, len(values), min(points, len(values)) + 1).astype(np.int64)
    low, high = np.full(len(edges) - 1, np.nan), np.full(len(edges) - 1, np.nan)
    for i in range(len(edges) - 1):
        part = values[edges[i] : edges[i + 1]]
        part = part[np.isfinite(part)]
        if len(part):
            low[i], high[i] = part.min(), part.max()
    return low, high


def _time_axis(start: int, end: int, x_of: object, height: float) -> list[str]:
    assert callable(x_of)
    span_s = (end - start) / 1e9
    step_s, form = next(
        ((step, form) for step, form in _STEPS if span_s / step <= _TICKS_MAX), _STEPS[-1]
    )
    step_ns = max(step_s, math.ceil(span_s / _TICKS_MAX) if step_s == _STEPS[-1][0] else 0) * 10**9
    parts = [f'<path class="axis" d="M{_LEFT} {height - _BOTTOM}H{WIDTH - _RIGHT}"/>']
    for tick in range(-(-start // step_ns) * step_ns, end + 1, step_ns):
        x = x_of(tick)
        label = datetime.fromtimestamp(tick / 1e9, UTC).strftime(form)
        anchor = "end" if x > WIDTH - 60 else "mid"
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{height - _BOTTOM}"/>')
        parts.append(f'<text class="{anchor}" x="{x:.1f}" y="{height - 7}">{label}</text>')
    return parts


def _band(x: float, end: float, top: float, bottom: float, band: Band) -> str:
    title = f"<title>{text(band.title)}</title>" if band.title else ""
    return (
        f'<rect class="{band.kind}" x="{x:.1f}" y="{top}" width="{max(1.0, end - x):.1f}"'
        f' height="{bottom - top:.1f}">{title}</rect>'
    )


def _svg(height: float, inner: str) -> Html:
    return Html(f'<svg viewBox="0 0 {WIDTH:g} {height:g}" role="img">{inner}</svg>')


def _name(name: str, left: float, y: float, characters: int) -> str:
    return f'<text class="end ink" x="{left - 8}" y="{y:.1f}">{_cut(name, characters)}</text>'


def _cut(name: str, characters: int) -> str:
    return text(name if len(name) <= characters else name[: characters - 1] + "…")


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1e5 else f"{value:.1e}"
