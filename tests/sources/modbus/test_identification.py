"""Function 43/14: what a device says that it is, in one answer or in many."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus import ModbusDeviceIdentification
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from gateway.errors import DeviceRefused, WireError
from gateway.sources.modbus.client import connect
from gateway.sources.modbus.config import ModbusTcpSettings
from gateway.sources.modbus.identification import (
    IdentificationPart,
    IdentificationRequest,
    ReadCode,
    identify,
)
from gateway.sources.modbus.peer import Peer
from gateway.sources.modbus.rtu import RtuExchange, crc16
from gateway.sources.modbus.wire import Exchange, Query

OBJECTS = {0: b"Company", 1: b"Product", 2: b"V2.11"}
# Application Protocol 1.1b3, 6.21: the example, all basic objects in one answer.
PDU = bytes.fromhex("2b 0e 01 01 00 00 03") + b"\0\x07Company\x01\x07Product\x02\x05V2.11"
T = TypeVar("T")

REQUEST = IdentificationRequest(17)


def mbap(transaction_id: int, unit_id: int, pdu: bytes) -> bytes:
    return struct.pack(">HHHB", transaction_id, 0, len(pdu) + 1, unit_id) + pdu


def rtu(unit_id: int, pdu: bytes) -> bytes:
    frame = bytes([unit_id]) + pdu
    return frame + crc16(frame)


def pdu_of(request: IdentificationRequest, objects: Mapping[int, bytes], more: int = 0) -> bytes:
    head = bytes([0x2B, 0x0E, request.code, 0x83, 0xFF if more else 0, more, len(objects)])
    return head + b"".join(bytes([each, len(text)]) + text for each, text in objects.items())


@pytest.mark.parametrize("chunk", [1, 2, 7, 4096])
def test_the_standards_example_is_read_in_any_chunks(chunk: int) -> None:
    for exchange, wire in (
        (Exchange(9, REQUEST), mbap(9, 17, PDU)),
        (RtuExchange(REQUEST), rtu(17, PDU)),
    ):
        found = [exchange.feed(wire[i : i + chunk]) for i in range(0, len(wire), chunk)]
        assert found[-1] == IdentificationPart(1, tuple(OBJECTS.items()), None)
        assert set(found[:-1]) <= {None}
    assert Exchange(9, REQUEST).encode() == mbap(9, 17, bytes.fromhex("2b 0e 01 00"))


objects_of_a_device = st.dictionaries(st.integers(0, 255), st.binary(max_size=40), max_size=5).map(
    lambda objects: dict(sorted(objects.items()))
)


@given(objects_of_a_device, st.sampled_from([1, 2, 3]), st.integers(1, 300))
def test_any_objects_come_back_as_they_were_sent(
    objects: dict[int, bytes], code: int, chunk: int
) -> None:
    request = IdentificationRequest(1, ReadCode(code))
    pdu = pdu_of(request, objects)
    for exchange, wire in (
        (Exchange(9, request), mbap(9, 1, pdu)),
        (RtuExchange(request), rtu(1, pdu)),
    ):
        found = [exchange.feed(wire[i : i + chunk]) for i in range(0, len(wire), chunk)]
        assert found[-1] is not None
        assert dict(found[-1].objects) == objects


@pytest.mark.parametrize(
    "pdu",
    [
        PDU[:1] + b"\x0d" + PDU[2:],  # another MEI type
        PDU[:2] + b"\x02" + PDU[3:],  # another read code
        PDU[:4] + b"\x01" + PDU[5:],  # more follows: neither no nor yes
        PDU[:4] + b"\xff\x02" + PDU[6:],  # more follows, from an object that was here
        PDU[:6] + b"\x02" + PDU[7:],  # fewer objects than are there
        PDU[:6] + b"\x04" + PDU[7:],  # more objects than are there
        PDU[:8] + b"\xff" + PDU[9:],  # an object beyond the end
        PDU[:16] + b"\0" + PDU[17:],  # an object twice
    ],
)
def test_what_contradicts_itself_is_refused(pdu: bytes) -> None:
    with pytest.raises(WireError):
        Exchange(9, REQUEST).feed(mbap(9, 17, pdu))


class Scripted:
    """A connection that answers with these parts, the last one for ever."""

    def __init__(self, *pdus: bytes) -> None:
        self.pdus = list(pdus)
        self.asked: list[bytes] = []

    async def ask(self, query: Query[T], timeout_s: float) -> T:
        del timeout_s
        self.asked.append(query.encode())
        return query.decode(self.pdus.pop(0) if len(self.pdus) > 1 else self.pdus[0])


async def test_what_follows_is_asked_for_from_where_the_device_says() -> None:
    request = IdentificationRequest(1, ReadCode.REGULAR)
    device = Scripted(
        pdu_of(request, {0: b"A", 1: b"B"}, more=2),
        pdu_of(request, {2: b"C"}, more=5),
        pdu_of(request, {5: b"D\xff\x00 "}),
    )
    found = await identify(device, 1, 1.0)
    assert found.objects == {0: b"A", 1: b"B", 2: b"C", 5: b"D\xff\x00 "}
    assert found.texts() == {
        "vendor_name": "A",
        "product_code": "B",
        "revision": "C",
        "model_name": "D",
    }
    assert [pdu[3] for pdu in device.asked] == [0, 2, 5]


async def test_a_device_that_never_comes_to_an_end_is_left() -> None:
    request = IdentificationRequest(1, ReadCode.REGULAR)
    with pytest.raises(WireError):
        await identify(Scripted(pdu_of(request, {0: b"A"}, more=1)), 1, 1.0)


async def test_a_device_of_another_stack_is_identified() -> None:
    identity = ModbusDeviceIdentification(
        info_name={"VendorName": "Acme", "ProductCode": "P1", "MajorMinorRevision": "2.0",
                   "VendorUrl": "http://acme.example", "ProductName": "x" * 120,
                   "ModelName": "y" * 120}
    )  # fmt: skip
    device = SimDevice(1, simdata=[SimData(0, values=[1, 2], datatype=DataType.REGISTERS)])
    server = ModbusTcpServer(device, identity=identity, address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    port = server.transport.sockets[0].getsockname()[1]
    facts = {"type": "modbus-tcp", "name": "a", "host": "127.0.0.1", "port": port, "map": "x.csv"}
    try:
        async with connect(ModbusTcpSettings.model_validate(facts), Peer()) as connection:
            found = (await identify(connection, 1, 5.0)).texts()
            assert found["vendor_name"] == "Acme"
            assert found["product_name"] == "x" * 120
            assert found["model_name"] == "y" * 120
            with pytest.raises(DeviceRefused):
                await connection.ask(IdentificationRequest(1, ReadCode.SPECIFIC, 200), 5.0)
            assert connection.is_open
    finally:
        await server.shutdown()
        await asyncio.sleep(0)
