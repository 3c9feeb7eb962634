"""What is learned from is what the model will see, and what says nothing is left out, and said."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from gateway.frame import FloatArray, Frame, TimeArray
from gateway.inference.fit import FitSettings, fit
from gateway.inference.fit.prepare import Prepared, Selection, Spoken, prepare, sample_period
from gateway.tag import DataType, TagTable
from tests.samples import make_tag

SECOND = 10**9
N = 400
RANDOM = np.random.default_rng(7)
NOISE = RANDOM.normal(size=N)
PUMPS = Selection(asset_class="pump")


def arrivals_of(
    table: TagTable, signals: dict[str, FloatArray], every_s: float = 1.0, **facts: object
) -> Iterator[tuple[TimeArray, Frame]]:
    for name in signals:
        table.add(make_tag(name, **facts))
    ids = np.array([table.id_of(name) for name in signals], np.int32)
    for i in range(len(next(iter(signals.values())))):
        t_ns = round((1000 + i * every_s) * SECOND)
        values = np.array([values[i] for values in signals.values()])
        yield np.full(len(ids), t_ns), Frame.of(t_ns, ids, values)


def prepared(
    signals: dict[str, FloatArray], selection: Selection = PUMPS, period_s: float = 1.0
) -> Prepared:
    table = TagTable()
    arrivals = list(arrivals_of(table, signals))
    return prepare([(table, arrivals)], selection, period_s, deadband_report_s=60)


def test_assets_of_a_class_are_pooled_with_the_same_fields_in_the_same_order() -> None:
    found = prepared({"a.x": NOISE, "a.y": NOISE, "b.y": NOISE + 1, "b.x": NOISE + 2})
    assert [r.asset for r in found.recordings] == ["a", "b"]
    assert {r.fields for r in found.recordings} == {("x", "y")}
    b = found.recordings[1]
    assert b.usable.all()
    assert np.array_equal(b.values[:, 0], (NOISE + 2).astype(np.float32))


def test_what_says_nothing_is_left_out_and_why_is_said() -> None:
    signals = {
        "a.free": NOISE,
        "a.still": np.full(N, 3.0),
        "a.hours": np.arange(N) / 7.0,
        "a.total": np.arange(N) % 399.0,  # reset once
        "a.falls": -np.arange(N) / 7.0,
    }
    found = prepared(signals)
    assert found.recordings[0].fields == ("free",)
    assert {left.what: left.why for left in found.left_out} == {
        "still": "it never changed",
        **dict.fromkeys(
            ("hours", "total", "falls"), "it only ever rises or falls, as a counter or a clock does"
        ),
    }
    kept = prepared(signals, Selection(asset_class="pump", fields=("free", "hours", "st*")))
    assert kept.recordings[0].fields == ("free", "still", "hours")
    assert kept.left_out == ()


def test_a_count_of_starts_is_a_clock_although_it_moved_once() -> None:
    table = TagTable()
    table.add(make_tag("a.starts", data_type=DataType.UINT16))
    table.add(make_tag("a.set_point", data_type=DataType.UINT16, scale=0.1))
    once = np.repeat([1.0, 2.0], N // 2)
    table.add(make_tag("a.flow"))
    arrivals = [
        (np.full(3, t := (1000 + i) * SECOND), Frame.of(t, np.arange(3, dtype=np.int32), row))
        for i, row in enumerate(np.stack([once, once, NOISE], axis=1))
    ]
    found = prepare([(table, arrivals)], PUMPS, 1.0, deadband_report_s=60)
    assert found.recordings[0].fields == ("set_point", "flow")


def test_hours_that_went_on_a_few_times_are_a_clock_on_idle_assets_too() -> None:
    hours = 5120.0 + np.floor(np.arange(N) / 90) / 100
    signals = {"a.x": NOISE, "a.hours": hours, "b.x": NOISE, "b.hours": np.full(N, 7.0)}
    signals |= {"c.x": NOISE, "c.hours": np.repeat([0.01, 0.02], N // 2)}
    assert {r.fields for r in prepared(signals).recordings} == {("x",)}
    set_point = np.repeat([50.0, 60.0], N // 2)
    assert prepared({"a.x": NOISE, "a.set": set_point}).recordings[0].fields == ("x", "set")


def test_an_asset_or_a_field_that_is_unlike_the_others_is_left_out() -> None:
    signals = {f"{asset}.{field}": NOISE for asset in "abc" for field in "xy"}
    signals |= {"a.extra": NOISE, "d.x": NOISE}
    found = prepared(signals)
    assert [r.asset for r in found.recordings] == ["a", "b", "c"]
    assert {left.what: left.why for left in found.left_out} == {
        "extra": "only 1 of 4 assets have it", "d": "it has no y, as the others have",
    }  # fmt: skip


def test_what_comes_too_seldom_for_the_period_is_left_out() -> None:
    table = TagTable()
    fast = list(arrivals_of(table, {"a.fast": NOISE}))
    slow = list(arrivals_of(table, {"a.slow": NOISE[:40]}, every_s=10))
    both = sorted(fast + slow, key=lambda pair: int(pair[0][0]))
    period_s, again = sample_period(both, table, PUMPS)
    found = prepare([(table, again)], PUMPS, 10.0, deadband_report_s=60)
    assert found.recordings[0].fields == ("fast", "slow")
    found = prepare([(table, both)], PUMPS, 1.0, deadband_report_s=60)
    assert found.recordings[0].fields == ("fast",)
    assert "3 periods of 1 s" in found.left_out[0].why
    assert period_s in (1.0, 10.0, pytest.approx(5.5))


@pytest.mark.parametrize(
    ("every_s", "period_s"), [(1, 1), (1.02, 1), (0.1, 0.1), (300, 300), (7.3, 7.3), (1e5, 3600)]
)
def test_the_period_is_the_samples_own(every_s: float, period_s: float) -> None:
    table = TagTable()
    found, again = sample_period(arrivals_of(table, {"a.x": NOISE}, every_s), table, PUMPS)
    assert found == pytest.approx(period_s)
    assert sum(len(frame) for _, frame in again) == N


def test_one_sample_has_no_period_and_other_classes_none_at_all() -> None:
    table = TagTable()
    assert sample_period(arrivals_of(table, {"a.x": NOISE[:1]}), table, PUMPS)[0] is None
    fans = Selection(asset_class="fan")
    assert sample_period(arrivals_of(table, {"a.x": NOISE}), table, fans)[0] is None
    assert prepared({"a.x": NOISE}, fans).recordings == ()


def test_units_that_differ_are_not_pooled() -> None:
    table = TagTable()
    streams = [
        (table, list(arrivals_of(table, {f"{asset}.p": NOISE}, eng_unit=unit)))
        for asset, unit in (("a", "bar"), ("b", "kPa"))
    ]
    found = prepare(streams, PUMPS, 1.0, deadband_report_s=60)
    assert found.recordings == ()
    assert "different units: bar, kPa" in found.left_out[0].why


def test_what_operators_said_is_heeded() -> None:
    table = TagTable()
    arrivals = list(arrivals_of(table, {"a.x": NOISE, "a.y": NOISE, "b.x": NOISE, "b.y": NOISE}))
    excluded = [(1100 * SECOND, 1110 * SECOND), (1380 * SECOND, 2**63 - 1)]
    said = {"a": Spoken(excluded=excluded, normal=[(1200 * SECOND, 1209 * SECOND)])}
    found = prepare(
        [(table, arrivals)], PUMPS, 1.0, deadband_report_s=60,
        spoken=lambda asset: said.get(asset, Spoken()),
    )  # fmt: skip
    a, b = found.recordings
    seconds = a.t_ns // SECOND
    gone = ((seconds >= 1068) & (seconds <= 1142)) | (seconds >= 1348)
    assert np.array_equal(~a.usable[:, 0], gone)
    assert a.normal is not None
    assert seconds[a.normal].tolist() == list(range(1200, 1210))
    assert b.usable.all()
    assert b.normal is None


def test_what_was_called_normal_is_learned_from_however_unusual() -> None:
    random = np.random.default_rng(2)
    load = np.sin(np.arange(4000) / 50)
    signals = {"a.x": load + random.normal(size=4000) / 20, "a.y": random.normal(size=4000) / 20}
    signals["a.y"] += 2 * load
    signals["a.x"][2000:2200] += 6
    table = TagTable()
    arrivals = list(arrivals_of(table, signals))

    def dropped(spoken: Spoken) -> float:
        [recording] = prepare(
            [(table, arrivals)], PUMPS, 1.0, deadband_report_s=60, spoken=lambda _: spoken
        ).recordings
        stretches = fit([recording], FitSettings()).stretches
        return sum(s.end_ns - s.start_ns for s in stretches if s.reason == "unusual") / 1e9

    assert dropped(Spoken()) > 100
    assert dropped(Spoken(normal=[(2950 * SECOND, 3250 * SECOND)])) == 0
