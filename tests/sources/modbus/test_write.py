"""What is written is what is meant, within limits; and without being asked for nothing can be."""

from __future__ import annotations

import ast
import math
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.pdu import DecodePDU
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType as SimType
from pymodbus.simulator import SimData, SimDevice

from gateway.errors import DeviceRefused, WireError
from gateway.sources.modbus.client import Connection, connect
from gateway.sources.modbus.config import ModbusTcpSettings, RegisterRow, Table
from gateway.sources.modbus.decode import BlockDecoder
from gateway.sources.modbus.identification import IdentificationRequest
from gateway.sources.modbus.peer import Peer
from gateway.sources.modbus.plan import Block, width_of
from gateway.sources.modbus.wire import Exchange, Request
from gateway.sources.modbus.write import NotTaken, Writer, read_row
from gateway.sources.modbus.write_wire import (
    MaskWrite,
    WriteBits,
    WriteQuery,
    WriteRefused,
    WriteRegisters,
    together,
    words_of,
)
from gateway.tag import ByteOrder, DataType

GATEWAY = Path(__file__).parents[3] / "gateway"
LIMITS = {
    DataType.INT16: (-(2**15), 2**15 - 1),
    DataType.UINT16: (0, 2**16 - 1),
    DataType.INT32: (-(2**31), 2**31 - 1),
    DataType.UINT32: (0, 2**32 - 1),
    DataType.INT64: (-(2**63), 2**63 - 1),
    DataType.UINT64: (0, 2**64 - 1),
}


def row(**given: Any) -> RegisterRow:
    return RegisterRow(**({"asset": "pump", "tag": "x", "address": 0, "writable": True} | given))


def decoded(of: RegisterRow, words: bytes) -> object:
    request = Request(of.unit_id, 3, of.address, width_of(of))
    found = BlockDecoder(Block(request, (0,)), [of]).decode(words)
    assert found.quality[0] == 0
    return found.exact.get(0, found.values[0])


@given(data=st.data(), kind=st.sampled_from(list(LIMITS)), order=st.sampled_from(ByteOrder))
def test_every_integer_is_read_back_as_it_was_written(
    data: st.DataObject, kind: DataType, order: ByteOrder
) -> None:
    low, high = LIMITS[kind]
    value = data.draw(st.integers(low, high))
    of = row(data_type=kind, byte_order=order)
    assert decoded(of, words_of(of, value)) == value
    for beyond in (low - 1, high + 1):
        with pytest.raises(WriteRefused, match="beyond"):
            words_of(of, beyond)


@given(
    value=st.floats(allow_nan=False, allow_infinity=False, width=32),
    kind=st.sampled_from([DataType.FLOAT32, DataType.FLOAT64]),
    order=st.sampled_from(ByteOrder),
)
def test_every_float_is_read_back_as_it_was_written(
    value: float, kind: DataType, order: ByteOrder
) -> None:
    of = row(data_type=kind, byte_order=order)
    assert decoded(of, words_of(of, value)) == value


@given(
    text=st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=10),
    order=st.sampled_from(ByteOrder),
)
def test_every_text_is_read_back_as_it_was_written(text: str, order: ByteOrder) -> None:
    of = row(data_type="string", length=20, byte_order=order)
    assert decoded(of, words_of(of, text.strip())) == text.strip()


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"data_type": "uint16"}, 1.5),
        ({"data_type": "uint16"}, True),
        ({"data_type": "uint16"}, "1"),
        ({"data_type": "float32"}, 1e39),
        ({"data_type": "float32"}, math.nan),
        ({"data_type": "float64"}, math.inf),
        ({"data_type": "float64"}, 10**400),
        ({"data_type": "uint16", "scale": 0.1}, 10**400),
        ({"data_type": "bool"}, 2),
        ({"data_type": "string", "length": 2}, "12345"),
        ({"data_type": "string", "length": 2}, "a\0b"),
        ({"data_type": "string", "length": 2}, " a"),
        ({"data_type": "string", "length": 2}, "\udcff"),
        ({"data_type": "string", "length": 2}, 1),
    ],
)
def test_what_a_row_cannot_hold_is_refused(given: dict[str, Any], value: Any) -> None:
    with pytest.raises(WriteRefused):
        words_of(row(**given), value)


