"""Software that is not ours answers us: libmodbus and pymodbus, over each transport and framing."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import os
import pty
import shutil
import ssl
import subprocess
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pymodbus.framer import FramerType
from pymodbus.server import ModbusTcpServer, ModbusTlsServer, ModbusUdpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from gateway.errors import DeviceRefused, SourceError
from gateway.sources.modbus.client import Connection, connect
from gateway.sources.modbus.config import ModbusRtuSettings, ModbusTcpSettings
from gateway.sources.modbus.identification import identify
from gateway.sources.modbus.peer import Peer
from gateway.sources.modbus.wire import Request

SOURCE = Path(__file__).with_name("libmodbus_server.c")
UNIT_ID = 17
PLACES = 500
PATIENT_S = 10.0
NAMES = {1: "coils", 2: "discrete inputs", 3: "holding registers", 4: "input registers"}

pytestmark = pytest.mark.skipif(
    not Path("/usr/include/modbus/modbus.h").exists() or not shutil.which("cc"),
    reason="libmodbus-dev and a C compiler are not installed (tests/install-packages)",
)


def truth(function: int, address: int) -> int:
    """As libmodbus_server.c has it."""
    match function:
        case 1:
            return int(address % 3 == 0)
        case 2:
            return int(address % 5 == 0)
        case 3:
            return (7 * address + 1) % 65536
        case _:
            return (5 * address + 2) % 65536


def block_of(request: Request) -> bytes:
    values = [truth(request.function, request.address + i) for i in range(request.quantity)]
    if not request.reads_bits:
        return b"".join(value.to_bytes(2, "big") for value in values)
    bits = sum(value << i for i, value in enumerate(values))
    return bits.to_bytes(request.block_bytes, "little")


async def reads_all_there_is(connection: Connection, functions: tuple[int, ...]) -> None:
    """Smallest, odd and largest reads of every table, refusals between them."""
    for function in functions:
        largest = PLACES if function <= 2 else 125
        for address, quantity in ((0, 1), (PLACES - 1, 1), (3, 17), (PLACES - largest, largest)):
            request = Request(UNIT_ID, function, address, quantity)
            assert await connection.read(request, PATIENT_S) == block_of(request), NAMES[function]
        with pytest.raises(DeviceRefused) as refused:
            await connection.read(Request(UNIT_ID, function, 2 * PLACES, 1), PATIENT_S)
        assert refused.value.code == 2
    assert connection.is_open


def tcp(port: int, **more: object) -> ModbusTcpSettings:
    facts = {"type": "modbus-tcp", "name": "plc", "host": "127.0.0.1", "port": port, "map": "x.csv"}
    return ModbusTcpSettings.model_validate(facts | more)


def serial(port: str, **more: object) -> ModbusRtuSettings:
    facts = {"type": "modbus-rtu", "name": "line", "device": port, "map": "x.csv"}
    return ModbusRtuSettings.model_validate(facts | {"baud_rate": 19200, "parity": "none"} | more)


@pytest.fixture(scope="module")
def libmodbus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's program."""
    program = tmp_path_factory.mktemp("libmodbus") / "server"
    command = ["cc", "-Wall", "-Werror", "-o", str(program), str(SOURCE), "-lmodbus"]
    subprocess.run(command, check=True)
    return program


@contextmanager
def running(*command: str) -> Iterator[int]:
    """A server until the block ends; its port."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            word, port = process.stdout.readline().split()
            assert word == "ready"
            yield int(port)
        finally:
            process.kill()


class Ends:
    """Two serial ports whose wires meet: what one sends the other hears."""

    def __init__(self) -> None:
        self._masters: list[int] = []
        self._slaves: list[int] = []
        self.names: list[str] = []

    def __enter__(self) -> Self:
        for _ in range(2):
            master, slave = pty.openpty()
            tty.setraw(master)
            os.set_blocking(master, False)
            self._masters.append(master)
            self._slaves.append(slave)  # held open, so that neither end hears a hang-up
            self.names.append(os.ttyname(slave))
        loop = asyncio.get_running_loop()
        for here, there in (self._masters, self._masters[::-1]):
            loop.add_reader(here, self._carry, here, there)
        return self

    def __exit__(self, *_: object) -> None:
        for master in self._masters:
            asyncio.get_running_loop().remove_reader(master)
        for descriptor in (*self._masters, *self._slaves):
            os.close(descriptor)

    @staticmethod
    def _carry(here: int, there: int) -> None:
        with contextlib.suppress(OSError):
            os.write(there, os.read(here, 4096))


async def test_libmodbus_answers_over_tcp(libmodbus: Path) -> None:
    with running(str(libmodbus), "tcp") as port:
        async with connect(tcp(port), Peer()) as connection:
            await reads_all_there_is(connection, (1, 2, 3, 4))
            with pytest.raises(DeviceRefused) as refused:
                await identify(connection, UNIT_ID, PATIENT_S)
            assert refused.value.code == 1


async def test_libmodbus_answers_several_requests_at_once(libmodbus: Path) -> None:
    with running(str(libmodbus), "tcp") as port:
        async with connect(tcp(port, in_flight=8), Peer()) as connection:
            requests = [Request(UNIT_ID, 3, address, 2) for address in range(100)]
            found = await asyncio.gather(
                *(connection.read(request, PATIENT_S) for request in requests)
            )
            assert found == [block_of(request) for request in requests]


async def test_libmodbus_answers_over_a_serial_line(libmodbus: Path) -> None:
    with Ends() as ends, running(str(libmodbus), "rtu", ends.names[1], str(UNIT_ID)):
        async with connect(serial(ends.names[0]), Peer()) as connection:
            await reads_all_there_is(connection, (1, 2, 3, 4))


def device() -> SimDevice:
    values = {function: [truth(function, at) for at in range(PLACES)] for function in NAMES}
    coils, inputs = (
        [SimData(0, values=[bool(bit) for bit in values[function]], datatype=DataType.BITS)]
        for function in (1, 2)
    )
    holding, input_ = (
        [SimData(0, values=values[function], datatype=DataType.REGISTERS)] for function in (3, 4)
    )
    return SimDevice(UNIT_ID, simdata=(coils, inputs, holding, input_))


@asynccontextmanager
async def serving(
    server: ModbusTcpServer | ModbusUdpServer,
) -> AsyncIterator[int]:
    """pymodbus's server until the block ends; its port."""
    await server.serve_forever(background=True)
    transport = server.transport
    place = (
        transport.sockets[0].getsockname()
        if isinstance(transport, asyncio.Server)
        else transport.get_extra_info("sockname")
    )
    try:
        yield place[1]
    finally:
        await server.shutdown()


