"""Questions by tag and time, beside a gateway that writes."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.frame import Frame, Lane, Turn
from gateway.spool.catalog import Rows, Segment
from gateway.spool.dictionary import Dictionary
from gateway.spool.history import History
from gateway.spool.log import Spool
from gateway.tag import Tag, TagTable
from tests.samples import make_tag
from tests.spool.conftest import Opener
from tests.spool.simulated_disk import SimulatedDisk
from tests.spool.worlds import DIRECTORY, World, small_settings

EVER = (-(2**62), 2**62)


def scan_at(t_ns: int) -> Turn:
    """All ten raw tags at one time; tag i has the value t + i / 10."""
    ids = np.arange(10, dtype=np.int32)
    return Turn(t_ns, {Lane.RAW: Frame.of(t_ns, ids, t_ns + ids / 10)})


async def filled(spool: Spool, scans: int = 20) -> None:
    for i in range(scans):
        await spool.append(scan_at(i * 100))


async def test_a_question_names_tags_and_a_half_open_span(open_spool: Opener) -> None:
    async with open_spool() as spool:
        await filled(spool)
        frame = await spool.history.query(["pump.t3"], 500, 800)
        assert frame.t_ns.tolist() == [500, 600, 700]
        assert frame.tag_ids.tolist() == [3, 3, 3]
        assert frame.values.tolist() == [500.3, 600.3, 700.3]
        assert len(await spool.history.query(["pump.t[34]", "pump.t9"], 500, 800)) == 9
        assert len(await spool.history.query(["*"], *EVER)) == 200
        assert len(await spool.history.query(["pump.nothing"], *EVER)) == 0
        assert len(await spool.history.query(["*"], *EVER, lane=Lane.EVENT)) == 0


async def test_of_too_many_samples_the_newest_are_given_oldest_first(open_spool: Opener) -> None:
    async with open_spool() as spool:
        await filled(spool)
        frame = await spool.history.query(["pump.t1"], *EVER, samples_max=3)
        assert frame.t_ns.tolist() == [1700, 1800, 1900]
        assert len(await spool.history.query(["pump.*"], *EVER, samples_max=15)) == 15


async def test_samples_that_came_late_are_in_their_place(open_spool: Opener) -> None:
    async with open_spool() as spool:
        for t_ns in (100, 300, 200, 50):
            await spool.append(scan_at(t_ns))
        frame = await spool.history.query(["pump.t0"], *EVER)
        assert frame.t_ns.tolist() == [50, 100, 200, 300]


async def test_exact_values_stay_with_their_rows(open_spool: Opener) -> None:
    async with open_spool() as spool:
        for t_ns in (300, 100, 200):
            ids = np.array([1, 2], np.int32)
            frame = Frame.of(t_ns, ids, np.zeros(2), exact={1: f"at {t_ns}"})
            await spool.append(Turn(t_ns, {Lane.RAW: frame}))
        frame = await spool.history.query(["pump.t2"], *EVER)
        assert [frame.value(row) for row in range(3)] == ["at 100", "at 200", "at 300"]


async def test_a_question_reads_only_what_can_hold_an_answer(open_spool: Opener) -> None:
    disk = SimulatedDisk()
    async with open_spool(disk=disk, segment_bytes=8192) as spool:
        await filled(spool, 100)
        files = spool.stats.lanes[Lane.RAW].segments
        assert files > 3
        disk.bytes_read = 0
        assert len(await spool.history.query(["pump.t3"], 5000, 5100)) == 1
        assert disk.bytes_read < 2 * 8192


async def test_tags_that_are_not_in_a_segment_are_not_looked_for_in_it(open_spool: Opener) -> None:
    """A device of one hour costs that hour's segments, in a day with a hundred tags at 1 Hz."""
    table = TagTable()
    ids = np.array([table.add(make_tag(f"plant.t{i:03}")) for i in range(100)], np.int32)
    guest = table.add(make_tag("guest.x"))
    disk, segment_bytes = SimulatedDisk(), 2**16
    spike_ns = (13 * 3600 + 1234) * 10**9
    async with open_spool(
        table=table, disk=disk, segment_bytes=segment_bytes, bytes_max=2**28, commit_bytes=2**16
    ) as spool:
        for minute in range(24 * 60):
            seconds = np.arange(minute * 60, minute * 60 + 60) * 10**9
            t_ns, tag_ids = np.repeat(seconds, 100), np.tile(ids, 60)
            values = np.round(50 + 10 * np.sin(t_ns / 1e13 + tag_ids), 1)
            values[t_ns == spike_ns] = 999.0
            if 600 <= minute < 660:
                t_ns, tag_ids = np.append(t_ns, seconds), np.append(tag_ids, np.full(60, guest))
                values = np.append(values, np.arange(60.0))
            frame = Frame.of(t_ns, tag_ids.astype(np.int32), values)
            durable = spool.append(Turn(int(seconds[-1]), {Lane.RAW: frame}))
            if minute % 10 == 9:
                await durable
        end_ns = 24 * 3600 * 10**9
        segments = spool._store.catalog.segments[Lane.RAW]
        assert len(segments) > 12
        decoded: set[str] = set()
        read = spool._store.catalog.read

        def counted(segment: Segment, *args: Any) -> Rows | None:
            decoded.add(segment.path.name)
            return read(segment, *args)

        spool._store.catalog.read = counted  # type: ignore[method-assign]
        assert len(await spool.history.query(["guest.*"], 0, end_ns)) == 3600
        with_guest = {s.path.name for s in segments} & decoded
        assert len(with_guest) <= 2 + len(segments) // 12
        disk.bytes_read = 0
        assert len(await spool.history.query(["guest.x"], 0, end_ns)) == 3600
        assert disk.bytes_read <= (len(with_guest) + 1) * 2 * segment_bytes
        plot = await spool.history.plot(["plant.t042"], 0, end_ns, Lane.RAW, 800)
        assert plot.samples == 86_400
        (series,) = plot.series
        assert len(series.t_ns) <= 800
        assert series.values[series.t_ns == spike_ns].tolist() == [999.0]


