"""The source against a device that breaks every rule: never a wrong value, one bounded cost."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from gateway.asset import Assets, AssetSettings
from gateway.clock import SystemClock
from gateway.errors import SourceLost, SourceUnavailable
from gateway.frame import Frame
from gateway.sources import SourceContext
from gateway.sources.modbus.config import ModbusTcpSettings
from gateway.sources.modbus.source import ModbusSource, build
from gateway.tag import Quality, TagTable
from tests.rig import free_port
from tests.sources.modbus.lying import Asked, Hostile, frame, hostile, refuse, right, well


@pytest.fixture
async def device() -> AsyncIterator[Hostile]:
    async with hostile() as found:
        yield found


class Rig:
    """A source on some registers of a port; tags are named for their address."""

    def __init__(
        self, folder: Path, port: int, registers: dict[int, list[int]], **more: object
    ) -> None:
        rows = [f"u{unit},r{r},{unit},{r}" for unit, listed in registers.items() for r in listed]
        (folder / "map.csv").write_text("\n".join(["asset,tag,unit_id,address", *rows]))
        base: dict[str, object] = {
            "type": "modbus-tcp",
            "name": "plc",
            "host": "127.0.0.1",
            "port": port,
            "map": folder / "map.csv",
            "scan_classes": {"default": 0.02},
            "response_timeout": 0.15,
            "connect_timeout": 1.0,
        }
        self.table = TagTable()
        self.room = True
        context = SourceContext(
            clock=SystemClock(),
            table=self.table,
            assets=Assets(
                [AssetSettings.model_validate({"name": "*", "class": "c"})], gateway="g", site=""
            ),
            gateway_name="g",
            has_room=lambda: self.room,
        )
        self.source: ModbusSource = build(ModbusTcpSettings.model_validate(base | more), context)

    def read(self, frame_: Frame) -> dict[str, float | Quality]:
        """Tag -> its value, or its quality where that is not good."""
        rows = zip(
            frame_.tag_ids.tolist(), frame_.values.tolist(), frame_.quality.tolist(), strict=True
        )
        return {self.table[i].name: value if q == 0 else Quality(q) for i, value, q in rows}


async def test_a_scan_is_one_frame_with_the_time_of_its_own_requests(
    device: Hostile, tmp_path: Path
) -> None:
    rig = Rig(tmp_path, device.port, {1: [0, 1, 5, 100]})
    async with rig.source.session() as session:
        before = time.time_ns()
        found = (await session.read()).frame
        after = time.time_ns()
    assert rig.read(found) == {"u1.r0": 0, "u1.r1": 1, "u1.r5": 5, "u1.r100": 100}
    assert [(a.address, a.quantity) for a in device.asked] == [(0, 6), (100, 1)]
    assert len(np.unique(found.t_ns)) == 2
    assert before <= found.t_ns.min() <= found.t_ns.max() <= after


async def wrong_tid(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(right(asked._replace(transaction_id=asked.transaction_id + 1), 7))


async def zero_tid(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(right(asked._replace(transaction_id=0), 7))


async def wrong_unit(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(right(asked._replace(unit_id=asked.unit_id + 1), 7))


async def wrong_function(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(right(asked._replace(function=4), 7))


async def short(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(right(asked._replace(quantity=asked.quantity - 1), 7))


async def long(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(right(asked._replace(quantity=asked.quantity + 3), 7))


async def odd(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(frame(asked, bytes([asked.function, 3]) + b"\1\2\3"))


async def glued(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(right(asked) + right(asked, 7))


async def silent(asked: Asked, writer: asyncio.StreamWriter) -> None:
    pass


async def dribble(asked: Asked, writer: asyncio.StreamWriter) -> None:
    for byte in right(asked, 7):
        writer.write(bytes([byte]))
        await asyncio.sleep(0.1)


async def late(asked: Asked, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0.2)
    writer.write(right(asked, 7))


async def reset(_asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\0\1\0")
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


async def split(asked: Asked, writer: asyncio.StreamWriter) -> None:
    data = right(asked)
    for part in (data[:3], data[3:9], data[9:]):
        writer.write(part)
        await asyncio.sleep(0.005)


LIES = {
    "wire_transaction_id": wrong_tid,
    "wire_unit_id": wrong_unit,
    "wire_function": wrong_function,
    "wire_byte_count": short,
    "timeout": silent,
}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (wrong_tid, "wire_transaction_id"),
        (zero_tid, "wire_transaction_id"),
        (wrong_unit, "wire_unit_id"),
        (wrong_function, "wire_function"),
        (short, "wire_byte_count"),
        (long, "wire_byte_count"),
        (odd, "wire_byte_count"),
        (glued, "wire_trailing"),
        (silent, "timeout"),
        (dribble, "timeout"),
        (late, "timeout"),
    ],
)
async def test_a_lie_costs_one_deadline_and_is_never_a_value(
    device: Hostile, tmp_path: Path, answer: object, kind: str
) -> None:
    rig = Rig(tmp_path, device.port, {1: [0, 1, 2]})
    device.answers.append(answer)  # type: ignore[arg-type] - answers of this file
    began = time.monotonic()
    with pytest.raises(SourceLost, match="unit 1"):
        async with rig.source.session() as session:
            await session.read()
    assert time.monotonic() - began < 1.0
    assert rig.source.stats.errors_total[kind] == 1
    async with rig.source.session() as session:  # what was late dies with its connection
        for _ in range(3):
            assert rig.read((await session.read()).frame) == {"u1.r0": 0, "u1.r1": 1, "u1.r2": 2}


async def test_an_answer_in_pieces_is_an_answer(device: Hostile, tmp_path: Path) -> None:
    rig = Rig(tmp_path, device.port, {1: [3]})
    device.usual = split
    async with rig.source.session() as session:
        assert rig.read((await session.read()).frame) == {"u1.r3": 3}


async def test_a_reset_is_asked_once_more_at_once(device: Hostile, tmp_path: Path) -> None:
    rig = Rig(tmp_path, device.port, {1: [3]})
    device.answers = [reset]
    async with rig.source.session() as session:
        assert rig.read((await session.read()).frame) == {"u1.r3": 3}
    assert device.connections == 2
    assert rig.source.stats.errors_total["reset"] == 1


@pytest.mark.parametrize(
    ("code", "quality"),
    [
        (1, Quality.BAD_CONFIGURATION),
        (4, Quality.BAD_DEVICE_FAILURE),
        (6, Quality.BAD_TIMEOUT),
        (11, Quality.BAD_NO_COMMUNICATION),
    ],
)
async def test_an_exception_costs_its_block_and_says_why(
    device: Hostile, tmp_path: Path, code: int, quality: Quality
) -> None:
    rig = Rig(tmp_path, device.port, {1: [0, 100]})
    device.answers = [refuse(code)]
    async with rig.source.session() as session:
        assert rig.read((await session.read()).frame) == {"u1.r0": quality, "u1.r100": 100}
        assert rig.read((await session.read()).frame) == {"u1.r0": 0, "u1.r100": 100}
    assert device.connections == 1


async def test_a_refused_address_is_found_and_parked_and_its_neighbours_go_on(
    device: Hostile, tmp_path: Path
) -> None:
    rig = Rig(tmp_path, device.port, {1: list(range(16))})

    async def without_eleven(asked: Asked, writer: asyncio.StreamWriter) -> None:
        covers = asked.address <= 11 < asked.address + asked.quantity
        await (refuse(2) if covers else well)(asked, writer)

    device.usual = without_eleven
    async with rig.source.session() as session:
        first = rig.read((await session.read()).frame)
        requests = len(device.asked)
        second = rig.read((await session.read()).frame)
    bad = {"u1.r11": Quality.BAD_CONFIGURATION}
    assert first == {f"u1.r{r}": r for r in range(16)} | bad
    assert requests <= 9  # the block, and its halves down to one
    assert second == first
    assert [(a.address, a.quantity) for a in device.asked[requests:]] == [(0, 11), (12, 4)]


async def test_a_dead_unit_costs_the_others_its_own_slot_only(
    device: Hostile, tmp_path: Path
) -> None:
    rig = Rig(tmp_path, device.port, {1: [0], 2: [0], 3: [0]})

    async def two_is_dead(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await (silent if asked.unit_id == 2 else well)(asked, writer)

    device.usual = two_is_dead
    async with rig.source.session() as session:
        for _ in range(20):
            found = rig.read((await session.read()).frame)
            assert found == {"u1.r0": 0, "u2.r0": Quality.BAD_TIMEOUT, "u3.r0": 0}
    assert sum(asked.unit_id == 2 for asked in device.asked) <= 2
    assert sum(asked.unit_id == 3 for asked in device.asked) >= 20


async def test_scans_keep_their_schedule_without_drift(device: Hostile, tmp_path: Path) -> None:
    rig = Rig(tmp_path, device.port, {1: [0]})
    async with rig.source.session() as session:
        await session.read()
        began = time.monotonic()
        for _ in range(25):
            await session.read()
        took = time.monotonic() - began
    assert took == pytest.approx(0.5, abs=0.1)


async def test_a_scan_that_is_late_skips_slots_and_counts_them(
    device: Hostile, tmp_path: Path
) -> None:
    rig = Rig(tmp_path, device.port, {1: [0]})
    async with rig.source.session() as session:
        await session.read()
        await asyncio.sleep(0.1)
        await session.read()
        assert rig.source.stats.scan_overruns_total >= 4
        began = time.monotonic()
        await session.read()
        assert time.monotonic() - began < 0.1


async def test_a_full_pipeline_skips_scans_and_counts_them(device: Hostile, tmp_path: Path) -> None:
    rig = Rig(tmp_path, device.port, {1: [0]})
    rig.room = False
    async with rig.source.session() as session:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.read(), 0.1)
        assert not device.asked
        assert rig.source.stats.scan_overruns_total >= 3
        rig.room = True
        assert rig.read((await session.read()).frame) == {"u1.r0": 0}


async def test_a_device_that_is_not_there_says_what_to_check(tmp_path: Path) -> None:
    rig = Rig(tmp_path, free_port(), {1: [0]})
    with pytest.raises(SourceUnavailable, match="cannot connect"):
        async with rig.source.session():
            pass


async def test_thousands_of_hostile_polls_give_no_wrong_value(
    device: Hostile, tmp_path: Path
) -> None:
    rng = random.Random(7)
    more = {"response_timeout": 0.02, "scan_classes": {"default": 0.02}}
    rig = Rig(tmp_path, device.port, {1: [3, 4], 2: [900, 905], 3: [77]}, **more)
    lies = [wrong_tid, zero_tid, wrong_unit, wrong_function, short, long, odd, glued, reset]

    async def at_random(asked: Asked, writer: asyncio.StreamWriter) -> None:
        answer = rng.choices([well, split, rng.choice(lies), late], [90, 5, 4.8, 0.2])[0]
        await answer(asked, writer)

    device.usual = at_random
    truth = {
        f"u{u}.r{r}": r for u, listed in ((1, [3, 4]), (2, [900, 905]), (3, [77])) for r in listed
    }
    good = 0
    deadline = time.monotonic() + 6.0
    while time.monotonic() < deadline:
        rig.source.device.patience.forgive()
        try:
            async with rig.source.session() as session:
                for slots in session._slots:  # as fast as it can
                    slots.period_ns = 1
                while time.monotonic() < deadline:
                    rig.source.device.patience.forgive()
                    for name, value in rig.read((await session.read()).frame).items():
                        if not isinstance(value, Quality):
                            assert value == truth[name]
                            good += 1
        except SourceLost:
            pass
    assert good > 2000
    assert len(rig.source.stats.errors_total) >= 5


async def test_a_device_that_is_not_the_one_expected_gives_no_value(
    device: Hostile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path, device.port, {1: [9, 10, 300]})
    rows = rig.source.device.rows
    rows = [rows[0].model_copy(update={"expect": 9}), *rows[1:]]
    rig.source.device.adopt(rows, rig.source.device.ids)
    async with rig.source.session() as session:
        found = rig.read((await session.read()).frame)
        assert found == {"u1.r9": 9, "u1.r10": 10, "u1.r300": 300}
        device.usual = another
        bad = Quality.BAD_CONFIGURATION
        for _ in range(2):
            found = rig.read((await session.read()).frame)
            assert found == {"u1.r9": bad, "u1.r10": bad, "u1.r300": 301}
        device.usual = well
        assert rig.read((await session.read()).frame)["u1.r10"] == 10
    assert rig.source.stats.errors_total["unexpected"] == 2
    assert caplog.text.count("modbus.unexpected") == 1


async def another(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(right(asked, 1))