HERE = ("127.0.0.1", 0)


@pytest.mark.parametrize(
    ("framer", "more"),
    [
        (FramerType.SOCKET, {}),
        (FramerType.SOCKET, {"in_flight": 4}),
        (FramerType.RTU, {"framing": "rtu"}),
        (FramerType.ASCII, {"framing": "ascii"}),
    ],
)
async def test_pymodbus_answers_over_tcp(framer: FramerType, more: dict[str, object]) -> None:
    async with (
        serving(ModbusTcpServer([device()], framer=framer, address=HERE)) as port,
        connect(tcp(port, **more), Peer()) as connection,
    ):
        await reads_all_there_is(connection, (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("framer", "framing"),
    [(FramerType.SOCKET, "mbap"), (FramerType.RTU, "rtu"), (FramerType.ASCII, "ascii")],
)
async def test_pymodbus_answers_over_udp(framer: FramerType, framing: str) -> None:
    settings = {"transport": "udp", "framing": framing}
    async with (
        serving(ModbusUdpServer([device()], framer=framer, address=HERE)) as port,
        connect(tcp(port, **settings), Peer()) as connection,
    ):
        await reads_all_there_is(connection, (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("framer", "settings"),
    [
        (FramerType.RTU, {"framing": "rtu"}),
        (FramerType.ASCII, {"framing": "ascii", "data_bits": 7}),
    ],
)
async def test_pymodbus_answers_over_a_serial_line(
    framer: FramerType, settings: dict[str, object]
) -> None:
    """The far end of the line is wired to the server's socket."""
    async with serving(ModbusTcpServer([device()], framer=framer, address=HERE)) as port:
        with Ends() as ends:
            far = os.open(ends.names[1], os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            tty.setraw(far)
            reader, writer = await asyncio.open_connection(*HERE[:1], port)
            asyncio.get_running_loop().add_reader(far, lambda: writer.write(os.read(far, 4096)))

            async def bring_back() -> None:
                while data := await reader.read(4096):
                    os.write(far, data)

            bringing = asyncio.create_task(bring_back())
            async with connect(serial(ends.names[0], **settings), Peer()) as connection:
                await reads_all_there_is(connection, (1, 2, 3, 4))
            asyncio.get_running_loop().remove_reader(far)
            bringing.cancel()
            writer.close()
            os.close(far)


class Authority:
    """Certificates for one test: who signs, who is signed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "plant CA")])
        certificate = self._sign(self._name, self._key, is_authority=True)
        self.file = folder / "ca.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> Path:
        """A file with a certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        file = self.folder / f"{name}.pem"
        file.write_bytes(
            self._sign(subject, key).public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return file

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, is_authority: bool = False
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        place = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(place, critical=False)
            .sign(self._key, hashes.SHA256())
        )


async def test_pymodbus_answers_over_tls_to_those_whose_certificate_it_knows(
    tmp_path: Path,
) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path / "stranger")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(authority.issue("plc"))
    tls.load_verify_locations(authority.file)
    tls.verify_mode = ssl.CERT_REQUIRED  # as the standard asks for
    ours = {"tls": True, "tls_ca": str(authority.file)}
    server = ModbusTlsServer([device()], framer=FramerType.SOCKET, address=HERE, sslctx=tls)
    async with serving(server) as port:
        known = tcp(port, tls_certificate=str(authority.issue("gateway")), **ours)
        async with connect(known, Peer()) as connection:
            await reads_all_there_is(connection, (1, 2, 3, 4))
        for settings in (
            tcp(port, **ours),
            tcp(port, tls_certificate=str(stranger.issue("gateway")), **ours),
        ):
            # With TLS 1.3 the refusal comes after our side of the handshake is done.
            with pytest.raises(SourceError, match=r"closed|connect"):
                async with connect(settings, Peer()) as connection:
                    await connection.read(Request(UNIT_ID, 3, 0, 1), PATIENT_S)
