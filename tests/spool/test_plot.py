"""A plot draws the same line as all of its samples would."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.frame import Frame, Lane, Turn
from gateway.spool import history as history_module
from gateway.spool.catalog import Rows, Segment
from gateway.spool.history import PLOT_TAGS_MAX, History
from gateway.spool.log import Spool
from gateway.spool.plot import POINTS_A_BUCKET, Thinner
from gateway.tag import Quality, TagTable
from tests.samples import make_tag
from tests.spool.conftest import Opener

SPAN = 1000
BUCKETS = 10

samples = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, SPAN - 1),
        st.sampled_from([-5.0, 0.0, 0.5, 7.0, np.nan, np.inf]),
        st.sampled_from([0, int(Quality.UNCERTAIN), int(Quality.BAD_TIMEOUT)]),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(samples, st.integers(1, 7), st.booleans())
def test_each_bucket_has_its_extremes_ends_and_mean_however_they_come(
    rows: list[tuple[int, int, float, int]], chunk: int, is_backwards: bool
) -> None:
    thinner = Thinner(0, SPAN, BUCKETS * POINTS_A_BUCKET, is_backwards=is_backwards)
    starts = range(0, len(rows), chunk)
    for start in reversed(starts) if is_backwards else starts:
        numbers, t_ns, values, quality = zip(*rows[start : start + chunk], strict=True)
        thinner.add(
            np.array(numbers),
            np.array(t_ns, np.int64),
            np.array(values),
            np.array(quality, np.uint8),
        )
    for number in range(3):
        series = thinner.series(number, "t", "")
        drawn = set(zip(series.t_ns.tolist(), series.values.tolist(), strict=True))
        assert series.t_ns.tolist() == sorted(series.t_ns.tolist())
        for place, begin in enumerate(series.bucket_ns.tolist()):
            inside = [r for r in rows if r[0] == number and begin <= r[1] < begin + SPAN // BUCKETS]
            good = [(t, v) for _, t, v, q in inside if np.isfinite(v) and q < Quality.BAD]
            assert series.count[place] == len(good)
            assert series.without[place] == len(inside) - len(good)
            assert series.quality[place] == max(row[3] for row in inside)
            if not good:
                assert np.isnan(series.min[place])
                continue
            values = [value for _, value in good]
            assert series.min[place] == min(values)
            assert series.max[place] == max(values)
            assert series.mean[place] == pytest.approx(sum(values) / len(values))
            assert {value for t, value in drawn if (t, value) in good} >= {min(values), max(values)}
            for t_end in (min(good)[0], max(good)[0]):
                assert any(t == t_end for t, _ in drawn)
            # Of equal times the last is the one stored last.
            assert (max(good)[0], [v for t, v in good if t == max(good)[0]][-1]) in drawn
        assert len(drawn) <= BUCKETS * POINTS_A_BUCKET
        assert drawn <= {(t, v) for n, t, v, _ in rows if n == number}


def test_of_one_time_the_sample_that_was_stored_last_is_the_last() -> None:
    thinner = Thinner(0, 10, POINTS_A_BUCKET)
    for value in (1.0, 3.0, 2.0):
        thinner.add(np.zeros(1, np.intp), np.array([5]), np.array([value]), np.zeros(1, np.uint8))
    assert thinner.series(0, "t", "").values.tolist()[-1] == 2.0


async def day(spool: Spool, tags: int = 10, steps: int = 600) -> None:
    """Ten minutes at 1 Hz, a spike of one sample in it."""
    ids = np.arange(tags, dtype=np.int32)
    for first in range(0, steps, 60):
        t_ns = np.repeat(np.arange(first, first + 60), tags) * 10**9
        values = np.sin(t_ns / 1e11)
        values[(t_ns == 303 * 10**9)] = 99.0
        await spool.append(
            Turn(int(t_ns[-1]), {Lane.RAW: Frame.of(t_ns, np.tile(ids, 60), values)})
        )


async def test_a_plot_keeps_every_spike(open_spool: Opener) -> None:
    async with open_spool() as spool:
        await day(spool)
        plot = await spool.history.plot(["pump.t3", "pump.t4"], 0, 600 * 10**9, Lane.RAW, 80)
    assert [series.tag for series in plot.series] == ["pump.t3", "pump.t4"]
    for series in plot.series:
        assert len(series.t_ns) <= 80
        assert series.values[series.t_ns == 303 * 10**9].tolist() == [99.0]
        assert series.count.sum() == 600
    assert plot.samples == 1200
    assert plot.bucket_s == 30


async def test_text_and_huge_integers_are_drawn_as_what_they_can_be(open_spool: Opener) -> None:
    async with open_spool() as spool:
        ids = np.zeros(2, np.int32)
        frame = Frame.of(np.array([1, 2]), ids, np.full(2, np.nan), exact={0: "on", 1: 2**60})
        await spool.append(Turn(2, {Lane.RAW: frame}))
        plot = await spool.history.plot(["pump.t0"], 0, 10, Lane.RAW, 4)
    assert plot.series[0].values.tolist() == [2.0**60]
    assert plot.series[0].without.tolist() == [1]


async def test_who_asks_for_everything_gets_a_bounded_plot(open_spool: Opener) -> None:
    table = TagTable()
    ids = np.array([table.add(make_tag(f"pump.n{i}")) for i in range(PLOT_TAGS_MAX + 5)], np.int32)
    async with open_spool(table=table) as spool:
        await spool.append(Turn(1, {Lane.RAW: Frame.of(1, ids, np.ones(len(ids)))}))
        plot = await spool.history.plot(["*"], 0, 10, Lane.RAW, 4)
    assert len(plot.series) == PLOT_TAGS_MAX
    assert plot.tags_left_out == 5


async def test_a_plot_that_takes_too_long_shows_the_newest_and_says_so(
    open_spool: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_module, "PLOT_S", 0.0)
    monkeypatch.setattr(history_module, "CHUNK_RECORDS", 3)
    async with open_spool() as spool:
        await day(spool)
        plot = await spool.history.plot(["pump.t3"], 0, 600 * 10**9, Lane.RAW, 80)
    assert plot.is_cut
    assert plot.samples == 180
    assert plot.series[0].t_ns.max() == 599 * 10**9


async def test_a_span_longer_than_the_clock_can_count_is_drawn(open_spool: Opener) -> None:
    async with open_spool() as spool:
        await day(spool, steps=60)
        plot = await spool.history.plot(["pump.t3"], -(10**20), 10**20, Lane.RAW, 8)
    assert plot.series[0].count.sum() == 60


async def test_a_question_that_nobody_waits_for_ends(
    open_spool: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_spool() as spool:
        await day(spool)
        asked, go_on, decoded = threading.Event(), threading.Event(), []
        read = spool._store.catalog.read

        def slow(segment: Segment, *args: Any) -> Rows | None:
            asked.set()
            go_on.wait(5)
            decoded.append(segment)
            return read(segment, *args)

        monkeypatch.setattr(spool._store.catalog, "read", slow)
        question = asyncio.create_task(spool.history.plot(["*"], 0, 10**15, Lane.RAW, 80))
        while not asked.is_set():  # noqa: ASYNC110 - a thread sets it
            await asyncio.sleep(0.001)
        question.cancel()
        await asyncio.wait([question])
        go_on.set()
        # The next one is answered, by the same thread, after one record more at most.
        assert not (await spool.history.plot(["none"], 0, 10, Lane.RAW, 80)).series
        assert len(decoded) == 1


async def test_a_plot_of_nothing_is_empty(open_spool: Opener) -> None:
    async with open_spool() as spool:
        history: History = spool.history
        assert not (await history.plot(["*"], 0, 10, Lane.RAW, 4)).series