@given(
    scale=st.sampled_from([0.1, -0.1, 0.25, 3.0, 10.0, -10.0]),
    offset=st.sampled_from([0.0, -40.0]),
    low=st.integers(-50, 50),
    width=st.integers(0, 40),
    share=st.floats(0, 1),
)
def test_what_is_stored_is_within_the_limits_too(
    scale: float, offset: float, low: int, width: int, share: float
) -> None:
    high, value = low + width, low + share * width
    limited = row(data_type="int16", scale=scale, offset=offset, low=low, high=high)
    try:
        words = words_of(limited, value)
    except WriteRefused:
        numbers = range(-2000, 2001)
        assert not any(low <= n * scale + offset <= high for n in numbers)
        return
    held = int.from_bytes(words, signed=True) * scale + offset
    assert low - 1e-6 <= held <= high + 1e-6
    assert abs(held - value) <= abs(scale)


def test_a_scaled_value_becomes_the_nearest_number_the_device_stores() -> None:
    assert words_of(row(data_type="int16", scale=0.1, offset=-40.0), 21.56) == (616).to_bytes(2)


QUERIES: list[WriteQuery] = [
    WriteBits(1, 3, (True,)),
    WriteBits(1, 3, (False,)),
    WriteBits(1, 3, (True, False, True) * 5),
    WriteRegisters(1, 3, b"\x12\x34"),
    WriteRegisters(1, 3, b"\x12\x34\x56\x78"),
    MaskWrite(1, 3, 0xF2, 0x25),
]


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: f"{type(query).__name__}")
def test_requests_are_what_an_independent_stack_reads(query: WriteQuery) -> None:
    read: Any = DecodePDU(True).decode(query.encode())
    assert read.function_code == query.function
    assert read.address == 3
    match query:
        case WriteBits():
            assert read.bits[: len(query.bits)] == list(query.bits)
        case WriteRegisters():
            assert b"".join(word.to_bytes(2) for word in read.registers) == query.words
        case MaskWrite():
            assert (read.and_mask, read.or_mask) == (0xF2, 0x25)


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: f"{type(query).__name__}")
@pytest.mark.parametrize("chunk", [1, 2, 7, 4096])
def test_an_answer_is_known_in_any_chunking_and_another_one_is_refused(
    query: WriteQuery, chunk: int
) -> None:
    pdu = query.repeated
    adu = bytes([0, 9, 0, 0, 0, len(pdu) + 1, 1]) + pdu
    exchange = Exchange(9, query)
    answers = [exchange.feed(adu[i : i + chunk]) for i in range(0, len(adu), chunk)]
    assert answers == [None] * (len(answers) - 1) + [True]
    for place in range(8, len(adu)):
        bad = bytearray(adu)
        bad[place] ^= 1
        with pytest.raises(WireError):
            Exchange(9, query).feed(bytes(bad))


def test_what_the_standard_forbids_cannot_be_made() -> None:
    for make in (
        lambda: WriteBits(1, 0, ()),
        lambda: WriteBits(1, 0, (True,) * 1969),
        lambda: WriteRegisters(1, 65535, bytes(4)),
        lambda: WriteRegisters(1, 0, bytes(3)),
        lambda: WriteRegisters(1, 0, bytes(2 * 124)),
        lambda: WriteRegisters(256, 0, bytes(2)),
        lambda: MaskWrite(1, 0, 0x10000, 0),
        lambda: MaskWrite.of_bit(1, 0, 16, on=True),
    ):
        with pytest.raises(ValueError, match=r"not|bytes|beyond|bits"):
            make()


@pytest.fixture
async def device() -> AsyncIterator[Connection]:
    data = [SimData(0, count=100, values=0, datatype=SimType.REGISTERS)]
    server = ModbusTcpServer(SimDevice(1, simdata=data), address=("127.0.0.1", 0))
    await server.listen()
    assert server.transport is not None
    port = server.transport.sockets[0].getsockname()[1]
    settings = ModbusTcpSettings(
        type="modbus-tcp", name="a", host="127.0.0.1", port=port, map=Path("m"), response_timeout=10
    )
    async with connect(settings, Peer()) as connection:
        yield connection
    await server.shutdown()


