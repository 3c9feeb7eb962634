"""What is shown of a tag is its newest sample, and points a second apart."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.frame import Frame, Lane
from gateway.stages.latest import RECENT_POINTS, RECENT_TAGS_MAX, Latest
from gateway.tag import Quality, TagTable
from tests.samples import make_frame, make_tag

T = 1_767_225_600  # a whole second


def test_a_tag_without_a_sample_is_waiting(table: TagTable) -> None:
    table.add(make_tag("a.x"))
    latest = Latest(table)
    assert latest.t_ns.tolist() == [0]
    assert np.isnan(latest.values).all()
    assert latest.quality.tolist() == [Quality.BAD_WAITING]
    assert [len(part) for part in latest.recent(0)] == [0, 0]


def test_the_last_row_of_a_tag_stays(table: TagTable) -> None:
    for name in ("a.x", "a.y"):
        table.add(make_tag(name))
    latest = Latest(table)
    latest.update(make_frame([(T, 0, 1.0), (T, 1, 5.0), (T + 1, 0, 2.0)], [0, 0x40, 0x81]))
    assert latest.values.tolist() == [2.0, 5.0]
    assert latest.quality.tolist() == [0x81, 0x40]
    assert latest.t_ns.tolist() == [(T + 1) * 10**9, T * 10**9]


def test_arrays_grow_with_the_table_and_keep_what_they_had(table: TagTable) -> None:
    table.add(make_tag("a.x"))
    latest = Latest(table)
    latest.update(make_frame([(T, 0, 1.0)]))
    table.add(make_tag("a.x@10s.mean", lane=Lane.AGGREGATE))
    table.add(make_tag("b.x"))
    latest.update(make_frame([(T + 1, 2, 3.0)]))
    assert latest.values[[0, 2]].tolist() == [1.0, 3.0]
    assert latest.has_ring.tolist() == [True, False, True]
    assert latest.recent(0)[1].tolist() == [1.0]
    assert latest.recent(2)[1].tolist() == [3.0]
    assert len(latest.recent(1)[0]) == 0


def test_exact_values_come_and_go_in_row_order(table: TagTable) -> None:
    table.add(make_tag("a.text"))
    table.add(make_tag("a.x"))
    latest = Latest(table)
    frame = make_frame([(T, 0, np.nan), (T, 1, 1.0)])
    latest.update(Frame(frame.t_ns, frame.tag_ids, frame.values, frame.quality, {0: "running"}))
    assert latest.exact == {0: "running"}
    two = make_frame([(T + 1, 0, np.nan), (T + 2, 0, np.nan)], Quality.BAD_NO_COMMUNICATION)
    latest.update(Frame(two.t_ns, two.tag_ids, two.values, two.quality, {0: "stopped"}))
    assert latest.exact == {}


def test_points_are_a_second_apart_and_bad_ones_are_gaps(table: TagTable) -> None:
    table.add(make_tag("a.x"))
    latest = Latest(table)
    for step in range(50):  # five seconds at ten samples a second
        bad = 20 <= step < 30
        latest.update(make_frame([(T + step / 10, 0, float(step))], 0x81 if bad else 0))
    times, values = latest.recent(0)
    assert times.tolist() == [(T + second) * 10**9 for second in range(5)]
    np.testing.assert_array_equal(values, [0.0, 10.0, np.nan, 30.0, 40.0])


def test_a_scan_a_second_gives_a_point_a_second_whatever_its_jitter(table: TagTable) -> None:
    table.add(make_tag("a.x"))
    latest = Latest(table)
    for second in range(100):
        latest.update(make_frame([(T + second + (0.02 if second % 2 else 0.0), 0, second)]))
    assert latest.recent(0)[1].tolist() == [float(second) for second in range(100)]


def test_a_clock_ahead_by_years_does_not_stop_the_ring(table: TagTable) -> None:
    table.add(make_tag("a.x"))
    latest = Latest(table)
    for t in (T, T + 10**8, T + 1, T + 2):
        latest.update(make_frame([(t, 0, 1.0)]))
    assert len(latest.recent(0)[0]) == 4


def test_only_so_many_tags_have_a_ring(table: TagTable) -> None:
    for number in range(RECENT_TAGS_MAX + 5):
        table.add(make_tag(f"a.x{number}"))
    latest = Latest(table)
    frame = make_frame([(T, number, 1.0) for number in range(len(table))])
    latest.update(frame)
    assert latest.has_ring.sum() == RECENT_TAGS_MAX
    assert len(latest.recent(RECENT_TAGS_MAX)[0]) == 0
    assert latest.values[-1] == 1.0


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20)), max_size=8), max_size=40)
)
def test_the_ring_holds_the_newest_points_oldest_first(turns: list[list[tuple[int, int]]]) -> None:
    table = TagTable()
    for name in ("a.x", "a.y", "a.z"):
        table.add(make_tag(name))
    latest = Latest(table)
    now = T
    expected: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for turn in turns:
        now += 200  # far enough from the turn before, whatever the steps within one
        rows = [(float(now + step), tag_id, float(now % 1000 + step)) for tag_id, step in turn]
        latest.update(make_frame(rows))
        for tag_id in expected:
            of_tag = [value for _, i, value in rows if i == tag_id]
            expected[tag_id] += of_tag[-1:]  # one point a frame, its last
    ids = np.array([0, 1, 2], np.int32)
    for tag_id, points in zip(expected, latest.recent_of(ids), strict=True):
        wanted = expected[tag_id][-RECENT_POINTS:]
        assert latest.recent(tag_id)[1].tolist() == wanted
        assert points[RECENT_POINTS - len(wanted) :].tolist() == wanted
