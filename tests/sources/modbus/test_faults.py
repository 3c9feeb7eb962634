"""Faults that last: what one bad address, unit or answer may cost the rest, scan after scan."""

from __future__ import annotations

import asyncio
import gc
import logging
from pathlib import Path

import pytest

from gateway.clock import SystemClock
from gateway.errors import SourceLost
from gateway.frame import Arrival
from gateway.sources.modbus import patience
from gateway.sources.modbus.client import Connection
from gateway.sources.modbus.wire import Exchange, Request
from gateway.sources.supervise import supervise
from gateway.tag import Quality
from tests.sources.modbus.lying import Answer, Asked, frame, hostile, refuse, right, well
from tests.sources.modbus.test_source import Rig, reset, silent


def covers(asked: Asked, address: int) -> bool:
    return asked.address <= address < asked.address + asked.quantity


@pytest.mark.parametrize("function", [0, 5, 6, 8, 15, 16, 22, 23, 43, 255])
def test_a_request_with_any_other_function_than_a_read_cannot_be_made(function: int) -> None:
    with pytest.raises(ValueError, match=str(function)):
        Exchange(1, Request(1, function, 0, 1)).encode()


async def test_a_refused_tag_is_not_read_over_again_in_every_scan(tmp_path: Path) -> None:
    async with hostile() as device:
        rig = Rig(tmp_path, device.port, {1: list(range(16))})

        async def without_eleven(asked: Asked, writer: asyncio.StreamWriter) -> None:
            await (refuse(2) if covers(asked, 11) else well)(asked, writer)

        device.usual = without_eleven
        async with rig.source.session() as session:
            await session.read()
            refusals = rig.source.stats.errors_total["exception_2"]
            for _ in range(3):
                found = rig.read((await session.read()).frame)
                assert found["u1.r11"] == Quality.BAD_CONFIGURATION
                assert {v for k, v in found.items() if k != "u1.r11"} == set(range(16)) - {11}
        assert rig.source.stats.errors_total["exception_2"] == refusals


async def test_a_refused_gap_between_tags_is_not_read_over_again(tmp_path: Path) -> None:
    async with hostile() as device:
        rig = Rig(tmp_path, device.port, {1: [0, 4]})

        async def without_two(asked: Asked, writer: asyncio.StreamWriter) -> None:
            await (refuse(2) if covers(asked, 2) else well)(asked, writer)

        device.usual = without_two
        async with rig.source.session() as session:
            for _ in range(4):
                assert rig.read((await session.read()).frame) == {"u1.r0": 0, "u1.r4": 4}
        # Once more when its halves were there: it might have been a device that was starting.
        assert rig.source.stats.errors_total["exception_2"] == 2


async def test_a_device_that_refuses_everything_while_it_starts_costs_no_more_than_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PARKED_FIRST_S", 0.1)
    async with hostile() as device:
        rig = Rig(tmp_path, device.port, {1: list(range(40))})
        device.usual = refuse(2)
        async with rig.source.session() as session:
            for _ in range(5):
                found = rig.read((await session.read()).frame)
            assert set(found.values()) == {Quality.BAD_CONFIGURATION}
            device.usual = well
            async with asyncio.timeout(20):
                while rig.read((await session.read()).frame) != {f"u1.r{r}": r for r in range(40)}:
                    pass
                # And what was learned meanwhile is forgotten: all of it is one request again.
                while device.asked[-1][3:] != (0, 40):
                    await session.read()


async def test_of_tags_that_stay_refused_a_few_are_asked_again_in_a_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PARKED_FIRST_S", 0.0)
    async with hostile() as device:
        rig = Rig(tmp_path, device.port, {1: list(range(0, 200, 2))})

        async def without_most(asked: Asked, writer: asyncio.StreamWriter) -> None:
            is_there = asked.address + asked.quantity <= 40
            await (well if is_there else refuse(2))(asked, writer)

        device.usual = without_most
        async with rig.source.session() as session:
            while len(rig.source.device.learned.alone) < 80:
                await session.read()
            for _ in range(3):
                before = len(device.asked)
                found = rig.read((await session.read()).frame)
                assert sum(isinstance(value, Quality) for value in found.values()) == 80
                assert len(device.asked) - before <= 8


