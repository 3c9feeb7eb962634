"""Sinks read what is durable, in order, the urgent first, and never skip what they did not have."""

from __future__ import annotations

import asyncio
import errno
import random

import numpy as np
import pytest

from gateway.frame import Frame, Lane, Turn
from gateway.spool import reader as reader_module
from gateway.spool.log import Spool
from gateway.spool.reader import SpoolReader
from gateway.spool.store import Store
from gateway.tag import TagTable
from tests.samples import make_tag
from tests.spool.conftest import Opener
from tests.spool.simulated_disk import SimulatedDisk

RAW_ONLY = (Lane.RAW,)


@pytest.fixture(autouse=True)
def soon_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "LIVE_AFTER_SAMPLES", 0)


def turn_of(*values: float, **lanes: float) -> Turn:
    frames = {}
    if values:
        n = len(values)
        t_ns = 1000 + np.arange(n)
        frames[Lane.RAW] = Frame.of(t_ns, np.zeros(n, np.int32), np.array(values, np.float64))
    for name, value in lanes.items():
        lane = Lane[name.upper()]
        tag = {Lane.AGGREGATE: 10, Lane.SCORE: 11, Lane.EVENT: 12}[lane]
        frames[lane] = Frame.of(2000, np.array([tag], np.int32), np.array([value]))
    return Turn(5, frames)


async def drain(reader: SpoolReader, samples_max: int = 1000) -> list[float]:
    values: list[float] = []
    while reader.backlog().samples:
        batch = await reader.next(samples_max)
        values += batch.frame.values.tolist()
        await reader.acknowledge(batch)
    return values


async def test_the_most_urgent_lane_comes_first(open_spool: Opener) -> None:
    async with open_spool() as spool:
        reader = spool.reader("influx", list(reversed(Lane)))
        await spool.append(turn_of(1.0, aggregate=2.0, score=3.0, event=4.0))
        lanes = []
        for _ in Lane:
            batch = await reader.next(100)
            lanes.append(batch.lane)
            await reader.acknowledge(batch)
        assert lanes == [Lane.EVENT, Lane.SCORE, Lane.AGGREGATE, Lane.RAW]
        await spool.append(turn_of(5.0))
        assert (await reader.next(100)).lane is Lane.RAW
        await spool.append(turn_of(event=6.0))  # overtakes what was not acknowledged
        assert (await reader.next(100)).lane is Lane.EVENT


async def test_lanes_that_were_not_asked_for_are_not_given(open_spool: Opener) -> None:
    async with open_spool() as spool:
        reader = spool.reader("influx", [Lane.AGGREGATE])
        await spool.append(turn_of(1.0, aggregate=2.0, event=4.0))
        assert await drain(reader) == [2.0]


async def test_records_are_joined_and_a_large_one_is_split(open_spool: Opener) -> None:
    async with open_spool() as spool:
        reader = spool.reader("influx", RAW_ONLY)
        for i in range(4):
            await spool.append(turn_of(*range(10 * i, 10 * i + 10)))
        sizes = []
        seen: list[float] = []
        while reader.backlog().samples:
            batch = await reader.next(25)
            sizes.append(len(batch.frame))
            seen += batch.frame.values.tolist()
            await reader.acknowledge(batch)
        assert sizes == [20, 20]
        assert seen == list(range(40))
        await spool.append(turn_of(*range(100)))
        sizes = []
        while reader.backlog().samples:
            batch = await reader.next(30)
            sizes.append(len(batch.frame))
            await reader.acknowledge(batch)
        assert sizes == [30, 30, 30, 10]


