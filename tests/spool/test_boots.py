"""Boards without a clock chip: times that were not known are right in the end, once and for all."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import ManualClock
from gateway.errors import SpoolDamaged
from gateway.frame import Arrival, Frame, Lane, Turn
from gateway.spool.boots import Boot, decode_boots, encode_boots
from gateway.spool.group import Group
from gateway.spool.log import Spool
from gateway.spool.reader import SpoolReader
from gateway.spool.store import Store
from gateway.stages.config import AggregateSettings
from gateway.tag import Quality, TagTable
from gateway.turns import Turns
from tests.samples import make_frame, make_tag
from tests.spool.simulated_disk import SimulatedDisk
from tests.spool.worlds import small_settings

S = 10**9
TRUE_START = 1_900_000_000
IN_THE_PAST = 1_000_000_000
SETTINGS = small_settings(
    bytes_max=2**24, segment_bytes=2**14, commit_period=0.001, commit_bytes=2**18,
    pending_bytes_max=2**24, raw=True,
)  # fmt: skip

boots = st.dictionaries(
    st.integers(1, 2**64 - 1),
    st.builds(
        Boot,
        st.integers(-(2**62), 2**62),
        st.integers(-(2**62), 2**62),
        st.sampled_from(["waiting", "exact", "estimated", "unsynchronised"]),
    ),
    max_size=5,
)


@given(boots)
def test_the_record_of_boots_says_what_was_written(known: dict[int, Boot]) -> None:
    assert decode_boots(encode_boots(known)) == known


@given(boots, st.data())
def test_no_damage_of_it_is_believed(known: dict[int, Boot], data: st.DataObject) -> None:
    written = bytearray(encode_boots(known))
    at = data.draw(st.integers(0, len(written) - 1))
    if at in (5, 6, 7):
        return  # padding
    written[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SpoolDamaged):
        decode_boots(bytes(written))
    with pytest.raises(SpoolDamaged):
        decode_boots(bytes(written[:at]))


class Plant:
    """One machine and its card: a sample a second, and what a database has been sent."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.disk = SimulatedDisk()
        self.true_ns = TRUE_START * S
        self.boot_id, self.booted_ns = 0, 0
        self.clock = ManualClock()
        self.taken: dict[int, tuple[int, int]] = {}  # acknowledged: value -> true time, boot
        self.sent: dict[int, tuple[int, int]] = {}  # value -> time, quality
        self.counts: dict[int, float] = {}  # time of a window -> samples in it
        self.value = 0
        self.is_over = False

    def boot(self) -> None:
        self.boot_id += 1
        self.true_ns += self.rng.randint(S, 100 * S)
        self.booted_ns = self.true_ns

    def start(self) -> None:
        """Another process of this boot: it knows no more than the card does."""
        self.clock = ManualClock(IN_THE_PAST * S, boot_id=self.boot_id, trusted=False)
        self.clock.advance((self.true_ns - self.booted_ns) // S)

    def pass_second(self) -> None:
        self.true_ns += S
        self.clock.advance(1)

    async def live(self, seconds: int, finds_out_at: int | None, *, is_last: bool = False) -> None:
        """One process: `seconds` samples; somebody tells the time after so many."""
        self.start()
        table = TagTable()
        tag_id = table.add(make_tag("pump.flow"))
        counting = AggregateSettings(every="5s", statistics=("count",))  # type: ignore[arg-type]
        turns = Turns(table, [counting], deadband_report_s=60.0, engine=None)
        async with Spool.open(Path("/s"), SETTINGS, table, self.clock, self.disk) as spool:
            spool.begin_clock()
            seam = turns.seam_after(turns.recover(spool), self.clock.boot)
            for turn in seam:
                spool.append(turn)
            reader = spool.reader("influx", [Lane.AGGREGATE, Lane.RAW])
            for second in range(seconds):
                if second == finds_out_at and self.clock.boot:
                    missing_ns = self.true_ns - self.clock.utc_ns()
                    seam_turn = turns.seam(0, missing_ns)
                    self.clock.trust(missing_ns)
                    if seam_turn is not None:
                        spool.append(seam_turn)
                    if self.rng.random() < 0.2:
                        return  # it dies before it has told anybody
                    assert await spool.settle_clock()
                self.value += 1
                ids, values = np.array([tag_id], np.int32), np.array([float(self.value)])
                frame = Frame.of(self.clock.utc_ns(), ids, values)
                arrival = Arrival(frame, boot=self.clock.boot)
                future = spool.append(turns.turn([arrival], self.clock.utc_ns()))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(future), 5)
                    self.taken[self.value] = (self.true_ns, self.boot_id)
                if self.rng.random() < 0.3:
                    await self.drain(reader, table)
                self.pass_second()
            if is_last:
                for _ in range(15):  # until every window is closed
                    self.pass_second()
                    await spool.append(turns.turn([], self.clock.utc_ns()))
                assert await spool.settle_clock()
            await self.drain(reader, table, to_the_end=is_last)
            self.is_over = is_last

    async def drain(
        self, reader: SpoolReader, table: TagTable, *, to_the_end: bool = False
    ) -> None:
        with contextlib.suppress(TimeoutError):
            while not to_the_end or reader.backlog().samples:
                async with asyncio.timeout(10 if to_the_end else 0.01):
                    batch = await reader.next(self.rng.randint(1, 20))
                self.take(batch.frame, table)
                if self.rng.random() < 0.9:  # else it is asked for once more
                    await reader.acknowledge(batch)

    def take(self, frame: Frame, table: TagTable) -> None:
        rows = zip(
            *(a.tolist() for a in (frame.tag_ids, frame.t_ns, frame.values, frame.quality)),
            strict=True,
        )
        for tag_id, t_ns, value, quality in rows:
            if table[tag_id].lane is Lane.AGGREGATE:
                self.counts[t_ns] = value
                continue
            assert self.sent.setdefault(int(value), (t_ns, quality)) == (t_ns, quality)


