"""Records: scores and events as samples of derived tags, and events back from them.

A score is one sample of `<asset>.<model>.score`. An event is one sample of each of
`<asset>.<model>.event.<field>`, all stamped with the event's start: what a later record says of
the same event overwrites the earlier one in a database, and nothing there stays open for ever.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from gateway.frame import EMPTY_FRAME, Frame, Lane
from gateway.inference.events import AnomalyEvent
from gateway.tag import DataType, Tag, TagTable

__all__ = ["EVENT_FIELDS", "Records"]

SCORE_MEASUREMENT = "anomaly_score"
EVENT_MEASUREMENT = "anomaly_event"

EVENT_FIELDS = {
    "state": DataType.STRING,  # "open" or "closed"
    "peak": DataType.FLOAT64,
    "score_last": DataType.FLOAT64,
    "end": DataType.INT64,  # UTC nanoseconds
    "duration_s": DataType.FLOAT64,
    "top": DataType.STRING,
}


class Records:
    """The derived tags of every watched asset, in the table that all samples refer to."""

    def __init__(self, table: TagTable) -> None:
        self._table = table
        self._ids: dict[tuple[str, str], list[int]] = {}  # (model, asset) -> in order of fields

    def introduce(self, model: str, tag: Tag) -> int:
        """Add the derived tags of the asset a raw tag belongs to; the id of its score.

        Raises SluicegateError when the table has no room for them, or has others of their names.
        """
        labels = tuple(sorted((dict(tag.labels) | {"model": model}).items()))

        def add(suffix: str, measurement: str, field: str, lane: Lane, kind: DataType) -> int:
            return self._table.add(
                Tag(
                    name=f"{tag.asset}.{model}.{suffix}",
                    asset=tag.asset,
                    asset_class=tag.asset_class,
                    field=field,
                    measurement=measurement,
                    labels=labels,
                    lane=lane,
                    data_type=kind,
                )
            )

        self._ids[model, tag.asset] = [
            add(f"event.{field}", EVENT_MEASUREMENT, field, Lane.EVENT, kind)
            for field, kind in EVENT_FIELDS.items()
        ]
        return add("score", SCORE_MEASUREMENT, "score", Lane.SCORE, DataType.FLOAT64)

    def frame(self, events: Iterable[AnomalyEvent]) -> Frame:
        """The samples of some events, in order."""
        t_ns: list[int] = []
        ids: list[int] = []
        values: list[float] = []
        exact: dict[int, int | str] = {}
        for event in events:
            for tag_id, value in zip(
                self._ids[event.model, event.asset], _values(event), strict=True
            ):
                if not isinstance(value, float):
                    exact[len(ids)] = value
                t_ns.append(event.start_ns)
                ids.append(tag_id)
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
        newest: dict[tuple[str, str], tuple[int, dict[str, int | float | str]]] = {}
        for row in range(len(frame)):
            tag = self._table[int(frame.tag_ids[row])]
            model = dict(tag.labels).get("model", "")
            if tag.measurement != EVENT_MEASUREMENT or not model:
                continue
            start_ns = int(frame.t_ns[row])
            known = newest.get((model, tag.asset))
            if known is None or known[0] != start_ns:
                known = newest[model, tag.asset] = (start_ns, {})
            known[1][tag.field] = frame.value(row)
        return [
            AnomalyEvent(
                model=model,
                asset=asset,
                start_ns=start_ns,
                end_ns=int(said["end"]),
                is_open=said["state"] == "open",
                peak=float(said["peak"]),
                score_last=float(said["score_last"]),
                top=str(said["top"]),
            )
            for (model, asset), (start_ns, said) in newest.items()
            if said.keys() >= EVENT_FIELDS.keys()
        ]


def _values(event: AnomalyEvent) -> tuple[float | int | str, ...]:
    """An event's values in the order of EVENT_FIELDS."""
    return (
        "open" if event.is_open else "closed",
        event.peak,
        event.score_last,
        event.end_ns,
        event.duration_s,
        event.top,
    )
