"""SunSpec: a device that says what it has is read right, whatever its makers made of the rules."""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from gateway.asset import Assets, AssetSettings, tag_facts
from gateway.clock import SystemClock
from gateway.errors import DeviceRefused, SourceUnavailable
from gateway.frame import Frame
from gateway.sources import SourceContext
from gateway.sources.modbus.config import ModbusTcpSettings, RegisterRow
from gateway.sources.modbus.decode import BlockDecoder, new_exponents
from gateway.sources.modbus.plan import plan
from gateway.sources.modbus.rows import load_register_map
from gateway.sources.modbus.source import ModbusSource, build
from gateway.sources.modbus.sunspec import profile
from gateway.sources.modbus.sunspec.discover import Discovered, NoMarker, discover
from gateway.sources.modbus.sunspec.models import models
from gateway.sources.modbus.sunspec.profile import csv_text
from gateway.stages.condition import Condition
from gateway.tag import Quality, TagTable
from tests.sources.modbus import sunspec_truth
from tests.sources.modbus.lying import Asked, frame, hostile
from tests.sources.modbus.sunspec_truth import contents, definition

needs_definitions = pytest.mark.skipif(
    not sunspec_truth.DEFINITIONS.is_dir(),
    reason="the SunSpec definitions are not there (SLUICEGATE_SHARED)",
)
T = TypeVar("T")
ODD = (0xFFFF, 0x8000, 0, 0x7FC0, 0xFFFE)  # what "not implemented" is made of
END = [0xFFFF, 0]


def words_of(text: str) -> list[int]:
    return list(struct.unpack(f">{len(text) // 2}H", text.encode()))


def chain(*listed: Sequence[int], base: int = 40000, end: Sequence[int] = END) -> dict[int, int]:
    """Registers by address: the marker, models (id, length, content), the end."""
    words = [*words_of("SunS"), *[word for model in listed for word in model], *end]
    return dict(enumerate(words, base))


def at_once(steps: Coroutine[Any, Any, T]) -> T:
    """The result of what waits for nothing."""
    try:
        steps.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("it waits")


async def found_in(registers: Mapping[int, int], **more: Any) -> Discovered:
    async def read(address: int, quantity: int) -> bytes:
        if any(address + i not in registers for i in range(quantity)):
            raise DeviceRefused(unit_id=1, function=3, address=address, code=2, hint="")
        return struct.pack(f">{quantity}H", *(registers[address + i] for i in range(quantity)))

    return await discover(read, **more)


def decoded(
    rows: Sequence[RegisterRow], registers: Mapping[int, int], **limits: object
) -> dict[str, Any]:
    """By tag: a number, a text, or None where it is bad; through plan, decoder and scaling."""
    base = {"type": "modbus-tcp", "name": "s", "host": "h", "profile": "sunspec"}
    table, exponents = TagTable(), new_exponents(rows)
    assets = Assets(
        [AssetSettings.model_validate({"name": "*", "class": "c"})], gateway="", site=""
    )
    ids = [table.add(assets.tag(row.asset, row.tag, **tag_facts(row))) for row in rows]
    found: dict[str, Any] = {}
    for scan in plan(rows, ModbusTcpSettings.model_validate(base | limits)):
        for block in scan.blocks:
            first = block.request.address
            words = [registers.get(first + i, 0xDEAD) for i in range(block.request.quantity)]
            data = struct.pack(f">{len(words)}H", *words)
            values, quality, exact = BlockDecoder(block, rows, exponents).decode(data)
            frame = Frame.of(
                0, np.array([ids[i] for i in block.rows], np.int32), values, quality, exact
            )
            frame = Condition(table).apply(frame, 0)
            for place, index in enumerate(block.rows):
                value = frame.exact.get(place, float(frame.values[place]))
                found[rows[index].tag] = None if frame.quality[place] >= Quality.BAD else value
    return found


def same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, (int, float)):
        return math.isclose(one, float(other), rel_tol=1e-12) or one == float(other)
    return bool(one == other)


@needs_definitions
def test_the_table_has_every_model_that_is_not_a_makers_own() -> None:
    assert sorted(models()) == sunspec_truth.standard_ids()


registers_of = st.lists(
    st.one_of(st.integers(0, 65535), st.sampled_from(ODD), st.integers(0, 3)),
    min_size=40,
    max_size=40,
)


