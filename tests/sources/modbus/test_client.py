from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from gateway.errors import DeviceRefused, SourceError, SourceLost, SourceUnavailable, WireError
from gateway.sources.modbus.client import Connection, ResponseTimeout, connect
from gateway.sources.modbus.config import ModbusTcpSettings
from gateway.sources.modbus.connection import Manner
from gateway.sources.modbus.peer import Peer, transaction_ids
from gateway.sources.modbus.wire import Exchange, Request
from tests.sources.modbus.hostile import (
    Asked,
    Hostile,
    exception_to,
    hostile,
    right_to,
    truth,
)

PATIENT_S = 5.0


def connect_to(
    port: int, timeout_s: float, peer: Peer | None = None
) -> AbstractAsyncContextManager[Connection]:
    facts = {"type": "modbus-tcp", "name": "plc", "map": "plc.csv", "host": "127.0.0.1"}
    settings = ModbusTcpSettings.model_validate(
        facts | {"port": port, "connect_timeout": timeout_s}
    )
    return connect(settings, peer or Peer())


def holding(address: int, quantity: int = 1, unit_id: int = 1) -> Request:
    return Request(unit_id, 3, address, quantity)


def truth_of(request: Request) -> bytes:
    span = range(request.address, request.address + request.quantity)
    return b"".join(truth(request.unit_id, address).to_bytes(2, "big") for address in span)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENT_S):
        while not holds():  # noqa: ASYNC110 - sockets tell no event
            await asyncio.sleep(0.005)


async def test_reads_one_after_the_other_give_their_own_blocks() -> None:
    async with hostile() as peer, connect_to(peer.port, PATIENT_S) as connection:
        for address in range(50):
            request = holding(address, 1 + address, unit_id=address % 3)
            assert await connection.read(request, PATIENT_S) == truth_of(request)
    tids = [asked.tid for asked in peer.asked]
    assert len(set(tids)) == 50
    assert 0 not in tids


async def test_transaction_ids_start_again_at_1_and_never_are_0() -> None:
    async with (
        hostile() as peer,
        connect_to(peer.port, PATIENT_S, Peer(first_id=65533)) as connection,
    ):
        for _ in range(4):
            await connection.read(holding(1), PATIENT_S)
    assert [asked.tid for asked in peer.asked] == [65534, 65535, 1, 2]


async def test_nobody_listening_is_unavailable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refused
        port = taken.getsockname()[1]
        with pytest.raises(SourceUnavailable, match="cannot connect"):
            async with connect_to(port, PATIENT_S):
                pass


async def test_the_answer_to_another_transaction_ends_the_connection() -> None:
    async def script(asked: Asked, _: asyncio.StreamWriter) -> bytes:
        return struct.pack(">H", asked.tid - 1) + right_to(asked)[2:]

    async with hostile(script) as peer, connect_to(peer.port, PATIENT_S) as connection:
        with pytest.raises(WireError):
            await connection.read(holding(1), PATIENT_S)
        assert not connection.is_open
        with pytest.raises(SourceLost):
            await connection.read(holding(1), PATIENT_S)
    assert len(peer.asked) == 1  # nothing more was sent on it


async def test_a_late_answer_never_becomes_the_next_ones() -> None:
    release = asyncio.Event()

    async def script(asked: Asked, _: asyncio.StreamWriter) -> bytes:
        if asked.address == 1:
            await release.wait()
        return right_to(asked)

    async with hostile(script) as peer, connect_to(peer.port, PATIENT_S) as connection:
        with pytest.raises(ResponseTimeout):
            await connection.read(holding(1), 0.05)
        release.set()
        with pytest.raises(SourceLost):
            await connection.read(holding(2), PATIENT_S)
        async with connect_to(peer.port, PATIENT_S) as anew:
            assert await anew.read(holding(2), PATIENT_S) == truth_of(holding(2))


async def test_one_deadline_covers_an_answer_that_dribbles_in() -> None:
    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        for byte in right_to(asked):
            writer.write(bytes([byte]))
            await asyncio.sleep(0.05)

    async with hostile(script) as peer, connect_to(peer.port, PATIENT_S) as connection:
        began_s = time.monotonic()
        with pytest.raises(ResponseTimeout):
            await connection.read(holding(1, 10), 0.2)
        assert 0.19 <= time.monotonic() - began_s < 0.5  # not 29 bytes of 0.05 s each


