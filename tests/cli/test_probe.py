"""`sluicegate probe` against a server that is not ours: what it proposes is what is there."""

from __future__ import annotations

import asyncio
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from pymodbus.framer import FramerType
from pymodbus.pdu.device import ModbusDeviceIdentification
from pymodbus.server import ModbusTcpServer, ModbusTlsServer
from pymodbus.simulator import DataType, SimData, SimDevice

from gateway.cli.main import main
from gateway.sources.modbus.guess import guess
from gateway.sources.modbus.rows import load_register_map
from simulators.serial_line import serial_line
from tests.sources.modbus.test_interop import Authority


def words(data: bytes) -> list[int]:
    return list(struct.unpack(f">{len(data) // 2}H", data))


def block(value: float, count: int) -> list[int]:
    swapped = words(struct.pack(">f", value))[::-1]
    return [
        *words(struct.pack(">f", value)),
        *swapped,
        1480,
        *words(b"NB 32-16"),
        65516,
        *words(struct.pack(">I", 3_000_000 + count)),
    ]


def test_a_live_block_is_read_by_size_and_smoothness() -> None:
    looks = np.array([block(21.37 + 0.013 * i, 40 * i) for i in range(8)], np.uint16)
    found = [(each.offset, each.data_type.value, each.byte_order.value) for each in guess(looks)]
    assert found == [
        (0, "float32", "ABCD"),
        (2, "float32", "CDAB"),
        (4, "uint16", "ABCD"),
        (5, "string", "ABCD"),
        (9, "int16", "ABCD"),
        (10, "uint32", "ABCD"),
    ]


def test_any_registers_are_each_in_one_guess() -> None:
    random = np.random.default_rng(1)
    for _ in range(200):
        looks = random.integers(0, 65536, (int(random.integers(1, 5)), 40)).astype(np.uint16)
        found = guess(looks)
        assert [each.offset for each in found[1:]] == [
            each.offset + each.registers for each in found[:-1]
        ]
        assert found[-1].offset + found[-1].registers == 40


def device() -> SimDevice:
    values = block(21.37, 0)
    data = [
        SimData(0, values=values, datatype=DataType.REGISTERS),
        SimData(70, count=10, values=5, datatype=DataType.REGISTERS),
    ]
    sunspec = [*words(b"SunS"), 1, 65, *words(b"Maker".ljust(130, b"\0")), 64110, 1, 5]
    data.append(SimData(40000, values=[*sunspec, 0xFFFF, 0], datatype=DataType.REGISTERS))
    return SimDevice(3, simdata=data)


WHO = ModbusDeviceIdentification(info_name={"VendorName": "Works", "ProductCode": "P7"})
HERE = ("127.0.0.1", 0)
Facts: TypeAlias = tuple[int, str]
"""The server's port, and the terminal that leads there ("" = none)."""


