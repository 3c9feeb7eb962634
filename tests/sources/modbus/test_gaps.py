"""Gaps that are worth reading over are found by trying, and trying costs no tag a value."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.asset import Assets, AssetSettings
from gateway.cli.main import main
from gateway.clock import SystemClock
from gateway.sources import SourceContext
from gateway.sources.modbus.config import GAP_MAX, ModbusTcpSettings, RegisterRow
from gateway.sources.modbus.gaps import TRIES, GapSearch
from gateway.sources.modbus.learned import load_learned, save_learned
from gateway.sources.modbus.plan import Block, Learned, Verdict, plan
from gateway.sources.modbus.source import ModbusSource, build
from gateway.tag import TagTable
from tests.sources.modbus.lying import Answer, Asked, Hostile, hostile, refuse, well

FIRST, SECOND = range(4), range(40, 44)


@pytest.fixture
async def device() -> AsyncIterator[Hostile]:
    async with hostile() as found:
        yield found


def source_of(folder: Path, port: int, registers: list[int], **more: object) -> ModbusSource:
    rows = [f"a,r{register},{register}" for register in registers]
    (folder / "map.csv").write_text("\n".join(["asset,tag,address", *rows]))
    base: dict[str, object] = {
        "type": "modbus-tcp",
        "name": "plc",
        "host": "127.0.0.1",
        "port": port,
        "map": folder / "map.csv",
        "scan_classes": {"default": 0.05},
        "response_timeout": 1.0,
    }
    assets = Assets(
        [AssetSettings.model_validate({"name": "*", "class": "c"})], gateway="g", site=""
    )
    context = SourceContext(
        clock=SystemClock(),
        table=TagTable(),
        assets=assets,
        gateway_name="g",
        has_room=lambda: True,
        directory=folder / "sources",
    )
    return build(ModbusTcpSettings.model_validate(base | more), context)


async def read(source: ModbusSource, scans: int) -> None:
    """Scan so often; every value must be there and right, whatever is tried beside it."""
    async with source.session() as session:
        for _ in range(scans):
            frame = (await session.read()).frame
            assert not frame.quality.any()
            assert frame.values.tolist() == [
                float(source.context.table[i].name.split(".r")[1]) for i in frame.tag_ids.tolist()
            ]


def taking(request_s: float, register_s: float) -> Answer:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(request_s + register_s * asked.quantity)
        await well(asked, writer)

    return answer


def over_the_gap(how: Answer) -> Answer:
    """A device that has no addresses but those of the map."""

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await (how if asked.quantity > len(FIRST) else well)(asked, writer)

    return answer


async def silent(asked: Asked, writer: asyncio.StreamWriter) -> None:
    pass


def requests(source: ModbusSource) -> list[tuple[int, int]]:
    (scan,) = source.device.plans
    return [(each.request.address, each.request.quantity) for each in scan.blocks]


def verdicts(source: ModbusSource) -> dict[tuple[int, int], str]:
    return {span: str(said) for span, said in source.device.learned.gaps[1, 3].items()}


TWO, ONE = [(0, 4), (40, 4)], [(0, 44)]
SCANS = 2 * TRIES + 4


async def test_a_device_that_is_slow_to_answer_is_asked_once_over_the_gap(
    device: Hostile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    device.usual = taking(0.005, 0.0)
    source = source_of(tmp_path, device.port, [*FIRST, *SECOND])
    assert requests(source) == TWO
    await read(source, SCANS)
    assert requests(source) == ONE
    assert (
        "modbus.gap source=plc unit_id=1 function=3 addresses=4-39 read_over=quicker" in caplog.text
    )
    # The next process knows, and `check` says so.
    assert requests(source_of(tmp_path, device.port, [*FIRST, *SECOND])) == ONE


async def test_a_device_that_is_slow_a_register_is_not(device: Hostile, tmp_path: Path) -> None:
    device.usual = taking(0.001, 0.0004)
    source = source_of(tmp_path, device.port, [*FIRST, *SECOND, 100, 101])
    await read(source, SCANS)
    # Nor is the larger gap tried: it costs more.
    assert requests(source) == [*TWO, (100, 2)]
    assert verdicts(source) == {(4, 40): "slower"}
    assert (0, 102) not in {(asked.address, asked.quantity) for asked in device.asked}


async def test_what_lies_between_two_requests_counts(device: Hostile, tmp_path: Path) -> None:
    device.usual = taking(0.001, 0.0001)
    source = source_of(tmp_path, device.port, [*FIRST, *SECOND], request_pause=0.01)
    await read(source, SCANS)
    assert requests(source) == ONE


@pytest.mark.parametrize(("how", "word"), [(refuse(2), "refused"), (silent, "silent")])
async def test_a_gap_that_the_device_has_not_costs_no_tag_its_value(
    device: Hostile, tmp_path: Path, how: Answer, word: str
) -> None:
    device.usual = over_the_gap(how)
    source = source_of(tmp_path, device.port, [*FIRST, *SECOND], scan_classes={"default": 0.1})
    await read(source, SCANS)
    assert requests(source) == TWO
    assert verdicts(source) == {(4, 40): word}
    assert sum(asked.quantity == 44 for asked in device.asked) == 2


async def test_a_new_device_that_ignores_the_gap_is_read_without_it(
    device: Hostile, tmp_path: Path
) -> None:
    source = source_of(tmp_path, device.port, [*FIRST, *SECOND], response_timeout=0.3)
    source.device.learned.gaps[1, 3][4, 40] = Verdict.QUICKER
    source.device.replan()
    await read(source, 2)
    assert requests(source) == ONE
    device.usual = over_the_gap(silent)
    bad = 0
    for _ in range(5):  # sessions, as supervision begins them
        try:
            async with source.session() as session:
                while (await session.read()).frame.quality.any():
                    bad += 1
                break
        except Exception as error:  # noqa: BLE001 - a session that ended because nothing answered
            assert "no unit id answers" in str(error)  # noqa: PT017
            bad += 1
    assert bad <= 4
    assert requests(source) == TWO


@pytest.mark.parametrize(
    "more",
    [
        {"gap_max": 8},
        {"never_read": ["holding_register 20-21"]},
        {"registers_max": 43},
        {"one_request_a_tag": True},
        {"in_flight": 4},
    ],
    ids=lambda more: next(iter(more)),
)
async def test_what_the_configuration_rules_out_is_not_tried(
    device: Hostile, tmp_path: Path, more: dict[str, object]
) -> None:
    source = source_of(tmp_path, device.port, [*FIRST, *SECOND], **more)
    before = requests(source)
    await read(source, SCANS)
    assert requests(source) == before
    assert max(asked.quantity for asked in device.asked) <= 4
    assert not source.has_business


async def test_a_line_with_no_time_to_spare_is_tried_all_the_same(
    device: Hostile, tmp_path: Path
) -> None:
    device.usual = taking(0.02, 0.0)
    source = source_of(tmp_path, device.port, [*FIRST, *SECOND], scan_classes={"default": 0.041})
    await read(source, 80)
    assert requests(source) == ONE


def test_check_says_what_is_read_over_and_how_to_forbid_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "map.csv").write_text("asset,tag,address\na,x,0\na,y,40\na,z,90\n")
    (tmp_path / "sluicegate.toml").write_text(
        '[gateway]\nname = "g"\ndata_dir = "data"\n'
        '[[source]]\ntype = "modbus-tcp"\nname = "plc"\nhost = "127.0.0.1"\nmap = "map.csv"\n'
        '[[asset]]\nname = "a"\nclass = "c"\n'
    )
    learned = Learned()
    learned.gaps[1, 3] = {(1, 40): Verdict.QUICKER, (41, 90): Verdict.SILENT}
    save_learned(tmp_path / "data" / "sources" / "plc.json", learned, [])
    assert main(["check", str(tmp_path / "sluicegate.toml")]) == 0
    said = capsys.readouterr().out
    assert "unit 1, function 3: 1-39 is read over, because that is quicker" in said
    assert "unit 1, function 3: 41-89 is not read over: the device did not answer" in said
    assert "0-40" in said  # the request


async def test_what_a_device_takes_to_answer_is_measured_and_planned_with(
    device: Hostile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device.usual = taking(0.03, 0.0)
    source = source_of(tmp_path, device.port, [0], scan_classes={"default": 0.04})
    await read(source, TRIES + 1)
    assert 0.03 <= source.device.learned.answer_s[1] < 0.5
    (tmp_path / "sluicegate.toml").write_text(
        f'[gateway]\nname = "g"\ndata_dir = "{tmp_path}"\n'
        '[[source]]\ntype = "modbus-tcp"\nname = "plc"\nhost = "127.0.0.1"\nmap = "map.csv"\n'
        'scan_classes = { default = "20ms" }\n[[asset]]\nname = "a"\nclass = "c"\n'
    )
    assert main(["check", str(tmp_path / "sluicegate.toml")]) == 0
    said = capsys.readouterr()
    assert "as measured before" in said.err + said.out
    assert re.search(r"unit 1 answers within \d+ ms, as measured", said.out)
    # What a person says goes before it.
    text = (tmp_path / "sluicegate.toml").read_text()
    told = text.replace('map = "map.csv"', 'map = "map.csv"\nanswer_time = "2ms"')
    (tmp_path / "sluicegate.toml").write_text(told)
    assert main(["check", str(tmp_path / "sluicegate.toml")]) == 0
    assert "busy for 10.0%" in capsys.readouterr().out


def test_verdicts_are_kept_in_the_file(tmp_path: Path) -> None:
    learned = Learned()
    learned.gaps[2, 4] = {(7, 30): Verdict.QUICKER, (31, 60): Verdict.REFUSED}
    save_learned(tmp_path / "plc.json", learned, [])
    assert load_learned(tmp_path / "plc.json", []).gaps == learned.gaps
    said = json.loads((tmp_path / "plc.json").read_text())
    del said["gaps"]  # as an older version wrote it
    (tmp_path / "plc.json").write_text(json.dumps(said))
    assert not load_learned(tmp_path / "plc.json", []).gaps


@dataclass
class Asking:
    """A block as a device with these costs would answer it."""

    block: Block
    reads: int = TRIES

    @property
    def least_ns(self) -> int:
        return cost_ns(self.block.request.quantity)


def cost_ns(quantity: int) -> int:
    return 2_000_000 + 50_000 * quantity


@given(st.sets(st.integers(0, 400), min_size=1, max_size=30))
def test_the_search_ends_with_every_gap_decided_rightly(used: set[int]) -> None:
    """Of a device with equal costs everywhere: just the gaps of less than a request's cost."""
    settings = ModbusTcpSettings.model_validate(
        {"type": "modbus-tcp", "name": "plc", "host": "h", "map": "m.csv"}
    )
    rows = [RegisterRow(asset="a", tag=f"t{address}", address=address) for address in sorted(used)]
    learned, tried = Learned(), 0
    while True:
        (scan,) = plan(rows, settings, learned)
        gap = GapSearch([[Asking(block) for block in scan.blocks]], rows, settings, learned).next()
        if gap is None:
            break
        tried += 1
        gap.took_ns = [cost_ns(gap.request.quantity)] * TRIES
        verdict = gap.verdict(0)
        assert verdict is not None
        assert (verdict is Verdict.QUICKER) == (gap.size < 40)
        learned.gaps[gap.place][gap.span] = verdict
    assert tried <= len(used)
    blocks = [block.request for block in scan.blocks]
    for one, other in pairwise(blocks):
        size = other.address - one.address - one.quantity
        both = other.address + other.quantity - one.address
        assert size >= 40 or both > 125 or size <= GAP_MAX
