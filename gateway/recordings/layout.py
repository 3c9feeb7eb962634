"""Layout: what the columns of a recording mean, from their names.

    wide   time, and a column a tag          time;flow [m3/h];pressure [bar]
    long   time, tag, value, and what there is of quality, eng_unit, asset, field
           (`sluicegate spool export` and `query` write these)

A wide column's name is a tag's, `pump-1.flow`, when all of them have a dot, or a field's, `flow`,
of the asset that the user names or the file is named after. A column that says whether there was a
fault is not a signal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import Problem, RecordingInvalid
from gateway.recordings.cells import looks_numeric
from gateway.recordings.tables import Chunk, Column, Numbers, Table, invalid
from gateway.recordings.times import NotATime, times_of_texts
from gateway.settings import matches_any

__all__ = [
    "Layout",
    "LongLayout",
    "RecordingOptions",
    "Signal",
    "WideLayout",
    "layout_of",
]

_TIMES = (
    "time", "timestamp", "datetime", "date_time", "date time", "_time", "ts", "t", "date",
    "zeit", "zeitstempel", "time_utc", "utc",
)  # fmt: skip
# What people call the column that says "here it was broken".
_LABELS = (
    "anomaly", "is_anomaly", "label", "labels", "fault", "is_fault", "is_anomalous", "attack",
    "changepoint", "change_point", "ground_truth", "target", "outlier",
)  # fmt: skip
_UNIT = re.compile(r"(.+?)\s*\[([^\[\]]*)\]|(.+?)\s+\(([^()]*)\)")
_ASSET = re.compile(r"[^A-Za-z0-9_-]+")
_SHOWN_MAX = 12
_TEXT = "it holds text"  # why a column is left out


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingOptions:
    """What a user may say about a file that does not say it itself."""

    time_column: str = ""
    label: str = ""  # the column that says when there was a fault
    asset: str = ""  # that a wide file's columns are fields of; or whose tags to read of it
    columns: tuple[str, ...] = ("*",)  # patterns of signals to read: of a tag, or of its field
    exclude: tuple[str, ...] = ()
    row_period_s: float | None = None  # for a file without times


@dataclass(frozen=True, slots=True)
class Signal:
    """A wide file's column that is a tag."""

    index: int
    asset: str
    field: str
    eng_unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WideLayout:
    """A column a tag."""

    time: int | None  # None: rows come at a period
    label: int | None
    signals: tuple[Signal, ...]
    left_out: tuple[tuple[str, str], ...]  # column, why


@dataclass(frozen=True, slots=True, kw_only=True)
class LongLayout:
    """A row a sample; None for a column that is not there."""

    time: int
    label: int | None
    tag: int | None  # if None, asset and field are there
    value: int
    quality: int | None
    eng_unit: int | None
    asset: int | None
    field: int | None
    kind: int | None  # the export's column `type`
    left_out: tuple[tuple[str, str], ...]


Layout = WideLayout | LongLayout


def layout_of(table: Table, first: Chunk | None, options: RecordingOptions) -> Layout:
    """The meaning of a table's columns; raises RecordingInvalid."""
    names = [name.strip().lower() for name in table.header]
    _check_header(table, first)
    time = _time_column(table, names, first, options)
    label = _label_column(table, names, first, options)
    by_name = {name: i for i, name in enumerate(names)}
    has_tag = "tag" in by_name or {"asset", "field"} <= by_name.keys()
    if "value" in by_name and has_tag:
        if time is None:
            raise invalid(table.path, "header", "there is no column of times", _time_mend(table))
        return LongLayout(
            time=time, label=label, value=by_name["value"],
            tag=by_name.get("tag"), asset=by_name.get("asset"), field=by_name.get("field"),
            quality=by_name.get("quality"), kind=by_name.get("type"),
            eng_unit=by_name.get("eng_unit", by_name.get("unit")), left_out=(),
        )  # fmt: skip
    return _wide(table, time, label, first, options)


