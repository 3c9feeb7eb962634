"""Several requests on one connection: in any order, each its own answer, or none at all."""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.errors import DeviceRefused, SourceError, WireError
from gateway.sources.modbus.client import Connection, ConnectionClosed, ResponseTimeout, connect
from gateway.sources.modbus.config import ModbusTcpSettings
from gateway.sources.modbus.peer import Peer
from gateway.sources.modbus.wire import Request
from tests.sources.modbus.hostile import Asked, Hostile, exception_to, hostile, right_to, truth
from tests.sources.modbus.test_outages import source_of

PATIENT_S = 10.0


def settings_of(port: int, in_flight: int = 4) -> ModbusTcpSettings:
    facts = {"type": "modbus-tcp", "name": "plc", "host": "127.0.0.1", "port": port, "map": "x.csv"}
    return ModbusTcpSettings.model_validate(facts | {"in_flight": in_flight})


def holding(address: int, unit_id: int = 1) -> Request:
    return Request(unit_id, 3, address, 1)


def value_of(request: Request) -> bytes:
    return struct.pack(">H", truth(request.unit_id, request.address))


class Batch:
    """Answers once so many have asked, all at once and as `arrange` has them."""

    def __init__(self, size: int, arrange: Callable[[list[bytes]], list[bytes]]) -> None:
        self.size, self.arrange, self.held = size, arrange, list[bytes]()

    async def __call__(self, asked: Asked, _: asyncio.StreamWriter) -> bytes | None:
        self.held.append(right_to(asked))
        if len(self.held) < self.size:
            return None
        answers, self.held = self.arrange(self.held), []
        return b"".join(answers)


async def ask_all(connection: Connection, *requests: Request) -> list[bytes | BaseException]:
    asking = (connection.read(request, PATIENT_S) for request in requests)
    return await asyncio.gather(*asking, return_exceptions=True)


async def test_answers_in_another_order_find_their_requests() -> None:
    requests = [holding(address) for address in range(8)]
    script = Batch(4, lambda held: held[::-1])
    async with hostile(script) as peer, connect(settings_of(peer.port), Peer()) as connection:
        assert await ask_all(connection, *requests) == [value_of(each) for each in requests]
    assert peer.connections == 1


async def test_no_more_than_what_was_allowed_is_on_the_connection() -> None:
    waiting: list[asyncio.Event] = []

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        waiting.append(asyncio.Event())

        async def answer(release: asyncio.Event) -> None:
            await release.wait()
            writer.write(right_to(asked))

        tasks.add(asyncio.create_task(answer(waiting[-1])))

    tasks: set[asyncio.Task[None]] = set()
    async with hostile(script) as peer, connect(settings_of(peer.port, 3), Peer()) as connection:
        asking = asyncio.create_task(ask_all(connection, *map(holding, range(5))))
        async with asyncio.timeout(PATIENT_S):
            for done in range(5):
                while len(waiting) < min(done + 3, 5):  # noqa: ASYNC110 - sockets tell no event
                    await asyncio.sleep(0.005)
                await asyncio.sleep(0.02)
                assert len(waiting) == min(done + 3, 5)
                waiting[done].set()
        assert await asking == [value_of(holding(address)) for address in range(5)]


async def test_a_refusal_is_for_its_own_request_alone() -> None:
    async def script(asked: Asked, _: asyncio.StreamWriter) -> bytes:
        return exception_to(asked, 2) if asked.address == 1 else right_to(asked)

    async with hostile(script) as peer, connect(settings_of(peer.port), Peer()) as connection:
        first, refused, last = await ask_all(connection, holding(0), holding(1), holding(2))
        assert (first, last) == (value_of(holding(0)), value_of(holding(2)))
        assert isinstance(refused, DeviceRefused)
        assert connection.is_open