@pytest.mark.parametrize("seed", range(40))
async def test_each_sample_has_its_right_time_once_and_for_all(seed: int) -> None:
    plant = Plant(seed)
    rng = plant.rng
    for _ in range(rng.randint(1, 4)):
        plant.boot()
        for _ in range(rng.randint(1, 3)):  # processes of one boot
            finds_out_at = rng.choice([None, rng.randint(0, 15)])
            await plant.live(rng.randint(1, 15), finds_out_at)
            if rng.random() < 0.3:
                plant.disk.power_cut(rng)
                break
    plant.boot()
    await plant.live(3, finds_out_at=1)
    while not plant.is_over:
        await plant.live(12, finds_out_at=0, is_last=True)

    known = decode_boots(plant.disk.read(Path("/s/boots"), 2**20, 0))
    assert all(boot.is_known for boot in known.values())
    assert plant.sent.keys() >= plant.taken.keys()
    last_ns = 0
    for value, (true_ns, boot) in plant.taken.items():
        t_ns, quality = plant.sent[value]
        if quality == Quality.GOOD:
            assert t_ns == true_ns, value
        else:
            assert (quality, known[boot].verdict) == (Quality.UNCERTAIN_CLOCK, "estimated")
        assert t_ns > last_ns, "the order is that in which they were taken"
        last_ns = t_ns
    assert sum(plant.counts.values()) == len(plant.sent)


async def test_what_has_no_time_yet_waits_and_is_seen(tmp_path: Path) -> None:
    clock = ManualClock(IN_THE_PAST * S, boot_id=7, trusted=False)
    table = TagTable()
    tag_id = table.add(make_tag("pump.flow"))
    turns = Turns(table, [], deadband_report_s=60.0, engine=None)
    async with Spool.open(tmp_path, SETTINGS, table, clock) as spool:
        spool.begin_clock()
        turns.seam(clock.boot)
        reader = spool.reader("influx", [Lane.RAW])
        frame = make_frame([(IN_THE_PAST, tag_id, 1.0)])
        await spool.append(turns.turn([Arrival(frame, boot=7)], clock.utc_ns()))
        assert spool.samples_waiting == 1
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.next(10), 0.05)
        seen = await spool.history.query(["*"], 0, 2**62)
        assert seen.values.tolist() == [1.0]

        assert await spool.settle_clock("unsynchronised")
        batch = await asyncio.wait_for(reader.next(10), 5)
        assert batch.frame.t_ns.tolist() == [IN_THE_PAST * S]
        assert batch.frame.quality.tolist() == [Quality.UNCERTAIN_CLOCK]
        # It was sent: what is found out later does not change it.
        clock.find_out(1000)
        clock.trust(1000 * S)
        assert await spool.settle_clock()
        again = await spool.history.query(["*"], 0, 2**62)
        assert again.t_ns.tolist() == [IN_THE_PAST * S]


def test_a_boot_that_left_turns_and_no_samples_holds_nothing_back() -> None:
    disk = SimulatedDisk()

    def opened() -> Store:
        store = Store(Path("/s"), SETTINGS, TagTable(), ManualClock(), disk)
        store.open()
        return store

    store = opened()
    store.begin_boot(7, 0)
    store.commit([Group([Turn(1000, {}, boot=7)])])
    known = Turn(2000, {Lane.RAW: make_frame([(2, 0, 1.0)])})
    store.table.add(make_tag("pump.flow"))
    store.commit([Group([known])])
    assert store.samples_ready(Lane.RAW) == 1
    store.close()
    disk.power_cut(random.Random(1))
    store = opened()
    assert store.samples_ready(Lane.RAW) >= 1
    assert store.samples_waiting == 0
    store.close()


def test_a_boot_that_left_turns_only_comes_where_it_was_in_the_order_of_boots() -> None:
    store = Store(Path("/s"), SETTINGS, TagTable(), ManualClock(), SimulatedDisk())
    store.open()
    for lane in Lane:
        store.table.add(make_tag(f"pump.{lane.name.lower()}", lane=lane))
    raw, score = make_frame([(2, int(Lane.RAW), 1.0)]), make_frame([(2, int(Lane.SCORE), 1.0)])
    store.commit([Group([Turn(1 * S, {}, 7)])])
    store.commit([Group([Turn(500 * S, {Lane.RAW: raw})])])
    store.commit([Group([Turn(501 * S, {Lane.RAW: raw}, 8)])])
    store.commit([Group([Turn(1 * S, {Lane.SCORE: score}, 7)])])  # made again, later
    store.settle_boots(0, Boot(0), 900 * S)
    verdicts = store.boots.all()
    # Over before somebody knew the time, and before boot 8.
    assert 1 * S + verdicts[7].missing_ns < 500 * S
    assert 501 * S + verdicts[8].missing_ns == 900 * S - 1
    store.close()