@contextmanager
def serving(make: Callable[[], ModbusTcpServer], *, on_a_line: bool = False) -> Iterator[Facts]:
    """A server in a thread of its own, as the command runs an event loop itself."""
    loop, started = asyncio.new_event_loop(), threading.Event()
    facts: list[Facts] = []
    stop = asyncio.Event()

    async def serve() -> None:
        server = make()
        await server.listen()
        assert server.transport is not None
        port = server.transport.sockets[0].getsockname()[1]
        async with AsyncExitStack() as opened:
            line = serial_line(HERE[0], port) if on_a_line else nullcontext("")
            facts.append((port, await opened.enter_async_context(line)))
            started.set()
            await stop.wait()
        await server.shutdown()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert started.wait(30)
        yield facts[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()


@pytest.fixture
def port() -> Iterator[int]:
    with serving(lambda: ModbusTcpServer(device(), identity=WHO, address=HERE)) as (port, _):
        yield port


def test_a_device_is_found_and_its_map_proposed(
    port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = f"tcp://127.0.0.1:{port}?response_timeout=2s"
    began_s = time.monotonic()
    options = ["--units", "3", "--addresses", "0-99", "--looks", "2", "--every", "0"]
    assert main(["probe", at, *options, "--pause", "0"]) == 0
    assert time.monotonic() - began_s < 60
    maps(capsys.readouterr().out, tmp_path)


async def ten_at_most(sending: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A device that has 1000-1030 only, gives ten registers at once, and else says nothing."""
    with suppress(asyncio.IncompleteReadError):
        while True:
            tid, _, _, unit, function, first, count = struct.unpack(
                ">HHHBBHH", await sending.readexactly(12)
            )
            if not 1000 <= first <= first + count - 1 <= 1030:
                continue
            pdu = bytes([function | 0x80, 3])
            if count <= 10:
                pdu = struct.pack(f">BB{count}H", function, 2 * count, *range(first, first + count))
            writer.write(struct.pack(">HHHB", tid, 0, len(pdu) + 1, unit) + pdu)
    writer.close()


def test_a_device_of_small_requests_at_high_addresses_is_mapped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    loop, ports, started = asyncio.new_event_loop(), [], threading.Event()

    async def serve() -> None:
        server = await asyncio.start_server(ten_at_most, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        started.set()
        await stop.wait()
        server.close()

    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert started.wait(30)
        at = f"tcp://127.0.0.1:{ports[0]}?response_timeout=500ms"
        options = ["--units", "3", "--addresses", "1000-1030", "--looks", "1", "--pause", "0"]
        assert main(["probe", at, *options]) == 0
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()
    rows = [line.split(",") for line in capsys.readouterr().out.splitlines() if line[0] == "u"]
    covered = {int(row[4]) for row in rows if row[3] == "holding_register"}
    assert {1000, 1030} <= covered


def maps(said: str, folder: Path) -> None:
    """What was printed is a map of the device, and of no more than it has."""
    assert "vendor_name Works" in said
    assert "holding_register 0-11 can be read" in said
    assert "holding_register 70-79 can be read" in said
    path = folder / "m.csv"
    path.write_text(said, encoding="utf-8")
    found = load_register_map(path, {"default": 1.0})
    assert found.problems == ()
    assert {row.unit_id for row in found.rows} == {3}
    kinds = {(row.table.value, row.address): row for row in found.rows}
    assert kinds["holding_register", 0].data_type.value == "float32"
    assert kinds["holding_register", 2].byte_order.value == "CDAB"
    assert kinds["holding_register", 5].length == 4


OPTIONS = ["--units", "3", "--addresses", "0-99", "--looks", "2", "--every", "0", "--pause", "0"]


@pytest.mark.parametrize(
    ("framer", "scheme", "key"),
    [(FramerType.RTU, "rtu", ""), (FramerType.ASCII, "ascii", "&data_bits=7")],
)
def test_what_is_on_a_serial_line_is_found(
    framer: FramerType, scheme: str, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def make() -> ModbusTcpServer:
        return ModbusTcpServer(device(), framer=framer, identity=WHO, address=HERE)

    with serving(make, on_a_line=True) as (_, terminal):
        at = f"{scheme}://{terminal}?baud_rate=115200&parity=none&response_timeout=2s{key}"
        assert main(["probe", at, *OPTIONS]) == 0
    maps(capsys.readouterr().out, tmp_path)


def test_over_tls_those_are_answered_whose_certificate_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path / "stranger")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(authority.issue("plc"))
    tls.load_verify_locations(authority.file)
    tls.verify_mode = ssl.CERT_REQUIRED

    def make() -> ModbusTcpServer:
        return ModbusTlsServer(
            device(), framer=FramerType.SOCKET, identity=WHO, address=HERE, sslctx=tls
        )

    with serving(make) as (port, _):
        at = f"tls://127.0.0.1:{port}?response_timeout=2s&tls_ca="
        known = f"{authority.file}&tls_certificate={authority.issue('laptop')}"
        assert main(["probe", at + known, *OPTIONS]) == 0
        maps(capsys.readouterr().out, tmp_path)
        strange = f"{authority.file}&tls_certificate={stranger.issue('laptop')}"
        for refused in (str(authority.file), strange):
            assert main(["probe", at + refused, *OPTIONS]) == 1
            said = capsys.readouterr().out
            assert "can be read" not in said
            # With TLS 1.3 the refusal comes after our side of the handshake is done.
            assert "# nobody answered; the last attempt: " in said
        believed = f"{stranger.file}&tls_certificate={authority.issue('laptop')}"
        assert main(["probe", at + believed, *OPTIONS]) == 69
        assert "certificate" in capsys.readouterr().err


def test_its_time_is_bounded(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    at = f"tcp://127.0.0.1:{port}?response_timeout=2s"
    main(["probe", at, "--units", "3", "--addresses", "0-65535", "--time", "0.5"])
    assert "the time is used up" in capsys.readouterr().out


@pytest.mark.parametrize("units", ["", "x", "300", "5-1", "-1"])
def test_nonsense_is_refused(units: str) -> None:
    assert main(["probe", "tcp://127.0.0.1:1", f"--units={units}"]) == 69


def test_a_sunspec_device_says_its_own_map(
    port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = f"tcp://127.0.0.1:{port}?response_timeout=2s"
    assert main(["probe", at, "--units", "3", "--pause", "0", "--sunspec"]) == 0
    said = capsys.readouterr().out
    assert "# unit 3: marker at 40000, models 1 at 40002, 64110 at 40069" in said
    assert "64110 at 40069 is a maker's own" in said
    path = tmp_path / "m.csv"
    path.write_text(said, encoding="utf-8")
    found = load_register_map(path, {"default": 1.0, "slow": 1.0})
    assert found.problems == ()
    assert [(row.asset, row.tag, row.address) for row in found.rows][:2] == [
        ("unit-3", "common.ID", 40002),
        ("unit-3", "common.L", 40003),
    ]