async def test_a_stream_gives_everything_in_pieces_as_it_was_stored(open_spool: Opener) -> None:
    async with open_spool(segment_bytes=8192) as spool:
        await filled(spool, 100)
        pieces = list(spool.history.stream(["pump.t3", "pump.t7"], 100, 9000))
        frame = Frame.concatenate(pieces)
        assert frame.t_ns.tolist() == [t for n in range(1, 90) for t in (n * 100, n * 100)]
        assert set(frame.tag_ids.tolist()) == {3, 7}
        assert not list(spool.history.stream(["pump.none"], *EVER))


async def test_another_process_asks_while_the_gateway_writes(
    open_spool: Opener, tmp_path: Path
) -> None:
    async with open_spool(segment_bytes=8192) as spool:
        history = History.open_readonly(tmp_path / "spool", TagTable())
        for i in range(60):
            await spool.append(scan_at(i * 100))
            if i % 7 == 0:
                table = TagTable()  # it need not know any tag
                history = History.open_readonly(tmp_path / "spool", table)
                frame = history.query_now(["pump.t3"], *EVER)
                assert frame.t_ns.tolist() == [n * 100 for n in range(i + 1)]
                assert {table[tag_id].name for tag_id in frame.tag_ids.tolist()} == {"pump.t3"}
        assert len(history.query_now(["*"], *EVER)) == 600  # asked anew each time


def test_no_folder_is_no_answer(tmp_path: Path) -> None:
    assert len(History.open_readonly(tmp_path / "none", TagTable()).query_now(["*"], *EVER)) == 0


