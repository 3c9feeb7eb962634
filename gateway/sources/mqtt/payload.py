"""Payloads to samples. Pure: bytes, an arrival time, and rows to append to.

A `PayloadReader` belongs to one topic, so what a key means is looked up once. Bad payloads raise
WireError with a `kind`; a bad value of a good payload is one sample of bad quality. Values are
raw: scaling comes later, for all sources alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import orjson

from gateway.errors import WireError
from gateway.frame import EMPTY_FRAME, Frame
from gateway.sources.mqtt.config import FieldSettings, TopicSettings
from gateway.tag import DataType, Quality

__all__ = ["Introduce", "PayloadReader", "Rows"]

_NAN = float("nan")
_FLOAT_EXACT_MAX = 2**53
# 2000-01-01: a device that says less has no clock. And one that is ahead by more than network and
# clocks explain would close its own aggregates early.
_TIME_MIN_NS = 946_684_800 * 10**9
_TIME_AHEAD_MAX_NS = 300 * 10**9
_NS_PER = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}

Introduce: TypeAlias = Callable[[str, FieldSettings, DataType], int]
"""(field, its settings, its type) -> tag id; raises SluicegateError for what cannot be a tag."""


class Rows:
    """Samples as they are found, a list a column."""

    def __init__(self) -> None:
        self.t_ns: list[int] = []
        self.ids: list[int] = []
        self.values: list[float] = []
        self.quality: list[int] = []
        self.exact: dict[int, int | str] = {}

    def frame(self) -> Frame:
        if not self.ids:
            return EMPTY_FRAME
        return Frame(
            np.array(self.t_ns, np.int64),
            np.array(self.ids, np.int32),
            np.array(self.values, np.float64),
            np.array(self.quality, np.uint8),
            self.exact,
        )


class _Field(NamedTuple):
    path: tuple[str, ...]
    tag_id: int
    data_type: DataType


class PayloadReader:
    """Reads the payloads of one topic."""

    def __init__(self, settings: TopicSettings, field: str, introduce: Introduce) -> None:
        self._settings = settings
        self._introduce = introduce
        self._time = _path(settings.time, "") if settings.time else None
        self.tells_time = settings.tells_time
        self._fields: list[_Field] = []
        self._found: dict[str, _Field] = {}
        self.conflicts_total = 0  # values of another type than their tag
        self.times_refused_total = 0
        self._single: str = ""
        if settings.payload == "value":
            self._single = field or settings.field
            declared = settings.fields.get(self._single)
            if declared is not None:
                self._found[self._single] = self._declare(self._single, declared)
        else:
            self._fields = [self._declare(n, given) for n, given in settings.fields.items()]

    def take(self, payload: bytes, arrival_ns: int, rows: Rows, *, knows_time: bool = True) -> None:
        """Append the payload's samples; raises WireError when there is nothing to be had of it.

        While we do not know the time ourselves, that of arrival counts: it alone can be corrected.
        """
        if self._settings.payload == "value":
            self._put_discovered(self._single, _scalar(payload), arrival_ns, 0, rows)
            return
        data = _object(payload)
        t_ns, quality = self._time_of(data, arrival_ns) if knows_time else (arrival_ns, 0)
        if self._fields:
            for field in self._fields:
                path = field.path
                value = data.get(path[0]) if len(path) == 1 else _at(data, path)
                if value is not None or (len(path) == 1 and path[0] in data):
                    self._put(field, value, t_ns, quality, rows)
            return
        skip = self._time[0] if self._time and len(self._time) == 1 else None
        for name, value in data.items():
            if name != skip:
                self._put_discovered(name, value, t_ns, quality, rows)

    def told_ns(self, payload: bytes) -> int | None:
        """The time in a payload; None for none that can be."""
        if self._time is None:
            return None
        t_ns = _time_ns(_at(_object(payload), self._time), self._settings.time_unit)
        return t_ns if t_ns is not None and t_ns >= _TIME_MIN_NS else None

    def _declare(self, name: str, given: FieldSettings) -> _Field:
        tag_id = self._introduce(name, given, given.data_type)
        return _Field(_path(given.path, name), tag_id, given.data_type)

    def _put_discovered(self, name: str, value: Any, t_ns: int, quality: int, rows: Rows) -> None:
        field = self._found.get(name)
        if field is None:
            data_type = _type_of(value)
            if data_type is None:
                return  # null, a list or an object: nothing that could be a tag
            tag_id = self._introduce(name, FieldSettings(), data_type)
            field = self._found[name] = _Field((name,), tag_id, data_type)
        self._put(field, value, t_ns, quality, rows)

    def _put(self, field: _Field, value: Any, t_ns: int, quality: int, rows: Rows) -> None:
        _, tag_id, data_type = field
        kind = type(value)
        number = _NAN
        if kind is float:
            fits, number = data_type in _REALS or _is_within(value, data_type), value
        elif kind is int:
            fits, number = data_type in _REALS or _is_within(value, data_type), float(value)
            if fits and not -_FLOAT_EXACT_MAX <= value <= _FLOAT_EXACT_MAX:
                rows.exact[len(rows.ids)] = value
        elif kind is bool:
            fits, number = data_type is DataType.BOOL, float(value)
        elif kind is str:
            fits = data_type is DataType.STRING
            if fits:
                rows.exact[len(rows.ids)] = value
        else:
            fits = value is None
            quality = int(Quality.BAD_SENSOR_FAILURE)
        if not fits:
            self.conflicts_total += 1
            number, quality = _NAN, int(Quality.BAD_DECODING)
        rows.t_ns.append(t_ns)
        rows.ids.append(tag_id)
        rows.values.append(number)
        rows.quality.append(quality)

    def _time_of(self, data: dict[str, Any], arrival_ns: int) -> tuple[int, int]:
        """The payload's own time, or the time of arrival where it has none to be believed."""
        if self._time is None:
            return arrival_ns, 0
        t_ns = _time_ns(_at(data, self._time), self._settings.time_unit)
        if t_ns is not None and _TIME_MIN_NS <= t_ns <= arrival_ns + _TIME_AHEAD_MAX_NS:
            return t_ns, 0
        self.times_refused_total += 1
        return arrival_ns, int(Quality.UNCERTAIN_CLOCK)