@pytest.mark.parametrize("samples_max", [1, 2, 3, 7, 20])
async def test_no_point_is_cut_where_a_record_is_split(
    open_spool: Opener, samples_max: int
) -> None:
    """Of two halves of a point the one that is sent last would have the word on its quality."""
    table, rng = TagTable(), np.random.default_rng(samples_max)
    for asset in range(5):
        for i in range(4):
            table.add(make_tag(f"a{asset}.t{i}", asset=f"a{asset}"))
    async with open_spool(table=table) as spool:
        reader = spool.reader("influx", RAW_ONLY)
        sent: list[tuple[int, int]] = []
        for turn in range(6):
            groups = [(int(rng.integers(5)), turn * 10 + int(rng.integers(4))) for _ in range(12)]
            groups = list(dict.fromkeys(groups))
            rows = [(4 * asset + i, t_ns) for asset, t_ns in groups for i in range(4)]
            if turn % 2:  # as an aggregate has them: all of one time, tag by tag
                rows = [(tag, turn * 10) for tag in rng.permutation(20).tolist()]
            ids, times = np.array(rows).T
            frame = Frame.of(times.astype(np.int64), ids.astype(np.int32), ids.astype(np.float64))
            await spool.append(Turn(turn, {Lane.RAW: frame}))
            sent += rows
        got: list[tuple[int, int]] = []
        batch_of: dict[tuple[int, int], set[int]] = {}
        batches = 0
        while reader.backlog().samples:
            batch = await reader.next(samples_max)
            found = list(zip(batch.frame.tag_ids.tolist(), batch.frame.t_ns.tolist(), strict=True))
            for tag, t_ns in found:
                batch_of.setdefault((tag // 4, t_ns), set()).add(batches)
            got += found
            batches += 1
            await reader.acknowledge(batch)
        assert got == sent
        assert all(len(numbers) == 1 for numbers in batch_of.values())
        assert batches >= 6 or samples_max > 7


async def test_without_acknowledgement_the_same_is_given_again(open_spool: Opener) -> None:
    async with open_spool() as spool:
        reader = spool.reader("influx", RAW_ONLY)
        await spool.append(turn_of(1.0, 2.0))
        assert (await reader.next(1)).frame.values.tolist() == [1.0]
        batch = await reader.next(10)
        assert batch.frame.values.tolist() == [1.0, 2.0]
        await reader.acknowledge(batch)
        assert reader.backlog().samples == 0


async def test_next_waits_and_may_be_cancelled(open_spool: Opener) -> None:
    async with open_spool() as spool:
        reader = spool.reader("influx", RAW_ONLY)
        waiting = asyncio.create_task(reader.next(10))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        await spool.append(turn_of(1.0))
        async with asyncio.timeout(5):
            assert (await waiting).frame.values.tolist() == [1.0]
        for _ in range(20):  # cancelled at whatever it awaits
            task = asyncio.create_task(reader.next(10))
            for _ in range(random.randrange(4)):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        assert (await reader.next(10)).frame.values.tolist() == [1.0]


async def test_the_backlog_says_how_much_and_how_old(open_spool: Opener) -> None:
    async with open_spool() as spool:
        reader = spool.reader("influx", list(Lane))
        assert (reader.backlog().samples, reader.backlog().oldest_ns) == (0, 0)
        await spool.append(turn_of(1.0, 2.0, 3.0))
        await spool.append(turn_of(4.0, event=1.0))
        backlog = reader.backlog()
        assert (backlog.samples, backlog.oldest_ns) == (5, 1000)
        await reader.acknowledge(await reader.next(10))  # the event
        await reader.acknowledge(await reader.next(2))
        assert reader.backlog().samples == 2


async def test_a_restart_goes_on_where_the_sink_was(open_spool: Opener) -> None:
    async with open_spool() as spool:
        reader = spool.reader("influx", RAW_ONLY)
        for i in range(5):
            await spool.append(turn_of(float(i)))
        await reader.acknowledge(await reader.next(2))
    async with open_spool() as spool:
        assert await drain(spool.reader("influx", RAW_ONLY)) == [2.0, 3.0, 4.0]
        # Another sink has a cursor of its own, and a new one begins with the oldest.
        assert await drain(spool.reader("archive", RAW_ONLY)) == [0.0, 1.0, 2.0, 3.0, 4.0]
    async with open_spool() as spool:
        assert spool.reader("influx", RAW_ONLY).backlog().samples == 0
        assert spool.reader("archive", RAW_ONLY).backlog().samples == 0


async def test_a_lane_added_to_a_sink_begins_with_its_oldest_sample(open_spool: Opener) -> None:
    async with open_spool() as spool:
        await spool.append(turn_of(1.0, aggregate=2.0))
        assert await drain(spool.reader("influx", RAW_ONLY)) == [1.0]
    async with open_spool() as spool:
        assert await drain(spool.reader("influx", [Lane.RAW, Lane.AGGREGATE])) == [2.0]
        assert spool.stats.gaps_total == 0


async def test_a_cursor_before_a_crash_is_behind_never_ahead(open_spool: Opener) -> None:
    """Power goes at any time; what was not acknowledged comes again, at worst with some more."""
    for seed in range(30):
        rng = random.Random(seed)
        disk = SimulatedDisk()
        acknowledged = 0
        async with open_spool(disk=disk) as spool:
            reader = spool.reader("influx", RAW_ONLY)
            for i in range(10):
                await spool.append(turn_of(float(i)))
                if rng.random() < 0.5:
                    await reader.acknowledge(await reader.next(rng.randint(1, 4)))
                    acknowledged = i + 1 - reader.backlog().samples
                if rng.random() < 0.2:
                    spool._store.save_cursors()
            disk.fail(lambda call: errno.EIO if call in ("create", "write", "sync") else 0)
        disk.power_cut(rng)
        async with open_spool(disk=disk) as spool:
            values = await drain(spool.reader("influx", RAW_ONLY))
            assert values == [float(i) for i in range(10 - len(values), 10)]
            assert len(values) >= 10 - acknowledged


async def test_a_cursor_ahead_of_a_lane_that_lost_its_end_misses_nothing_new(
    open_spool: Opener,
) -> None:
    disk = SimulatedDisk()
    async with open_spool(disk=disk) as spool:
        reader = spool.reader("influx", RAW_ONLY)
        for i in range(5):
            await spool.append(turn_of(float(i)))
        await drain(reader)
    for path in disk.paths():
        if path.name.startswith("raw-"):
            disk.unlink(path)
    async with open_spool(disk=disk) as spool:
        reader = spool.reader("influx", RAW_ONLY)
        await spool.append(turn_of(9.0))
        assert await drain(reader) == [9.0]


async def test_samples_deleted_before_a_sink_had_them_are_counted_and_passed_over(
    open_spool: Opener, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "tidy", lambda _: None)  # it may delete while the test counts
    async with open_spool(disk=SimulatedDisk(), bytes_max=8 * 8192, segment_bytes=8192) as spool:
        reader = spool.reader("slow", RAW_ONLY)
        quick = spool.reader("quick", RAW_ONLY)
        sent = 0
        got: list[float] = []
        rng = np.random.default_rng(1)
        for _ in range(60):
            noise = rng.standard_normal(100)
            noise[0] = sent
            await spool.append(turn_of(*noise))
            sent += 100
            await drain(quick)
        lost = spool.stats.samples_lost_total
        assert lost > 0
        assert spool.stats.gaps_total == 1
        assert caplog.text.count("spool.undelivered_deleted") == 1
        assert reader.backlog().samples == sent - lost
        while reader.backlog().samples:
            batch = await reader.next(1000)
            got += batch.frame.values[::100].tolist()
            await reader.acknowledge(batch)
        assert got == [float(i) for i in range(lost, sent, 100)]
        # Delivered samples are deleted without a word.
        for _ in range(60):
            await spool.append(turn_of(*rng.standard_normal(100)))
            await drain(reader)
            await drain(quick)
        assert spool.stats.samples_lost_total == lost


async def test_a_damaged_record_is_passed_over(open_spool: Opener) -> None:
    disk = SimulatedDisk()
    async with open_spool(disk=disk) as spool:
        for i in range(3):
            await spool.append(turn_of(float(i)))
        segment = spool._store.catalog.segments[Lane.RAW][0]
        row = spool._store.catalog.contents(segment).index[1]
    disk.flip_bit(random.Random(1), segment.path, int(row["offset"]) + 104, int(row["end"]) - 8)
    async with open_spool(disk=disk) as spool:
        assert await drain(spool.reader("influx", RAW_ONLY)) == [0.0, 2.0]
        assert spool.stats.samples_lost_total == 1


async def test_many_sinks_read_while_the_spool_is_written_and_recycled(open_spool: Opener) -> None:
    total = 300

    async def sink(reader: SpoolReader, seen: list[float], seed: int) -> None:
        rng = random.Random(seed)
        while not seen or seen[-1] < total - 1:
            batch = await reader.next(rng.choice((1, 7, 500)))
            if rng.random() < 0.8:
                seen += batch.frame.values.tolist()
                await reader.acknowledge(batch)
            await asyncio.sleep(0)

    async with open_spool(segment_bytes=8192, bytes_max=2**20, commit_period=0.001) as spool:
        seen: list[list[float]] = [[], [], []]
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            for i in range(3):
                tasks.create_task(sink(spool.reader(f"s{i}", RAW_ONLY), seen[i], i))
            for i in range(total):
                future = spool.append(turn_of(float(i)))
                if i % 3 == 0:
                    await future
        assert seen == [[float(i) for i in range(total)]] * 3
        assert spool.stats.lanes[Lane.RAW].segments > 3


async def test_a_sink_gets_tags_of_an_earlier_configuration(open_spool: Opener) -> None:
    async with open_spool() as spool:
        await spool.append(turn_of(1.0, aggregate=2.0))
    table = TagTable()
    async with open_spool(table=table) as spool:
        reader = spool.reader("influx", list(Lane))
        batch = await reader.next(10)
        assert table[int(batch.frame.tag_ids[0])].name == "pump.t0@10s.mean"
        assert table[int(batch.frame.tag_ids[0])].lane is Lane.AGGREGATE


async def test_only_durable_samples_are_given(open_spool: Opener) -> None:
    async with open_spool(commit_period=10.0) as spool:
        reader = spool.reader("influx", RAW_ONLY)
        spool.append(turn_of(1.0))
        assert reader.backlog().samples == 0
        task = asyncio.create_task(reader.next(10))
        await asyncio.sleep(0.02)
        assert not task.done()
        spool._commit_open()
        async with asyncio.timeout(5):
            assert len((await task).frame) == 1


async def test_damage_everywhere_ends_the_backlog_all_the_same(open_spool: Opener) -> None:
    disk = SimulatedDisk()
    async with open_spool(disk=disk) as spool:
        reader = spool.reader("influx", RAW_ONLY)
        await _fill(spool, 5)
        segment = spool._store.catalog.segments[Lane.RAW][0]
        disk.content(segment.path)[4096:] = bytes(len(disk.content(segment.path)) - 4096)
        task = asyncio.create_task(reader.next(10))
        await asyncio.sleep(0.05)
        assert not task.done()
        assert reader.backlog().samples == 0
        assert spool.stats.samples_lost_total == 5
        task.cancel()


async def _fill(spool: Spool, turns: int) -> None:
    for i in range(turns):
        await spool.append(turn_of(float(i)))


async def test_far_behind_what_is_new_comes_first_and_nothing_is_left_out(
    open_spool: Opener,
) -> None:
    async with open_spool() as spool:
        reader = spool.reader("influx", RAW_ONLY)
        backfill = reader.backfill
        for i in range(50):
            await spool.append(turn_of(float(i)))
        batch = await reader.next(10)
        assert batch.frame.values.tolist() == [float(i) for i in range(40, 50)]
        await reader.acknowledge(batch)
        late = asyncio.create_task(reader.next(10))
        await spool.append(turn_of(50.0))
        batch = await late
        assert batch.frame.values.tolist() == [50.0]
        await reader.acknowledge(batch)
        assert reader.backlog().samples == 40
        seen: list[float] = []
        while reader.backlog().samples:
            batch = await backfill.next(20)
            seen += batch.frame.values.tolist()
            await backfill.acknowledge(batch)
        assert seen == [float(i) for i in range(40)]
        await spool.append(turn_of(51.0))
        assert (await reader.next(10)).frame.values.tolist() == [51.0]
    async with open_spool() as spool:
        assert await drain(spool.reader("influx", RAW_ONLY)) == [51.0]


async def test_a_crash_during_a_backfill_repeats_and_skips_nothing(open_spool: Opener) -> None:
    async with open_spool() as spool:
        reader = spool.reader("influx", RAW_ONLY)
        backfill = reader.backfill
        for i in range(50):
            await spool.append(turn_of(float(i)))
        await reader.acknowledge(await reader.next(10))
        await backfill.acknowledge(await backfill.next(20))
    async with open_spool() as spool:
        assert await drain(spool.reader("influx", RAW_ONLY)) == [float(i) for i in range(20, 50)]


async def test_whatever_the_order_each_sample_is_given_and_none_twice(open_spool: Opener) -> None:
    """Outages of any length, several of them before the first is made up for."""
    for seed in range(2):
        rng = random.Random(seed)
        async with open_spool(disk=SimulatedDisk()) as spool:
            reader = spool.reader("influx", RAW_ONLY)
            backfill = reader.backfill
            seen: dict[str, list[float]] = {"current": [], "rest": []}
            written = 0

            async def take(name: str, way: SpoolReader, samples_max: int) -> bool:
                try:
                    async with asyncio.timeout(0.01):
                        batch = await way.next(samples_max)
                except TimeoutError:
                    return False
                if rng.random() < 0.8:  # noqa: B023 - within the turn of the loop
                    seen[name] += batch.frame.values.tolist()  # noqa: B023
                    await way.acknowledge(batch)
                return True

            for _ in range(25):
                for _ in range(rng.choice((0, 1, 1, 30))):
                    await spool.append(turn_of(float(written), float(written + 1)))
                    written += 2
                await take("current", reader, 5)
                if rng.random() < 0.4:
                    await take("rest", backfill, 7)  # type: ignore[arg-type]
            for _ in range(10_000):
                if not reader.backlog().samples:
                    break
                await take("current", reader, 50)
                await take("rest", backfill, 50)  # type: ignore[arg-type]
            given = seen["current"] + seen["rest"]
            assert sorted(given) == [float(i) for i in range(written)], seed
            assert all(values == sorted(values) for values in seen.values())


async def test_what_was_sent_ahead_is_not_counted_as_lost_when_it_is_deleted(
    open_spool: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "tidy", lambda _: None)
    async with open_spool(disk=SimulatedDisk(), bytes_max=8 * 8192, segment_bytes=8192) as spool:
        reader = spool.reader("influx", RAW_ONLY)
        assert reader.backfill is not None
        rng = np.random.default_rng(1)
        seen = 0
        for _ in range(30):
            await spool.append(turn_of(*rng.standard_normal(100)))
        for _ in range(100):
            batch = await reader.next(1000)
            seen += len(batch.frame)
            await reader.acknowledge(batch)
            await spool.append(turn_of(*rng.standard_normal(100)))
        assert spool.stats.lanes[Lane.RAW].samples < 8000  # the oldest are gone
        assert spool.stats.samples_lost_total == 2000
        assert seen == 1000 + 99 * 100
