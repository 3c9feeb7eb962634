from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import SluicegateError
from gateway.frame import EMPTY_FRAME, Frame, Lane
from gateway.inference.events import AnomalyEvent
from gateway.inference.records import EVENT_FIELDS, Records
from gateway.tag import DataType, TagTable
from tests.samples import make_tag

ASSETS = ("pump-1", "pump-2")
times = st.integers(0, 2**62)
sizes = st.floats(1, 1e6, allow_nan=False)
anomalies = st.builds(
    AnomalyEvent,
    model=st.just("m"),
    asset=st.sampled_from(ASSETS),
    start_ns=times,
    end_ns=times,
    is_open=st.booleans(),
    peak=sizes,
    score_last=st.floats(0, 1e6, allow_nan=False),
    top=st.sampled_from(["", "flow", "vibration,bearing_temperature"]),
)


def new_records() -> tuple[TagTable, Records]:
    table = TagTable()
    records = Records(table)
    for asset in ASSETS:
        records.introduce("m", make_tag(f"{asset}.flow"))
    return table, records


@given(st.lists(anomalies, max_size=8))
def test_the_newest_event_of_each_asset_comes_back_as_it_went(found: list[AnomalyEvent]) -> None:
    """Nanoseconds beyond 2**53 among them, which no float64 holds."""
    _, records = new_records()
    newest = {event.asset: event for event in found}
    assert {e.asset: e for e in records.events(records.frame(found))} == newest


def test_an_event_is_one_sample_a_field_in_the_event_lane_at_its_start() -> None:
    table, records = new_records()
    event = AnomalyEvent(
        model="m", asset="pump-1", start_ns=5, end_ns=2**60 + 1, is_open=True,
        peak=2.0, score_last=1.5, top="flow",
    )  # fmt: skip
    frame = records.frame([event])
    tags = [table[int(i)] for i in frame.tag_ids]
    assert [tag.name for tag in tags] == [f"pump-1.m.event.{field}" for field in EVENT_FIELDS]
    assert {tag.lane for tag in tags} == {Lane.EVENT}
    assert {tag.measurement for tag in tags} == {"anomaly_event"}
    assert tags[0].labels == (("asset", "pump-1"), ("model", "m"))
    assert set(frame.t_ns.tolist()) == {5}
    said = {tag.field: frame.value(row) for row, tag in enumerate(tags)}
    assert (said["state"], said["end"], said["top"]) == ("open", 2**60 + 1, "flow")
    assert EVENT_FIELDS["end"] is DataType.INT64


def test_other_samples_of_the_event_lane_pass_by() -> None:
    table, records = new_records()
    stranger = table.add(make_tag("pump-1.state", lane=Lane.EVENT, measurement="operator_note"))
    assert records.events(Frame.of(0, np.array([stranger], np.int32), np.array([1.0]))) == []
    assert records.frame([]) is EMPTY_FRAME


def test_a_tag_of_the_same_name_that_means_something_else_is_an_error() -> None:
    table = TagTable()
    table.add(make_tag("pump-1.m.score"))
    with pytest.raises(SluicegateError, match="defined twice"):
        Records(table).introduce("m", make_tag("pump-1.flow"))
