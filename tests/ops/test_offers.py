"""Tags offered over Modbus: other makers' clients read them, and nobody writes."""

from __future__ import annotations

import asyncio
import math
import shutil
import struct
from pathlib import Path

import pytest
from pymodbus.client import AsyncModbusTcpClient

from gateway.config.load import load
from gateway.config.offers import Offer, load_offers
from gateway.config.schema import ModbusServerSettings
from gateway.errors import ConfigError
from gateway.ops.offers import serve_offers
from tests.ops.fake_view import FakeView

MAP = """tag,address,data_type,byte_order,scale
pump-1.pressure,0,float32,CDAB,
pump-1.speed,4,uint16,,0.5
pump-1.running,3,bool,,
"""
FORMATS = {"int16": ">h", "uint16": ">H", "int64": ">q", "uint64": ">Q", "float32": ">f"}


@pytest.mark.parametrize("bad", ["exception", "sentinel"])
async def test_a_client_of_another_maker_reads_what_is_offered(
    view: FakeView, tmp_path: Path, bad: str
) -> None:
    (tmp_path / "offers.csv").write_text(MAP, encoding="utf-8")
    settings = ModbusServerSettings.model_validate({"listen": "127.0.0.1:0", "bad": bad})
    view.sample({"pump-1.pressure": 4.25, "pump-1.speed": 1480, "pump-1.running": 1})
    serving = serve_offers(settings, tmp_path, view.table, view.latest, view.clock)
    async with serving as (port, stats):
        client = AsyncModbusTcpClient("127.0.0.1", port=port, timeout=10)
        await client.connect()
        read = await client.read_input_registers(0, count=5)
        kind = client.DATATYPE
        assert client.convert_from_registers(read.registers[:2], kind.FLOAT32, "little") == 4.25
        assert read.registers[2:] == [0, 0, 2960]
        assert (await client.read_coils(3, count=1)).bits[0] is True
        assert (await client.read_holding_registers(5, count=1)).exception_code == 2
        assert (await client.write_register(4, 1)).exception_code == 1
        view.clock.advance(61)
        read = await client.read_input_registers(4, count=1)
        if bad == "exception":
            assert read.exception_code == 4
        else:
            assert read.registers == [65535]
        client.close()
        assert stats.requests_total == 5


