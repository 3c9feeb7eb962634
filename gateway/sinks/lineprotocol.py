"""Line protocol: a frame to InfluxDB points, a column at a time.

Point schema (docs/formats/points.md): one point for each (measurement, labels, time), one field
for each tag, and the integer field `quality`, the worst of the point's samples. A bad sample has
no value field; it shows in `quality` alone.

No Python loop runs over samples. Every tag has its pieces of text prepared (the series, the
field's key, the suffix of its type); numbers are written all at once by orjson, which gives the
shortest text that reads back exactly; pieces and numbers are interleaved in one array of bytes
objects and joined point by point.

Syntax: InfluxDB line protocol reference. What it cannot carry is refused, row by row: a line
break, a NUL, an integer beyond int64. So is what the reference leaves open and servers read
differently, some by dropping the whole point without a word (tests/sinks/test_servers.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson

from gateway.frame import BoolArray, ByteArray, Exact, FloatArray, Frame, IdArray, TimeArray
from gateway.sinks.naming import FieldTypes
from gateway.tag import DataType, Quality, Tag, Tags

__all__ = ["Encoded", "LineEncoder", "RowArray", "number_texts"]

Pieces: TypeAlias = npt.NDArray[np.object_]
RowArray: TypeAlias = npt.NDArray[np.intp]

INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)
# InfluxDB's own bounds on a string field and on a series' key.
STRING_BYTES_MAX = 65_535
SERIES_BYTES_MAX = 65_535

_FLOAT, _INTEGER, _BOOL, _STRING, _REFUSED = range(5)
_KINDS = {
    DataType.FLOAT64: _FLOAT,
    DataType.INT64: _INTEGER,
    DataType.BOOL: _BOOL,
    DataType.STRING: _STRING,
}
_SUFFIXES = (b",", b"i,", b",", b",", b"")
_BAD = int(Quality.BAD)  # numpy compares with an int four times as fast as with an IntEnum
_UNWRITABLE = (
    (re.compile(r"[\x00-\x1f]"), "a control character"),
    (re.compile(r"[\ud800-\udfff]"), "half a Unicode character"),
    # Where a backslash escapes for one server and stands for itself for another: VictoriaMetrics
    # takes a label's `\\,` for its end and drops the point with a 204, InfluxDB 1 for a part of it.
    (re.compile(r"\\([,= \\\"]|$)"), "a backslash that servers read differently"),
)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Points as text, and which rows of the frame each is made of."""

    points: list[bytes]  # each a line with its newline
    rows: RowArray  # rows of the frame, in the order of the points
    ends: RowArray  # of each point, where its rows end in `rows`
    refused: Mapping[int, str]  # row -> why it cannot be written

    def rows_of(self, point: int) -> list[int]:
        """The frame's rows in a point."""
        first = int(self.ends[point - 1]) if point else 0
        rows: list[int] = self.rows[first : self.ends[point]].tolist()
        return rows

    def points_of(self) -> RowArray:
        """The point of each of `rows`."""
        return np.repeat(np.arange(len(self.points)), np.diff(self.ends, prepend=0))

    def cut(self, start: int, stop: int) -> Encoded:
        """Points start..stop."""
        first = int(self.ends[start - 1]) if start else 0
        ends = self.ends[start:stop] - first
        return Encoded(self.points[start:stop], self.rows[first : first + ends[-1]], ends, {})


