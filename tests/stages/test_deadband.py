from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.stages.deadband import Deadband
from gateway.tag import Quality, TagTable
from tests.samples import make_frame, make_tag


def test_what_moves_less_than_the_deadband_is_not_reported(table: TagTable) -> None:
    tag = table.add(make_tag("tank.level", deadband=0.5))
    stage = Deadband(table, report_s=60)
    values = [10.0, 10.4, 10.5, 10.6, 10.2, 10.05]
    frame = stage.apply(make_frame([(i, tag, v) for i, v in enumerate(values)]), 0)
    assert frame.values.tolist() == [10.0, 10.6, 10.05]


def test_a_change_of_quality_is_always_reported(table: TagTable) -> None:
    tag = table.add(make_tag("tank.level", deadband=0.5))
    stage = Deadband(table, report_s=60)
    qualities = [Quality.GOOD, Quality.BAD_TIMEOUT, Quality.BAD_TIMEOUT, Quality.GOOD]
    rows = [(float(i), tag, 10.0) for i in range(4)]
    frame = stage.apply(make_frame(rows, [int(q) for q in qualities]), 0)
    assert frame.quality.tolist() == [Quality.GOOD, Quality.BAD_TIMEOUT, Quality.GOOD]


def test_a_tag_that_never_moves_is_reported_at_least_every_report_time(table: TagTable) -> None:
    tag = table.add(make_tag("tank.level", deadband=0.5))
    stage = Deadband(table, report_s=60)
    reported = [t for t in range(200) if len(stage.apply(make_frame([(float(t), tag, 1.0)]), 0))]
    assert reported == [0, 60, 120, 180]


def test_tags_without_a_deadband_report_every_sample(table: TagTable) -> None:
    free = table.add(make_tag("tank.flow"))
    banded = table.add(make_tag("tank.level", deadband=0.5))
    stage = Deadband(table, report_s=60)
    rows = [(t, tag, 1.0) for t in (0.0, 1.0, 2.0) for tag in (free, banded)]
    assert stage.apply(make_frame(rows), 0).tag_ids.tolist() == [free, banded, free, free]


def test_what_passed_before_a_restart_still_counts(table: TagTable) -> None:
    tag = table.add(make_tag("tank.level", deadband=0.5))
    stage = Deadband(table, report_s=60)
    stage.seen(make_frame([(0.0, tag, 10.0)]))
    assert not len(stage.apply(make_frame([(1.0, tag, 10.3)]), 0))


@given(
    st.lists(st.tuples(st.integers(0, 2), st.floats(-5, 5)), max_size=60),
    st.lists(st.integers(1, 59), max_size=8, unique=True),
)
def test_the_outcome_does_not_depend_on_how_samples_fall_into_turns(
    samples: list[tuple[int, float]], cuts: list[int]
) -> None:
    table = TagTable()
    ids = [table.add(make_tag(f"tank.t{i}", deadband=0.7 * i)) for i in range(3)]
    rows = [(float(i), ids[tag], value) for i, (tag, value) in enumerate(samples)]
    whole = Deadband(table, report_s=10).apply(make_frame(rows), 0)
    stage = Deadband(table, report_s=10)
    edges = [0, *sorted(cuts), len(rows)]
    parts = [stage.apply(make_frame(rows[a:b]), 0) for a, b in pairwise(edges)]
    assert np.concatenate([p.t_ns for p in parts]).tolist() == whole.t_ns.tolist()