@pytest.mark.parametrize("bad", ["exception", "sentinel"])
async def test_a_value_beyond_its_registers_is_offered_as_bad(
    view: FakeView, tmp_path: Path, bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = ["tag,address,data_type,scale", "pump-1.pressure,0,uint16,", "pump-1.speed,1,int16,0.01"]
    (tmp_path / "offers.csv").write_text("\n".join(rows), encoding="utf-8")
    settings = ModbusServerSettings.model_validate({"listen": "127.0.0.1:0", "bad": bad})
    view.sample({"pump-1.pressure": -10.0, "pump-1.speed": 1480})
    serving = serve_offers(settings, tmp_path, view.table, view.latest, view.clock)
    async with serving as (port, _):
        client = AsyncModbusTcpClient("127.0.0.1", port=port, timeout=10)
        await client.connect()
        for address, sentinel in ((0, 0xFFFF), (1, 0x8000), (0, 0xFFFF)):
            read = await client.read_holding_registers(address, count=1)
            if bad == "exception":
                assert read.exception_code == 4
            else:
                assert read.registers == [sentinel]
        client.close()
    assert caplog.text.count("offers.beyond tag=pump-1.pressure value=-10.0") == 1


@pytest.mark.parametrize("kind", ["int16", "uint16", "int64", "uint64", "float32"])
def test_what_is_offered_is_what_was_meant_or_nothing(kind: str) -> None:
    offer = Offer("a.b", 0, kind)
    for value in (-(2**63), -32769, -1, 0, 65535, 65536, 2**63, 2**64 - 1, 1e39, math.inf):
        raw = offer.encode(value)
        if raw is not None:
            (back,) = struct.unpack(FORMATS[kind], raw)
            assert back == pytest.approx(value, rel=1e-7), value
        else:
            assert kind != "float32" or value == 1e39


@pytest.mark.skipif(not shutil.which("mbpoll"), reason="mbpoll is not installed")
async def test_mbpoll_reads_what_is_offered(view: FakeView, tmp_path: Path) -> None:
    (tmp_path / "offers.csv").write_text(MAP, encoding="utf-8")
    settings = ModbusServerSettings(listen="127.0.0.1:0")
    view.sample({"pump-1.speed": 1480})
    serving = serve_offers(settings, tmp_path, view.table, view.latest, view.clock)
    async with serving as (port, _):
        mbpoll = await asyncio.create_subprocess_exec(
            *("mbpoll", "-m", "tcp", "-p", str(port), "-r", "5", "-1", "-o", "10", "127.0.0.1"),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await mbpoll.communicate()
    assert "2960" in out.decode()


def test_a_map_with_mistakes_names_each_row(tmp_path: Path) -> None:
    path = tmp_path / "offers.csv"
    rows = "a,x,,,\n,1,,,\na,1,strange,,\nb,2,,XYZ,\nc,3,,,0\nd,10,,,\ne,11,,,\n"
    path.write_text("tag,address,data_type,byte_order,scale\n" + rows, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_offers(path)
    places = [problem.place for problem in caught.value.problems]
    assert places == ["row 2", "row 3", "row 4", "row 5", "row 6", "row 8"]


async def test_an_alarm_is_a_bit(view: FakeView, tmp_path: Path) -> None:
    """A PLC asks for it like for any other; it is refused where no model watches the asset."""
    rows = [
        "tag,address,data_type",
        "line.pump-1.health.alarm,0,bool",
        "pump-2.health.alarm,1,bool",
    ]
    (tmp_path / "offers.csv").write_text("\n".join(rows))
    settings = ModbusServerSettings(listen="127.0.0.1:0")
    is_open: dict[tuple[str, str], bool] = {("health", "line.pump-1"): False}
    serving = serve_offers(
        settings, tmp_path, view.table, view.latest, view.clock,
        lambda model, asset: is_open.get((model, asset)),
    )  # fmt: skip
    async with serving as (port, _):
        client = AsyncModbusTcpClient("127.0.0.1", port=port, timeout=10)
        await client.connect()
        assert (await client.read_discrete_inputs(0, count=1)).bits[0] is False
        is_open["health", "line.pump-1"] = True
        assert (await client.read_discrete_inputs(0, count=1)).bits[0] is True
        assert (await client.read_discrete_inputs(1, count=1)).exception_code == 4
        client.close()


def test_check_reads_the_map_and_names_what_is_no_tag(tmp_path: Path) -> None:
    (tmp_path / "map.csv").write_text("asset,tag,unit_id,address\npump-1,flow,1,0\n")
    config = tmp_path / "s.toml"
    config.write_text(
        f'[gateway]\nname = "g"\ndata_dir = "{tmp_path}/data"\n'
        '[gateway.modbus_server]\nlisten = "127.0.0.1:1502"\n'
        '[[source]]\ntype = "modbus-tcp"\nname = "plc"\nhost = "10.1.2.3"\nmap = "map.csv"\n'
        '[[asset]]\nname = "*"\nclass = "pump"\n'
    )
    offers = tmp_path / "offers.csv"
    with pytest.raises(ConfigError, match=r"offers\.csv cannot be read"):
        load(config)
    offers.write_text("tag,address\npump-1.flow,0\npump-1.flaw,1\n")
    with pytest.raises(ConfigError, match=r"address 1 is that of pump-1\.flow too"):
        load(config)
    offers.write_text(
        "tag,address,data_type\npump-1.flow,0,\npump-1.flaw,2,\npump-1.x.alarm,0,bool\n"
    )
    said = [str(warning) for warning in load(config).warnings]
    assert any('pump-1.flaw, which is no tag. Did you mean "pump-1.flow"?' in one for one in said)
    assert any("pump-1.x.alarm, which is no tag" in one for one in said)
    assert not any("pump-1.flow, which" in one for one in said)