def test_what_is_made_again_for_one_boot_does_not_vouch_for_the_next() -> None:
    store = Store(Path("/s"), SETTINGS, TagTable(), ManualClock(), SimulatedDisk())
    store.open()
    for lane in Lane:
        store.table.add(make_tag(f"pump.{lane.name.lower()}", lane=lane))
    raw, score = make_frame([(2, int(Lane.RAW), 1.0)]), make_frame([(2, int(Lane.SCORE), 1.0)])
    for boot in (7, 8):
        store.commit([Group([Turn(2 * S, {Lane.RAW: raw}, boot)])])
    # The power may fail now, before what boot 8 lacks was made again as well.
    store.commit([Group([Turn(3 * S, {Lane.SCORE: score}, 7, raw_sequence=2)])])
    assert store.applied(Lane.RAW) == 4  # the first one names the tag
    assert store.applied(Lane.SCORE) == 2
    # With what is new, it goes as far as that.
    made_again = Turn(3 * S, {Lane.SCORE: score}, 8, raw_sequence=3)
    store.commit([Group([made_again, Turn(4 * S, {Lane.RAW: raw, Lane.SCORE: score}, 8)])])
    assert store.applied(Lane.SCORE) == store.applied(Lane.RAW)
    store.close()


async def test_history_is_asked_by_the_times_that_are_known_by_now(tmp_path: Path) -> None:
    clock = ManualClock(IN_THE_PAST * S, boot_id=7, trusted=False)
    table = TagTable()
    tag_id = table.add(make_tag("pump.flow"))
    turns = Turns(table, [], deadband_report_s=60.0, engine=None)
    async with Spool.open(tmp_path, SETTINGS, table, clock) as spool:
        spool.begin_clock()
        turns.seam(clock.boot)
        frame = make_frame([(IN_THE_PAST + i, tag_id, float(i)) for i in range(10)])
        await spool.append(turns.turn([Arrival(frame, boot=7)], clock.utc_ns()))
        clock.trust((TRUE_START - IN_THE_PAST) * S)
        assert await spool.settle_clock()
        start_ns = (TRUE_START + 3) * S
        found = await spool.history.query(["*"], start_ns, start_ns + 2 * S)
        assert found.values.tolist() == [3.0, 4.0]
        assert len(await spool.history.query(["*"], 0, TRUE_START * S)) == 0
    names = TagTable()
    beside = spool.history.open_readonly(tmp_path, names)
    assert beside.query_now(["*"], start_ns, start_ns + 2 * S).values.tolist() == [3.0, 4.0]


async def test_a_disk_that_refuses_the_record_holds_back_what_waits() -> None:
    clock = ManualClock(IN_THE_PAST * S, boot_id=7, trusted=False)
    table = TagTable()
    tag_id = table.add(make_tag("pump.flow"))
    turns = Turns(table, [], deadband_report_s=60.0, engine=None)
    disk = SimulatedDisk()
    async with Spool.open(Path("/s"), SETTINGS, table, clock, disk) as spool:
        spool.begin_clock()
        turns.seam(clock.boot)
        reader = spool.reader("influx", [Lane.RAW])
        frame = make_frame([(IN_THE_PAST, tag_id, 1.0)])
        await spool.append(turns.turn([Arrival(frame, boot=7)], clock.utc_ns()))
        clock.trust(5 * S)
        disk.fail(lambda call: errno.EIO if call == "rename" else 0)
        assert not await spool.settle_clock()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.next(10), 0.05)
        disk.fail(lambda _call: 0)
        assert await spool.settle_clock()
        batch = await asyncio.wait_for(reader.next(10), 5)
        assert batch.frame.t_ns.tolist() == [(IN_THE_PAST + 5) * S]


async def test_provisional_times_go_on_from_the_newest_that_is_known(tmp_path: Path) -> None:
    table = TagTable()
    tag_id = table.add(make_tag("pump.flow"))
    clock = ManualClock(TRUE_START * S)
    turns = Turns(table, [], deadband_report_s=60.0, engine=None)
    async with Spool.open(tmp_path, SETTINGS, table, clock) as spool:
        frame = Frame.of(clock.utc_ns(), np.array([tag_id], np.int32), np.zeros(1))
        await spool.append(turns.turn([Arrival(frame)], clock.utc_ns()))
    for _ in range(2):  # the second process of the boot goes on with the times of the first
        clock = ManualClock(IN_THE_PAST * S, boot_id=9, trusted=False)
        async with Spool.open(tmp_path, SETTINGS, table, clock) as spool:
            spool.begin_clock()
            assert clock.utc_ns() == TRUE_START * S
