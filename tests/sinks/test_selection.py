"""Selection: a sink is sent what it asked for."""

from __future__ import annotations

from gateway.sinks.selection import Selection
from gateway.tag import TagTable
from tests.samples import make_frame, make_tag


def names(table: TagTable, selection: Selection) -> list[str]:
    frame = make_frame([(float(i), i, 0.0) for i in range(len(table))])
    return [table[tag_id].name for tag_id in selection.apply(frame).tag_ids.tolist()]


def test_patterns_choose_and_exclude_and_tags_may_come_later() -> None:
    table = TagTable()
    for name in ("pump-1.flow", "pump-1.text", "mixer.speed"):
        table.add(make_tag(name))
    selection = Selection(table, ("pump-*",), ("*.text",))
    assert names(table, selection) == ["pump-1.flow"]
    table.add(make_tag("pump-2.flow"))
    table.add(make_tag("pump-2.text"))
    assert names(table, selection) == ["pump-1.flow", "pump-2.flow"]


def test_without_patterns_a_frame_is_passed_as_it_is() -> None:
    table = TagTable()
    table.add(make_tag("pump.flow"))
    frame = make_frame([(1.0, 0, 1.0)])
    assert Selection(table).apply(frame) is frame