_REALS = frozenset({DataType.FLOAT32, DataType.FLOAT64})
_LIMITS = {
    DataType.BOOL: (0, 1),
    DataType.INT16: (-(2**15), 2**15 - 1),
    DataType.UINT16: (0, 2**16 - 1),
    DataType.INT32: (-(2**31), 2**31 - 1),
    DataType.UINT32: (0, 2**32 - 1),
    DataType.INT64: (-(2**63), 2**63 - 1),
    DataType.UINT64: (0, 2**64 - 1),
    DataType.STRING: (1, 0),  # no number is text
}


def _is_within(value: float, data_type: DataType) -> bool:
    """Whether a number is a whole one that the type holds."""
    low, high = _LIMITS[data_type]
    return low <= value <= high and value == int(value)


def _path(path: str, name: str) -> tuple[str, ...]:
    return tuple(path.split(".")) if path else (name,)


def _at(data: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if not isinstance(data, dict):
            return None
        data = data.get(key)
    return data


def _object(payload: bytes) -> dict[str, Any]:
    try:
        data = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise WireError(f"the payload is not JSON: {error.msg}", kind="json") from error
    if type(data) is not dict:
        raise WireError("the payload is JSON, but not an object", kind="json")
    # Outside of strings a colon stands behind each key and nowhere else. So only where there are
    # more colons than keys - texts, nested objects, doubled keys - does anybody have to look.
    if payload.count(b":") != len(data):
        try:
            json.loads(payload, object_pairs_hook=_without_doubles)
        except (ValueError, RecursionError) as error:
            raise WireError(f"the payload is refused: {error}", kind="json") from error
    return data


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _scalar(payload: bytes) -> Any:
    """One number, true, false or text; text need not be quoted."""
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError:
        try:
            text = payload.decode()
        except UnicodeDecodeError as error:
            raise WireError("the payload is neither a number nor text", kind="text") from error
        if not text or text[0] in "[{\ufeff":
            raise WireError("the payload is empty or broken JSON", kind="text") from None
        try:
            return float(text)  # NaN, 1e999: numbers all the same, and judged as such
        except ValueError:
            return text
    if isinstance(value, (dict, list)):
        raise WireError("the payload is an object or a list, not one value", kind="json")
    return value


def _type_of(value: Any) -> DataType | None:
    if isinstance(value, bool):
        return DataType.BOOL
    if isinstance(value, (int, float)):
        return DataType.FLOAT64
    return DataType.STRING if isinstance(value, str) else None


def _time_ns(value: Any, unit: str) -> int | None:
    if unit == "iso8601":
        if not isinstance(value, str):
            return None
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1e6) * 1000
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    per = _NS_PER[unit]
    if isinstance(value, int):
        return value * per
    # A float64 holds today's seconds to a quarter of a microsecond: finer digits are noise.
    return round(value * per / 1000) * 1000 if abs(value) < 1e18 else None