def _wide(
    table: Table,
    time: int | None,
    label: int | None,
    first: Chunk | None,
    options: RecordingOptions,
) -> WideLayout:
    left_out: list[tuple[str, str]] = []
    found: list[tuple[int, str, str]] = []
    columns = [
        (
            i,
            *_name_and_unit(header),
            "" if first is None or looks_numeric(first.columns[i]) else _TEXT,
        )
        for i, header in enumerate(table.header)
        # What a separator at the end of each line leaves is no column.
        if i not in (time, label) and (header or not _is_empty(first, i))
    ]
    signals_named = [
        name for _, name, _, text in columns if not text and name.lower() not in _LABELS
    ]
    are_tags = bool(signals_named) and all("." in name.strip(".") for name in signals_named)
    for i, name, eng_unit, text in columns:
        names = (name, name.rpartition(".")[2]) if are_tags else (name,)
        is_wanted = any(matches_any(each, options.columns) for each in names)
        asked_for = options.columns != ("*",) and is_wanted
        if not is_wanted or any(matches_any(each, options.exclude) for each in names):
            continue
        if name.lower() in _LABELS and not asked_for:
            left_out.append((name, "its name says that it is a label, not a signal"))
        elif text:
            left_out.append((name, text))
        else:
            found.append((i, name, eng_unit.strip()))
    if are_tags and options.asset:
        assets = sorted({name.rpartition(".")[0] for _, name, _ in found})
        found = [each for each in found if each[1].rpartition(".")[0] == options.asset]
        if not found:
            raise invalid(
                table.path, "header", f"no column is of the asset {options.asset!r}",
                f"its columns are tags of {_shown(assets)}: name one of those, or none",
            )  # fmt: skip
    if not found:
        raise invalid(
            table.path, "header", f"no column of {_shown(table.header)} is a signal",
            "name the columns of numbers in the first row",
        )  # fmt: skip
    asset = options.asset or _ASSET.sub("-", Path(table.path).stem).strip("-") or "asset"
    signals = []
    for i, name, unit in found:
        of_asset, _, of_name = name.rpartition(".") if are_tags else (asset, "", name)
        signals.append(Signal(i, of_asset, of_name, unit))
    return WideLayout(time=time, label=label, signals=tuple(signals), left_out=tuple(left_out))


def _name_and_unit(header: str) -> tuple[str, str]:
    """Of "flow [m3/h]" or "flow (m3/h)"."""
    match = _UNIT.fullmatch(header)
    if match is None:
        return header, ""
    return match[1] or match[3], match[2] or match[4] or ""


def _check_header(table: Table, first: Chunk | None) -> None:
    problems: list[Problem] = []
    file = str(table.path)
    seen: dict[str, int] = {}
    for i, name in enumerate(table.header):
        place = f"header, column {i + 1}"
        if not name and not _is_empty(first, i):
            problems.append(
                Problem(file=file, place=place, found="it has no name", mend="give it one")
            )
        elif name in seen and name:
            found = f"{name!r} is column {seen[name] + 1} already"
            problems.append(Problem(file=file, place=place, found=found, mend="rename one"))
        seen[name] = i
    if all(_is_number(name) for name in table.header if name):
        problems = [
            Problem(
                file=file,
                place="row 1",
                found="it has numbers where the names of the columns should be",
                mend="add a first row with names, such as time,flow,pressure",
            )
        ]
    if problems:
        raise RecordingInvalid(problems)


def _time_column(
    table: Table, names: Sequence[str], first: Chunk | None, options: RecordingOptions
) -> int | None:
    if options.time_column:
        if options.time_column.lower() in names:
            return names.index(options.time_column.lower())
        raise invalid(
            table.path, "header", f"there is no column {options.time_column!r}", _time_mend(table)
        )
    by_name = [names.index(name) for name in _TIMES if name in names]
    columns = [] if first is None else first.columns
    by_content = (i for i, column in enumerate(columns) if _are_times(column))
    found = by_name[0] if by_name else next(by_content, None)
    if found is None and options.row_period_s is None:
        raise invalid(table.path, "header", "there is no column of times", _time_mend(table))
    return found


def _time_mend(table: Table) -> str:
    return (
        f"say which of {_shown(table.header)} it is with --time-column,"
        " or with --period how far apart the rows are"
    )


def _label_column(
    table: Table, names: Sequence[str], first: Chunk | None, options: RecordingOptions
) -> int | None:
    if options.label:
        if options.label.lower() not in names:
            raise invalid(
                table.path, "header", f"there is no column {options.label!r}",
                f"the columns are {_shown(table.header)}",
            )  # fmt: skip
        return names.index(options.label.lower())
    found = (names.index(name) for name in _LABELS if name in names)
    return next((i for i in found if first is None or looks_numeric(first.columns[i])), None)


def _are_times(column: Column) -> bool:
    """Whether it holds dates; numbers could be anything."""
    if isinstance(column, Numbers):
        return column.values.dtype.kind == "M"
    try:
        float(column[0])
    except (ValueError, IndexError):
        pass
    else:
        return False
    try:
        return len(times_of_texts(column[:100])) > 0
    except NotATime:
        return False


def _is_empty(first: Chunk | None, i: int) -> bool:
    if first is None:
        return True
    column = first.columns[i]
    return not column.present.any() if isinstance(column, Numbers) else not any(column)


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_MAX} more" if len(names) > _SHOWN_MAX else ""
    return ", ".join(repr(name[:40]) for name in names[:_SHOWN_MAX]) + more
