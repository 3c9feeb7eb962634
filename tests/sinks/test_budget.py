"""A link's budget: kept, events first, and not given anew by a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.frame import Lane
from gateway.sinks.budget import DAY_NS, HOUR_NS, Budget

NOW = 1000 * DAY_NS + 5 * HOUR_NS


def test_others_leave_a_fifth_to_events() -> None:
    budget = Budget(Path("/nowhere"), bytes_hour=1000)
    budget.add(799, NOW)
    assert budget.allows(Lane.RAW, NOW)
    budget.add(1, NOW)
    assert not budget.allows(Lane.RAW, NOW)
    assert not budget.allows(Lane.AGGREGATE, NOW)
    assert budget.allows(Lane.EVENT, NOW)
    assert budget.left(NOW) == 200
    budget.add(200, NOW)
    assert not budget.allows(Lane.EVENT, NOW)
    assert budget.left(NOW) == 0
    assert budget.allows(Lane.RAW, NOW + HOUR_NS)


def test_the_day_holds_when_the_hour_has_room() -> None:
    budget = Budget(Path("/nowhere"), bytes_hour=1000, bytes_day=2000)
    for hour in range(3):
        budget.add(700, NOW + hour * HOUR_NS)
    assert not budget.allows(Lane.RAW, NOW + 3 * HOUR_NS)
    assert budget.allows(Lane.RAW, NOW + DAY_NS)


@given(st.lists(st.tuples(st.integers(0, 3 * HOUR_NS), st.integers(1, 300)), max_size=60))
def test_an_hour_never_has_more_than_its_bound_and_one_batch(
    steps: list[tuple[int, int]],
) -> None:
    budget, now_ns = Budget(Path("/nowhere"), bytes_hour=1000), NOW
    sent: dict[int, int] = {}
    for step_ns, size in steps:
        now_ns += step_ns
        if budget.allows(Lane.EVENT, now_ns):
            budget.add(size, now_ns)
            sent[now_ns // HOUR_NS] = sent.get(now_ns // HOUR_NS, 0) + size
    assert all(total < 1000 + 300 for total in sent.values())


def test_a_restart_does_not_begin_anew(tmp_path: Path) -> None:
    path = tmp_path / "budgets" / "db.json"
    budget = Budget(path, bytes_hour=1000)
    budget.load()
    budget.add(900, NOW)
    budget.save()
    again = Budget(path, bytes_hour=1000)
    again.load()
    assert not again.allows(Lane.RAW, NOW)
    assert again.left(NOW) == 100


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"hour": [1], "day": [1, 2]}', '{"hour": "x"}'])
def test_a_damaged_file_is_said_and_begins_anew(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "db.json"
    path.write_text(text)
    budget = Budget(path, bytes_hour=1000)
    budget.load()
    assert budget.allows(Lane.RAW, NOW)
    assert "sink.budget_unreadable" in caplog.text


def test_it_wants_to_be_saved_before_a_kill_gives_much_of_it_back(tmp_path: Path) -> None:
    budget = Budget(tmp_path / "db.json", bytes_hour=1600, bytes_day=20_000)
    budget.add(100, NOW)
    assert not budget.wants_saving
    budget.add(1, NOW)
    assert budget.wants_saving
    budget.save()
    assert not budget.wants_saving
    assert not Budget(tmp_path / "other.json").wants_saving