@pytest.mark.parametrize(
    ("mangle", "kind"),
    [
        (lambda data: b"\xff\xff" + data[2:], "transaction_id"),
        (lambda data: b"\0\0" + data[2:], "transaction_id"),
        (lambda data: data[:2] + b"\0\1" + data[4:], "protocol_id"),
        (lambda data: data[:4] + b"\0\1" + data[6:], "length"),
        (lambda data: data[:4] + b"\0\xff" + data[6:], "length"),
        (lambda data: data[:4] + b"\0\4" + data[6:-1], "byte_count"),
        (lambda data: data[:6] + b"\x09" + data[7:], "unit_id"),
        (lambda data: data[:7] + b"\x04" + data[8:], "function"),
        (lambda data: data + data, "transaction_id"),
    ],
)
async def test_any_doubt_ends_the_connection_and_all_that_is_on_it(
    mangle: Callable[[bytes], bytes], kind: str
) -> None:
    requests = [holding(address) for address in range(3)]
    script = Batch(3, lambda held: [held[0], mangle(held[1]), held[2]])
    async with hostile(script) as peer, connect(settings_of(peer.port), Peer()) as connection:
        found = await ask_all(connection, *requests)
        assert not connection.is_open
        assert isinstance(connection.lost, WireError)
        assert connection.lost.kind == kind
        for request, each in zip(requests, found, strict=True):
            assert isinstance(each, SourceError) or each == value_of(request)
        assert isinstance(found[2], SourceError)
        with pytest.raises(ConnectionClosed):
            await connection.read(holding(1), PATIENT_S)


async def test_a_dead_unit_costs_the_others_nothing_and_its_late_answer_is_left_out() -> None:
    late: list[bytes] = []

    async def script(asked: Asked, _: asyncio.StreamWriter) -> bytes | None:
        if asked.unit_id == 2 and not late:
            late.append(right_to(asked))
            return None
        if asked.address == 99:
            return late[0] + right_to(asked)
        return right_to(asked)

    memory = Peer()
    async with hostile(script) as peer, connect(settings_of(peer.port), memory) as connection:
        dead = asyncio.create_task(connection.read(holding(0, unit_id=2), 0.3))
        for address in range(20):
            assert await connection.read(holding(address), PATIENT_S) == value_of(holding(address))
        with pytest.raises(ResponseTimeout):
            await dead
        assert connection.is_open
        assert await connection.read(holding(99), PATIENT_S) == value_of(holding(99))
    assert peer.connections == 1
    assert memory.passed_over_total["late"] == 1


async def test_where_nobody_is_answered_the_connection_is_dead() -> None:
    async def script(_: Asked, __: asyncio.StreamWriter) -> None:
        return None

    async with hostile(script) as peer, connect(settings_of(peer.port), Peer()) as connection:
        asking = (connection.read(holding(address), 0.1) for address in range(4))
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert not connection.is_open
        assert isinstance(connection.lost, ResponseTimeout)
        assert {type(each) for each in found} <= {ResponseTimeout, ConnectionClosed}


async def test_a_reset_fails_all_and_gives_no_part_of_an_answer() -> None:
    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.address == 2:
            writer.write(right_to(asked)[:10])
            await asyncio.sleep(0)
            Hostile.reset(writer)

    async with hostile(script) as peer, connect(settings_of(peer.port), Peer()) as connection:
        found = await ask_all(connection, *map(holding, range(3)))
        assert {type(each) for each in found} == {ConnectionClosed}


async def test_a_cancelled_read_closes_the_connection() -> None:
    async def script(asked: Asked, _: asyncio.StreamWriter) -> bytes | None:
        return right_to(asked) if asked.address else None

    async with hostile(script) as peer, connect(settings_of(peer.port), Peer()) as connection:
        asking = asyncio.create_task(connection.read(holding(0), PATIENT_S))
        await connection.read(holding(1), PATIENT_S)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert not connection.is_open


@pytest.mark.parametrize(
    "more", [{"framing": "rtu"}, {"framing": "ascii"}, {"transaction_id_zero": True}]
)
def test_what_has_no_number_is_never_pipelined(more: dict[str, object]) -> None:
    facts = {"type": "modbus-tcp", "name": "plc", "host": "127.0.0.1", "map": "x.csv"}
    with pytest.raises(ValueError, match="in_flight"):
        ModbusTcpSettings.model_validate(facts | more | {"in_flight": 2})


