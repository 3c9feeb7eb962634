"""Recovery: what a crash interrupts ends up exactly as if it had not happened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.clock import ManualClock
from gateway.frame import EMPTY_FRAME, Arrival, Frame, Lane, Turn
from gateway.spool.checkpoint import Checkpoint, decode_checkpoint, encode_checkpoint
from gateway.spool.config import SpoolSettings
from gateway.spool.log import Spool
from gateway.stages.config import AggregateSettings
from gateway.tag import TagTable
from gateway.turns import Turns
from tests.samples import make_frame, make_tag

S = 10**9


class FakeSpool:
    """Keeps turns in memory; a commit group is a raw record and the records derived from it."""

    def __init__(self) -> None:
        self.raw: list[tuple[int, Turn]] = []
        self.derived: dict[Lane, list[tuple[int, Frame]]] = {lane: [] for lane in Lane}
        self.sequence = 0
        self.derived_turn_ns = 2**62  # all of it is there
        self.last_boot = 0
        self.checkpoint: Checkpoint | None = None

    def commit(self, turns: list[Turn], *, only_raw: bool = False) -> None:
        self.sequence += 1
        for turn in turns:
            raw = turn.frames.get(Lane.RAW, EMPTY_FRAME)
            self.raw.append((self.sequence, Turn(turn.now_ns, {Lane.RAW: raw})))
            if not only_raw:
                self.keep(turn, self.sequence)

    def keep(self, turn: Turn, sequence: int) -> None:
        for lane, frame in turn.frames.items():
            if lane is not Lane.RAW:
                self.derived[lane].append((sequence, frame))

    @property
    def last_turn_ns(self) -> int:
        return self.raw[-1][1].now_ns if self.raw else 0

    def replay(self, since_ns: int, after: int | None = None) -> Iterator[tuple[int, Turn]]:
        return (
            (sequence, turn)
            for sequence, turn in self.raw
            if turn.now_ns >= since_ns or (after is not None and sequence > after)
        )

    def applied(self, lane: Lane) -> int:
        return max((sequence for sequence, _ in self.derived[lane]), default=0)

    def missing_ns(self, boot: int) -> int:
        return 0 * boot

    def tail(self, lane: Lane, samples_max: int) -> Frame:
        return Frame.concatenate([f for _, f in self.derived[lane]]).rows(-samples_max, samples_max)


def new_turns(tags: int = 3) -> tuple[TagTable, Turns]:
    table = TagTable()
    for i in range(tags):
        table.add(make_tag(f"pump.t{i}", deadband=0.5 if i == 2 else 0.0))
    aggregates = [
        AggregateSettings(every="10s", statistics=("mean", "count", "last")),  # type: ignore[arg-type]
        AggregateSettings(every="3s", lateness="1s"),  # type: ignore[arg-type]
    ]
    return table, Turns(table, aggregates, deadband_report_s=60.0, engine=None)


def told(table: TagTable, frames: Iterable[Frame]) -> dict[tuple[str, int], float]:
    """What a database holds in the end: the last value of each series and time."""
    whole = Frame.concatenate(list(frames))
    rows = zip(whole.tag_ids.tolist(), whole.t_ns.tolist(), whole.values.tolist(), strict=True)
    return {(table[tag].name, t_ns): value for tag, t_ns, value in rows}


def stored(checkpoint: Checkpoint) -> Checkpoint:
    return decode_checkpoint(encode_checkpoint(checkpoint))


arrivals = st.lists(
    st.lists(st.tuples(st.integers(-30, 0), st.integers(0, 2), st.integers(-9, 9)), max_size=6),
    min_size=1,
    max_size=50,
)


@settings(max_examples=150, deadline=None)
@given(arrivals, st.data())
def test_aggregates_after_a_crash_are_those_without_one(
    batches: list[list[tuple[int, int, int]]], data: st.DataObject
) -> None:
    start = 1_000_000
    frames = [
        make_frame([(start + i + ago, tag, float(v)) for ago, tag, v in batch])
        for i, batch in enumerate(batches)
    ]
    table, turns = new_turns()
    quiet = [turns.turn([Arrival(frame)], (start + i) * S) for i, frame in enumerate(frames)]
    end = [turns.turn([], (start + len(frames) + i) * S) for i in range(40)]
    truth = told(table, [t.frames.get(Lane.AGGREGATE, EMPTY_FRAME) for t in quiet + end])

    spool = FakeSpool()
    table, turns = new_turns()
    crashes = data.draw(st.sets(st.integers(0, len(frames) - 1), max_size=3))
    pending: list[Turn] = []
    for i, frame in enumerate(frames):
        now_ns = (start + i) * S
        pending.append(turns.turn([Arrival(frame)], now_ns))
        if data.draw(st.booleans()) or i in crashes:
            # The crash comes between the raw record and those derived from it, or after both.
            only_raw = i in crashes and data.draw(st.booleans())
            spool.commit(pending, only_raw=only_raw)
            pending = []
            if not only_raw and data.draw(st.booleans()):
                spool.checkpoint = stored(turns.checkpoint().after(spool.sequence))
        if i in crashes:
            table, turns = new_turns()
            missing = turns.recover(spool)
            for turn in missing:
                spool.keep(turn, spool.sequence)
    last = [turns.turn([], (start + len(frames) + i) * S) for i in range(40)]
    spool.commit(pending + last)
    assert told(table, [f for _, f in spool.derived[Lane.AGGREGATE]]) == pytest.approx(
        truth, nan_ok=True
    )


def day_turns(*names: str, every: str = "1d") -> tuple[TagTable, Turns]:
    table = TagTable()
    for name in names:
        table.add(make_tag(name))
    aggregate = AggregateSettings(every=every, statistics=("count", "mean"))  # type: ignore[arg-type]
    return table, Turns(table, [aggregate], deadband_report_s=60.0, engine=None)


def a_day_with_a_checkpoint() -> FakeSpool:
    """A sample an hour of two tags; then the windows are stored, and the raw lane is cut."""
    _, turns = day_turns("pump.flow", "pump.level")
    spool = FakeSpool()
    for hour in range(22):
        frame = make_frame([(hour * 3600.0, 0, float(hour)), (hour * 3600.0, 1, 7.0)])
        spool.commit([turns.turn([Arrival(frame)], (hour * 3600 + 1) * S)])
    spool.checkpoint = stored(turns.checkpoint().after(spool.sequence))
    spool.raw.clear()
    spool.commit([turns.turn([], 22 * 3600 * S)])
    return spool


def test_a_day_goes_on_from_its_checkpoint_though_its_raw_samples_are_gone() -> None:
    spool = a_day_with_a_checkpoint()
    # The configuration names its tags in another order now, and has one more.
    table, turns = day_turns("pump.new", "pump.level", "pump.flow")
    assert turns.wants_checkpoints
    turns.recover(spool)
    assert turns.stats.replayed_turns == 1
    made = turns.turn([], (86400 + 3) * S).frames[Lane.AGGREGATE]
    assert told(table, [made]) == {
        ("pump.flow@1d.count", 0): 22.0,
        ("pump.flow@1d.mean", 0): sum(range(22)) / 22,
        ("pump.level@1d.count", 0): 22.0,
        ("pump.level@1d.mean", 0): 7.0,
    }


def test_a_checkpoint_of_other_aggregates_is_passed_over() -> None:
    spool = a_day_with_a_checkpoint()
    table, turns = day_turns("pump.flow", "pump.level", every="12h")
    turns.recover(spool)
    made = turns.turn([], (86400 + 3) * S).frames.get(Lane.AGGREGATE, EMPTY_FRAME)
    assert told(table, [made]) == {}  # half days of which nothing is known


def test_short_windows_are_not_worth_a_checkpoint() -> None:
    assert not new_turns()[1].wants_checkpoints


def test_a_first_start_has_nothing_to_recover() -> None:
    _, turns = new_turns()
    assert turns.recover(FakeSpool()) == []


def test_redelivery_after_a_crash_is_not_counted_twice() -> None:
    table, turns = new_turns()
    spool = FakeSpool()
    frame = make_frame([(1000.0, 0, 5.0), (1000.5, 0, 6.0)])
    spool.commit([turns.turn([Arrival(frame, on_durable=lambda: None)], 1001 * S)])

    table, turns = new_turns()
    turns.recover(spool)
    again = Arrival(frame, on_durable=lambda: None, redelivered=True)
    turn = turns.turn([again], 1003 * S)
    assert Lane.RAW not in turn.frames
    assert turns.stats.samples_duplicate_total == 2
    later = turns.turn([], 1020 * S).frames[Lane.AGGREGATE]
    assert told(table, [later])["pump.t0@10s.count", 1000 * S] == 2


def test_a_defect_in_a_derived_stage_does_not_cost_the_samples(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, turns = new_turns()

    def broken(*_: object) -> Frame:
        raise ValueError("planted")

    monkeypatch.setattr(turns._windows[0], "apply", broken)
    frame = make_frame([(1000.0, 0, 5.0)])
    for i in range(3):
        turn = turns.turn([Arrival(frame)], (1000 + i) * S)
        assert np.array_equal(turn.frames[Lane.RAW].values, frame.values)
    assert turns.stats.turns_failed_total == 3
    assert caplog.text.count("pipeline.turn_failed") == 1


async def test_what_raw_samples_came_to_is_there_when_they_have_been_deleted(
    tmp_path: Path,
) -> None:
    """A roll-up: ten-second means outlive the samples they were made of."""
    table, turns = new_turns()
    clock = ManualClock()
    settings = SpoolSettings(
        bytes_max=2**24, segment_bytes=2**16, commit_period=0.001, lane_bytes_max={"raw": 2**17}
    )
    rng = np.random.default_rng(1)
    seconds = 12_000
    values = rng.normal(50, 10, (seconds, 3))
    start_ns = clock.utc_ns()
    async with Spool.open(tmp_path, settings, table, clock) as spool:
        for second, row in enumerate(values):
            now_ns = start_ns + second * 10**9
            frame = Frame.of(now_ns, np.arange(3, dtype=np.int32), row)
            durable = spool.append(turns.turn([Arrival(frame)], now_ns + 10**6))
            if second % 500 == 0:
                await durable
        await durable
        end_ns = start_ns + seconds * 10**9
        raw = await spool.history.query(["pump.t0"], start_ns, end_ns)
        means = await spool.history.query(["pump.t0@10s.mean"], start_ns, end_ns, Lane.AGGREGATE)
    assert raw.t_ns.min() > start_ns + 3600 * 10**9  # the first hours are gone
    whole = values[: seconds // 10 * 10, 0].reshape(-1, 10).mean(axis=1)[: len(means)]
    assert len(means) >= seconds // 10 - 2
    assert means.t_ns[0] == start_ns
    assert means.values == pytest.approx(whole)