@needs_definitions
@pytest.mark.parametrize("model_id", sorted(models()))
@settings(max_examples=4, deadline=None)
@given(content=registers_of, more=st.integers(-9, 70), shift=st.integers(0, 39))
def test_every_model_is_read_as_struct_reads_it(
    model_id: int, content: list[int], more: int, shift: int
) -> None:
    fixed = sum(point["size"] for point in definition(model_id)["points"]) - 2
    length = max(1, fixed + more)
    model = [model_id, length, *(content[(shift + i) % 40] for i in range(length))]
    registers = chain(model)
    rows = at_once(found_in(registers, models=[model_id])).rows("dev", 1)
    prefix, scales = models()[model_id].name + ".", {row.scale_from for row in rows}
    got = {
        name.removeprefix(prefix): value
        for name, value in decoded(rows, registers).items()
        if name not in scales and name not in (prefix + "ID", prefix + "L")
    }
    truth = contents(model_id, model)
    assert got.keys() == truth.keys()
    assert [name for name in truth if not same(got[name], truth[name])] == []


# --- a device of another maker's software --------------------------------------------------------


def inverter(*, power: int = 2301, exponent: int = 0, length: int = 50) -> list[int]:
    """Model 103, by hand: A 12.5 A, W, WH, state MPPT, event bits 1 and 7, the rest not there."""
    words = [0xFFFF] * 50
    words[0], words[4] = 125, 2**16 - 1  # A, A_SF -1
    words[12], words[13] = power, exponent % 2**16  # W, W_SF
    words[22:25] = [1, 0xE240, 1]  # WH 123456, SF 1
    words[36] = 4  # St
    words[38:40] = [0, 0b1000_0010]  # Evt1
    words[33], words[35] = 0x8000, 0x8000  # TmpSnk, Tmp_SF
    return [103, length, *(words + [0xABCD] * 10)[:length]]


def common(serial: str, length: int = 66) -> list[int]:
    texts = [("Maker", 32), ("M-1", 32), ("", 16), ("1.2", 16), (serial, 32)]
    words = [word for text, size in texts for word in words_of(text.ljust(size, "\0"))]
    return [1, length, *[*words, 7, 0x8000, 0x8000][:length]]


def mppt(modules: int) -> list[int]:
    head = [2**16 - 2, 2**16 - 1, 0, 0, 0, 0, modules, 0]
    each = [
        [n, *[0] * 8, 500 + n, 4000, 200 * n, 0, 9, 0, 1, 20, 4, 0, 0]
        for n in range(1, modules + 1)
    ]
    return [160, len(head) + 20 * modules, *head, *(word for words in each for word in words)]


@asynccontextmanager
async def serving(units: Mapping[int, Mapping[int, int]], port: int = 0) -> AsyncIterator[int]:
    """pymodbus answers; its port."""
    devices = [SimDevice(id=unit, simdata=_blocks(words)) for unit, words in units.items()]
    server = ModbusTcpServer(devices, address=("127.0.0.1", port))
    await server.serve_forever(background=True)
    try:
        assert server.transport is not None
        yield server.transport.sockets[0].getsockname()[1]  # type: ignore[attr-defined] - a server
    finally:
        await server.shutdown()


def _blocks(registers: Mapping[int, int]) -> list[SimData]:
    runs: list[tuple[int, list[int]]] = []
    for address in sorted(registers):
        if not runs or runs[-1][0] + len(runs[-1][1]) != address:
            runs.append((address, []))
        runs[-1][1].append(registers[address])
    return [SimData(at, values=words, datatype=DataType.REGISTERS) for at, words in runs]


class Rig:
    """A source with the profile, in a folder that outlives it."""

    def __init__(self, folder: Path, port: int, taken: Sequence[str] = (), **more: Any) -> None:
        base: dict[str, Any] = {
            "type": "modbus-tcp",
            "name": "roof",
            "host": "127.0.0.1",
            "port": port,
            "profile": "sunspec",
            "scan_classes": {"default": 0.02, "slow": 0.05},
            "response_timeout": 2.0,
        }
        self.table = TagTable()
        assets = [AssetSettings.model_validate({"name": "*", "class": "inverter"})]
        context = SourceContext(
            clock=SystemClock(),
            table=self.table,
            assets=Assets(assets, gateway="g", site=""),
            gateway_name="g",
            has_room=lambda: True,
            directory=folder,
        )
        for name in taken:
            asset, _, tag = name.partition(".")
            self.table.add(context.assets.tag(asset, tag, source="another"))
        self.file = folder / "roof.sunspec.csv"
        self.source: ModbusSource = build(ModbusTcpSettings.model_validate(base | more), context)

    async def values(self, scans: int = 4) -> dict[str, Any]:
        """By tag the last value of some scans; the quality where it is bad."""
        found: dict[str, Any] = {}
        async with self.source.session() as session:
            for _ in range(scans):
                found |= self.read((await session.read()).frame)
        return found

    def read(self, frame: Frame) -> dict[str, Any]:
        frame = Condition(self.table).apply(frame, 0)
        return {
            self.table[int(i)].name: Quality(quality)
            if quality >= Quality.BAD
            else frame.exact.get(row, float(frame.values[row]))
            for row, (i, quality) in enumerate(zip(frame.tag_ids, frame.quality, strict=True))
        }