async def test_an_address_that_is_met_with_exception_4_costs_its_own_tag_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with hostile() as device:
        rig = Rig(tmp_path, device.port, {1: list(range(20))})

        async def without_seven(asked: Asked, writer: asyncio.StreamWriter) -> None:
            await (refuse(4) if covers(asked, 7) else well)(asked, writer)

        device.usual = without_seven
        async with rig.source.session() as session:
            for _ in range(4):
                found = rig.read((await session.read()).frame)
            assert found.pop("u1.r7") == Quality.BAD_DEVICE_FAILURE
            assert found == {f"u1.r{r}": r for r in range(20) if r != 7}
        assert "exception code 4" in caplog.text


@pytest.mark.parametrize("meets", [silent, reset])
async def test_a_device_that_does_not_answer_for_many_registers_is_asked_for_few(
    tmp_path: Path, meets: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PAUSE_FIRST_S", 0.01)
    monkeypatch.setattr(patience, "PAUSE_MAX_S", 0.01)
    async with hostile() as device:
        rig = Rig(tmp_path, device.port, {1: list(range(20))}, response_timeout=0.1)

        async def seven_at_most(asked: Asked, writer: asyncio.StreamWriter) -> None:
            await (well if asked.quantity <= 7 else meets)(asked, writer)

        device.usual = seven_at_most
        found: dict[str, float | Quality] = {}
        async with asyncio.timeout(30):
            while found != {f"u1.r{r}": r for r in range(20)}:
                try:
                    async with rig.source.session() as session:
                        while found != {f"u1.r{r}": r for r in range(20)}:
                            found = rig.read((await session.read()).frame)
                except SourceLost:
                    continue
        assert sorted(rig.source.device.learned.cuts[1, 3]) == [5, 10, 15]


async def test_a_device_that_was_away_is_read_as_before(tmp_path: Path) -> None:
    async with hostile() as device:
        rig = Rig(tmp_path, device.port, {1: list(range(20))}, response_timeout=0.02)
        device.usual = silent
        for _ in range(9):
            with pytest.raises(SourceLost):
                async with rig.source.session() as session:
                    await session.read()
        device.usual = well
        rig.source.device.settings = rig.source.device.settings.model_copy(
            update={"response_timeout": 5.0}
        )
        async with rig.source.session() as session:
            for _ in range(2):
                found = rig.read((await session.read()).frame)
        assert found == {f"u1.r{r}": r for r in range(20)}
        assert device.asked[-1][3:] == (0, 20)


@pytest.mark.parametrize("blocks", [6, 1])
async def test_a_device_that_closes_the_connection_after_each_answer_is_read_all_the_same(
    tmp_path: Path, blocks: int
) -> None:
    async with hostile() as device:
        registers = list(range(0, 100 * blocks, 100))
        rig = Rig(tmp_path, device.port, {1: registers}, response_timeout=5.0)

        async def once(asked: Asked, writer: asyncio.StreamWriter) -> None:
            await well(asked, writer)
            writer.close()

        device.usual = once
        async with rig.source.session() as session:
            for _ in range(5):
                assert rig.read((await session.read()).frame) == {f"u1.r{r}": r for r in registers}


async def test_a_map_of_which_everything_is_refused_is_bad_and_no_defect(tmp_path: Path) -> None:
    async with hostile() as device:
        rig = Rig(tmp_path, device.port, {1: [0, 1, 2]})
        device.usual = refuse(2)
        async with rig.source.session() as session:
            for _ in range(3):
                found = rig.read((await session.read()).frame)
                assert found == {f"u1.r{r}": Quality.BAD_CONFIGURATION for r in range(3)}


async def test_a_unit_that_always_resets_costs_the_others_nothing(tmp_path: Path) -> None:
    async with hostile() as device:
        rig = Rig(tmp_path, device.port, {1: [0], 2: [0], 3: [0]})

        async def two_resets(asked: Asked, writer: asyncio.StreamWriter) -> None:
            await (reset if asked.unit_id == 2 else well)(asked, writer)

        device.usual = two_resets
        async with rig.source.session() as session:
            for _ in range(3):
                found = rig.read((await session.read()).frame)
                assert (found["u1.r0"], found["u3.r0"]) == (0, 0)
                assert isinstance(found["u2.r0"], Quality)


async def test_an_address_that_meets_silence_does_not_hide_the_others(tmp_path: Path) -> None:
    async with hostile() as device:
        rig = Rig(tmp_path, device.port, {1: [0, 100, 200]})

        async def silent_at_zero(asked: Asked, writer: asyncio.StreamWriter) -> None:
            await (silent if covers(asked, 0) else well)(asked, writer)

        device.usual = silent_at_zero
        found: dict[str, float | Quality] = {}
        for _ in range(3):
            try:
                async with rig.source.session() as session:
                    for _ in range(5):
                        found = rig.read((await session.read()).frame)
            except SourceLost:
                continue
            break
        assert found == {"u1.r0": Quality.BAD_TIMEOUT, "u1.r100": 100, "u1.r200": 200}


async def test_a_unit_away_behind_a_modbus_gateway_is_asked_less_and_less(tmp_path: Path) -> None:
    async with hostile() as device:
        rig = Rig(tmp_path, device.port, {1: [0], 2: [0, 100, 200]})

        async def two_is_away(asked: Asked, writer: asyncio.StreamWriter) -> None:
            await (refuse(11) if asked.unit_id == 2 else well)(asked, writer)

        device.usual = two_is_away
        async with rig.source.session() as session:
            for _ in range(12):
                assert rig.read((await session.read()).frame)["u1.r0"] == 0
        assert sum(asked.unit_id == 2 for asked in device.asked) <= 6


async def test_closed_connections_are_let_go_while_the_session_lasts(tmp_path: Path) -> None:
    async with hostile() as device:
        rig = Rig(tmp_path, device.port, {1: [0], 2: [0]})

        async def and_hang_up(asked: Asked, writer: asyncio.StreamWriter) -> None:
            writer.write(right(asked))
            writer.close()

        device.usual = and_hang_up
        gc.collect()
        before = sum(isinstance(each, Connection) for each in gc.get_objects())
        async with rig.source.session() as session:
            for _ in range(15):
                await session.read()
            gc.collect()
            held = sum(isinstance(each, Connection) for each in gc.get_objects()) - before
        assert device.connections >= 15
        assert held <= 3


async def test_a_late_answer_on_a_later_connection_is_not_a_value(tmp_path: Path) -> None:
    """Some Modbus gateways hand a serial line's late answer to whoever is connected by then."""
    async with hostile() as device:
        rig = Rig(tmp_path, device.port, {1: [0, 100], 2: [0]}, response_timeout=0.05)
        late: list[bytes] = []

        async def hands_it_on(asked: Asked, writer: asyncio.StreamWriter) -> None:
            if covers(asked, 100) and not late:
                late.append(right(asked))
                return
            for held in late:
                head = frame(asked, b"")[:2]
                if held[:2] == head and held[6] == asked.unit_id:
                    writer.write(held)
                    return
            await well(asked, writer)

        device.usual = hands_it_on
        wrong = []
        for _ in range(30):
            try:
                async with rig.source.session() as session:
                    for _ in range(3):
                        found = rig.read((await session.read()).frame)
                        wrong += [
                            (tag, value)
                            for tag, value in found.items()
                            if not isinstance(value, Quality) and value != int(tag.split("r")[1])
                        ]
            except SourceLost:
                continue
        assert late
        assert wrong == []


async def test_a_device_that_accepts_and_is_silent_is_said_to_be_away_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with hostile() as device:
        rig = Rig(tmp_path, device.port, {1: [0]}, response_timeout=0.05)
        device.usual = silent
        lost = asyncio.Event()
        put: list[Arrival] = []

        async def take(arrival: Arrival) -> None:
            put.append(arrival)
            lost.set()

        task = asyncio.create_task(supervise(rig.source, take, SystemClock()))
        async with asyncio.timeout(5):
            await lost.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert caplog.text.count("source.lost") == 1
    assert "source.connected" not in caplog.text
    assert not rig.source.stats.connected
