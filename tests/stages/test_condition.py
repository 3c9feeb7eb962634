from __future__ import annotations

import numpy as np
import pytest

from gateway.frame import Frame
from gateway.stages.condition import Condition
from gateway.tag import DataType, Quality, TagTable
from tests.samples import make_frame, make_tag


def test_values_become_engineering_units(table: TagTable) -> None:
    plain = table.add(make_tag("pump.flow"))
    scaled = table.add(make_tag("pump.pressure", scale=0.01, offset=-1.0))
    frame = Condition(table).apply(make_frame([(0, plain, 250.0), (0, scaled, 250.0)]), 0)
    assert frame.values.tolist() == [250.0, 1.5]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_a_sensor_failure(table: TagTable, value: float) -> None:
    tag = table.add(make_tag("pump.flow"))
    frame = Condition(table).apply(make_frame([(0, tag, value)]), 0)
    assert frame.quality.tolist() == [Quality.BAD_SENSOR_FAILURE]


@pytest.mark.parametrize(
    ("value", "quality"),
    [
        (-0.1, Quality.UNCERTAIN_RANGE),
        (0.0, Quality.GOOD),
        (16.0, Quality.GOOD),
        (16.1, Quality.UNCERTAIN_RANGE),
    ],
)
def test_the_plausible_range_includes_its_ends(
    table: TagTable, value: float, quality: Quality
) -> None:
    tag = table.add(make_tag("pump.pressure", eu_low=0.0, eu_high=16.0))
    frame = Condition(table).apply(make_frame([(0, tag, value)]), 0)
    assert frame.quality.tolist() == [quality]


def test_a_quality_that_is_worse_already_keeps_its_reason(table: TagTable) -> None:
    tag = table.add(make_tag("pump.pressure", eu_low=0.0, eu_high=16.0))
    frame = make_frame([(0, tag, 99.0), (0, tag, np.nan)], quality=Quality.BAD_TIMEOUT)
    assert Condition(table).apply(frame, 0).quality.tolist() == [Quality.BAD_TIMEOUT] * 2


def test_strings_and_exact_integers_pass_but_not_those_of_scaled_tags(table: TagTable) -> None:
    text = table.add(make_tag("meter.model", data_type=DataType.STRING))
    energy = table.add(make_tag("meter.energy", data_type=DataType.UINT64))
    scaled = table.add(make_tag("meter.power", data_type=DataType.UINT64, scale=0.5))
    raw = make_frame([(0, text, np.nan), (0, energy, 2.0**60), (0, scaled, 2.0**60)])
    exact = {0: "PM8000", 1: 2**60 + 1, 2: 2**60 + 1}
    frame = Condition(table).apply(Frame(raw.t_ns, raw.tag_ids, raw.values, raw.quality, exact), 0)
    assert dict(frame.exact) == {0: "PM8000", 1: 2**60 + 1}
    assert frame.value(2) == 2.0**59
    assert frame.quality.tolist() == [Quality.GOOD] * 3


def test_a_change_faster_than_is_plausible_is_uncertain_and_the_next_is_judged_by_it(
    table: TagTable,
) -> None:
    tag = table.add(make_tag("pump.level", rate_max=2.0))
    free = table.add(make_tag("pump.flow"))
    stage = Condition(table)
    rows = [(0.0, tag, 10.0), (0.0, free, 0.0), (1.0, tag, 12.0), (2.0, tag, 15.0), (2.0, free, 99)]
    assert stage.apply(make_frame(rows), 0).quality.tolist() == [
        0,
        0,
        0,
        Quality.UNCERTAIN_RANGE,
        0,
    ]
    # A counter that begins anew with its device, and then goes on.
    rows = [(3.0, tag, 0.0), (4.0, tag, 1.0)]
    assert stage.apply(make_frame(rows), 0).quality.tolist() == [Quality.UNCERTAIN_RANGE, 0]
