"""Prepare: from samples as they arrived to recordings that agree in their fields.

    stream -> period -> ticks of every tag -> assets -> fields worth learning -> recordings

A field that only ever rises is a clock: a model would learn the time, and alarm when it goes on.
One that never moved, that is text, or that comes too seldom for the period says nothing. Each is
left out, and why is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeAlias

import numpy as np

from gateway.frame import BoolArray, Frame, TimeArray
from gateway.inference.fit.recording import Recording
from gateway.inference.resample import Resampled, Resampler
from gateway.inference.rings import AGE_MAX_PERIODS
from gateway.inference.runtime import Float32Array
from gateway.settings import matches_any
from gateway.tag import DataType, Tag, TagTable

__all__ = ["Arrivals", "LeftOut", "Prepared", "Selection", "Spoken", "prepare", "sample_period"]

Arrivals: TypeAlias = Iterable[tuple[TimeArray, Frame]]
"""When each row arrived, and the frame; in the order of arrival."""

# Samples looked at to find how far apart they are: a minute or two of a large plant.
PEEK_SAMPLES = 65_536
# Of two assets of a class, a field that only one has is no field of the class.
ASSETS_SHARE_MIN = 0.5
# Less of the time than this, and hardly a window would be known.
USABLE_SHARE_MIN = 0.5
# A counter may be reset now and then.
FALLS_SHARE_MAX = 0.005
CHANGES_MIN = 10
STEPS_DIFFER_MAX = 0.05
MARGIN_TICKS = 32
# Periods that people set; what is within 5 % of one is it.
_USUAL_S = (
    0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1, 2, 3, 5, 10, 15, 20, 30, 60, 120, 180, 300, 600,
    900, 1200, 1800, 3600,
)  # fmt: skip
_PERIOD_S_MIN, _PERIOD_S_MAX = 0.01, 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which tags are wanted: of one class, of some assets, some fields of them."""

    asset_class: str
    assets: tuple[str, ...] = ("*",)
    fields: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def wants(self, tag: Tag) -> bool:
        return (
            tag.asset_class == self.asset_class
            and tag.data_type is not DataType.STRING
            and matches_any(tag.asset, self.assets)
            and matches_any(tag.field, self.fields)
            and not matches_any(tag.field, self.exclude)
        )

    def asks_for(self, field: str) -> bool:
        """Whether the user has named the field, and not just all of them."""
        return matches_any(field, tuple(name for name in self.fields if name != "*"))


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A field or an asset that was not learned from."""

    what: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """What operators said of an asset's past, as spans of time (start_ns, end_ns)."""

    normal: Sequence[tuple[int, int]] = ()  # to be learned from, however unusual
    excluded: Sequence[tuple[int, int]] = ()  # maintenance, and what was called a fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Recordings of one class, all of the same fields; none if nothing was left."""

    recordings: tuple[Recording, ...]
    left_out: tuple[LeftOut, ...]
    assets: tuple[str, ...]  # seen at all


@dataclass(frozen=True, slots=True, eq=False)
class _Column:
    """One tag's ticks."""

    tag: Tag
    t_ns: TimeArray
    values: Float32Array
    usable: BoolArray


def sample_period(arrivals: Arrivals, table: TagTable, selection: Selection) -> tuple[
    float | None, Arrivals
]:  # fmt: skip
    """How far apart the samples of most tags are, in seconds, and the same arrivals once more.

    None when no tag has come more than once. Tags with a deadband come irregularly: of those the
    shortest distances count.
    """
    held: list[tuple[TimeArray, Frame]] = []
    samples = 0
    rest = iter(arrivals)
    for arrived_ns, frame in rest:
        held.append((arrived_ns, frame))
        samples += len(frame)
        if samples >= PEEK_SAMPLES:
            break
    distances = list(_distances(held, table, selection))
    again: Iterator[tuple[TimeArray, Frame]] = chain(held, rest)
    if not distances:
        return None, again
    raw_s = float(np.median(distances))
    usual_s = min(_USUAL_S, key=lambda period_s: abs(np.log(period_s / raw_s)))
    if abs(usual_s / raw_s - 1) > 0.05:
        usual_s = float(f"{raw_s:.3g}")
    return float(np.clip(usual_s, _PERIOD_S_MIN, _PERIOD_S_MAX)), again


def _distances(
    held: Sequence[tuple[TimeArray, Frame]], table: TagTable, selection: Selection
) -> Iterator[float]:
    frame = Frame.concatenate([frame for _, frame in held])
    arrived_ns = np.concatenate([[], *(times for times, _ in held)]).astype(np.int64)
    for tag_id in np.unique(frame.tag_ids).tolist():
        tag = table[tag_id]
        if not selection.wants(tag):
            continue
        of_tag = frame.tag_ids == tag_id
        # A source's own times, unless it gave many samples one time.
        for times in (frame.t_ns[of_tag], arrived_ns[of_tag]):
            steps = np.diff(np.unique(times))
            if len(steps):
                share = 10 if tag.deadband > 0 else 50
                yield max(1e-6, float(np.percentile(steps, share)) / 1e9)
                break


