"""Line protocol: a frame to InfluxDB points, a column at a time.

Point schema (docs/formats/points.md): one point for each (measurement, labels, time), one field
for each tag, and the integer field `quality`, the worst of the point's samples. A bad sample has
no value field; it shows in `quality` alone.

No Python loop runs over samples. Every tag has its pieces of text prepared (the series, the
field's key, the suffix of its type); numbers are written all at once by orjson, which gives the
shortest text that reads back exactly; pieces and numbers are interleaved in one array of bytes
objects and joined point by point.

Syntax: InfluxDB line protocol reference. What it cannot carry is refused, row by row: a newline
in a name, a NUL, an integer beyond int64.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson

from gateway.frame import ByteArray, Frame, IdArray
from gateway.tag import DataType, Quality, Tag, TagTable

__all__ = ["Encoded", "LineEncoder"]

Pieces: TypeAlias = npt.NDArray[np.object_]
RowArray: TypeAlias = npt.NDArray[np.intp]

INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)
# InfluxDB's own bounds on a string field and on a series' key.
STRING_BYTES_MAX = 65_535
SERIES_BYTES_MAX = 65_535

_FLOAT, _INTEGER, _BOOL, _STRING, _REFUSED = range(5)
_SUFFIXES = (b",", b"i,", b",", b",", b"")
_UNWRITABLE = re.compile(r"[\x00\n\r]")


@dataclass(frozen=True, slots=True)
class Encoded:
    """Points as text, and which rows of the frame each is made of."""

    points: list[bytes]  # each a line with its newline
    rows: RowArray  # rows of the frame, in the order of the points
    ends: RowArray  # of each point, where its rows end in `rows`
    refused: Mapping[int, str]  # row -> why it cannot be written

    def rows_of(self, start: int, stop: int) -> list[int]:
        """The frame's rows in points start..stop."""
        first = int(self.ends[start - 1]) if start else 0
        last = int(self.ends[stop - 1]) if stop else 0
        rows: list[int] = self.rows[first:last].tolist()
        return rows


