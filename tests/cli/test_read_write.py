"""`sluicegate read` and `write` against servers that are not ours."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymodbus.framer import FramerType
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from gateway.cli.main import main
from gateway.errors import SluicegateError
from gateway.sources.modbus.config import ModbusRtuSettings, ModbusTcpSettings
from gateway.sources.modbus.endpoint import row_at, settings_at


def serving(framer: FramerType) -> Iterator[int]:
    """A pymodbus server in a thread of its own, since the commands have their own loop."""
    loop, started = asyncio.new_event_loop(), threading.Event()
    port: list[int] = []

    async def serve() -> None:
        data = [
            SimData(0, count=200, values=7, datatype=DataType.REGISTERS),
            SimData(300, count=1, values=8, datatype=DataType.REGISTERS),
            SimData(304, count=1, values=9, datatype=DataType.REGISTERS),
        ]
        device = SimDevice(1, simdata=data)
        server = ModbusTcpServer(device, framer=framer, address=("127.0.0.1", 0))
        await server.listen()
        assert server.transport is not None
        port.append(server.transport.sockets[0].getsockname()[1])
        started.set()
        await stop.wait()
        await server.shutdown()

    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert started.wait(30)
    yield port[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(30)
    loop.close()


@pytest.fixture
def port() -> Iterator[int]:
    yield from serving(FramerType.SOCKET)


@pytest.fixture
def rtu_port() -> Iterator[int]:
    yield from serving(FramerType.RTU)


def test_values_are_written_and_read_at_the_addresses_of_a_map(
    port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    at = f"tcp://127.0.0.1:{port}?response_timeout=10s"
    assert main(["write", at, "40011", "-2.5", "--type", "float32", "--order", "CDAB"]) == 0
    assert main(["read", at, "holding_register:10", "--type", "float32", "--order", "CDAB"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["holding_register:10", "-2.5"]
    assert main(["read", at, "40001", "--count", "3", "--wire"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[1] for line in out.splitlines()[:3]] == ["7", "7", "7"]
    assert "03 00 00 00 03" in out
    assert main(["write", at, "5", "on", "--bit", "3"]) == 0
    assert capsys.readouterr().out.split() == ["5", "15"]


def test_with_a_map_its_limits_hold(
    port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.csv"
    path.write_text(
        "asset,tag,address,data_type,scale,low,high,eng_unit,writable,bits\n"
        "p,level,0,uint16,0.1,0,50,%,true,\n"
        "p,fixed,1,uint16,1,0,50,%,,\n"
        "q,pump,2,uint16,,,,,true,5\n",
        encoding="utf-8",
    )
    at = f"tcp://127.0.0.1:{port}?response_timeout=10s"
    assert main(["write", at, "--map", str(path), "p.level", "12.5"]) == 0
    assert main(["write", at, "--map", str(path), "p.level", "50.1"]) == 69
    assert main(["write", at, "--map", str(path), "p.fixed", "1"]) == 69
    assert main(["write", at, "--map", str(path), "q.pump", "on"]) == 0
    assert main(["write", at, "--map", str(path), "q.pump", "5"]) == 69
    capsys.readouterr()
    assert main(["write", at, "--map", str(path), "p.level", "on", "--bit", "15"]) == 69
    assert "--bit does not go with --map" in capsys.readouterr().err
    assert main(["write", at, "--map", str(path), "p.level", "99"]) == 69
    assert "sluicegate: p.level: 99 is not from 0 to 50" in capsys.readouterr().err
    assert main(["read", at, "--map", str(path), "p.*"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["p.level", "12.5", "%"],
        ["p.fixed", "7", "%"],
    ]


def test_values_are_read_with_the_power_of_ten_that_the_device_keeps(
    port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.csv"
    path.write_text(
        "asset,tag,address,data_type,scale_from,scan_class\n"
        "p,power,10,uint16,power_sf,default\np,power_sf,50,int16,,slow\n",
        encoding="utf-8",
    )
    at = f"tcp://127.0.0.1:{port}?response_timeout=10s"
    for address, value in (("holding_register:10", "230"), ("holding_register:50", "-1")):
        kind = ["--type", "int16"] if value == "-1" else []
        assert main(["write", at, address, *kind, "--", value]) == 0
    capsys.readouterr()
    assert main(["read", at, "--map", str(path), "p.power"]) == 0
    assert capsys.readouterr().out.split() == ["p.power", "23"]


def test_a_device_that_refuses_is_said_to(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", f"tcp://127.0.0.1:{port}?response_timeout=10s", "45000"]) == 1
    assert "exception code 2" in capsys.readouterr().out


def test_an_address_that_is_there_is_read_beside_one_that_is_not(
    port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    at = f"tcp://127.0.0.1:{port}?response_timeout=10s"
    places = ["holding_register:300", "holding_register:302", "holding_register:304"]
    assert main(["read", at, *places]) == 1
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in said] == [
        ["holding_register:300", "8"],
        ["holding_register:302", "refused:"],
        ["holding_register:304", "9"],
    ]


def test_with_a_table_a_number_is_an_address(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    at = f"tcp://127.0.0.1:{port}?response_timeout=10s"
    assert main(["read", at, "40001", "--table", "holding_register"]) == 1
    assert "at address 40001" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("uint64", "123456789012345"),
        ("uint64", "18446744073709551615"),
        ("int64", "-9007199254740993"),
        ("float64", "1234567.123456789"),
        ("float32", "0.1"),
        ("float32", "16777216"),
        ("float32", "-1.5e-07"),
        ("float16", "0.1"),
    ],
)
def test_all_digits_of_a_value_are_shown(
    port: int, kind: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    at = f"tcp://127.0.0.1:{port}?response_timeout=10s"
    assert main(["write", at, "40101", "--type", kind, "--", value]) == 0
    assert main(["read", at, "40101", "--type", kind]) == 0
    shown = [line.split()[-1] for line in capsys.readouterr().out.splitlines()]
    assert shown == [value, value]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--unit", "300"], "--unit 300: "),
        (["--type", "float"], "--type float: "),
        (["--order", "abcd"], "--order abcd: "),
        (["--table", "holding"], "--table holding: "),
    ],
)
def test_a_wrong_option_is_named(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["read", "tcp://127.0.0.1:1", "0", *options]) == 69
    assert f"sluicegate: {said}" in capsys.readouterr().err


def test_an_unknown_key_of_an_endpoint_is_said_with_what_is_near(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["read", "tcp://127.0.0.1:1?response_time=1s", "0"]) == 69
    assert "did you mean response_timeout?" in capsys.readouterr().err


def test_a_counter_with_a_scale_keeps_its_digits(
    port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    at = f"tcp://127.0.0.1:{port}?response_timeout=10s"
    assert main(["write", at, "40101", "123456789012345", "--type", "uint64"]) == 0
    capsys.readouterr()
    assert main(["read", at, "40101", "--type", "uint64", "--scale", "0.001"]) == 0
    assert capsys.readouterr().out.split() == ["40101", "123456789012.345"]


def test_rtu_over_tcp_is_read_too(rtu_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    at = f"rtu+tcp://127.0.0.1:{rtu_port}?response_timeout=10s"
    assert main(["read", at, "40001"]) == 0
    assert capsys.readouterr().out.split() == ["40001", "7"]


def test_endpoints_say_what_a_source_does() -> None:
    tls = settings_at("tls://plc?tls_ca=ca.pem")
    assert isinstance(tls, ModbusTcpSettings)
    assert (tls.host, tls.port, tls.tls, tls.tls_ca) == ("plc", 802, True, "ca.pem")
    line = settings_at("rtu:///dev/ttyUSB0?baud_rate=19200&parity=none&stop_bits=2")
    assert isinstance(line, ModbusRtuSettings)
    assert (line.device, line.baud_rate, line.parity, line.stop_bits) == (
        "/dev/ttyUSB0", 19200, "none", 2,
    )  # fmt: skip
    seven = settings_at("ascii:///dev/ttyUSB0?data_bits=7")
    assert isinstance(seven, ModbusRtuSettings)
    assert (seven.framing, seven.data_bits) == ("ascii", 7)
    udp = settings_at("udp://[::1]:1502")
    assert isinstance(udp, ModbusTcpSettings)
    assert (udp.transport, udp.host, udp.port) == ("udp", "::1", 1502)


@pytest.mark.parametrize(
    "endpoint",
    [
        "", "plc", "http://plc", "tcp://", "tcp://plc:99999", "rtu://ttyUSB0", "tcp://plc?x",
        "tcp://plc?nonsense=1", "rtu:///dev/x?baud_rate=7", "tcp://[::1", "tcp://plc?in_flight=x",
    ],
)  # fmt: skip
def test_what_is_no_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(SluicegateError):
        settings_at(endpoint)


@pytest.mark.parametrize("address", ["", "x", "70001", "holding:1", "-1", "holding_register:65536"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(SluicegateError):
        row_at(address)