@pytest.mark.parametrize("sent", [0, 1, 6, 9, 10])
async def test_a_reset_within_an_answer_gives_no_value(sent: int) -> None:
    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(right_to(asked)[:sent])
        await asyncio.sleep(0)
        Hostile.reset(writer)

    async with hostile(script) as peer, connect_to(peer.port, PATIENT_S) as connection:
        with pytest.raises(SourceLost) as caught:
            await connection.read(holding(1), PATIENT_S)
        assert not isinstance(caught.value, ResponseTimeout)
        assert not connection.is_open


async def test_a_refusal_leaves_the_connection_open() -> None:
    async def script(asked: Asked, _: asyncio.StreamWriter) -> bytes:
        return exception_to(asked, 2) if asked.address == 1 else right_to(asked)

    async with hostile(script) as peer, connect_to(peer.port, PATIENT_S) as connection:
        with pytest.raises(DeviceRefused):
            await connection.read(holding(1), PATIENT_S)
        assert await connection.read(holding(2), PATIENT_S) == truth_of(holding(2))
    assert peer.connections == 1


async def test_bytes_that_nobody_asked_for_end_the_connection() -> None:
    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(right_to(asked))
        await asyncio.sleep(0.02)
        writer.write(right_to(asked))

    async with hostile(script) as peer, connect_to(peer.port, PATIENT_S) as connection:
        assert await connection.read(holding(1), PATIENT_S) == truth_of(holding(1))
        await until(lambda: not connection.is_open)


async def test_a_cancelled_read_closes_the_connection() -> None:
    async def script(_: Asked, __: asyncio.StreamWriter) -> None:
        return None

    async with hostile(script) as peer, connect_to(peer.port, PATIENT_S) as connection:
        reading = asyncio.create_task(connection.read(holding(1), PATIENT_S))
        await until(lambda: bool(peer.asked))
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert not connection.is_open


async def test_the_kernel_is_told_to_notice_a_peer_without_power() -> None:
    async with hostile() as peer, connect_to(peer.port, PATIENT_S) as connection:
        assert connection._transport is not None
        sock = connection._transport.get_extra_info("socket")
        for level, option in (
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            (socket.IPPROTO_TCP, socket.TCP_NODELAY),
        ):
            assert sock.getsockopt(level, option)
        idle, interval, count = (
            sock.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + interval * count <= 10
        assert 0 < sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 10_000


class Wire:
    """A transport whose far end is hostile, all in memory."""

    def __init__(self, connection: Connection, rng: random.Random) -> None:
        self._connection = connection
        self._rng = rng
        self._late: list[bytes] = []

    def get_extra_info(self, _: str) -> Wire:
        return self

    def setsockopt(self, *_: int) -> None:
        pass

    def abort(self) -> None:
        pass

    def write(self, data: bytes) -> None:
        tid, _, _, *rest = struct.unpack(">HHHBBHH", data)
        asked = Asked(tid, *rest)
        answer, rng = right_to(asked), self._rng
        match rng.randrange(8):
            case 0:  # one bit flipped before the values, where the protocol can tell
                place = rng.randrange(9)
                answer = bytearray(answer)
                answer[place] ^= 1 << rng.randrange(8)
            case 1:
                answer = answer[: rng.randrange(len(answer))]
            case 2:
                answer += rng.randbytes(rng.randrange(1, 30))
            case 3:
                answer = exception_to(asked, rng.randrange(1, 12))
            case 4:  # what was asked before comes now
                self._late.append(answer)
                answer = self._late.pop(0)
            case 5:
                answer = rng.randbytes(rng.randrange(1, 60))
            case 6:
                answer = b""
        loop = asyncio.get_running_loop()
        while answer:
            cut = rng.choice([1, 3, 9, len(answer)])
            loop.call_soon(self._connection.data_received, bytes(answer[:cut]))
            answer = answer[cut:]


async def test_5000_hostile_polls_give_no_wrong_value() -> None:
    rng = random.Random(1)
    right, failed, late = 0, 0, []
    connection: Connection | None = None
    ids, device = transaction_ids(0), Peer()
    for _ in range(5000):
        if connection is None or not connection.is_open:
            connection = Connection(lambda query: Exchange(next(ids), query), Manner(), device)
            wire = Wire(connection, rng)
            # Answers to the connection before must not count either, should they get here.
            wire._late = late
            connection.connection_made(wire)
        request = holding(rng.randrange(1000), rng.randrange(1, 20), rng.randrange(3))
        try:
            block = await connection.read(request, 0.002)
        except SourceError:
            failed += 1
        else:
            assert block == truth_of(request)
            right += 1
    assert right > 1000
    assert failed > 1000