class LineEncoder:
    """Encodes frames of one tag table; tags are prepared as they appear."""

    def __init__(self, table: TagTable) -> None:
        self._table = table
        self._series_ids: dict[bytes, int] = {}
        self._series: IdArray = np.empty(0, np.int32)  # tag -> series
        self._heads: Pieces = np.empty(0, object)  # tag -> b"pump,asset=p1 "
        self._keys: Pieces = np.empty(0, object)  # tag -> b"flow="
        self._kinds: ByteArray = np.empty(0, np.uint8)
        self._suffixes: Pieces = np.empty(0, object)
        self._refusals: dict[int, str] = {}  # tag -> why it can never be written

    def encode(self, frame: Frame) -> Encoded:
        """The points of a frame. Of several samples of one tag and time the last counts."""
        self._prepare()
        refused: dict[int, str] = {}
        rows = self._arranged(frame, refused)
        if not len(rows):
            return Encoded([], rows, rows, refused)
        ids, t_ns = frame.tag_ids[rows], frame.t_ns[rows]
        first = _begins(self._series[ids], t_ns)
        ends = np.append(first[1:], len(rows))
        pieces = self._fields(frame, rows, refused)
        quality = _texts(np.maximum.reduceat(frame.quality[rows], first).astype(np.int64))
        heads = self._heads[ids[first]].tolist()
        points = [
            b"%b%bquality=%bi %b\n" % (head, b"".join(pieces[3 * start : 3 * end]), worst, time)
            for head, start, end, worst, time in zip(
                heads, first.tolist(), ends.tolist(), quality, _texts(t_ns[first]), strict=True
            )
        ]
        return Encoded(points, rows, ends, refused)

    def _arranged(self, frame: Frame, refused: dict[int, str]) -> RowArray:
        """Rows so that those of one point stand together, without what is refused or replaced."""
        rows = _without_replaced(frame)
        ids = frame.tag_ids[rows]
        never = self._kinds[ids] == _REFUSED
        if never.any():
            refused.update(
                (int(row), self._refusals[int(frame.tag_ids[row])]) for row in rows[never]
            )
            rows, ids = rows[~never], ids[~never]
        if not len(rows):
            return rows
        series, t_ns = self._series[ids], frame.t_ns[rows]
        first = _begins(series, t_ns)
        order = np.lexsort((t_ns[first], series[first]))
        ordered_series, ordered_t_ns = series[first][order], t_ns[first][order]
        if len(_begins(ordered_series, ordered_t_ns)) < len(first):
            rows = rows[np.lexsort((t_ns, series))]  # a point's rows stand in several places
        return rows

    def _fields(self, frame: Frame, rows: RowArray, refused: dict[int, str]) -> list[bytes]:
        """Key, value and suffix of each row, flat; empty for a row without a value."""
        ids, values = frame.tag_ids[rows], frame.values[rows]
        kinds = self._kinds[ids]
        pieces = np.empty((len(rows), 3), object)
        pieces[:, 0] = self._keys[ids]
        pieces[:, 1] = np.fromiter(_texts(values), object, len(rows))
        pieces[:, 2] = self._suffixes[ids]
        silent = (frame.quality[rows] >= Quality.BAD) | ~np.isfinite(values) | (kinds == _STRING)
        whole = np.flatnonzero((kinds == _INTEGER) & ~silent)
        if len(whole):
            fits = np.abs(values[whole]) < 2.0**63
            silent[whole[~fits]] = True
            whole = whole[fits]
            texts = _texts(values[whole].astype(np.int64))
            pieces[whole, 1] = np.fromiter(texts, object, len(whole))
        truth = np.flatnonzero((kinds == _BOOL) & ~silent)
        if len(truth):
            pieces[truth, 1] = np.where(values[truth] != 0, b"true", b"false").astype(object)
        pieces[silent] = b""
        if frame.exact:
            self._put_exact(frame, rows, pieces, refused)
        flat: list[bytes] = pieces.ravel().tolist()
        return flat

    def _put_exact(
        self, frame: Frame, rows: RowArray, pieces: Pieces, refused: dict[int, str]
    ) -> None:
        """Strings and integers beyond 2**53, one by one: there are few."""
        places = np.full(len(frame), -1)
        places[rows] = np.arange(len(rows))
        for row, value in frame.exact.items():
            place = int(places[row])
            if place < 0 or frame.quality[row] >= Quality.BAD:
                continue
            tag_id = int(frame.tag_ids[row])
            kind = self._kinds[tag_id]
            if isinstance(value, str):
                text, why = _quoted(value) if kind == _STRING else (b"", "text in a number's field")
            elif kind == _INTEGER:
                fits = INT64_MIN <= value <= INT64_MAX
                text = b"%d" % value if fits else b""
                why = "" if fits else f"{value} is beyond the 64-bit integers of InfluxDB"
            else:
                text, why = repr(float(value)).encode(), ""
            if why:
                refused[row] = why
                pieces[place] = b""
            else:
                pieces[place] = (self._keys[tag_id], text, self._suffixes[tag_id])

    def _prepare(self) -> None:
        """Make the pieces of tags that were added since."""
        known = len(self._kinds)
        if known == len(self._table):
            return
        made = [self._pieces_of(i, self._table[i]) for i in range(known, len(self._table))]
        heads, keys, kinds = zip(*made, strict=True)
        series = [self._series_ids.setdefault(head, len(self._series_ids)) for head in heads]
        suffixes = [_SUFFIXES[kind] for kind in kinds]
        self._series = np.append(self._series, np.array(series, np.int32))
        self._kinds = np.append(self._kinds, np.array(kinds, np.uint8))
        self._heads = np.append(self._heads, np.fromiter(heads, object, len(heads)))
        self._keys = np.append(self._keys, np.fromiter(keys, object, len(keys)))
        self._suffixes = np.append(self._suffixes, np.fromiter(suffixes, object, len(suffixes)))

    def _pieces_of(self, tag_id: int, tag: Tag) -> tuple[bytes, bytes, int]:
        why = _unwritable(tag)
        if why:
            self._refusals[tag_id] = why
            return b"", b"", _REFUSED
        labels = "".join(
            f",{_escaped(key)}={_escaped(value)}" for key, value in tag.labels if key and value
        )
        measurement = tag.measurement.replace(",", "\\,").replace(" ", "\\ ")
        return (
            f"{measurement}{labels} ".encode(),
            f"{_escaped(tag.field)}=".encode(),
            _kind_of(tag),
        )


