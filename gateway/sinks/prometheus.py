"""Prometheus remote write 1.0: to Prometheus, VictoriaMetrics, Mimir, Thanos.

A tag becomes the series `<measurement>_<field>` with the tag's labels, names made fit for
Prometheus. Its samples are float64 at whole milliseconds; of several in one millisecond the last
counts. Two tags whose names differ only in what Prometheus does not allow would be one series: the
second is refused. A sample of bad quality becomes a staleness marker, so that a graph ends where
knowledge does. Strings have no place there and are left out, as are integers' digits beyond 2**53.

Encoding is a pure function: protobuf by hand (two message types and four fields), a row of bytes a
sample, all rows at once. Specification: prometheus.io/docs/specs/prw/remote_write_spec, with
`WriteRequest`, `TimeSeries`, `Label` and `Sample` of prometheus/prompb.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

import numpy as np
import numpy.typing as npt

from gateway.errors import SinkParked
from gateway.frame import BoolArray, Frame
from gateway.sinks import Receipt, SinkStats, http
from gateway.sinks.config import PrometheusSettings
from gateway.tag import DataType, Quality, Tag, Tags

__all__ = ["PrometheusSink", "build", "encode_series", "labels_of"]

# Prometheus's own marker: a NaN with this payload (prometheus/model/value).
STALE_BITS = 0x7FF0000000000002
_BAD = int(Quality.BAD)
# A varint of six bytes: 1971 to 2109. Others would make rows of other lengths.
_MS_MIN, _MS_MAX = 2**35, 2**42 - 1
_NOT_IN_NAME = re.compile(r"[^a-zA-Z0-9_:]")
_NOT_IN_LABEL = re.compile(r"[^a-zA-Z0-9_]")
# TimeSeries.samples: field 2, 16 bytes; Sample.value: field 1, double; .timestamp: field 2, varint.
_SAMPLE_HEAD = np.array([0x12, 0x10, 0x09], np.uint8)
_TIMESTAMP_KEY = 0x10
_SAMPLE_BYTES = 18


def build(settings: PrometheusSettings, table: Tags) -> PrometheusSink:
    """The sink for one [[sink]]."""
    return PrometheusSink(settings, table)


class PrometheusSink:
    """Writes frames by remote write."""

    is_concurrent = True

    def __init__(self, settings: PrometheusSettings, table: Tags) -> None:
        self.name = settings.name
        self.stats = SinkStats()
        self._settings = settings
        self._table = table
        self._heads: list[bytes] = []  # by tag id: its labels; empty: has no place there
        self._tag_of: dict[bytes, int] = {}  # the first with these labels
        self._clashes: dict[int, str] = {}  # by tag id: what else has its labels
        self._has_place: BoolArray = np.empty(0, np.bool_)
        self._client = http.HttpClient(
            settings, self.stats, stored=range(200, 300), is_page_stored=False
        )

    def session(self) -> AbstractAsyncContextManager[None]:
        """What is sent meanwhile shares its connections; the server need not be there."""
        return self._client.session()

    async def write(self, frame: Frame) -> Receipt:
        """Send a frame; see `Sink.write`."""
        self._prepare()
        rejected: dict[int, str] = {}
        series = self._series(frame, rejected)
        start = 0
        for stop in http.cuts(series, self._settings.bytes_max):
            body = _snappy(b"".join(series[start:stop]))
            answer = await self._client.post(self._settings.url, {}, body, self._headers())
            if answer.error is not None:
                raise answer.error
            start = stop
        return Receipt(accepted=range(len(frame)), rejected=rejected)

    def _series(self, frame: Frame, rejected: dict[int, str]) -> list[bytes]:
        """The time series of a frame, each encoded."""
        t_ms = frame.t_ns // 10**6
        chosen = self._has_place[frame.tag_ids]
        strange = chosen & ((t_ms < _MS_MIN) | (t_ms > _MS_MAX))
        for row in np.flatnonzero(strange).tolist():
            rejected[row] = "the time is before 1971 or after 2109"
        if self._clashes:
            clashing = chosen & np.isin(frame.tag_ids, list(self._clashes))
            for row in np.flatnonzero(clashing).tolist():
                rejected[row] = self._clashes[int(frame.tag_ids[row])]
            strange |= clashing
        rows = np.flatnonzero(chosen & ~strange)
        values = frame.values.copy()
        exact_values = frame.exact
        for row, value in exact_values.items():
            values[row] = np.nan if isinstance(value, str) else float(value)
        values.view(np.uint64)[frame.quality >= _BAD] = STALE_BITS
        return encode_series(self._heads, frame.tag_ids[rows], t_ms[rows], values[rows])

    def _prepare(self) -> None:
        known = len(self._heads)
        for tag_id in range(known, len(self._table)):
            head = _encoded_labels(self._table[tag_id])
            self._heads.append(head)
            first = self._tag_of.setdefault(head, tag_id)
            if head and first != tag_id:
                other = self._table[first].name
                self._clashes[tag_id] = f"its series would be that of {other}: see [sink.rename]"
        if len(self._heads) > known:
            self._has_place = np.array([bool(head) for head in self._heads])

    def _headers(self) -> dict[str, str]:
        return {
            "Content-Type": "application/x-protobuf",
            "Content-Encoding": "snappy",
            "X-Prometheus-Remote-Write-Version": "0.1.0",
            **http.login(self._settings),
        }


def encode_series(
    heads: list[bytes],
    tag_ids: npt.NDArray[np.int32],
    t_ms: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
) -> list[bytes]:
    """The `timeseries` fields of a WriteRequest, one a tag, its samples in order of time.

    `heads` are the encoded labels by tag id. Of several samples of one tag and millisecond the
    last counts. Times must be from 1971 to 2109.
    """
    if not len(tag_ids):
        return []
    order = np.lexsort((t_ms, tag_ids))  # stable: of equals the last row stays last
    tag_ids, t_ms, values = tag_ids[order], t_ms[order], values[order]
    last = np.ones(len(order), np.bool_)
    last[:-1] = (tag_ids[1:] != tag_ids[:-1]) | (t_ms[1:] != t_ms[:-1])
    tag_ids, t_ms, values = tag_ids[last], t_ms[last], values[last]
    samples = np.empty((len(t_ms), _SAMPLE_BYTES), np.uint8)
    samples[:, :3] = _SAMPLE_HEAD
    samples[:, 3:11] = values.astype("<f8").view(np.uint8).reshape(-1, 8)
    samples[:, 11] = _TIMESTAMP_KEY
    for i in range(6):
        samples[:, 12 + i] = (t_ms >> (7 * i)) & 0x7F | (0x80 if i < 5 else 0)
    starts = np.flatnonzero(np.diff(tag_ids, prepend=-1))
    ends = np.append(starts[1:], len(tag_ids))
    return [
        _field(1, heads[tag_id] + samples[start:end].tobytes())
        for tag_id, start, end in zip(
            tag_ids[starts].tolist(), starts.tolist(), ends.tolist(), strict=True
        )
    ]


def labels_of(tag: Tag) -> Mapping[str, str]:
    """Prometheus labels of a tag's series, in the order that the specification asks for."""
    name = _NOT_IN_NAME.sub("_", f"{tag.measurement}_{tag.field}")
    labels = {"__name__": name if not name[0].isdigit() else f"_{name}"}
    for key, value in tag.labels:
        fit = _NOT_IN_LABEL.sub("_", key)
        if fit.startswith("__"):  # reserved, `__name__` above all
            fit = "_" + fit.lstrip("_")
        if value and fit:
            labels[f"_{fit}" if fit[0].isdigit() else fit] = value
    return dict(sorted(labels.items()))


def _encoded_labels(tag: Tag) -> bytes:
    """The `labels` fields of a tag's series; empty for a text, which has no place there."""
    if tag.data_type is DataType.STRING:
        return b""
    return b"".join(
        _field(1, _field(1, _utf8(name)) + _field(2, _utf8(value)))
        for name, value in labels_of(tag).items()
    )


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited field of a protobuf message."""
    size, length = len(data), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes([number << 3 | 2]) + bytes(length) + data


def _snappy(data: bytes) -> bytes:
    try:
        from cramjam import snappy  # noqa: PLC0415 - optional: only this sink needs it
    except ImportError as missing:
        hint = "pip install 'sluicegate[prometheus]'"
        raise SinkParked(
            "cramjam is not installed, which remote write needs", hint=hint
        ) from missing
    return bytes(snappy.compress_raw(data))
