"""Source and supervision together, over outages that last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gateway.asset import Assets, AssetSettings
from gateway.clock import SystemClock
from gateway.frame import Arrival
from gateway.sources import SourceContext, supervise
from gateway.sources.modbus.config import ModbusTcpSettings
from gateway.sources.modbus.source import ModbusSource, build
from gateway.tag import Quality, TagTable
from tests.sources.modbus.hostile import Asked, Hostile, exception_to, hostile, right_to, truth

PATIENT_S = 5.0


@pytest.fixture(autouse=True)
def soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "RETRY_FIRST_S", 0.02)
    monkeypatch.setattr(supervise, "RETRY_MAX_S", 0.05)


def source_of(folder: Path, port: int, *rows: str, **more: object) -> ModbusSource:
    (folder / "plc.csv").write_text("\n".join(["asset,tag,unit_id,address", *rows]))
    written = {"type": "modbus-tcp", "name": "plc", "host": "127.0.0.1", "port": port}
    written |= {"map": folder / "plc.csv", "scan_classes": {"default": 0.02}}
    settings = ModbusTcpSettings.model_validate(written | {"response_timeout": 0.05} | more)
    entry = AssetSettings.model_validate({"name": "*", "class": "pump"})
    context = SourceContext(
        clock=SystemClock(),
        table=TagTable(),
        assets=Assets([entry], gateway="g", site=""),
        gateway_name="g",
        has_room=lambda: True,
    )
    return build(settings, context)


class Supervised:
    """A source under supervision, and what came of it."""

    def __init__(self, source: ModbusSource) -> None:
        self.source = source
        self.arrivals: list[Arrival] = []

    async def put(self, arrival: Arrival) -> None:
        self.arrivals.append(arrival)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Run it until `holds()`, then cancel it."""
        running = supervise.supervise(self.source, self.put, self.source.context.clock)
        task = asyncio.create_task(running, name="source:plc")
        try:
            async with asyncio.timeout(PATIENT_S):
                while not holds() and not task.done():  # noqa: ASYNC110 - sockets tell no event
                    await asyncio.sleep(0.005)
        finally:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    def last(self) -> Arrival:
        return self.arrivals[-1]

    def is_good(self) -> bool:
        return bool(self.arrivals) and not self.last().frame.quality.any()

    def is_lost(self) -> bool:
        lost = Quality.BAD_NO_COMMUNICATION
        return bool(self.arrivals) and bool(np.all(self.last().frame.quality == lost))


async def silence(_: Asked, __: asyncio.StreamWriter) -> None:
    return None


async def right(asked: Asked, _: asyncio.StreamWriter) -> bytes:
    return right_to(asked)


async def test_an_outage_marks_all_tags_bad_and_its_end_brings_their_values_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with hostile() as peer:
        run = Supervised(source_of(tmp_path, peer.port, "a,x,1,5", "a,y,1,900"))
        marks: list[int] = []

        def has_been_away_and_back() -> bool:
            if run.is_good() and not marks:
                peer.script = silence
                marks.append(len(run.arrivals))
            elif run.is_lost() and len(marks) == 1 and peer.connections > 3:
                peer.script = right
                marks.append(len(run.arrivals))
            return len(marks) == 2 and run.is_good()

        await run.until(has_been_away_and_back)
    lost = [each.frame for each in run.arrivals[marks[0] :] if each.frame.quality.any()]
    assert len(lost) >= 3  # once at the loss, and after each attempt
    for frame in lost:
        assert frame.tag_ids.tolist() == [0, 1]
        assert np.isnan(frame.values).all()
    assert run.last().frame.values.tolist() == [truth(1, 5), truth(1, 900)]
    events = [record.message.split()[0] for record in caplog.records]
    assert events == ["source.connected", "source.lost", "source.connected"]


async def test_a_device_that_accepts_and_never_answers_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with hostile(silence) as peer:
        run = Supervised(source_of(tmp_path, peer.port, "a,x,1,5"))
        await run.until(lambda: peer.connections > 4)
    events = [record.message.split()[0] for record in caplog.records]
    assert events == ["source.lost"]


async def test_a_map_of_refused_addresses_alone_is_no_defect(tmp_path: Path) -> None:
    async def refuse(asked: Asked, _: asyncio.StreamWriter) -> bytes:
        return exception_to(asked, 2)

    async with hostile(refuse) as peer:
        run = Supervised(source_of(tmp_path, peer.port, "a,x,1,5", response_timeout=5))
        ended = asyncio.get_running_loop().time() + 0.3
        await run.until(lambda: bool(run.arrivals) and asyncio.get_running_loop().time() > ended)
    assert run.arrivals[0].frame.quality.tolist() == [Quality.BAD_CONFIGURATION]
    assert run.source.stats.errors_total["defect"] == 0
    assert len(peer.asked) <= 2


async def test_a_session_keeps_nothing_of_the_connections_it_replaced(tmp_path: Path) -> None:
    async def resetting(asked: Asked, writer: asyncio.StreamWriter) -> bytes | None:
        if len(peer.asked) % 2:
            Hostile.reset(writer)
            return None
        return right_to(asked)

    async with hostile(resetting) as peer:
        source = source_of(tmp_path, peer.port, "a,x,1,5")
        async with source.session() as session:
            for _ in range(10):
                assert (await session.read()).frame.values.tolist() == [truth(1, 5)]
            assert len(session._scanner._opened._exit_callbacks) == 1


async def test_a_cancelled_source_leaves_no_task_and_no_connection(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async with hostile() as peer:
        serve = peer.serve

        async def watched(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await serve(reader, writer)
            ended.set()

        server = await asyncio.start_server(watched, "127.0.0.1", 0)
        before = asyncio.all_tasks()
        port = server.sockets[0].getsockname()[1]
        run = Supervised(source_of(tmp_path, port, "a,x,1,5"))
        await run.until(run.is_good)
        async with asyncio.timeout(PATIENT_S):
            await ended.wait()
        server.close()
        await asyncio.sleep(0)
        assert not {task for task in asyncio.all_tasks() - before if not task.done()}
