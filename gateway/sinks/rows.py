"""Rows: a frame as JSON objects or CSV lines, one a sample, a column at a time.

What a tag says of itself is prepared once a tag; times, values and quality codes are written all
at once, and the pieces joined row by row. A value is what it is: a number, true or false, a
string, an integer with all its digits; null (JSON) or nothing (CSV) where there is none.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import orjson

from gateway.frame import ByteArray, Frame, TimeArray
from gateway.sinks.lineprotocol import number_texts
from gateway.tag import DataType, Quality, Tag, Tags

__all__ = ["CSV_HEADER", "RowEncoder", "clean", "csv_rows", "json_rows"]

CSV_HEADER = b"time,tag,value,unit,quality\r\n"
_FLOAT, _INTEGER, _BOOL, _STRING = range(4)
_KINDS = {
    DataType.FLOAT64: _FLOAT,
    DataType.INT64: _INTEGER,
    DataType.BOOL: _BOOL,
    DataType.STRING: _STRING,
}
# The names of the quality codes; a code that has none stays a number.
_QUALITY = [str(code).encode() for code in range(256)]
for _known in Quality:
    _QUALITY[_known] = _known.name.lower().encode()


class RowEncoder:
    """Encodes frames of one tag table; tags are prepared as they appear."""

    def __init__(
        self,
        table: Tags,
        head: Callable[[Tag], bytes],
        tail: Callable[[Tag], bytes],
        text: Callable[[str], bytes],
        nothing: bytes,
        layout: bytes,
    ) -> None:
        """`layout` has %b for time, head, value, tail and quality, in this order."""
        self._table = table
        self._head = head
        self._tail = tail
        self._text = text
        self._nothing = nothing
        self._layout = layout
        self._heads: npt.NDArray[np.object_] = np.empty(0, object)  # by tag id
        self._tails: npt.NDArray[np.object_] = np.empty(0, object)
        self._kinds: ByteArray = np.empty(0, np.uint8)

    def encode(self, frame: Frame) -> list[bytes]:
        """A piece of text for each row."""
        self._prepare()
        ids = frame.tag_ids
        return [
            self._layout % parts
            for parts in zip(
                time_texts(frame.t_ns),
                self._heads[ids].tolist(),
                self._values(frame),
                self._tails[ids].tolist(),
                [_QUALITY[code] for code in frame.quality.tolist()],
                strict=True,
            )
        ]

    def _values(self, frame: Frame) -> list[bytes]:
        kinds = self._kinds[frame.tag_ids]
        texts = number_texts(frame.values)
        whole = np.flatnonzero(
            (kinds == _INTEGER)
            & (np.abs(frame.values) <= 2**53)
            & (frame.values == np.trunc(frame.values))
        )
        integers = number_texts(frame.values[whole].astype(np.int64))
        for row, text in zip(whole.tolist(), integers, strict=True):
            texts[row] = text
        for row in np.flatnonzero((kinds == _BOOL) & np.isfinite(frame.values)).tolist():
            texts[row] = b"true" if frame.values[row] else b"false"
        for row in np.flatnonzero(~np.isfinite(frame.values) | (kinds == _STRING)).tolist():
            texts[row] = self._nothing
        exact_values = frame.exact
        for row, value in exact_values.items():
            texts[row] = self._text(value) if isinstance(value, str) else b"%d" % value
        return texts

    def _prepare(self) -> None:
        known = len(self._kinds)
        if known == len(self._table):
            return
        tags = [self._table[tag_id] for tag_id in range(known, len(self._table))]
        self._heads = np.append(self._heads, np.array([*map(self._head, tags), b""], object)[:-1])
        self._tails = np.append(self._tails, np.array([*map(self._tail, tags), b""], object)[:-1])
        kinds = [_KINDS[tag.value_type] for tag in tags]
        self._kinds = np.append(self._kinds, np.array(kinds, np.uint8))


def json_rows(table: Tags) -> RowEncoder:
    """Objects with time (RFC 3339), tag, value, quality, unit, measurement, field and labels."""

    def head(tag: Tag) -> bytes:
        return orjson.dumps({"tag": clean(tag.name)})[1:-1] + b',"value":'

    def tail(tag: Tag) -> bytes:
        facts = {
            "unit": clean(tag.eng_unit),
            "measurement": clean(tag.measurement),
            "field": clean(tag.field),
            "labels": {clean(key): clean(value) for key, value in tag.labels},
        }
        return b"," + orjson.dumps(facts)[1:-1]

    def text(value: str) -> bytes:
        return orjson.dumps(clean(value))

    layout = b'{"time":"%b",%b%b%b,"quality":"%b"}'
    return RowEncoder(table, head, tail, text, b"null", layout)


def csv_rows(table: Tags) -> RowEncoder:
    """Lines (RFC 4180) of the columns in CSV_HEADER."""
    return RowEncoder(
        table,
        head=lambda tag: _csv(tag.name),
        tail=lambda tag: _csv(tag.eng_unit),
        text=_csv,
        nothing=b"",
        layout=b"%b,%b,%b,%b,%b\r\n",
    )


def time_texts(t_ns: TimeArray) -> list[bytes]:
    """RFC 3339 with nanoseconds, UTC."""
    texts = np.datetime_as_string(t_ns.view("datetime64[ns]"), unit="ns", timezone="UTC")
    encoded: list[bytes] = np.char.encode(texts, "ascii").tolist()
    return encoded


def _csv(text: str) -> bytes:
    if any(mark in text for mark in ',"\r\n') or text != text.strip():
        text = '"' + text.replace('"', '""') + '"'
    return clean(text).encode()


def clean(text: str) -> str:
    """Text that can be encoded: half a Unicode character becomes a question mark."""
    return text.encode("utf-8", "replace").decode()
