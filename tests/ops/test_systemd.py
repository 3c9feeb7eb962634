"""systemd hears what is true: ready, stopping, and ticks only while there is progress."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.ops.systemd import LAG_MAX_S, LoopStats, Notifier, Progress, Watchdog
from tests.ops.fake_view import until


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """A service manager's end: the value of $NOTIFY_SOCKET, and the socket."""
    if request.param == "path":
        address = bound = str(tmp_path / "notify")
    else:
        name = f"sluicegate-test-{os.getpid()}-{tmp_path.name}"
        address, bound = f"@{name}", f"\0{name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(bound)
        receiver.settimeout(2)
        yield address, receiver


def heard(receiver: socket.socket) -> list[bytes]:
    receiver.setblocking(False)
    messages = []
    while True:
        try:
            messages.append(receiver.recv(4096))
        except BlockingIOError:
            return messages


def test_each_message_reaches_the_manager(manager: tuple[str, socket.socket]) -> None:
    address, receiver = manager
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address})
    notifier.ready()
    notifier.status("2 sources\nREADY=0")
    notifier.watchdog()
    notifier.stopping()
    expected = [b"READY=1", b"STATUS=2 sources READY=0", b"WATCHDOG=1", b"STOPPING=1"]
    assert heard(receiver) == expected


@pytest.mark.parametrize("address", ["", "/nowhere/notify"])
def test_no_manager_is_no_error(address: str) -> None:
    Notifier.from_environment({"NOTIFY_SOCKET": address}).ready()


def test_a_manager_that_does_not_read_does_not_stop_us(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        notifier = Notifier(str(tmp_path / "notify"))
        for _ in range(2000):  # more than any socket queues
            notifier.watchdog()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "20000000"}, 20.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())}, 20.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_on_only_for_this_process(
    environment: dict[str, str], expected: float | None
) -> None:
    assert Notifier.from_environment(environment).watchdog_s == expected


class Ticks(Notifier):
    """Counts ticks instead of sending them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def watchdog(self) -> None:
        self.count += 1


class Work:
    """Counters a test moves."""

    def __init__(self) -> None:
        self.turns = 0
        self.appended = 0
        self.durable = 0

    def __call__(self) -> list[Progress]:
        return [
            Progress("turns", self.turns, self.turns + 1),
            Progress("commits", self.durable, self.appended),
        ]


def test_ticks_while_everything_that_is_owed_moves() -> None:
    ticks, work = Ticks(), Work()
    watchdog = Watchdog(ticks, work)
    for _ in range(5):
        work.turns += 3
        watchdog.tick(0.0)
    assert ticks.count == 5
    assert watchdog.stats.stalled == ""


def test_work_that_is_not_owed_may_rest() -> None:
    ticks, work = Ticks(), Work()
    watchdog = Watchdog(ticks, work)
    work.appended = work.durable = 7  # all durable, nothing new
    for _ in range(3):
        work.turns += 1
        watchdog.tick(0.0)
    assert ticks.count == 3


def test_one_kind_of_work_that_stands_still_withholds_the_tick() -> None:
    ticks, work = Ticks(), Work()
    watchdog = Watchdog(ticks, work)
    work.appended = 1  # and the writer thread is dead
    for _ in range(4):
        work.turns += 100  # turns alone look fine
        watchdog.tick(0.0)
    assert ticks.count == 1  # the first look knows no "before"
    assert watchdog.stats.stalled == "no progress: commits stays at 0"
    assert watchdog.stats.watchdog_withheld_total == 3
    work.durable = 1
    work.turns += 1
    watchdog.tick(0.0)
    assert ticks.count == 2
    assert watchdog.stats.stalled == ""


def test_a_late_loop_withholds_the_tick_although_work_moved() -> None:
    ticks, work = Ticks(), Work()
    watchdog = Watchdog(ticks, work)
    work.turns = 1
    watchdog.tick(LAG_MAX_S * 1.5)
    assert ticks.count == 0
    assert watchdog.stats.stalled == "event loop late by 1.5 s"


async def test_it_ticks_a_real_socket_well_within_the_time_out(
    manager: tuple[str, socket.socket],
) -> None:
    address, receiver = manager
    work = Work()
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000"})
    watchdog = Watchdog(notifier, work)
    assert watchdog.period_s == pytest.approx(0.05)
    running = asyncio.create_task(watchdog.run())
    messages: list[bytes] = []
    async with asyncio.timeout(10):
        while len(messages) < 3:
            work.turns += 1
            messages += heard(receiver)
            await asyncio.sleep(0.01)
    running.cancel()
    assert set(messages) == {b"WATCHDOG=1"}


async def test_a_loop_that_was_blocked_is_measured_and_not_fed() -> None:
    ticks, work, stats = Ticks(), Work(), LoopStats()
    ticks.watchdog_s = 0.2
    watchdog = Watchdog(ticks, work, stats)
    running = asyncio.create_task(watchdog.run())
    await asyncio.sleep(0)  # let it begin its nap
    time.sleep(LAG_MAX_S + 0.2)  # noqa: ASYNC251 - blocking the loop is the fault
    await until(lambda: bool(stats.stalled), pause_s=0)
    assert ticks.count == 0
    assert "event loop late" in stats.stalled
    assert stats.lag_ms_max >= LAG_MAX_S * 1000
    async with asyncio.timeout(5):
        while stats.stalled:  # a single block is forgiven
            work.turns += 1
            await asyncio.sleep(0.005)
    assert ticks.count >= 1
    running.cancel()