def _begins(series: IdArray, t_ns: npt.NDArray[np.int64]) -> RowArray:
    """Where series or time differ from the row before."""
    differs = (series[1:] != series[:-1]) | (t_ns[1:] != t_ns[:-1])
    return np.append(0, np.flatnonzero(differs) + 1)


def _without_replaced(frame: Frame) -> RowArray:
    """Rows without those that a later row of the same tag and time replaces."""
    n = len(frame)
    order = np.lexsort((frame.t_ns, frame.tag_ids))
    ids, t_ns = frame.tag_ids[order], frame.t_ns[order]
    replaced = (ids[1:] == ids[:-1]) & (t_ns[1:] == t_ns[:-1])
    if not replaced.any():
        return np.arange(n)
    keep = np.ones(n, np.bool_)
    keep[order[:-1][replaced]] = False
    return np.flatnonzero(keep)


def _texts(column: npt.NDArray[Any]) -> list[bytes]:
    """The shortest text of each number that reads back exactly; "null" for what is none."""
    if not len(column):
        return []
    text = orjson.dumps(np.ascontiguousarray(column), option=orjson.OPT_SERIALIZE_NUMPY)
    return text[1:-1].split(b",")


def _kind_of(tag: Tag) -> int:
    match tag.data_type:
        case DataType.STRING:
            return _STRING
        case DataType.BOOL:
            return _FLOAT if tag.is_scaled else _BOOL
        case _:
            return _INTEGER if tag.is_exact_integer else _FLOAT


def _unwritable(tag: Tag) -> str:
    """Why line protocol cannot carry a tag's names; "" when it can."""
    names = [tag.measurement, tag.field, *(text for label in tag.labels for text in label)]
    for name in names:
        if _UNWRITABLE.search(name):
            return f"the name {name[:60]!r} has a line break or NUL"
        if name.endswith("\\"):
            return f"the name {name[:60]!r} ends with a backslash, which cannot be escaped"
        try:
            name.encode()
        except UnicodeEncodeError:
            return f"the name {name[:60]!r} is no Unicode text"
    if not tag.measurement or tag.measurement.startswith("#"):
        return f"the measurement {tag.measurement[:60]!r} would be taken for a comment or nothing"
    if not tag.field:
        return "the field has no name"
    if tag.field == "quality":
        return "the field 'quality' is the gateway's own; give the tag another name"
    if sum(map(len, names)) > SERIES_BYTES_MAX // 4:
        return "its names are too long for InfluxDB"
    return ""


def _escaped(name: str) -> str:
    """A label's key or value, or a field's key."""
    return name.replace(",", "\\,").replace("=", "\\=").replace(" ", "\\ ")


def _quoted(text: str) -> tuple[bytes, str]:
    """A string field's value, or why it cannot be one."""
    try:
        data = text.replace("\\", "\\\\").replace('"', '\\"').encode()
    except UnicodeEncodeError:
        return b"", "the text is no valid Unicode"
    if b"\0" in data:
        return b"", "the text has a NUL"
    if len(data) > STRING_BYTES_MAX:
        return b"", f"the text is longer than {STRING_BYTES_MAX} bytes"
    return b'"%b"' % data, ""
