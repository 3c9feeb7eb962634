"""Cards that die slowly: blocks come and go, and nothing acknowledged is passed over in silence."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gateway.clock import ManualClock
from gateway.frame import Frame, Lane, Turn
from gateway.spool.group import Group
from gateway.spool.reader import SpoolReader
from gateway.spool.segment import HEADER_BYTES
from gateway.spool.store import Store
from gateway.spool.verify import verify
from tests.spool.simulated_disk import SimulatedDisk
from tests.spool.worlds import DIRECTORY, TAGS, new_table, small_settings, values_of

WRITES = ("write", "sync", "create", "rename", "sync_directory", "unlink")


@pytest.fixture
def disk() -> SimulatedDisk:
    return SimulatedDisk()


def opened(disk: SimulatedDisk, *, in_memory: bool = False, **changes: object) -> Store:
    settings = small_settings(**({"raw": True, "bytes_max": 400 * 8192} | changes))
    store = Store(DIRECTORY, settings, new_table(), ManualClock(), disk)
    if in_memory:
        store.enter_memory()
    else:
        store.open()
    return store


def group(store: Store, *values: float, lane: Lane = Lane.RAW, boot: int = 0) -> Group:
    store.clock.advance(1.0)  # type: ignore[attr-defined] - a ManualClock
    now_ns = store.clock.utc_ns()
    ids = np.full(len(values), lane * TAGS, np.int32)
    return Group([Turn(now_ns, {lane: Frame.of(now_ns, ids, np.array(values, np.float64))}, boot)])


def commit(store: Store, *values: float, boot: int = 0) -> None:
    store.commit([group(store, *values, boot=boot)])


def deliver(store: Store, samples_max: int = 1000) -> list[float]:
    """All that a sink is given, in order."""

    async def read() -> list[float]:
        values: list[float] = []
        with ThreadPoolExecutor(1) as executor, contextlib.suppress(TimeoutError):
            reader = SpoolReader("db", [Lane.RAW], store, store.table, executor)
            while True:
                async with asyncio.timeout(0.1):
                    batch = await reader.next(samples_max)
                values += batch.frame.values.tolist()
                await reader.acknowledge(batch)
        return values

    return asyncio.run(read())


def fails_once(call: str) -> Callable[[str], int]:
    left = [call]
    return lambda now: errno.EIO if now in left and not left.remove(now) else 0  # type: ignore[func-returns-value] - on purpose


def test_a_newest_file_that_cannot_be_read_for_a_while_has_not_the_word(
    disk: SimulatedDisk,
) -> None:
    store = opened(disk)
    commit(store, 1)
    disk.fail(fails_once("sync"))
    commit(store, 2)  # in a second file
    disk.heal()
    store.close()
    newest = store.catalog.segments[Lane.RAW][-1].path
    disk.make_unreadable(newest)
    store = opened(disk)
    assert values_of(store, Lane.RAW) == [1]
    commit(store, 50)
    store.close()
    disk.make_readable(newest)
    assert values_of(opened(disk), Lane.RAW)[-1] == 50


def test_blocks_that_come_to_light_again_do_not_push_out_what_is_new(disk: SimulatedDisk) -> None:
    store = opened(disk)
    for i in range(31):
        commit(store, *range(10 * i, 10 * i + 10))
    event = group(store, -1.0, lane=Lane.EVENT)
    store.commit([event])  # it names the last raw record
    store.close()
    last = store.catalog.segments[Lane.RAW][-1].path
    disk.make_unreadable(last, 4096, 8192)
    store = opened(disk)
    commit(store, *range(1000, 1010))
    deliver(store)
    commit(store, *range(1010, 1100))
    store.save_cursors()
    store.close()
    disk.make_readable(last)
    assert deliver(opened(disk)) == [*range(1010, 1100)]


def test_nothing_is_delivered_whose_time_is_not_known_however_much_is_gone_before_it(
    disk: SimulatedDisk,
) -> None:
    store = opened(disk, pending_bytes_max=7 * 8192)
    commit(store, 1, 2, 3)
    commit(store, 4, 5, 6)
    store.begin_boot(7, -(10**18))
    segment = store.catalog.segments[Lane.RAW][0]
    first = int(store.catalog.contents(segment).index[0]["offset"])
    disk.content(segment.path)[first + HEADER_BYTES + 2] ^= 1
    commit(store, 7, 8, 9, boot=7)
    assert deliver(store) == [4, 5, 6]
    disk.fail(lambda call: errno.EROFS if call in WRITES else 0)
    store.enter_memory()
    for i in range(150):  # much of it has to be given up
        commit(store, *range(100 * i, 100 * i + 100), boot=7)
    assert deliver(store, samples_max=5000) == []
    store.close()


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_cursor_ahead_of_its_lane_is_moved_back_on_disk_before_the_lane_grows(
    disk: SimulatedDisk, *, in_memory: bool
) -> None:
    store = opened(disk)
    for i in range(5):
        commit(store, i)
    store.account.begin("db", [Lane.RAW])
    store.cursors["db"].move(Lane.RAW, 8)  # it had three more, of an end that was lost
    store.save_cursors()
    store.close()
    if in_memory:
        disk.fail(lambda call: errno.EROFS if call in WRITES else 0)
    else:
        disk.fail(fails_once("write"))
    store = opened(disk, in_memory=in_memory)
    for i in range(100, 106):
        made = group(store, i)
        try:
            store.commit([made])
        except OSError:
            store.commit([made])  # as the writer does
    if in_memory:
        disk.heal()
        store.leave_memory()
    disk.power_cut(random.Random(1))
    assert deliver(opened(disk)) == [*range(100, 106)]


@pytest.mark.parametrize("again", [False, True])
def test_blocks_that_go_bad_while_it_runs_are_counted(disk: SimulatedDisk, *, again: bool) -> None:
    store = opened(disk)
    for i in range(140):
        commit(store, *range(10 * i, 10 * i + 10))
    if again:
        store.close()
        store = opened(disk)
    segments = store.catalog.segments[Lane.RAW]
    for segment in segments:  # so that the first one's index is no longer in memory
        store.catalog.contents(segment)
    disk.make_unreadable(segments[0].path, 4096, 8192)
    delivered = deliver(store)
    assert len(delivered) < 1400
    assert store.stats.samples_lost_total == 1400 - len(delivered)
    store.close()


def test_an_end_that_cannot_be_read_is_a_finding(disk: SimulatedDisk) -> None:
    store = opened(disk)
    for i in range(30):
        commit(store, *range(10 * i, 10 * i + 10))
    store.close()
    last = store.catalog.segments[Lane.RAW][-1]
    disk.make_unreadable(last.path, last.summary.end // 4096 * 4096, 2**20)
    findings = verify(disk, DIRECTORY).findings
    assert any("end of the lane" in finding.what for finding in findings)


def test_without_a_raw_lane_what_memory_held_is_acknowledged_once_it_is_on_disk(
    disk: SimulatedDisk,
) -> None:
    store = opened(disk, raw=False)
    disk.fail(lambda call: errno.EROFS if call in WRITES else 0)
    store.enter_memory()
    made = group(store, 1.0, lane=Lane.SCORE)
    store.commit([made])
    made.forget_turns()
    disk.heal()
    store.leave_memory()
    assert store.is_kept(made.sequence)
    store.close()


def test_what_was_given_up_is_not_counted_again_at_the_next_start(disk: SimulatedDisk) -> None:
    bounds = {"pending_bytes_max": 7 * 8192, "bytes_max": 6 * 8192}
    store = opened(disk, **bounds)
    store.account.begin("db", [Lane.RAW])
    commit(store, *range(57))
    disk.fail(lambda call: errno.EROFS if call in WRITES else 0)
    store.enter_memory()
    for i in range(150):
        commit(store, *range(100 * i, 100 * i + 100))
    disk.heal()
    store.leave_memory()
    for _ in range(10):
        store.tidy()
    store.save_cursors()
    lost = store.stats.samples_lost_total
    store.close()
    store = opened(disk, **bounds)
    store.account.begin("db", [Lane.RAW])
    assert store.stats.samples_lost_total == 0
    assert lost + len(deliver(store)) == 57 + 15_000
    store.close()