class LineEncoder:
    """Encodes frames of one tag table; tags are prepared as they appear."""

    def __init__(self, table: Tags, types: FieldTypes | None = None) -> None:
        """`types`: what the fields are in the database, and may be from now on."""
        self._table = table
        self._types = types
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
        rows = self._writable(frame, refused)
        if not len(rows):
            return Encoded([], rows, rows, refused)
        if len(rows) < len(frame):
            ids, t_ns = frame.tag_ids[rows], frame.t_ns[rows]
        else:
            ids, t_ns = frame.tag_ids, frame.t_ns
        series = self._series[ids]
        first = _begins(series, t_ns)
        if len(_repeated(series[first], t_ns[first])):
            order = np.lexsort((t_ns, series))  # a point's rows stand in several places
            rows, ids, t_ns = rows[order], ids[order], t_ns[order]
            first = _begins(series[order], t_ns)
        ends = np.append(first[1:], len(rows))
        pieces = self._fields(frame, rows, ids, refused)
        quality = number_texts(np.maximum.reduceat(frame.quality[rows], first).astype(np.int64))
        points = [
            b"%b%bquality=%bi %b\n" % (head, b"".join(pieces[3 * start : 3 * end]), worst, time)
            for head, start, end, worst, time in zip(
                self._heads[ids[first]].tolist(),
                first.tolist(),
                ends.tolist(),
                quality,
                number_texts(t_ns[first]),
                strict=True,
            )
        ]
        return Encoded(points, rows, ends, refused)

    def _writable(self, frame: Frame, refused: dict[int, str]) -> RowArray:
        """Rows in their order, without what is refused or replaced."""
        rows = np.arange(len(frame))
        replaced = _repeated(frame.tag_ids, frame.t_ns)
        if len(replaced):
            rows = np.delete(rows, replaced)
        if self._refusals:
            never = self._kinds[frame.tag_ids[rows]] == _REFUSED
            for row in rows[never].tolist():
                refused[row] = self._refusals[int(frame.tag_ids[row])]
            rows = rows[~never]
        return rows

    def _fields(
        self, frame: Frame, rows: RowArray, ids: IdArray, refused: dict[int, str]
    ) -> list[bytes]:
        """Key, value and suffix of each row, flat; empty for a row without a value."""
        values, kinds = frame.values[rows], self._kinds[ids]
        pieces = np.empty((len(rows), 3), object)
        pieces[:, 0] = self._keys[ids]
        pieces[:, 1] = np.fromiter(number_texts(values), object, len(rows))
        pieces[:, 2] = self._suffixes[ids]
        silent = (frame.quality[rows] >= _BAD) | ~np.isfinite(values)
        exact: dict[int, int] = {}
        if frame.exact:
            exact = _places_of(frame.exact, rows, len(frame))
            silent[list(exact)] = True  # written below
        if kinds.any():  # else all are floats
            silent |= kinds == _STRING
            whole = np.flatnonzero((kinds == _INTEGER) & ~silent)
            if len(whole):
                silent[whole] = self._put_integers(
                    rows[whole], values[whole], pieces, whole, refused
                )
            truth = np.flatnonzero((kinds == _BOOL) & ~silent)
            pieces[truth, 1] = np.where(values[truth] != 0, b"true", b"false").astype(object)
        if silent.any():
            pieces[silent] = b""
        for place, row in exact.items():
            if frame.quality[row] < _BAD:
                pieces[place] = self._exact(int(ids[place]), frame.exact[row], row, refused)
        flat: list[bytes] = pieces.ravel().tolist()
        return flat

    @staticmethod
    def _put_integers(
        rows: RowArray,
        values: FloatArray,
        pieces: Pieces,
        places: RowArray,
        refused: dict[int, str],
    ) -> BoolArray:
        """Write what is an int64; which of the rows are none, and refused."""
        # -2**63 is a float64 and an int64; 2**63 is the first float64 that is no int64.
        fits = (values >= -(2.0**63)) & (values < 2.0**63)
        fits &= values == np.trunc(values)
        texts = number_texts(values[fits].astype(np.int64))
        pieces[places[fits], 1] = np.fromiter(texts, object, len(texts))
        for row, value in zip(rows[~fits].tolist(), values[~fits].tolist(), strict=True):
            refused[row] = f"{value:.17g} is no 64-bit integer of InfluxDB"
        misfits: BoolArray = ~fits
        return misfits

    def _exact(
        self, tag_id: int, value: int | str, row: int, refused: dict[int, str]
    ) -> tuple[bytes, bytes, bytes]:
        """Key, value and suffix of a string or an integer beyond 2**53; empty when refused."""
        kind = self._kinds[tag_id]
        text, why = b"", ""
        if isinstance(value, str):
            text, why = _quoted(value) if kind == _STRING else (b"", "text in a number's field")
        elif kind == _INTEGER:
            text = b"%d" % value
            if not INT64_MIN <= value <= INT64_MAX:
                why = f"{value} is no 64-bit integer of InfluxDB"
        elif kind == _FLOAT:
            text = repr(float(value)).encode()
        else:
            why = f"{value} in the field of a text or a bool"
        if why:
            refused[row] = why
            return b"", b"", b""
        return self._keys[tag_id], text, self._suffixes[tag_id]

    def _prepare(self) -> None:
        """Make the pieces of tags that were added since."""
        known = len(self._kinds)
        if known == len(self._table):
            return
        if self._types is not None:
            self._types.settle([self._table[i] for i in range(known, len(self._table))])
        made = [self._pieces_of(i, self._table[i]) for i in range(known, len(self._table))]
        heads, keys, kinds = zip(*made, strict=True)
        series = [self._series_ids.setdefault(head, len(self._series_ids)) for head in heads]
        suffixes = [_SUFFIXES[kind] for kind in kinds]
        self._series = np.append(self._series, np.array(series, np.int32))
        self._kinds = np.append(self._kinds, np.array(kinds, np.uint8))
        self._heads = np.append(self._heads, np.fromiter(heads, object, len(heads)))
        self._keys = np.append(self._keys, np.fromiter(keys, object, len(keys)))
        self._suffixes = np.append(self._suffixes, np.fromiter(suffixes, object, len(suffixes)))

    def forget(self) -> None:
        """Prepare all tags anew: what their fields are in the database has been found out."""
        self._series = np.empty(0, np.int32)
        self._heads = np.empty(0, object)
        self._keys = np.empty(0, object)
        self._kinds = np.empty(0, np.uint8)
        self._suffixes = np.empty(0, object)
        self._refusals.clear()

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
            _KINDS[tag.value_type if self._types is None else self._types.of(tag)],
        )


