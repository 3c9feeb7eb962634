from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import SinkRejected
from gateway.sinks.search import REFUSED_IN_A_ROW_MAX, Proof, Search, points_of
from gateway.tag import TagTable
from tests.samples import make_frame, make_tag


@given(st.integers(1, 300), st.data())
def test_every_bad_point_is_found_and_every_good_one_accepted_once(
    count: int, data: st.DataObject
) -> None:
    bad = data.draw(st.sets(st.integers(0, count - 1), max_size=5))
    search = Search(np.arange(count))
    accepted: list[int] = []
    found: list[int] = []
    refusals = requests = 0
    while not search.is_done:
        tried = np.flatnonzero(search.rows).tolist()
        requests += 1
        if not bad & set(tried):
            accepted += tried
            search.done()
            continue
        refusals += 1
        if search.is_lone:
            found += tried
            search.done()
        else:
            search.refused()
    assert sorted(found) == sorted(bad)
    assert accepted == sorted(set(range(count)) - bad)
    assert refusals <= len(bad) * (math.ceil(math.log2(count)) + 1)
    assert requests <= 1 + len(bad) * (math.ceil(math.log2(count)) + 2)


@given(st.integers(1, 300), st.integers(1, 300))
def test_fewer_at_once_until_they_are_taken(count: int, limit: int) -> None:
    search = Search(np.arange(count))
    accepted: list[int] = []
    while not search.is_done:
        tried = np.flatnonzero(search.rows).tolist()
        if len(tried) > limit:
            search.too_many()
        else:
            accepted += tried
            search.done()
    assert accepted == list(range(count))


def test_what_is_acquitted_is_tried_again_with_all_the_rest() -> None:
    search = Search(np.arange(8))
    search.refused()
    search.refused()
    search.refused()
    assert search.is_lone
    assert [np.flatnonzero(rows).tolist() for rows in search.rows_behind()] == [
        [1],
        [2, 3],
        [4, 5, 6, 7],
    ]
    search.acquitted()
    assert not search.is_narrowing
    assert search.rows.all()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=30))
def test_rows_are_numbered_by_series_and_time(rows: list[tuple[int, int]]) -> None:
    table = TagTable()
    for name in ("p1.a", "p2.a", "p1.b", "p2.b"):
        table.add(make_tag(name))
    points = points_of(make_frame([(float(t), tag, 0.0) for t, tag in rows]), table)
    number: dict[tuple[int, int], int] = {}
    expected = [number.setdefault((t, tag % 2), len(number)) for t, tag in rows]
    assert points.tolist() == expected


UNCERTAIN = SinkRejected("400", is_certain=False)


def test_suspects_need_another_point_that_is_taken_after_them() -> None:
    proof, part = Proof(), make_frame([(0.0, 0, 1.0)])
    proof.see(None)
    proof.suspect(part, UNCERTAIN)
    proof.see(UNCERTAIN)
    assert proof.refused
    proof.see(None)
    assert not proof.refused
    assert proof.left(part).values.tolist() == [1.0, 1.0]


def test_after_many_refusals_in_a_row_another_point_must_be_taken() -> None:
    proof, part = Proof(), make_frame([(0.0, 0, 1.0)])
    proof.see(None)
    for _ in range(REFUSED_IN_A_ROW_MAX):
        assert proof.is_given
        proof.suspect(part, UNCERTAIN)
    assert not proof.is_given


def test_a_refusal_that_is_about_the_data_shows_that_the_server_looks_at_them() -> None:
    proof = Proof()
    proof.see(SinkRejected("field type conflict"))
    assert proof.is_given
    assert not proof.has_doubted
