"""The page's data: layout once, values each second, and nothing a peer said breaks it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from gateway.frame import Frame, Lane
from gateway.ops.snapshot import EVENTS_MAX, Snapshots
from gateway.stages.latest import RECENT_POINTS, RECENT_TAGS_MAX
from gateway.tag import Quality
from tests.ops.fake_view import FakeEvent, FakeView
from tests.samples import make_tag


def strict(data: bytes) -> Any:
    """JSON as a browser reads it: NaN is no JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    return json.loads(data, parse_constant=refuse)


@pytest.fixture
def snapshots(view: FakeView) -> Snapshots:
    view.sample()
    made = Snapshots(view)
    assert made.refresh()
    return made


def test_a_whole_has_the_layout_the_rings_and_a_tick(view: FakeView, snapshots: Snapshots) -> None:
    view.sample({"pump-1.pressure": 5.25})
    whole = strict(snapshots.whole())
    assert whole["gateway"] == {
        "name": "line-1",
        "site": "bottling",
        "version": "0.1.0",
        "takes_commands": False,
    }
    assert whole["tags"][0] == {
        "asset": "pump-1",
        "class": "pump",
        "field": "pressure",
        "unit": "bar",
        "source": "press-plc",
        "type": "float64",
    }
    tick = whole["tick"]
    assert len(whole["tags"]) == len(tick["values"]) == len(tick["quality"]) == 6
    assert [len(points) for points in whole["recent"]] == [RECENT_POINTS] * 6
    assert whole["recent"][0][-1] == tick["values"][0] == 5.25
    assert whole["recent"][0][0] is None
    assert whole["qualities"][str(int(Quality.BAD_NO_COMMUNICATION))] == "bad no communication"


def test_a_tick_says_what_is_now(view: FakeView, snapshots: Snapshots) -> None:
    view.sample({"pump-1.flow": float("nan")})
    view.clock.advance(3)
    tick = strict(snapshots.tick())
    assert tick["values"][1] is None
    assert tick["quality"][1] == Quality.BAD_NO_COMMUNICATION
    assert tick["ages_s"] == [3.0] * 6
    assert tick["uptime_s"] == 5
    assert tick["status"] == "ok"
    assert tick["sources"][0]["scans_total"] == 2
    assert tick["sources"][0]["tags"] == 6
    assert tick["spool"]["bytes_max"] == 512 * 2**20
    assert [lane["name"] for lane in tick["spool"]["lanes"]] == [
        "event",
        "score",
        "aggregate",
        "raw",
    ]
    assert tick["scores"][0]["state"] == "ok"


def test_a_score_that_is_not_known_is_null(view: FakeView, snapshots: Snapshots) -> None:
    view.score_of["pump-1"] = float("nan")
    score = strict(snapshots.tick())["scores"][0]
    assert score["score"] is None
    assert score["state"] == "unknown"


def test_a_tag_without_a_sample_has_no_age(view: FakeView) -> None:
    snapshots = Snapshots(view)
    snapshots.refresh()
    assert strict(snapshots.tick())["ages_s"] == [None] * 6


def test_strings_and_large_integers_come_as_text(view: FakeView, snapshots: Snapshots) -> None:
    ids = np.array([3, 5], np.int32)
    frame = Frame.of(view.clock.utc_ns(), ids, np.full(2, np.nan), 0, {0: 2**63 - 1, 1: "x" * 999})
    view.latest.update(frame)
    assert strict(snapshots.tick())["exact"] == {"3": str(2**63 - 1), "5": "x" * 64}


def test_new_tags_make_a_new_layout(view: FakeView, snapshots: Snapshots) -> None:
    assert not snapshots.refresh()
    before = strict(snapshots.tick())["layout"]
    view.add_tag("pump-2", "pump", "pressure", "bar", 4.0, 0.1)
    view.sample()
    assert snapshots.refresh()
    assert strict(snapshots.tick())["layout"] == before + 1
    assert len(strict(snapshots.whole())["tags"]) == 7


def test_derived_tags_are_not_on_the_page(view: FakeView, snapshots: Snapshots) -> None:
    view.table.add(make_tag("pump-1.pressure@10s.mean", lane=Lane.AGGREGATE))
    view.latest.update(Frame.of(1, np.array([0], np.int32), np.array([1.0])))
    snapshots.refresh()
    whole = strict(snapshots.whole())
    assert len(whole["tags"]) == 6
    assert whole["tags_total"] == 6


def test_a_page_is_bounded_whatever_there_is(view: FakeView) -> None:
    for number in range(3000):
        view.add_tag(f"sensor-{number}", "pump", "x" * 2000, "", 1.0, 0.0)
    event = FakeEvent(
        model="m", asset="a", start_ns=1, end_ns=2, is_open=False, peak=2.0, top="x" * 9999
    )
    view.event_list = [event] * 1000
    view.sample()
    snapshots = Snapshots(view)
    snapshots.refresh()
    whole = strict(snapshots.whole())
    assert len(whole["tags"]) == RECENT_TAGS_MAX
    assert whole["tags_total"] == 3006
    assert len(whole["tick"]["events"]) == EVENTS_MAX
    assert max(len(tag["field"]) for tag in whole["tags"]) == 255


def test_lone_surrogates_do_not_stop_the_page(view: FakeView) -> None:
    hostile = "\udcff<script>"
    view.add_tag(hostile, "pump", "x", hostile, 1.0, 0.0)
    view.sources[0].stats.error_last = hostile
    view.sample()
    snapshots = Snapshots(view)
    snapshots.refresh()
    whole = strict(snapshots.whole())
    assert whole["tags"][-1]["asset"] == "?<script>"
    assert whole["tick"]["sources"][0]["error_last"] == "?<script>"