async def test_a_device_of_another_maker_is_written_and_read_back(device: Connection) -> None:
    rows = {
        "pump.word": row(tag="word", data_type="uint16", scale=0.1, low=0, high=100),
        "pump.float": row(
            tag="float", address=4, data_type="float32", byte_order="CDAB", low=-10, high=10
        ),
        "pump.long": row(tag="long", address=8, data_type="uint64", low=0, high=2**64 - 1),
        "pump.text": row(tag="text", address=20, data_type="string", length=4),
        "pump.fixed": row(tag="fixed", address=30, writable=False),
    }
    writer = Writer(rows, device, 10.0, "a")
    assert await writer.write("pump.word", 12.3) == pytest.approx(12.3)
    assert await writer.write("pump.float", -2.5) == -2.5
    assert await writer.write("pump.long", 2**63 + 1) == 2**63 + 1
    assert await writer.write("pump.text", "abc") == "abc"
    for name, value in (
        ("pump.word", 100.1),
        ("pump.word", -0.1),
        ("pump.fixed", 1),
        ("pump.none", 1),
        ("pump.float", math.nan),
    ):
        with pytest.raises(WriteRefused):
            await writer.write(name, value)
    assert (await read_row(rows["pump.word"], device, 10.0))[1] == pytest.approx(12.3)
    await device.ask(MaskWrite.of_bit(1, 40, 3, on=True), 10.0)
    assert (await device.read(Request(1, 3, 40, 1), 10.0)) == b"\0\x08"
    with pytest.raises(DeviceRefused):
        await device.ask(WriteRegisters(1, 5000, b"\0\0"), 10.0)


@pytest.mark.parametrize("order", ["ABCD", "BADC"])
async def test_bits_of_a_register_are_set_and_the_others_stay(
    device: Connection, order: str
) -> None:
    more = {"address": 50, "byte_order": order, "data_type": "uint16"}
    rows = {
        "pump.run": row(tag="run", bits="3", **more),
        "pump.mode": row(tag="mode", bits="9-11", low=0, high=9, **more),
        "pump.speed": row(tag="speed", bits="12-15", low=0, high=1.5, scale=0.1, **more),
    }
    writer = Writer(rows, device, 10.0, "a")
    await device.ask(WriteRegisters(1, 50, b"\xa5\x01"), 10.0)
    word = 0xA501 if order == "ABCD" else 0x01A5
    for name, value, low, count, stored in (
        ("pump.run", True, 3, 1, 1),
        ("pump.mode", 5, 9, 3, 5),
        ("pump.run", 0, 3, 1, 0),
        ("pump.speed", 0.7, 12, 4, 7),
        ("pump.mode", 0, 9, 3, 0),
    ):
        assert await writer.write(name, value) == pytest.approx(value)
        word = word & ~(((1 << count) - 1) << low) | stored << low
        held = await device.read(Request(1, 3, 50, 1), 10.0)
        assert int.from_bytes(held, "big" if order == "ABCD" else "little") == word
    for name, value in (("pump.run", 2), ("pump.mode", 8), ("pump.mode", -1), ("pump.mode", True)):
        with pytest.raises(WriteRefused):
            await writer.write(name, value)


def test_neighbours_are_written_at_once_and_strangers_are_not() -> None:
    coils = [WriteBits(1, 10 + i, (i % 2 == 0,)) for i in (2, 0, 1)]
    words = [WriteRegisters(1, 11, b"\0\1"), WriteRegisters(1, 12, b"\0\2\0\3")]
    alone = [WriteBits(1, 14, (True,)), WriteBits(2, 13, (True,)), MaskWrite(1, 14, 0, 1)]
    assert together([*coils, *words, *alone]) == [
        (WriteBits(1, 10, (True, False, True)), [1, 2, 0]),
        (WriteRegisters(1, 11, b"\0\1\0\2\0\3"), [3, 4]),
        *[(query, [5 + i]) for i, query in enumerate(alone)],
    ]
    many = [WriteRegisters(1, i, bytes(2)) for i in range(200)]
    assert [len(places) for _, places in together(many)] == [123, 77]
    many_coils = [WriteBits(1, i, (True,)) for i in range(2000)]
    assert [len(places) for _, places in together(many_coils)] == [1968, 32]


async def test_several_values_are_written_together_and_nothing_if_one_is_wrong(
    device: Connection,
) -> None:
    rows = {
        f"pump.w{i}": row(tag=f"w{i}", address=60 + i, data_type="uint16", low=0, high=9)
        for i in range(3)
    }
    asked: list[int] = []

    class Counting:
        async def ask(self, query: Any, timeout_s: float) -> Any:
            asked.append(query.function)
            return await device.ask(query, timeout_s)

    writer = Writer(rows, Counting(), 10.0, "a")
    with pytest.raises(WriteRefused):
        await writer.write_all([("pump.w0", 1), ("pump.w1", 10)])
    assert asked == []
    held = await writer.write_all([("pump.w2", 7), ("pump.w0", 5), ("pump.w1", 6)])
    assert held == [7, 5, 6]
    assert asked == [16, 3, 3, 3]


