from __future__ import annotations

import pytest

from gateway.asset import Assets, AssetSettings, UnknownAsset
from gateway.errors import SluicegateError
from gateway.tag import Quality, TagTable
from tests.samples import make_tag


def test_ids_are_dense_and_stay(table: TagTable) -> None:
    ids = [table.add(make_tag(f"pump.t{i}", scale=float(i))) for i in range(1000)]
    assert ids == list(range(1000))
    assert table.add(make_tag("pump.t7", scale=7.0)) == 7
    assert table.scale.tolist() == [float(i) for i in range(1000)]
    assert table.id_of("pump.t999") == 999
    assert table.id_of("pump.other") is None


def test_a_tag_defined_twice_differently_is_refused(table: TagTable) -> None:
    table.add(make_tag("pump.flow", scale=1.0))
    with pytest.raises(SluicegateError, match=r"'pump.flow' is defined twice"):
        table.add(make_tag("pump.flow", scale=2.0))


def test_the_number_of_tags_is_bounded() -> None:
    table = TagTable(tags_max=2)
    table.add(make_tag("a.x"))
    table.add(make_tag("b.x"))
    with pytest.raises(SluicegateError, match="more than 2 tags"):
        table.add(make_tag("c.x"))


def test_only_raw_tags_of_a_source_are_its_own(table: TagTable) -> None:
    table.add(make_tag("a.x", source="plc"))
    table.add(make_tag("b.x", source="other"))
    table.add(make_tag("c.x", source="plc"))
    assert table.ids_of_source("plc").tolist() == [0, 2]


def test_the_worst_of_several_qualities_is_their_maximum() -> None:
    assert max(Quality.GOOD, Quality.UNCERTAIN_RANGE, Quality.BAD_TIMEOUT) is Quality.BAD_TIMEOUT
    assert [
        quality.severity for quality in (Quality.GOOD, Quality.UNCERTAIN_CLOCK, Quality.BAD)
    ] == [
        "good",
        "uncertain",
        "bad",
    ]


def test_the_first_entry_that_matches_an_asset_names_its_class_and_labels() -> None:
    entries = [
        AssetSettings.model_validate({"name": "pump-7", "class": "booster"}),
        AssetSettings.model_validate(
            {"name": "pump-*", "class": "pump", "labels": {"area": "filling"}}
        ),
    ]
    assets = Assets(entries, gateway="line1", site="brewery")
    assert assets.tag("pump-7", "flow").measurement == "booster"
    tag = assets.tag("pump-8", "flow", scale=0.1)
    assert tag.name == "pump-8.flow"
    assert dict(tag.labels) == {
        "gateway": "line1",
        "site": "brewery",
        "area": "filling",
        "asset": "pump-8",
    }
    with pytest.raises(UnknownAsset, match="'tank-1' is not declared"):
        assets.tag("tank-1", "level")


def test_a_tag_of_an_earlier_run_keeps_nobody_from_being_what_it_is_today(table: TagTable) -> None:
    earlier = make_tag("bay.v", eng_unit="bar")
    past = table.remember(earlier)
    assert table.remember(earlier) == table.id_of("bay.v") == past
    assert table.is_past(earlier)
    today = table.add(make_tag("bay.v", eng_unit="Pa"))
    assert today != past
    assert table.id_of("bay.v") == today
    assert table[past].eng_unit == "bar"
    with pytest.raises(SluicegateError, match="defined twice"):
        table.add(make_tag("bay.v", eng_unit="psi"))
    # What was stored before and is read from now on is called what it is called today.
    assert table.remember(earlier) == today


def test_a_tag_that_is_today_as_it_was_keeps_its_id(table: TagTable) -> None:
    tag = make_tag("bay.v")
    past = table.remember(tag)
    assert table.add(tag) == past
    assert not table.is_past(tag)
    assert table.remember(make_tag("bay.v", eng_unit="bar")) == past


def test_what_is_derived_from_a_tag_of_an_earlier_run_is_of_that_run(table: TagTable) -> None:
    past, today = make_tag("bay.v", source="a"), make_tag("bay.v", source="b")
    of_past, of_today = make_tag("bay.v@1s.mean", source="a"), make_tag("bay.v@1s.mean", source="b")
    table.remember(past)
    before = table.put_beside(past, of_past)
    table.add(today)
    assert table.put_beside(today, of_today) != before
    assert table.ids_of_source("a").tolist() == []