def expected(found: Mapping[str, Any], asset: str = "roof") -> None:
    assert found[f"{asset}.common.SN"] == "SN-1"
    assert found[f"{asset}.common.Opt"] is Quality.BAD_SENSOR_FAILURE  # empty
    assert found[f"{asset}.inverter.A"] == 12.5
    assert found[f"{asset}.inverter.W"] == 2301
    assert found[f"{asset}.inverter.WH"] == 1234560
    assert found[f"{asset}.inverter.St"] == "MPPT"
    assert found[f"{asset}.inverter.Evt1"] == "DC_OVER_VOLT,OVER_TEMP"
    assert found[f"{asset}.inverter.TmpSnk"] is Quality.BAD_SENSOR_FAILURE
    assert found[f"{asset}.inverter.PhVphA"] is Quality.BAD_SENSOR_FAILURE


@pytest.mark.parametrize("base", [40000, 50000, 0])
async def test_a_device_is_found_wherever_its_marker_is(tmp_path: Path, base: int) -> None:
    async with serving({1: chain(common("SN-1"), inverter(), mppt(9), base=base)}) as port:
        rig = Rig(tmp_path, port)
        found = await rig.values()
    expected(found)
    for module in range(1, 10):
        assert found[f"roof.mppt.module_{module}.DCA"] == (500 + module) / 100
        assert found[f"roof.mppt.module_{module}.DCW"] == 200 * module
        assert found[f"roof.mppt.module_{module}.DCSt"] == "MPPT"
    facts = {tag.name: tag for tag in rig.table}
    assert facts["roof.inverter.WH"].eng_unit == "Wh"
    assert facts["roof.mppt.module_9.DCV"].eng_unit == "V"


@pytest.mark.parametrize("length", [65, 66, 67])
async def test_a_common_model_of_any_length_does_not_shift_what_follows(
    tmp_path: Path, length: int
) -> None:
    registers = chain(common("SN-1", length), inverter(length=52), [64110, 3, 1, 2, 3], mppt(1))
    async with serving({1: registers}) as port:
        found = await Rig(tmp_path, port).values()
    expected(found)
    assert found["roof.mppt.module_1.DCW"] == 200
    assert not [name for name in found if "64110" in name]


async def test_a_scale_factor_that_changes_is_that_of_its_own_value(tmp_path: Path) -> None:
    device = chain(common("SN-1"), inverter(power=2301))
    async with serving({1: device}) as port:
        assert (await Rig(tmp_path, port).values())["roof.inverter.W"] == 2301
    device = chain(common("SN-1"), inverter(power=1234, exponent=1))
    async with serving({1: device}) as port:
        rig = Rig(tmp_path, port)
        assert (await rig.values())["roof.inverter.W"] == 12340
    rows = rig.source.device.rows
    at = {row.tag: row.address for row in rows}["inverter.W_SF"]
    for scan in rig.source.device.plans:
        for block in scan.blocks:
            if "inverter.W" in {rows[i].tag for i in block.rows}:
                assert 0 <= at - block.request.address < block.request.quantity