async def test_what_was_written_before_a_refusal_is_said() -> None:
    class Partly:
        async def ask(self, query: Any, timeout_s: float) -> Any:
            del timeout_s
            if query.function == 22:
                raise DeviceRefused(unit_id=1, function=22, address=9, code=1, hint="no")
            return True

    rows = {
        "pump.a": row(tag="a", low=0, high=9),
        "pump.b": row(tag="b", address=9, bits="1"),
    }
    writer = Writer(rows, Partly(), 1.0, "a")
    with pytest.raises(DeviceRefused, match=r"written before: pump\.a; .*function 22"):
        await writer.write_all([("pump.a", 1), ("pump.b", True)])


async def test_a_number_that_means_missing_is_read_back_as_a_number() -> None:
    class Holding:
        async def ask(self, query: Any, timeout_s: float) -> Any:
            del timeout_s
            return b"\xff\xff" if isinstance(query, Request) else True

    rows = {"pump.x": row(data_type="uint16", missing="0xFFFF", low=0, high=65535)}
    writer = Writer(rows, Holding(), 1.0, "a")
    assert await writer.write("pump.x", 65535) == 65535
    with pytest.raises(NotTaken, match="holds 65535 after 5"):
        await writer.write("pump.x", 5)


async def test_a_device_that_holds_another_value_than_it_said_is_found_out() -> None:
    class Stubborn:
        async def ask(self, query: Any, timeout_s: float) -> Any:
            del timeout_s
            return b"\0\x07" if isinstance(query, Request) else True

    writer = Writer({"pump.x": row(low=0, high=100)}, Stubborn(), 1.0, "a")
    with pytest.raises(NotTaken, match="holds 7 after 8"):
        await writer.write("pump.x", 8)
    assert await writer.write("pump.x", 7) == 7


def test_without_writing_enabled_no_write_can_be_made() -> None:
    for function in [0, *range(5, 256)]:
        with pytest.raises(ValueError, match="not a read"):
            Request(1, function, 0, 1)
    assert IdentificationRequest(1).encode()[0] == 43
    # Only these load the module, each where somebody asked for it.
    allowed = {"ops/writes.py", "sources/modbus/write.py", "cli/write.py"}
    for path in GATEWAY.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if any("modbus.write" in name for name in names):
                assert str(path.relative_to(GATEWAY)) in allowed, path


def test_a_gateway_that_only_reads_never_loads_the_code_that_writes(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("asset,tag,address\npump-1,x,0\n", encoding="utf-8")
    config = tmp_path / "sluicegate.toml"
    text = """[gateway]
name = "g"
data_dir = "d"
[gateway.http]
token = "env:API_TOKEN"
[[source]]
type = "modbus-tcp"
name = "a"
host = "127.0.0.1"
map = "m.csv"
WRITES
[[asset]]
name = "pump-*"
class = "pump"
"""
    script = f"""
import sys
from pathlib import Path
from gateway.clock import SystemClock
from gateway.config.load import load
from gateway.pipeline import Gateway
from gateway.ops.commands import api_of
gateway = Gateway(load(Path({str(config)!r})), SystemClock())
assert api_of(gateway, gateway.config.settings.gateway.http) is not None
print(any("modbus.write" in name for name in sys.modules))
"""
    for writes, loaded in (("", "False"), ("writes = true", "True")):
        config.write_text(text.replace("WRITES", writes), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
        )
        assert done.stdout.strip() == loaded


def test_a_map_marks_only_what_can_be_written(tmp_path: Path) -> None:
    from gateway.sources.modbus.rows import load_register_map  # noqa: PLC0415 - one test's

    text = (
        "asset,tag,table,address,data_type,low,high,writable\n"
        "a,right,holding_register,0,uint16,0,10,true\n"
        "a,input,input_register,0,uint16,0,10,true\n"
        "a,free,holding_register,1,uint16,,,yes\n"
        "a,coil,coil,1,bool,,,1\n"
        "a,odd,coil,2,bool,,,maybe\n"
    )
    path = tmp_path / "m.csv"
    path.write_text(text, encoding="utf-8")
    found = load_register_map(path, {"default": 1.0})
    assert [each.tag for each in found.rows if each.writable] == ["right", "coil"]
    assert [problem.place for problem in found.problems] == [
        "row 3, column writable", "row 4, column writable", "row 6, column writable",
    ]  # fmt: skip
    assert found.rows[0].table is Table.HOLDING_REGISTER
