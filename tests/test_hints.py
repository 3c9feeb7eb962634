"""The time by the `Date` of HTTP servers: right to a tenth of a second, and never one liar's."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TypeAlias

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gateway import hints
from gateway.clock import BUILT_NS, ManualClock, SystemClock
from gateway.errors import SluicegateError
from gateway.hints import Bounds, Servers, agreed, ask, bounds_of, narrowed

S = 10**9
Start: TypeAlias = Callable[..., Awaitable[str]]


def date_of(utc_ns: int) -> str:
    return format_datetime(datetime.fromtimestamp(utc_ns // S, UTC), usegmt=True)


nanoseconds = st.integers(0, 10**18)


@given(nanoseconds, st.lists(st.tuples(st.integers(0, 2 * S), st.integers(0, 1)), min_size=1))
def test_what_is_true_is_never_outside_the_bounds(
    offset_ns: int, exchanges: list[tuple[int, int]]
) -> None:
    """However long an answer takes, and wherever within that the date was made."""
    answers, now_ns = [], 5 * S
    for took_ns, is_late in exchanges:
        made_ns = now_ns + is_late * took_ns
        answers.append(bounds_of(date_of(made_ns + offset_ns), now_ns, now_ns + took_ns))
        now_ns += took_ns + S // 10
    bounds = narrowed(answers)
    assert bounds.least <= offset_ns <= bounds.greatest


def test_a_second_of_questions_narrows_it_to_a_tenth() -> None:
    offset_ns = 1_700_000_000 * S + 123_456_789
    answers = [
        bounds_of(date_of(at + offset_ns), at, at + 2_000_000)
        for at in range(0, 12 * S // 10, S // 10)
    ]
    assert abs(narrowed(answers).middle - offset_ns) < S // 10


@pytest.mark.parametrize("date", ["", "yesterday", "Thu, 99 Nov 2026 10:00:00 GMT", "x" * 10_000])
def test_what_is_no_date_is_said_to_be_none(date: str) -> None:
    with pytest.raises(SluicegateError, match="is no date"):
        bounds_of(date, 0, 1)


def test_a_clock_that_is_set_while_it_is_asked_is_not_believed() -> None:
    with pytest.raises(SluicegateError, match="contradict"):
        narrowed([Bounds(0, S), Bounds(5 * S, 6 * S)])


def about(second: int) -> Bounds:
    return Bounds(second * S, second * S + S // 10)


@pytest.mark.parametrize(
    ("servers", "second"),
    [
        ([about(100)], 100),
        ([about(100), about(101)], 100),
        ([about(100), about(900), about(101)], 100),
        ([about(100), about(900)], None),
        ([about(100), about(500), about(900)], None),
        ([], None),
    ],
)
def test_more_than_half_of_the_servers_must_agree(
    servers: list[Bounds], second: int | None
) -> None:
    found = agreed(servers)
    assert found == (None if second is None else second * S + S // 20)


@pytest.fixture
async def server() -> AsyncIterator[Start]:
    """Makes a server whose clock is so many seconds ahead of this machine's."""

    async def start(ahead_s: int, **headers: str) -> str:
        async def answer(_request: web.Request) -> web.Response:
            said = {"Date": date_of(time.time_ns() + ahead_s * S), **headers}
            return web.Response(status=405, headers=said)

        application = web.Application()
        application.router.add_route("*", "/{any:.*}", answer)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        runners.append(runner)
        return f"http://127.0.0.1:{runner.addresses[0][1]}/ping"

    runners: list[web.AppRunner] = []
    yield start
    for runner in runners:
        await runner.cleanup()


async def test_a_server_that_answers_anything_says_the_time(server: Start) -> None:
    clock = SystemClock()
    bounds = await ask(await server(0), clock)
    assert abs(bounds.middle - clock.offset_ns) < S // 4


async def test_what_a_cache_once_heard_is_not_the_time(server: Start) -> None:
    with pytest.raises(SluicegateError, match="a cache answers"):
        await ask(await server(0, Age="40"), SystemClock())


async def test_a_clock_nobody_vouches_for_hears_what_the_servers_agree_on(
    server: Start,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hints, "QUESTIONS", 2)
    clock = SystemClock(lambda _wall_ns, _floor_ns: "")
    clock.begin(BUILT_NS, None, is_final=False)
    urls = [await server(0), await server(1), await server(9000), "http://127.0.0.1:1/"]
    await Servers(urls, clock).look(30.0)
    missing_ns = clock.missing_ns()
    assert missing_ns is not None
    clock.trust(missing_ns)
    assert abs(clock.utc_ns() - time.time_ns()) < 2 * S
    assert "127.0.0.1:1" in caplog.text
    # The machine's own clock is as wrong as before, and is not followed.
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() - 10**18)
    assert clock.follow_wall() == 0


async def test_servers_that_disagree_are_not_believed(
    server: Start, caplog: pytest.LogCaptureFixture
) -> None:
    clock = SystemClock(lambda _wall_ns, _floor_ns: "")
    clock.begin(BUILT_NS, None, is_final=False)
    servers = Servers([await server(0), await server(9000)], clock)
    await servers.look(30.0)
    assert clock.missing_ns() is None
    assert "disagree" in caplog.text
    await servers.look(30.0)  # not again before it is due
    assert caplog.text.count("disagree") == 1


def test_a_time_that_has_been_already_is_not_believed() -> None:
    clock = SystemClock(lambda _wall_ns, _floor_ns: "")
    clock.begin(BUILT_NS + 10**18, None, is_final=False)
    clock.hear(BUILT_NS - time.monotonic_ns())
    assert clock.missing_ns() is None


def test_a_wall_clock_that_somebody_vouches_for_is_followed_again() -> None:
    witness = [""]
    clock = SystemClock(lambda _wall_ns, _floor_ns: witness[0])
    clock.begin(BUILT_NS, None, is_final=False)
    clock.hear(time.time_ns() - time.monotonic_ns() + 7 * S)
    missing_ns = clock.missing_ns()
    assert missing_ns is not None
    clock.trust(missing_ns)
    assert clock.follow_wall() == 0
    witness[0] = "kernel"
    assert clock.follow_wall() == pytest.approx(-7 * S, abs=S // 10)
    assert clock.trusted_by == "kernel"


def test_a_clock_in_a_test_hears_too() -> None:
    clock = ManualClock(trusted=False)
    clock.hear(clock.offset_ns + 5 * S)
    assert clock.missing_ns() == 5 * S