@pytest.mark.parametrize("in_flight", [1, 4])
async def test_a_scale_factor_that_changes_between_two_requests_gives_no_wrong_value(
    tmp_path: Path, in_flight: int
) -> None:
    # Fourteen trackers: those behind the fifth are too far from the scale factors for one request.
    modules, state = 14, {"exponent": 0, "reads": 0}
    address = {"DCW_SF": 0}
    layout = at_once(found_in(chain(mppt(modules)))).rows("roof", 1)
    at = {row.tag.removeprefix("mppt."): row.address for row in layout}
    address["DCW_SF"] = at["DCW_SF"]

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        state["reads"] += 1
        if state["reads"] % 31 == 0:
            state["exponent"] ^= 1
        registers = chain(mppt(modules))
        registers[address["DCW_SF"]] = state["exponent"]
        for number in range(1, modules + 1):
            registers[at[f"module_{number}.DCW"]] = 200 * number // 10 ** state["exponent"]
        words = [registers.get(asked.address + i) for i in range(asked.quantity)]
        if None in words:
            writer.write(frame(asked, bytes([0x83, 2])))
            return
        block = struct.pack(f">{len(words)}H", *words)
        writer.write(frame(asked, bytes([3, len(block)]) + block))

    good = bad = 0
    async with hostile() as device:
        device.usual = answer
        rig = Rig(tmp_path, device.port, in_flight=in_flight)
        async with rig.source.session() as session:
            for _ in range(90):
                for name, value in rig.read((await session.read()).frame).items():
                    if name.endswith(".DCW"):
                        number = int(name.split("module_")[1].split(".")[0])
                        assert value in (200 * number, Quality.BAD_SENSOR_FAILURE)
                        good, bad = good + (value == 200 * number), bad + isinstance(value, Quality)
    assert good > bad > 0


async def test_several_units_share_a_line_and_one_that_is_away_costs_itself(tmp_path: Path) -> None:
    units = {"1": "roof", "2": "barn", "3": "gone"}
    there = {1: chain(common("SN-1"), inverter()), 2: chain(common("SN-2"), inverter(power=7))}
    async with serving(there) as port:
        rig = Rig(tmp_path, port, sunspec={"units": units}, response_timeout=0.3)
        found = await rig.values(6)
        assert "unit id 3" in rig.source.stats.error_last
    expected(found)
    assert found["barn.inverter.W"] == 7
    assert not [name for name in found if name.startswith("gone.")]


async def test_a_unit_that_comes_while_others_are_read_is_read_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile, "PAUSE_FIRST_S", 0.05)
    roof = chain(common("SN-1"), inverter())
    async with serving({1: roof}) as port:
        units = {"units": {"1": "roof", "2": "barn"}}
        rig = Rig(tmp_path, port, sunspec=units, response_timeout=0.3)
        opened = rig.source.session()
        session = await opened.__aenter__()
        assert "barn.inverter.W" not in rig.read((await session.read()).frame)
    barn, found = chain(common("SN-2"), inverter(power=7), base=50000), {}
    async with asyncio.timeout(60), serving({1: roof, 2: barn}, port):
        while found.get("barn.inverter.W") != 7 or "roof.common.SN" not in found:
            found |= rig.read((await session.read()).frame)
        await opened.__aexit__(None, None, None)
    expected(found)
    assert {tag.name for tag in rig.table} == {rig.table[int(i)].name for i in rig.source.tag_ids}


async def test_a_unit_that_comes_late_is_read_from_then_on(tmp_path: Path) -> None:
    map_ = tmp_path / "own.csv"
    map_.write_text("asset,tag,unit_id,address\nplc,x,9,3\n")
    nothing = {1: {5: 0}, 9: {3: 33}}
    async with serving(nothing) as port:
        rig = Rig(tmp_path, port, map=map_)
        async with rig.source.session() as session:
            assert rig.read((await session.read()).frame) == {"plc.x": 33}
            assert 'no "SunS"' in rig.source.stats.error_last
    async with serving({1: chain(common("SN-1"), inverter()), 9: {3: 34}}) as port:
        rig.source.device.settings = rig.source.device.settings.model_copy(update={"port": port})
        found = await rig.values(6)
    expected(found)
    assert found["plc.x"] == 34


async def test_what_a_device_had_is_known_while_it_is_away(tmp_path: Path) -> None:
    async with serving({1: chain(common("SN-1"), inverter())}) as port:
        await Rig(tmp_path, port).values()
    rig = Rig(tmp_path, port)
    names = {rig.table[int(i)].name for i in rig.source.tag_ids}
    assert {"roof.inverter.W", "roof.common.SN"} <= names
    with pytest.raises(SourceUnavailable):
        async with rig.source.session():
            pass


async def test_another_device_at_the_same_address_is_not_read_by_the_old_ones_map(
    tmp_path: Path,
) -> None:
    async with serving({1: chain(common("SN-1"), inverter())}) as port:
        await Rig(tmp_path, port).values()
    async with serving({1: chain(common("SN-1"), mppt(2), inverter())}) as port:
        rig = Rig(tmp_path, port)
        found = await rig.values()
    expected(found)
    assert found["roof.mppt.module_2.DCW"] == 400
    assert rig.file.read_text() == csv_text(rig.source.profile.rows)  # type: ignore[union-attr]


