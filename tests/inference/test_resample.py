"""What a model is fitted to is what the engine will give it, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.frame import FloatArray, Frame
from gateway.inference.resample import BLOCK_TICKS, Resampled, Resampler
from gateway.inference.rings import Rings, age_max_ns
from gateway.tag import DataType, TagTable
from tests.samples import make_tag

SECOND = 10**9


def table_of(*fields: str, **facts: object) -> TagTable:
    table = TagTable()
    for field in fields:
        table.add(make_tag(f"p.{field}", **facts))
    return table


def frame_at(t_s: float, values: FloatArray, quality: int = 0) -> tuple[np.ndarray, Frame]:
    t_ns = round(t_s * SECOND)
    frame = Frame.of(t_ns, np.arange(len(values), dtype=np.int32), values, quality)
    return np.full(len(values), t_ns), frame


def resampled(table: TagTable, samples: list[tuple[float, list[float], int]]) -> Resampled:
    made = Resampler(table, 1.0)
    for t_s, values, quality in samples:
        made.feed(*frame_at(t_s, np.array(values), quality))
    return made.finish()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([0.2, 1.0, 2.5]),
    st.integers(1, 30),
)  # fmt: skip
def test_every_window_is_the_engines(
    seed: int, window: int, spacing_s: float, several: int
) -> None:
    fed: list[tuple[np.ndarray, Frame]] = []
    random = np.random.default_rng(seed)
    n = 120
    gaps = np.where(random.random(n) < 0.1, random.integers(1, 12, n), spacing_s)
    times = 1000 + np.cumsum(gaps * random.uniform(0.5, 1.5, n))
    values = random.normal(size=(n, 2)) * 10
    table = table_of("a", "b")
    rings = Rings(window=window, features=2)
    slot = rings.add()
    cells = np.array([rings.connect(slot, f, age_max_ns(table[f], SECOND, 60)) for f in (0, 1)])
    made = Resampler(table, 1.0)
    windows: dict[int, tuple[np.ndarray, int]] = {}
    tick: int | None = None
    for t_s, row in zip(times, values, strict=True):
        taken_s = t_s - random.choice([0.0, 0.0, 0.3, 2.0, 9.0, -5.0])  # late, or a fast clock
        _, frame = frame_at(taken_s, row, int(random.choice([0, 0, 0, 0x80])))
        arrived_ns = np.full(2, round(t_s * SECOND))
        fed.append((arrived_ns, frame))
        now = int(arrived_ns[0])
        tick = now // SECOND * SECOND if tick is None else tick
        while tick + SECOND <= now:  # as a gateway's turns do
            tick += SECOND
            rings.push(tick)
            out = np.zeros((1, window, 2), np.float32)
            rings.gather(out)
            windows[tick] = out[0], int(rings.valid[0])
        t_ns = np.minimum(frame.t_ns, now)
        rings.hold(cells, frame.values, frame.quality < 0x80, t_ns)
    for start in range(0, n, several):  # a record of the spool holds several turns
        some = fed[start : start + several]
        arrived_ns = np.concatenate([arrived for arrived, _ in some])
        made.feed(arrived_ns, Frame.concatenate([frame for _, frame in some]))
    found = made.finish()
    assert found.usable.dtype == np.bool_
    checked = 0
    for i in range(window - 1, len(found.t_ns)):
        at = windows.get(int(found.t_ns[i]))
        rows = slice(i - window + 1, i + 1)
        if at is None or found.t_ns[rows][-1] - found.t_ns[rows][0] != (window - 1) * SECOND:
            continue
        usable = found.usable[rows]
        assert int(usable.all(axis=1).sum()) == at[1]
        assert np.array_equal(found.values[rows][usable], at[0][usable])
        checked += 1
    assert checked >= min(3, len(found.t_ns) - window)


def test_a_tick_sees_what_arrived_before_it() -> None:
    found = resampled(table_of("a"), [(1.0, [5.0], 0), (1.999, [6.0], 0), (2.0, [7.0], 0)])
    assert found.t_ns.tolist() == [2 * SECOND, 3 * SECOND]
    assert found.values[:, 0].tolist() == [6.0, 7.0]
    assert found.usable.all()


def test_what_is_missing_bad_or_too_old_is_not_usable() -> None:
    found = resampled(table_of("a", "b"), [(1, [1.0, 1.0], 0), (2, [2.0, 2.0], 0x80),
                                           (3, [3.0, np.nan], 0), (9, [4.0, 4.0], 0)])  # fmt: skip
    assert found.t_ns.tolist() == [t * SECOND for t in range(2, 11)]
    assert found.usable[:, 0].tolist() == [True, False, True, True, True, False, False, False, True]
    assert found.usable[:, 1].tolist() == [True, False] + [False] * 6 + [True]


def test_a_tag_with_a_deadband_may_be_silent_until_its_report() -> None:
    samples = [(1.0, [1.0], 0), (100.0, [2.0], 0)]
    assert resampled(table_of("a"), samples).usable.sum() == 4
    assert resampled(table_of("a", deadband=0.5), samples).usable.sum() == 64


def test_a_long_silence_is_a_break_and_costs_no_memory() -> None:
    found = resampled(table_of("a"), [(1.0, [1.0], 0), (10**7, [2.0], 0)])
    assert len(found.t_ns) < 4 * BLOCK_TICKS
    assert np.diff(found.t_ns).max() > 10**6 * SECOND
    assert found.usable.sum() == 4


def test_tags_may_come_later_and_texts_are_none() -> None:
    table = table_of("a")
    made = Resampler(table, 1.0)
    for t_s in range(1, 400):
        if t_s == 300:
            table.add(make_tag("p.state", data_type=DataType.STRING))
            table.add(make_tag("p.b"))
        row = np.array([float(t_s)] * len(table))
        made.feed(*frame_at(t_s, row))
    found = made.finish()
    assert [table[i].name for i in found.tag_ids] == ["p.a", "p.b"]
    assert found.usable[:, 0].all()
    assert found.usable[:, 1].tolist() == [t > 300 * SECOND for t in found.t_ns]
    assert found.values[found.usable[:, 1], 1].tolist() == list(range(300, 400))


def test_nothing_is_nothing() -> None:
    found = Resampler(table_of("a"), 1.0).finish()
    assert found.t_ns.shape == (0,)
    assert found.values.shape[0] == 0


@pytest.mark.parametrize("step_s", [-5, -5000])
def test_a_clock_set_back_leaves_time_rising(step_s: int) -> None:
    samples = [(t, [1.0], 0) for t in (9000, 9001, 9002, 9003 + step_s, 9004 + step_s, 9010)]
    found = resampled(table_of("a"), samples)
    assert (np.diff(found.t_ns) > 0).all()
