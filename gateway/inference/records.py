"""Records: scores and events as samples of derived tags, and events back from them.

A score is one sample of `<asset>.<model>.score`. An event is one sample of each of
`<asset>.<model>.event.<field>`, all stamped with the event's start: what a later record says of
the same event overwrites the earlier one in a database, and nothing there stays open for ever.
What is wrong with sensors is told the same way, as `<asset>.<model>.sensor.<field>`, and what
drifts as `<asset>.<model>.drift.<field>`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import numpy as np

from gateway.errors import SluicegateError
from gateway.frame import EMPTY_FRAME, Frame, Lane
from gateway.inference.events import AnomalyEvent, DriftEvent, SensorEvent
from gateway.tag import DataType, Tag, TagTable

__all__ = ["EVENT_FIELDS", "SENSOR_FIELDS", "Event", "Records"]

log = logging.getLogger(__name__)

SCORE_MEASUREMENT = "anomaly_score"
EVENT_MEASUREMENT = "anomaly_event"
SENSOR_MEASUREMENT = "sensor_event"
DRIFT_MEASUREMENT = "drift_event"

EVENT_FIELDS = {
    "state": DataType.STRING,  # "open" or "closed"
    "peak": DataType.FLOAT64,
    "score_last": DataType.FLOAT64,
    "end": DataType.INT64,  # UTC nanoseconds
    "duration_s": DataType.FLOAT64,
    "top": DataType.STRING,
    "severity": DataType.STRING,
    "deviation": DataType.STRING,
    "sensor": DataType.STRING,
}
# Only in the record that opens an event.
WINDOW_FIELD = "window"
SENSOR_FIELDS = {
    "state": DataType.STRING,
    "faults": DataType.STRING,  # "flow frozen,speed missing"
    "end": DataType.INT64,
    "duration_s": DataType.FLOAT64,
}
DRIFT_FIELDS = {
    "state": DataType.STRING,
    "kind": DataType.STRING,  # "sensor" or "process"
    "fields": DataType.STRING,
    "index": DataType.FLOAT64,
    "end": DataType.INT64,
    "duration_s": DataType.FLOAT64,
}
# What makes a record whole; the rest came later, and a spool may hold records from before it.
_NEEDED = {"state", "peak", "score_last", "end", "top"}
_SENSOR_NEEDED = {"state", "faults", "end"}

Event: TypeAlias = AnomalyEvent | SensorEvent | DriftEvent
_Said = dict[str, int | float | str]
_Key = tuple[str, str, int]  # model, asset, start


class Records:
    """The derived tags of every watched asset, in the table that all samples refer to."""

    def __init__(self, table: TagTable) -> None:
        self._table = table
        self._templates: dict[tuple[str, str], Tag] = {}  # (model, asset) -> a tag of the asset
        # (model, asset, measurement) -> field -> id. Of what is rare, there only once it happens.
        self._ids: dict[tuple[str, str, str], dict[str, int]] = {}

    def introduce(self, model: str, tag: Tag) -> int:
        """Add the derived tags of the asset a raw tag belongs to; the id of its score.

        Raises SluicegateError when the table has no room for them, or has others of their names.
        """
        if self._templates.get((model, tag.asset)) != tag:
            self._ids = {
                key: ids for key, ids in self._ids.items() if key[:2] != (model, tag.asset)
            }
        self._templates[model, tag.asset] = tag
        fields = {**EVENT_FIELDS, WINDOW_FIELD: DataType.STRING}
        self._add(model, tag.asset, EVENT_MEASUREMENT, "event", fields)
        return self._table.put_beside(
            tag, self._derived(model, tag, "score", SCORE_MEASUREMENT, "score", DataType.FLOAT64)
        )

    def is_outdated(self, model: str, tag: Tag) -> bool:
        """Whether an asset's derived tags are those of an earlier run, and `tag` is of today."""
        template = self._templates[model, tag.asset]
        return self._table.is_past(template) and not self._table.is_past(tag)

    def frame(self, events: Iterable[Event]) -> Frame:
        """The samples of some events, in order."""
        t_ns: list[int] = []
        ids: list[int] = []
        values: list[float] = []
        exact: dict[int, int | str] = {}
        for event in events:
            known = self._ids_of(event)
            for field, value in _values(event).items() if known else ():
                if not isinstance(value, float):
                    exact[len(ids)] = value
                t_ns.append(event.start_ns)
                ids.append(known[field])
                values.append(value if isinstance(value, float) else np.nan)
        if not ids:
            return EMPTY_FRAME
        return Frame.of(
            np.array(t_ns, np.int64), np.array(ids, np.int32), np.array(values), exact=exact
        )

    def events(self, frame: Frame) -> list[AnomalyEvent]:
        """The newest event of each model and asset in a frame of the event lane.

        The frame may begin in the middle of a record; what is not whole is left out.
        """
        newest = self._newest(frame, EVENT_MEASUREMENT)
        return [_anomaly(*key, said) for key, said in newest if said.keys() >= _NEEDED]

    def every_event(self, frame: Frame) -> list[AnomalyEvent]:
        """All events in a frame of the event lane, each as it was last reported."""
        every = self._every(frame, EVENT_MEASUREMENT).items()
        return [_anomaly(*key, said) for key, said in every if said.keys() >= _NEEDED]

    def sensor_events(self, frame: Frame) -> list[SensorEvent]:
        """The same for what was wrong with sensors."""
        return [
            SensorEvent(
                model=model,
                asset=asset,
                start_ns=start_ns,
                end_ns=int(said["end"]),
                is_open=said["state"] == "open",
                faults=str(said["faults"]),
            )
            for (model, asset, start_ns), said in self._newest(frame, SENSOR_MEASUREMENT)
            if said.keys() >= _SENSOR_NEEDED
        ]

    def drift_events(self, frame: Frame) -> list[DriftEvent]:
        """The same for what drifts."""
        return [
            DriftEvent(
                model=model,
                asset=asset,
                start_ns=start_ns,
                end_ns=int(said["end"]),
                is_open=said["state"] == "open",
                kind=str(said["kind"]),
                fields=str(said["fields"]),
                index=float(said["index"]),
            )
            for (model, asset, start_ns), said in self._newest(frame, DRIFT_MEASUREMENT)
            if said.keys() >= DRIFT_FIELDS.keys()
        ]

    def _newest(self, frame: Frame, measurement: str) -> Iterable[tuple[_Key, _Said]]:
        """Of each model and asset the record that was reported last."""
        newest = {key[:2]: (key, said) for key, said in self._every(frame, measurement).items()}
        return newest.values()

    def _every(self, frame: Frame, measurement: str) -> dict[_Key, _Said]:
        """What the records say by model, asset and start; those reported last at the end."""
        every: dict[_Key, _Said] = {}
        for row in range(len(frame)):
            tag = self._table[int(frame.tag_ids[row])]
            model = dict(tag.labels).get("model", "")
            if tag.measurement != measurement or not model:
                continue
            key = (model, tag.asset, int(frame.t_ns[row]))
            said = every[key] = every.pop(key, {})
            said[tag.field] = frame.value(row)
        return every

    def _ids_of(self, event: Event) -> dict[str, int]:
        """The tags of an event's record, by field; empty when the table has no room for them."""
        if isinstance(event, AnomalyEvent):
            return self._ids[event.model, event.asset, EVENT_MEASUREMENT]
        is_sensor = isinstance(event, SensorEvent)
        measurement = SENSOR_MEASUREMENT if is_sensor else DRIFT_MEASUREMENT
        known = self._ids.get((event.model, event.asset, measurement))
        if known is None:
            word, wanted = ("sensor", SENSOR_FIELDS) if is_sensor else ("drift", DRIFT_FIELDS)
            try:
                return self._add(event.model, event.asset, measurement, word, wanted)
            except SluicegateError as error:
                log.error("model.event_not_recorded asset=%s error=%s", event.asset, error)  # noqa: TRY400 - the message has its place
                known = self._ids[event.model, event.asset, measurement] = {}
        return known

    def _add(
        self,
        model: str,
        asset: str,
        measurement: str,
        word: str,
        fields: Mapping[str, DataType],
    ) -> dict[str, int]:
        tag = self._templates[model, asset]
        ids = {
            field: self._table.put_beside(
                tag, self._derived(model, tag, f"{word}.{field}", measurement, field, kind)
            )
            for field, kind in fields.items()
        }
        self._ids[model, asset, measurement] = ids
        return ids

    def _derived(
        self, model: str, tag: Tag, suffix: str, measurement: str, field: str, kind: DataType
    ) -> Tag:
        return Tag(
            name=f"{tag.asset}.{model}.{suffix}",
            asset=tag.asset,
            asset_class=tag.asset_class,
            field=field,
            measurement=measurement,
            labels=tuple(sorted((dict(tag.labels) | {"model": model}).items())),
            lane=Lane.SCORE if measurement == SCORE_MEASUREMENT else Lane.EVENT,
            data_type=kind,
        )


