"""RTU: frames as the standard has them, and serial lines with real faults."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import subprocess
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.framer import FramerType
from pymodbus.server import ModbusTcpServer, ModbusTlsServer
from pymodbus.simulator import DataType, SimData, SimDevice

from gateway.asset import Assets, AssetSettings
from gateway.clock import SystemClock
from gateway.errors import DeviceRefused, SourceError, SourceUnavailable, WireError
from gateway.sources import SourceContext
from gateway.sources.modbus.client import ResponseTimeout, connect
from gateway.sources.modbus.config import ModbusRtuSettings, ModbusTcpSettings
from gateway.sources.modbus.peer import Peer
from gateway.sources.modbus.rtu import RtuExchange, crc16
from gateway.sources.modbus.source import build
from gateway.sources.modbus.wire import Request
from gateway.tag import TagTable
from tests.sources.modbus.ptyline import Line, block_of, framed, holding, settings_of, truth

REQUEST = Request(unit_id=17, function=3, address=107, quantity=3)
BLOCK = bytes.fromhex("02 2b 00 00 00 64")


ANSWER = framed(b"\x11\x03\x06" + BLOCK)


def test_the_crc_is_that_of_the_standard() -> None:
    assert crc16(b"\x02\x07") == b"\x41\x12"  # Serial Line 1.02, 6.2.2: the example
    assert crc16(b"123456789") == (0x4B37).to_bytes(2, "little")  # the check value of CRC-16/MODBUS


def test_a_request_has_no_header_and_a_crc() -> None:
    assert RtuExchange(REQUEST).encode() == framed(bytes.fromhex("11 03 006b 0003"))


@given(st.data())
def test_the_answer_is_the_same_for_any_chunking(data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(ANSWER) - 1))))
    parts = [ANSWER[a:b] for a, b in zip([0, *cuts], [*cuts, len(ANSWER)], strict=True)]
    exchange = RtuExchange(REQUEST)
    assert [exchange.feed(part) for part in parts] == [None] * (len(parts) - 1) + [BLOCK]


@given(
    before=st.lists(st.sampled_from([0x00, 0xFF]), max_size=2),
    behind=st.lists(st.sampled_from([0x00, 0xFF]), max_size=2),
    data=st.data(),
)
def test_what_a_driver_leaves_beside_a_frame_is_passed_over(
    before: list[int], behind: list[int], data: st.DataObject
) -> None:
    whole = bytes(before) + ANSWER
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1))))
    parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    parts[-1] += bytes(behind)
    exchange = RtuExchange(REQUEST)
    assert [exchange.feed(part) for part in parts] == [None] * (len(parts) - 1) + [BLOCK]
    assert exchange.glitches == len(before) + len(behind)


@pytest.mark.parametrize(
    "data", [b"\0\0\0" + ANSWER, ANSWER + b"\0\0\0", ANSWER + b"\x11", b"\x7f" + ANSWER]
)
def test_what_is_more_than_that_is_no_answer(data: bytes) -> None:
    with pytest.raises(WireError):
        RtuExchange(REQUEST).feed(data)


def test_an_echo_is_left_out_and_missed_where_it_does_not_come() -> None:
    exchange = RtuExchange(REQUEST, has_echo=True)
    heard = exchange.encode() + ANSWER
    assert exchange.feed(heard[:5]) is None
    assert exchange.feed(heard[5:11]) is None
    assert exchange.feed(heard[11:]) == BLOCK
    with pytest.raises(WireError, match="no echo"):
        RtuExchange(REQUEST, has_echo=True).feed(ANSWER)


def test_an_exception_response_is_told_as_what_it_is() -> None:
    exchange = RtuExchange(REQUEST)
    assert exchange.feed(b"\x11") is None
    with pytest.raises(DeviceRefused) as refused:
        exchange.feed(framed(b"\x11\x83\x02")[1:])
    assert refused.value.code == 2


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (framed(b"\x12\x03\x06" + BLOCK), "unit_id"),
        (framed(b"\x11\x04\x06" + BLOCK), "function"),
        (framed(b"\x11\x03\x04" + BLOCK[:4]), "byte_count"),
        (ANSWER + b"\0\0\0", "trailing"),
        (ANSWER[:-1] + b"\0", "crc"),
        (framed(b"\x11\x83\x02")[:-1] + b"\0", "crc"),
        (b"\xff\xff\xff" + ANSWER, "unit_id"),
    ],
)
def test_what_was_not_asked_for_is_never_a_value(data: bytes, kind: str) -> None:
    with pytest.raises(WireError) as wrong:
        RtuExchange(REQUEST).feed(data)
    assert wrong.value.kind == kind


def test_a_flipped_bit_anywhere_is_never_a_value() -> None:
    for bit in range(len(ANSWER) * 8):
        data = bytearray(ANSWER)
        data[bit // 8] ^= 1 << bit % 8
        exchange = RtuExchange(REQUEST)
        with contextlib.suppress(WireError, DeviceRefused):
            assert exchange.feed(bytes(data)) is None


@pytest.fixture
async def line(tmp_path: Path) -> AsyncIterator[Line]:
    made = Line(tmp_path)
    yield made
    with contextlib.suppress(OSError):
        made.unplug()


async def test_many_units_are_read_over_one_line(line: Line) -> None:
    async with connect(settings_of(line), Peer()) as connection:
        for unit_id in (1, 17, 247):
            request = holding(unit_id, 100, 20)
            assert await connection.read(request, 1.0) == block_of(request)
    assert [frame[0] for frame in line.asked] == [1, 17, 247]


async def test_noise_between_requests_is_passed_over(line: Line) -> None:
    async with connect(settings_of(line), Peer()) as connection:
        for i in range(20):
            line.send(b"\xff\x00" * (i % 3))
            request = holding(1, i, 4)
            assert await connection.read(request, 1.0) == block_of(request)


async def test_a_late_answer_is_not_taken_for_the_next(line: Line) -> None:
    """The line is given up, opened anew, and quiet, before anything else is asked."""
    late: list[bytes] = []

    def keep(unit_id: int, address: int, quantity: int) -> bytes:
        late.append(Line.right(unit_id, address, quantity))
        return b""

    line.answer = keep
    settings = settings_of(line)
    async with connect(settings, Peer()) as connection:
        with pytest.raises(ResponseTimeout):
            await connection.read(holding(1, 0, 4), 0.05)
    line.answer = Line.right
    async with connect(settings, Peer()) as connection:
        asyncio.get_running_loop().call_later(0.03, line.send, late[0])
        request = holding(1, 500, 4)
        assert await connection.read(request, 1.0) == block_of(request)


def test_10000_polls_of_a_bad_line_give_no_wrong_value() -> None:
    rng = random.Random(3)

    def bad(unit_id: int, address: int, quantity: int) -> bytes:
        data = bytearray(Line.right(unit_id, address, quantity))
        match rng.randrange(6):
            case 0:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            case 1:
                del data[rng.randrange(len(data)) :]
            case 2:
                data[:0] = rng.randbytes(2)
            case 3:
                data += rng.randbytes(3)
            case 4:
                data = bytearray(Line.right(unit_id % 247 + 1, address, quantity))
        return bytes(data)

    right = wrong = 0
    exchanges = 10_000
    for _ in range(exchanges):
        request = holding(rng.randint(1, 247), rng.randrange(1000), rng.randint(1, 20))
        exchange = RtuExchange(request)
        try:
            block = exchange.feed(bad(request.unit_id, request.address, request.quantity))
        except (SourceError, DeviceRefused):
            wrong += 1
            continue
        if block is not None:
            assert block == block_of(request)
            right += 1
    assert right > 1000
    assert wrong > 4000


async def test_an_adapter_that_is_unplugged_comes_back_under_its_name(line: Line) -> None:
    settings = settings_of(line)
    async with connect(settings, Peer()) as connection:
        await connection.read(holding(1, 0, 1), 1.0)
        line.unplug()
        with pytest.raises(SourceError):
            await connection.read(holding(1, 0, 1), 1.0)
    with pytest.raises(SourceUnavailable, match="plugged in"):
        async with connect(settings, Peer()):
            pass
    line.plug()
    async with connect(settings, Peer()) as connection:
        assert await connection.read(holding(1, 0, 1), 1.0) == block_of(holding(1, 0, 1))


async def test_a_line_has_one_master(line: Line) -> None:
    settings = settings_of(line)
    async with connect(settings, Peer()):
        with pytest.raises(SourceUnavailable, match="in use by another program"):
            async with connect(settings, Peer()):
                pass


async def test_what_is_no_serial_port_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    facts = {"type": "modbus-rtu", "name": "line", "device": str(tmp_path / "file"), "map": "x.csv"}
    with pytest.raises(SourceUnavailable, match="as a serial port"):
        async with connect(ModbusRtuSettings.model_validate(facts), Peer()):
            pass


async def test_a_terminal_is_opened_again_and_again_whatever_parity_it_should_have(
    line: Line,
) -> None:
    # What it cannot do it takes without a word the first time, and refuses the next.
    settings = settings_of(line, parity="even")
    for _ in range(3):
        async with connect(settings, Peer()):
            pass


async def test_the_port_is_set_up_as_it_was_asked_for(line: Line) -> None:
    settings = settings_of(line, baud_rate=19200, parity="odd", stop_bits=2)
    async with connect(settings, Peer()):
        flags = termios.tcgetattr(line._near)
        assert flags[4] == flags[5] == termios.B19200
        assert flags[2] & termios.CSTOPB
        assert not flags[3] & (termios.ECHO | termios.ICANON)


@asynccontextmanager
async def pymodbus_serves() -> AsyncIterator[int]:
    """An independent server of RTU frames over TCP; its port."""
    values = [truth(5, address) for address in range(50)]
    device = SimDevice(5, [SimData(0, values=values, datatype=DataType.REGISTERS)])
    server = ModbusTcpServer([device], framer=FramerType.RTU, address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    assert isinstance(server.transport, asyncio.Server)
    try:
        yield server.transport.sockets[0].getsockname()[1]
    finally:
        await server.shutdown()


async def test_pymodbus_answers_rtu_over_tcp() -> None:
    async with pymodbus_serves() as port:
        facts = {"type": "modbus-tcp", "name": "line", "host": "127.0.0.1", "map": "x.csv"}
        settings = ModbusTcpSettings.model_validate(facts | {"port": port, "framing": "rtu"})
        async with connect(settings, Peer()) as connection:
            request = holding(5, 3, 20)
            assert await connection.read(request, 2.0) == block_of(request)
            with pytest.raises(DeviceRefused):
                await connection.read(holding(5, 500, 1), 2.0)
            assert await connection.read(request, 2.0) == block_of(request)


async def test_pymodbus_answers_over_a_serial_line(line: Line) -> None:
    """The far end of the line is wired to the server."""
    async with pymodbus_serves() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def bring_back() -> None:
            while data := await reader.read(4096):
                line.send(data)

        bringing = asyncio.create_task(bring_back())
        line.wire(writer.write)
        async with connect(settings_of(line), Peer()) as connection:
            request = holding(5, 0, 50)
            assert await connection.read(request, 2.0) == block_of(request)
            with pytest.raises(DeviceRefused):
                await connection.read(holding(5, 500, 1), 2.0)
        bringing.cancel()
        writer.close()


async def test_a_dead_unit_costs_the_others_no_scan(line: Line, tmp_path: Path) -> None:
    def answer(unit_id: int, address: int, quantity: int) -> bytes:
        return b"" if unit_id == 2 else Line.right(unit_id, address, quantity)

    line.answer = answer
    rows = ["asset,tag,unit_id,address", *(f"u{unit},r,{unit},10" for unit in (1, 2, 3))]
    (tmp_path / "map.csv").write_text("\n".join(rows))
    table = TagTable()
    assets = [AssetSettings.model_validate({"name": "*", "class": "c"})]
    context = SourceContext(
        clock=SystemClock(),
        table=table,
        assets=Assets(assets, gateway="g", site=""),
        gateway_name="g",
        has_room=lambda: True,
    )
    facts = {"scan_classes": {"default": "600ms"}, "response_timeout": "250ms"}
    source = build(settings_of(line, map=str(tmp_path / "map.csv"), **facts), context)
    values: dict[str, list[float]] = {}
    async with source.session() as session:
        for _ in range(6):
            frame = (await session.read()).frame
            for tag_id, value, quality in zip(
                frame.tag_ids.tolist(), frame.values.tolist(), frame.quality.tolist(), strict=True
            ):
                name = table[tag_id].name
                values.setdefault(name, []).append(value if quality == 0 else float("nan"))
    assert values["u1.r"] == [truth(1, 10)] * 6
    assert values["u3.r"] == [truth(3, 10)] * 6
    assert np.isnan(values["u2.r"]).all()
    assert sum(frame[0] == 2 for frame in line.asked) < 6  # asked less and less often


async def test_modbus_tcp_security_reads_over_tls_and_trusts_no_stranger(tmp_path: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=plc", "-addext", "subjectAltName=IP:127.0.0.1"]
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)  # noqa: ASYNC221
    both = tmp_path / "both.pem"
    both.write_text(certificate.read_text() + key.read_text())
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    tls.load_verify_locations(certificate)
    tls.verify_mode = ssl.CERT_REQUIRED  # as the standard asks for
    values = [truth(5, address) for address in range(50)]
    device = SimDevice(5, [SimData(0, values=values, datatype=DataType.REGISTERS)])
    server = ModbusTlsServer(
        [device], framer=FramerType.SOCKET, address=("127.0.0.1", 0), sslctx=tls
    )
    await server.serve_forever(background=True)
    assert isinstance(server.transport, asyncio.Server)
    port = server.transport.sockets[0].getsockname()[1]
    facts = {"type": "modbus-tcp", "name": "plc", "host": "127.0.0.1", "map": "x.csv", "tls": True}
    trusting = {"tls_ca": str(certificate), "tls_certificate": str(both)}
    settings = ModbusTcpSettings.model_validate(facts | {"port": port} | trusting)
    try:
        async with connect(settings, Peer()) as connection:
            request = holding(5, 3, 20)
            assert await connection.read(request, 2.0) == block_of(request)
        stranger = ModbusTcpSettings.model_validate(facts | {"port": port})
        with pytest.raises(SourceUnavailable, match="certificate"):
            async with connect(stranger, Peer()):
                pass
    finally:
        await server.shutdown()
