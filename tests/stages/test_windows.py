from __future__ import annotations

import statistics
from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.frame import EMPTY_FRAME, Frame
from gateway.stages.config import AggregateSettings, Statistic
from gateway.stages.windows import Windows, duration_text
from gateway.tag import DataType, Quality, TagTable
from tests.samples import make_frame, make_tag

S = 10**9


def read(table: TagTable, frame: Frame) -> dict[tuple[str, int], float]:
    """(tag name, window start in seconds) -> value; a later row replaces an earlier one."""
    return {
        (table[int(tag)].name, int(t) // S): float(value)
        for t, tag, value in zip(frame.t_ns, frame.tag_ids, frame.values, strict=True)
    }


def windows(table: TagTable, **settings_: object) -> Windows:
    return Windows(AggregateSettings(**({"every": "10s"} | settings_)), table)  # type: ignore[arg-type]


def test_a_window_says_mean_min_max_last_count_and_deviation(table: TagTable) -> None:
    tag = table.add(make_tag("pump.flow", eng_unit="l/s"))
    stage = windows(table)
    stage.apply(make_frame([(10.0, tag, 1.0), (12.0, tag, 5.0), (19.9, tag, 3.0)]), 20 * S)
    said = read(table, stage.apply(EMPTY_FRAME, 23 * S))
    assert said == {
        ("pump.flow@10s.mean", 10): 3.0,
        ("pump.flow@10s.min", 10): 1.0,
        ("pump.flow@10s.max", 10): 5.0,
        ("pump.flow@10s.last", 10): 3.0,
        ("pump.flow@10s.count", 10): 3.0,
        ("pump.flow@10s.std", 10): pytest.approx(statistics.pstdev([1, 5, 3])),
    }


def test_nothing_is_said_before_the_window_has_waited_for_late_samples(table: TagTable) -> None:
    tag = table.add(make_tag("pump.flow"))
    stage = windows(table, lateness="2s")
    assert not len(stage.apply(make_frame([(10.0, tag, 1.0)]), 10 * S))
    assert not len(stage.apply(EMPTY_FRAME, 22 * S - 1))
    assert len(stage.apply(EMPTY_FRAME, 22 * S))
    assert not len(stage.apply(EMPTY_FRAME, 100 * S))


def test_a_late_sample_corrects_its_window(table: TagTable) -> None:
    tag = table.add(make_tag("pump.flow"))
    stage = windows(table, statistics=["mean", "count"])
    stage.apply(make_frame([(10.0, tag, 1.0)]), 10 * S)
    assert read(table, stage.apply(EMPTY_FRAME, 22 * S))["pump.flow@10s.count", 10] == 1
    stage.apply(make_frame([(11.0, tag, 3.0)]), 40 * S)
    assert read(table, stage.apply(EMPTY_FRAME, 42 * S)) == {
        ("pump.flow@10s.mean", 10): 2.0,
        ("pump.flow@10s.count", 10): 2.0,
    }
    assert stage.samples_late_total == 0


def test_a_sample_older_than_the_windows_kept_is_counted_late(table: TagTable) -> None:
    tag = table.add(make_tag("pump.flow"))
    stage = windows(table, windows_kept=3)
    stage.apply(make_frame([(45.0, tag, 1.0)]), 46 * S)
    stage.apply(make_frame([(25.0, tag, 1.0), (15.0, tag, 1.0)]), 46 * S)
    assert stage.samples_late_total == 1


def test_a_backlog_of_hours_is_aggregated_whole(table: TagTable) -> None:
    tag = table.add(make_tag("bay.co2"))
    stage = windows(table, statistics=["count"])
    now = 10_000 * S
    given = []
    for start in range(0, 3600, 100):
        rows = [(float(t), tag, 1.0) for t in range(start, start + 100)]
        given.append(stage.apply(make_frame(rows), now))
        now += 10_000_000
    given.append(stage.apply(EMPTY_FRAME, now + 3 * S))
    said = read(table, Frame.concatenate(given))
    assert said == {("bay.co2@10s.count", t): 10.0 for t in range(0, 3600, 10)}


def test_bad_samples_are_left_out_and_make_the_aggregate_uncertain(table: TagTable) -> None:
    tag = table.add(make_tag("pump.flow"))
    stage = windows(table, statistics=["mean", "count"])
    rows = [(10.0, tag, 4.0), (11.0, tag, 999.0)]
    stage.apply(make_frame(rows, [Quality.GOOD, Quality.BAD_TIMEOUT]), 11 * S)
    frame = stage.apply(EMPTY_FRAME, 22 * S)
    assert frame.values.tolist() == [4.0, 1.0]
    assert frame.quality.tolist() == [Quality.UNCERTAIN_SUBNORMAL, Quality.GOOD]


def test_a_window_of_bad_samples_only_says_count_zero(table: TagTable) -> None:
    tag = table.add(make_tag("pump.flow"))
    stage = windows(table, statistics=["mean", "count"])
    stage.apply(make_frame([(10.0, tag, 1.0)], Quality.BAD_NO_COMMUNICATION), 10 * S)
    frame = stage.apply(EMPTY_FRAME, 22 * S)
    assert np.isnan(frame.values[0])
    assert frame.values[1] == 0
    assert frame.quality.tolist() == [Quality.BAD, Quality.GOOD]


def test_only_the_named_tags_are_covered_also_those_that_appear_later(table: TagTable) -> None:
    flow = table.add(make_tag("pump-1.flow"))
    other = table.add(make_tag("pump-1.speed"))
    stage = windows(table, tags=["*.flow"], statistics=["count"])
    stage.apply(make_frame([(10.0, flow, 1.0), (10.0, other, 1.0)]), 10 * S)
    late = table.add(make_tag("pump-2.flow"))
    text = table.add(make_tag("pump-3.flow", data_type=DataType.STRING))
    stage.apply(make_frame([(11.0, late, 1.0), (11.0, text, np.nan)]), 11 * S)
    said = read(table, stage.apply(EMPTY_FRAME, 22 * S))
    assert set(said) == {("pump-1.flow@10s.count", 10), ("pump-2.flow@10s.count", 10)}


def test_deviation_survives_a_large_mean(table: TagTable) -> None:
    tag = table.add(make_tag("meter.energy"))
    stage = windows(table, statistics=[Statistic.STD])
    values = [1e12 + i for i in range(10)]
    stage.apply(make_frame([(10.0 + i / 10, tag, v) for i, v in enumerate(values)]), 11 * S)
    frame = stage.apply(EMPTY_FRAME, 22 * S)
    assert frame.values[0] == pytest.approx(statistics.pstdev(range(10)), rel=1e-9)


def test_windows_before_the_start_of_a_replay_are_left_alone(table: TagTable) -> None:
    tag = table.add(make_tag("pump.flow"))
    stage = windows(table, statistics=["count"])
    stage.start_from(15 * S)
    stage.apply(make_frame([(16.0, tag, 1.0), (21.0, tag, 1.0)]), 21 * S)
    assert read(table, stage.apply(EMPTY_FRAME, 40 * S)) == {("pump.flow@10s.count", 20): 1.0}


@pytest.mark.parametrize(
    ("seconds", "text"), [(10, "10s"), (60, "1m"), (90, "90s"), (3600, "1h"), (0.25, "250ms")]
)
def test_names_carry_the_window_length_as_users_write_it(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


samples = st.lists(
    st.tuples(
        st.integers(0, 45), st.integers(0, 2), st.floats(-1e6, 1e6, allow_nan=False, width=32)
    ),
    max_size=80,
)


@settings(max_examples=150)
@given(samples, st.lists(st.integers(0, 79), max_size=6))
def test_whatever_the_order_and_the_turns_each_sample_is_in_its_window(
    rows: list[tuple[int, int, float]], cuts: list[int]
) -> None:
    table = TagTable()
    ids = [table.add(make_tag(f"pump.t{i}")) for i in range(3)]
    stage = windows(table, statistics=["mean", "min", "max", "count"], windows_kept=5)
    edges = [0, *sorted(cuts), len(rows)]
    given_frames = []
    for turn, (a, b) in enumerate(pairwise(edges)):
        frame = make_frame([(float(t), ids[tag], v) for t, tag, v in rows[a:b]])
        given_frames.append(stage.apply(frame, (46 + turn) * S))
    given_frames.append(stage.apply(EMPTY_FRAME, 100 * S))
    said = read(table, Frame.concatenate(given_frames))
    truth: defaultdict[tuple[int, int], list[float]] = defaultdict(list)
    for t, tag, value in rows:
        truth[tag, t // 10 * 10].append(value)
    assert len(said) == 4 * len(truth)
    for (tag, start), values in truth.items():
        name = f"pump.t{tag}@10s"
        assert said[f"{name}.count", start] == len(values)
        assert said[f"{name}.min", start] == min(values)
        assert said[f"{name}.max", start] == max(values)
        assert said[f"{name}.mean", start] == pytest.approx(
            statistics.fmean(values), abs=1e-6 * max(map(abs, values), default=0) + 1e-12
        )


def test_a_clock_that_is_set_back_an_hour_does_not_make_everything_late(table: TagTable) -> None:
    tag = table.add(make_tag("pump.flow"))
    stage = windows(table, statistics=["count"])
    stage.apply(make_frame([(7200.0, tag, 1.0), (7201.0, tag, 2.0)]), 7202 * S)
    said = read(table, stage.apply(make_frame([(3603.0, tag, 3.0)]), 3603 * S))
    assert said == {("pump.flow@10s.count", 7200): 2.0}  # what was open is given out
    said = read(table, stage.apply(EMPTY_FRAME, 3615 * S))
    assert said == {("pump.flow@10s.count", 3600): 1.0}
    assert stage.samples_late_total == 0