@pytest.mark.parametrize("is_alone", [True, False])
async def test_a_device_that_becomes_another_one_while_it_is_read_gives_no_wrong_value(
    tmp_path: Path, *, is_alone: bool
) -> None:
    old = chain(common("SN-1"), inverter(), mppt(2))
    new = chain(common("SN-1"), mppt(4), inverter(power=77), mppt(1))
    registers: dict[int, int] = dict(old)

    async def act(
        _function: int, start: int, address: int, count: int, words: list[int], _: Any
    ) -> None:
        now = [registers.get(start + i, 0) for i in range(len(words))]
        words[address - start : address - start + count] = now[address - start :][:count]

    data = SimData(40000, count=400, datatype=DataType.REGISTERS)
    devices = [SimDevice(id=1, simdata=[data], action=act)]
    devices += [] if is_alone else [SimDevice(id=2, simdata=_blocks(chain(inverter())))]
    server = ModbusTcpServer(devices, address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    port = server.transport.sockets[0].getsockname()[1]  # type: ignore[union-attr] - a server
    units = {"1": "roof"} | ({} if is_alone else {"2": "barn"})
    rig = Rig(tmp_path, port, sunspec={"units": units})
    seen: list[dict[str, Any]] = []
    async with asyncio.timeout(60), rig.source.session() as session:
        while not seen or seen[-1].get("roof.inverter.W") != 2301:
            seen.append(rig.read((await session.read()).frame))
        registers.clear()
        registers.update(new)
        before = len(seen)
        while seen[-1].get("roof.inverter.W") != 77:
            seen.append(rig.read((await session.read()).frame))
            assert len(seen) < before + 200
    await server.shutdown()
    for found in seen[before:]:
        for name, value in found.items():
            if name.startswith("roof.inverter.") and name.endswith((".W", ".A", ".WH", ".St")):
                right = {"W": 77, "A": 12.5, "WH": 1234560, "St": "MPPT"}[name.rpartition(".")[2]]
                assert value in (right, Quality.BAD_CONFIGURATION, Quality.BAD_NO_COMMUNICATION)
    assert rig.source.stats.errors_total["unexpected"] >= 1
    tags = {row.tag for row in rig.source.device.rows}
    assert {"mppt.module_4.DCW", "mppt_2.module_1.DCW"} <= tags


async def test_a_device_that_is_silent_where_it_has_nothing_is_found_all_the_same(
    tmp_path: Path,
) -> None:
    registers = chain(common("SN-1"), inverter(), base=0)

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        words = [registers.get(asked.address + i) for i in range(asked.quantity)]
        if None in words:
            return
        block = struct.pack(f">{len(words)}H", *words)
        writer.write(frame(asked, bytes([3, len(block)]) + block))

    async with hostile() as device:
        device.usual = answer
        rig = Rig(tmp_path, device.port, response_timeout=0.3)
        for _ in range(2):
            with pytest.raises(SourceUnavailable):
                await rig.values()
        expected(await rig.values())


async def test_a_standby_with_another_layout_is_not_read_by_the_first_ones(tmp_path: Path) -> None:
    async with serving({1: chain(common("SN-1"), inverter())}) as port:
        expected(await Rig(tmp_path, port).values())
    async with serving({1: chain(mppt(1), common("SN-1"), inverter(), base=0)}) as other:
        facts = {"standby": f"tcp://127.0.0.1:{other}", "standby_failures": 1}
        rig = Rig(tmp_path, port, **facts)
        found = await rig.values()
    assert rig.source.stats.on_standby
    expected(found)
    assert found["roof.mppt.module_1.DCW"] == 200


@pytest.mark.parametrize(
    "stored", ["", "asset,tag\nx", "\0\xff", "asset,tag,address\nroof,a,99999\n"]
)
async def test_a_stored_profile_that_is_damaged_is_asked_for_anew(
    tmp_path: Path, stored: str
) -> None:
    (tmp_path / "roof.sunspec.csv").write_text(stored)
    async with serving({1: chain(common("SN-1"), inverter())}) as port:
        expected(await Rig(tmp_path, port).values())


async def test_a_device_without_a_marker_is_refused_with_what_to_do(tmp_path: Path) -> None:
    async with serving({1: dict.fromkeys(range(200), 1)}) as port:
        rig = Rig(tmp_path, port)
        with pytest.raises(SourceUnavailable, match="40000, 50000, 0") as refused:
            await rig.values()
    assert "sunspec.base" in refused.value.hint


async def test_models_and_points_are_chosen(tmp_path: Path) -> None:
    async with serving({1: chain(common("SN-1"), inverter(), mppt(2))}) as port:
        chosen = {"models": [103, 160], "points": ["W", "mppt.module_2.DC*"]}
        found = await Rig(tmp_path, port, sunspec=chosen).values()
    tags = {name.removeprefix("roof.") for name in found}
    assert "inverter.W" in tags
    assert "mppt.module_2.DCW" in tags
    assert not tags & {"common.SN", "inverter.A", "mppt.module_1.DCW"}


async def test_a_name_that_is_taken_costs_that_tag_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving({1: chain(common("SN-1"), inverter())}) as port:
        for _ in range(2):  # found now, and known from before
            rig = Rig(tmp_path, port, taken=["roof.inverter.Hz", "roof.inverter.VA_SF"])
            found = await rig.values()
            expected(found)
            assert "roof.inverter.Hz" not in found
            assert found["roof.inverter.VA"] is Quality.BAD_SENSOR_FAILURE
    assert "sunspec.left_out source=roof tags=2" in caplog.text


def test_what_is_found_is_a_register_map_that_says_the_same(tmp_path: Path) -> None:
    for model_id in models():
        length = models()[model_id].points_size + 60
        registers = chain([model_id, length, *[2] * length])
        rows = at_once(found_in(registers, models=[model_id])).rows("dev", 7)
        path = tmp_path / "map.csv"
        path.write_text(csv_text(rows))
        again = load_register_map(path, {"default": 1.0, "slow": 1.0})
        assert [str(problem) for problem in again.problems] == []
        assert list(again.rows) == rows


# --- chains that break off ---------------------------------------------------------------------


def found_at_once(registers: Mapping[int, int]) -> Discovered:
    return at_once(found_in(registers))


def test_a_missing_end_marker_costs_nothing() -> None:
    found = found_at_once(chain(common("SN-1"), inverter(), end=[]))
    assert [model.model_id for model in found.models] == [1, 103]
    assert decoded(found.rows("a", 1), chain(common("SN-1"), inverter()))["inverter.W"] == 2301
    assert any("no end marker" in note for note in found.notes)


@pytest.mark.parametrize("length", [65535, 30000, 5000])
def test_a_length_that_cannot_be_costs_what_is_behind_it(length: int) -> None:
    registers = chain(common("SN-1"), inverter(), [160, length, *mppt(2)[2:]], end=[])
    found = found_at_once(registers)
    rows = found.rows("a", 1)
    assert {row.tag.split(".")[0] for row in rows} >= {"common", "inverter"}
    assert len(rows) < 100
    assert any("breaks off" in note or "says" in note for note in found.notes)


@pytest.mark.parametrize("left", [0, 1, 2, 3, 20, 68, 69, 70, 71, 100])
def test_a_chain_cut_anywhere_gives_what_is_whole(left: int) -> None:
    whole = chain(common("SN-1"), inverter(), mppt(2))
    cut = {address: word for address, word in whole.items() if address < 40002 + left}
    found = found_at_once(cut)
    assert [model.model_id for model in found.models] == [1, 103, 160][: (left > 1) + (left > 69)]
    assert found.notes


def test_zeros_behind_a_model_end_the_chain() -> None:
    found = found_at_once(chain(inverter(), end=[0] * 40))
    assert [model.model_id for model in found.models] == [103]
    assert any("breaks off" in note for note in found.notes)


def test_a_model_shorter_than_its_definition_has_no_value_of_its_neighbours() -> None:
    found = found_at_once(chain(inverter(length=14), mppt(1)))
    rows = found.rows("a", 1)
    assert "inverter.W" in {row.tag for row in rows}
    assert "inverter.Hz" not in {row.tag for row in rows}
    assert any("Hz" in note for note in found.notes)


@given(
    st.lists(
        st.one_of(st.sampled_from([0xFFFF, 0, 1, 103, 160, 705, 66]), st.integers(0, 65535)),
        max_size=60,
    )
)
@settings(max_examples=60, deadline=None)
def test_any_registers_raise_nothing_but_ours(words: list[int]) -> None:
    try:
        found = found_at_once(chain(words, end=[]))
    except NoMarker:
        return
    for row in found.rows("a", 1):
        assert 40002 <= row.address <= 65535