def prepare(
    streams: Sequence[tuple[TagTable, Arrivals]],
    selection: Selection,
    period_s: float,
    *,
    deadband_report_s: float,
    spoken: Callable[[str], Spoken] = lambda _: Spoken(),
) -> Prepared:
    """Recordings of all that some streams bring: a spool's, or files', one after another."""
    columns: list[list[_Column]] = []  # by stream
    for table, arrivals in streams:
        resampler = Resampler(table, period_s, deadband_report_s, selection.wants)
        for arrived_ns, frame in arrivals:
            resampler.feed(arrived_ns, frame)
        columns.append(_columns_of(resampler.finish(), table))
    every = [column for of_stream in columns for column in of_stream]
    fields, left_out = _fields_of(every, selection, period_s)
    recordings: list[Recording] = []
    for of_stream in columns:
        for asset in dict.fromkeys(column.tag.asset for column in of_stream):
            of_asset = {c.tag.field: c for c in of_stream if c.tag.asset == asset}
            missing = [field for field in fields if field not in of_asset]
            if missing:
                why = f"it has no {', '.join(missing[:3])}, as the others have"
                left_out.append(LeftOut(asset, why))
            elif fields:
                recording = _recording(asset, [of_asset[f] for f in fields], period_s)
                recordings.append(_heeding(recording, spoken(asset)))
    return Prepared(
        recordings=tuple(recording for recording in recordings if len(recording.t_ns)),
        left_out=tuple(dict.fromkeys(left_out)),
        assets=tuple(dict.fromkeys(column.tag.asset for column in every)),
    )


def _columns_of(found: Resampled, table: TagTable) -> list[_Column]:
    return [
        _Column(table[tag_id], found.t_ns, found.values[:, i], found.usable[:, i])
        for i, tag_id in enumerate(found.tag_ids)
        if found.usable[:, i].any()
    ]


def _fields_of(
    columns: Sequence[_Column], selection: Selection, period_s: float
) -> tuple[list[str], list[LeftOut]]:
    """The fields worth learning, in the order they appeared."""
    by_field: dict[str, list[_Column]] = {}
    for column in columns:
        by_field.setdefault(column.tag.field, []).append(column)
    assets = len({column.tag.asset for column in columns})
    fields: list[str] = []
    left_out: list[LeftOut] = []
    for field, of_field in by_field.items():
        having = len({column.tag.asset for column in of_field})
        why = _why_not(of_field, period_s)
        if having < assets * ASSETS_SHARE_MIN:
            why = f"only {having} of {assets} assets have it"
        if why and not selection.asks_for(field):
            left_out.append(LeftOut(field, why))
        else:
            fields.append(field)
    return fields, left_out


def _why_not(columns: Sequence[_Column], period_s: float) -> str:
    """Why a field says nothing; empty if it does."""
    units = {column.tag.eng_unit for column in columns if column.tag.eng_unit}
    if len(units) > 1:
        return f"it comes in different units: {', '.join(sorted(units))}"
    shares = [_usable_share(column) for column in columns]
    if max(shares) < USABLE_SHARE_MIN:
        return (
            f"it is known {max(shares):.0%} of the time: a value counts for"
            f" {AGE_MAX_PERIODS} periods of {period_s:g} s"
        )
    kinds = {_kind_of(column) for column in columns}
    if kinds == {"still"}:
        return "it never changed"
    if "clock" in kinds and "free" not in kinds:
        return "it only ever rises or falls, as a counter or a clock does"
    return ""


def _usable_share(column: _Column) -> float:
    """Of the ticks since it was there first."""
    first = int(column.usable.argmax())
    return float(column.usable[first:].mean())


def _kind_of(column: _Column) -> str:
    """What a tag does: "still", "clock", "once" (one way, too seldom to be sure) or "free"."""
    values = column.values[column.usable]
    steps = np.diff(values)
    steps = steps[steps != 0]
    if not len(steps):
        return "still"
    against = min(int((steps < 0).sum()), int((steps > 0).sum()))
    if against > FALLS_SHARE_MAX * len(steps):
        return "free"
    # Starts are counted, too, and there may have been one only; hours go on by equal steps, as
    # far as a float32 can tell.
    rounding = 4 * float(np.spacing(np.abs(values).max()))
    equal = float(np.ptp(steps)) <= STEPS_DIFFER_MAX * abs(float(steps.mean())) + rounding
    enough = 1 if column.tag.is_exact_integer else 2 if equal else CHANGES_MIN
    return "clock" if len(steps) >= enough else "once"


def _recording(asset: str, columns: Sequence[_Column], period_s: float) -> Recording:
    usable = np.stack([column.usable for column in columns], axis=1)
    some = np.flatnonzero(usable.any(axis=1))
    rows = slice(int(some[0]), int(some[-1]) + 1) if len(some) else slice(0, 0)
    return Recording(
        asset=asset,
        fields=tuple(column.tag.field for column in columns),
        eng_units=tuple(column.tag.eng_unit for column in columns),
        period_s=period_s,
        t_ns=columns[0].t_ns[rows],
        values=np.stack([column.values[rows] for column in columns], axis=1).astype(np.float64),
        usable=usable[rows],
    )


def _heeding(recording: Recording, spoken: Spoken) -> Recording:
    """The recording as the operators' words leave it.

    What begins in a window is seen in it for as long as the window is: as much more is left out.
    """
    margin_ns = round(MARGIN_TICKS * recording.period_s * 1e9)
    excluded = _within(recording.t_ns, spoken.excluded, margin_ns)
    normal = _within(recording.t_ns, spoken.normal, 0)
    if not excluded.any() and not normal.any():
        return recording
    return replace(
        recording, usable=recording.usable & ~excluded[:, np.newaxis], normal=normal & ~excluded
    )


def _within(t_ns: TimeArray, spans: Sequence[tuple[int, int]], margin_ns: int) -> BoolArray:
    rows = np.zeros(len(t_ns), np.bool_)
    for start_ns, end_ns in spans:  # in this order, since an end may be for ever
        rows |= (t_ns >= start_ns - margin_ns) & (t_ns - margin_ns <= end_ns)
    return rows