def _anomaly(model: str, asset: str, start_ns: int, said: _Said) -> AnomalyEvent:
    return AnomalyEvent(
        model=model,
        asset=asset,
        start_ns=start_ns,
        end_ns=int(said["end"]),
        is_open=said["state"] == "open",
        peak=float(said["peak"]),
        score_last=float(said["score_last"]),
        top=str(said["top"]),
        deviation=str(said.get("deviation", "")),
        sensor=str(said.get("sensor", "")),
        window=str(said.get(WINDOW_FIELD, "")),
    )


def _values(event: Event) -> _Said:
    """What a record of an event says, by field."""
    said: _Said = {
        "state": "open" if event.is_open else "closed",
        "end": event.end_ns,
        "duration_s": event.duration_s,
    }
    if isinstance(event, SensorEvent):
        return {**said, "faults": event.faults}
    if isinstance(event, DriftEvent):
        return {**said, "kind": event.kind, "fields": event.fields, "index": event.index}
    said |= {
        "peak": event.peak,
        "score_last": event.score_last,
        "top": event.top,
        "severity": event.severity,
        "deviation": event.deviation,
        "sensor": event.sensor,
    }
    said = {field: said[field] for field in EVENT_FIELDS}
    return said | ({WINDOW_FIELD: event.window} if event.window else {})