def _begins(series: IdArray, t_ns: TimeArray) -> RowArray:
    """Where series or time differ from the row before."""
    begins = np.ones(len(series), np.bool_)
    np.not_equal(series[1:], series[:-1], out=begins[1:])
    begins[1:] |= t_ns[1:] != t_ns[:-1]
    return np.flatnonzero(begins)


def _repeated(keys: IdArray, t_ns: TimeArray) -> RowArray:
    """Rows whose key and time come again in a later row."""
    order = np.lexsort((t_ns, keys))
    keys, t_ns = keys[order], t_ns[order]
    again = (keys[1:] == keys[:-1]) & (t_ns[1:] == t_ns[:-1])
    repeated: RowArray = order[:-1][again]
    return repeated


def _places_of(exact: Exact, rows: RowArray, n: int) -> dict[int, int]:
    """Place in `rows` -> row, for the rows that have an exact value: there are few."""
    places = np.full(n, -1)
    places[rows] = np.arange(len(rows))
    return {place: row for row in exact if (place := int(places[row])) >= 0}


def number_texts(column: npt.NDArray[Any]) -> list[bytes]:
    """The shortest text of each number that reads back exactly; "null" for what is none."""
    if not len(column):
        return []
    text = orjson.dumps(np.ascontiguousarray(column), option=orjson.OPT_SERIALIZE_NUMPY)
    return text[1:-1].split(b",")


def _unwritable(tag: Tag) -> str:
    """Why line protocol cannot carry a tag's names; "" when it can."""
    names = [tag.measurement, tag.field, *(text for label in tag.labels for text in label)]
    for name in names:
        for pattern, why in _UNWRITABLE:
            if pattern.search(name):
                return f"the name {name[:60]!r} has {why}"
    keys = [tag.field, *(key for key, _ in tag.labels)]
    faults = (
        (not tag.measurement or tag.measurement[0] == "#", "its measurement would be a comment"),
        (not tag.field, "its field has no name"),
        ('"' in tag.field, "its field has a quotation mark, which servers read differently"),
        (tag.field == "quality", "the field 'quality' is the gateway's own"),
        ("time" in keys, "the name 'time' is InfluxDB's own"),
        (sum(map(len, names)) > SERIES_BYTES_MAX // 4, "its names are too long for InfluxDB"),
    )
    return next((why for is_so, why in faults if is_so), "")


def _escaped(name: str) -> str:
    """A label's key or value, or a field's key."""
    return name.replace(",", "\\,").replace("=", "\\=").replace(" ", "\\ ")


def _quoted(text: str) -> tuple[bytes, str]:
    """A string field's value, or why it cannot be one."""
    try:
        data = text.replace("\\", "\\\\").replace('"', '\\"').encode()
    except UnicodeEncodeError:
        return b"", "the text is no valid Unicode"
    if b"\0" in data or b"\n" in data:
        # VictoriaMetrics cuts a line break off as if it were not quoted, and drops the point.
        return b"", "the text has a line break or NUL"
    if len(data) > STRING_BYTES_MAX:
        return b"", f"the text is longer than {STRING_BYTES_MAX} bytes"
    return b'"%b"' % data, ""