async def test_a_scan_has_several_requests_on_the_connection_and_one_of_a_dead_unit(
    tmp_path: Path,
) -> None:
    waiting: list[Asked] = []
    most: list[int] = []

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.unit_id == 2:
            return
        waiting.append(asked)
        most.append(len(waiting))

        async def answer() -> None:
            await asyncio.sleep(0.02)
            waiting.remove(asked)
            writer.write(right_to(asked))

        tasks.add(asyncio.create_task(answer()))

    tasks: set[asyncio.Task[None]] = set()
    async with hostile(script) as peer:
        places = [(unit_id, 1000 * i) for unit_id in (1, 2, 3) for i in range(6)]
        rows = [f"a,u{unit_id}r{address},{unit_id},{address}" for unit_id, address in places]
        more = {"in_flight": 3, "response_timeout": 0.5, "scan_classes": {"default": 0.05}}
        source = source_of(tmp_path, peer.port, *rows, **more)
        async with source.session() as session:
            frame = (await session.read()).frame
    found = dict(zip(frame.tag_ids.tolist(), frame.values.tolist(), strict=True))
    for tag_id, (unit_id, address) in enumerate(places):
        if unit_id == 2:
            assert math.isnan(found[tag_id])
        else:
            assert found[tag_id] == truth(unit_id, address)
    assert len(found) == len(places)
    assert max(most) == 2  # the third place is the dead unit's
    assert sum(asked.unit_id == 2 for asked in peer.asked) == 1
    assert peer.connections == 1
    assert source.stats.errors_total == {"timeout": 1}


async def test_a_scan_whose_connection_breaks_asks_all_that_was_on_it_once_more(
    tmp_path: Path,
) -> None:
    async def script(asked: Asked, writer: asyncio.StreamWriter) -> bytes | None:
        if asked.address == 3000 and peer.connections == 1:
            Hostile.reset(writer)
            return None
        return right_to(asked)

    async with hostile(script) as peer:
        rows = [f"a,r{i},1,{1000 * i}" for i in range(6)]
        source = source_of(tmp_path, peer.port, *rows, in_flight=3)
        async with source.session() as session:
            frame = (await session.read()).frame
    assert sorted(frame.values.tolist()) == sorted(truth(1, 1000 * i) for i in range(6))
    assert peer.connections == 2


class Bytewise:
    """Holds two answers, the second within the first, and sends them byte by byte."""

    def __init__(self) -> None:
        self.held: list[bytes] = []

    async def __call__(self, asked: Asked, writer: asyncio.StreamWriter) -> bytes | None:
        self.held.append(right_to(asked))
        if len(self.held) == 2:
            long, short = self.held
            for number in (*long[:14], *short, *long[14:]):
                writer.write(bytes([number]))
                await asyncio.sleep(0.002)
        return None


async def test_answers_that_are_mixed_up_byte_by_byte_are_not_believed() -> None:
    """What was filled up from another answer has the right length, and shows by what follows it."""
    long, short = Request(1, 3, 0, 30), holding(100)
    async with hostile(Bytewise()) as peer, connect(settings_of(peer.port), Peer()) as connection:
        found = await ask_all(connection, long, short)
        assert all(isinstance(each, SourceError) for each in found), found
        assert not connection.is_open


async def test_an_answer_in_pieces_is_given_though_nothing_follows_it() -> None:
    async def dribble(asked: Asked, writer: asyncio.StreamWriter) -> bytes | None:
        if asked.address == 0:
            return None
        for number in right_to(asked):
            writer.write(bytes([number]))
            await asyncio.sleep(0.002)
        return None

    async with hostile(dribble) as peer, connect(settings_of(peer.port), Peer()) as connection:
        waiting = asyncio.create_task(connection.read(holding(0), PATIENT_S))
        assert await connection.read(holding(7), PATIENT_S) == value_of(holding(7))
        waiting.cancel()
        await asyncio.wait([waiting])