def test_files_recycled_under_a_reader_never_give_it_other_values() -> None:
    """Another process reads by a list of files that is no longer true."""
    for seed in range(30):
        rng = random.Random(seed)
        disk = SimulatedDisk()
        world = World(rng, disk, small_settings(bytes_max=8 * 8192))
        world.open()
        for _ in range(20):
            world.commit(1)
        history = History.open_readonly(DIRECTORY, TagTable(), disk)
        history.query_now(["*"], *EVER)
        refresh, history._refresh = history._refresh, None
        for _ in range(rng.randint(1, 40)):
            world.commit(1)
        everything = set(world.promised[Lane.RAW])
        stale = history.query_now(["*"], *EVER).values.tolist()
        assert set(stale) <= everything
        history._refresh = refresh
        fresh = history.query_now(["*"], *EVER).values.tolist()
        assert sorted(fresh) == world.promised[Lane.RAW][-len(fresh) :]


async def test_the_loop_runs_on_while_a_long_question_is_answered(
    open_spool: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading  # noqa: PLC0415 - only here

    async with open_spool() as spool:
        await filled(spool, 5)
        asked, go_on = threading.Event(), threading.Event()
        read = spool._store.catalog.read

        def slow(*args):  # type: ignore[no-untyped-def]  # noqa: ANN002, ANN202
            if threading.current_thread().name.startswith("spool-history"):
                asked.set()
                go_on.wait(5)
            return read(*args)

        monkeypatch.setattr(spool._store.catalog, "read", slow)
        question = asyncio.create_task(spool.history.query(["*"], *EVER))
        reader = spool.reader("influx", [Lane.RAW])
        async with asyncio.timeout(5):
            while not asked.is_set():  # noqa: ASYNC110 - a thread sets it
                await asyncio.sleep(0.001)
            await spool.append(scan_at(900))
            assert len((await reader.next(1000)).frame) == 60
            assert not question.done()
            go_on.set()
            assert len(await question) >= 50


async def test_arrivals_are_the_raw_samples_with_the_time_of_their_turn(
    open_spool: Opener,
) -> None:
    async with open_spool() as spool:
        for i in range(30):
            ids = np.arange(10, dtype=np.int32)
            frame = Frame.of(i * 100, ids, i + ids / 10)
            await spool.append(Turn(i * 100 + 7, {Lane.RAW: frame}))
        found = list(spool.history.arrivals(["pump.t3", "pump.t5"], 500, 2500))
        arrived_ns = np.concatenate([times for times, _ in found])
        frame = Frame.concatenate([frame for _, frame in found])
        assert frame.tag_ids.tolist() == [3, 5] * 20
        assert frame.t_ns.tolist() == np.repeat(np.arange(500, 2500, 100), 2).tolist()
        assert (arrived_ns - frame.t_ns).tolist() == [7] * 40


async def test_samples_of_tags_that_nobody_knows_any_more_leave_the_others_where_they_are(
    open_spool: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged dictionary record costs its tags; turns and times of the rest stay right."""
    async with open_spool() as spool:
        for i in range(12):
            ids = np.arange(10, dtype=np.int32)
            for later in (7, 9):
                frame = Frame.of(i * 100, ids, i + ids / 10)
                durable = spool.append(Turn(i * 100 + later, {Lane.RAW: frame}))
            await durable
        known = Dictionary.__getitem__

        def forgotten(dictionary: Dictionary, local_id: int) -> Tag | None:
            tag = known(dictionary, local_id)
            return None if tag is not None and tag.name == "pump.t3" else tag

        monkeypatch.setattr(Dictionary, "__getitem__", forgotten)
        names = ["pump.t2", "pump.t3", "pump.t4"]
        found = list(spool.history.arrivals(names, 0, 1200))
        frame = Frame.concatenate([frame for _, frame in found])
        arrived_ns = np.concatenate([times for times, _ in found])
        assert set(frame.tag_ids.tolist()) == {2, 4}
        assert set((arrived_ns - frame.t_ns).tolist()) == {7, 9}
