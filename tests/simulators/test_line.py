"""The line, read by pymodbus's own client by nothing but the register map."""

from __future__ import annotations

import asyncio
import csv
import math
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ModbusIOException

from simulators.faults import parse_fault
from simulators.line import LineSettings, Plc, run_line
from simulators.registers import write_map

TYPES = AsyncModbusTcpClient.DATATYPE
WORDS = {"string": 0, "float32": 2, "uint32": 2, "uint64": 4, "uint16": 1, "int16": 1}


@asynccontextmanager
async def client_of(plc: Plc, timeout_s: float = 3.0) -> AsyncIterator[AsyncModbusTcpClient]:
    client = AsyncModbusTcpClient(plc.host, port=plc.port, timeout=timeout_s, retries=0)
    assert await client.connect()
    try:
        yield client
    finally:
        client.close()


async def read(client: AsyncModbusTcpClient, row: dict[str, str]) -> Any:
    """One tag, in engineering units."""
    unit, address = int(row["unit_id"]), int(row["address"])
    if row["table"] in ("coil", "discrete_input"):
        ask = client.read_coils if row["table"] == "coil" else client.read_discrete_inputs
        return (await ask(address, count=1, device_id=unit)).bits[0]
    count = WORDS[row["data_type"]] or int(row["length"])
    ask = (
        client.read_holding_registers
        if row["table"] == "holding_register"
        else client.read_input_registers
    )
    answer = await ask(address, count=count, device_id=unit)
    assert not answer.isError(), (row, answer)
    order = {"ABCD": "big", "CDAB": "little"}[row["byte_order"]]
    kind = getattr(TYPES, row["data_type"].upper())
    value = client.convert_from_registers(answer.registers, kind, word_order=order)  # type: ignore[arg-type]  # one of two texts
    if isinstance(value, str):
        return value
    if row["scale"] != "1" or row["offset"] != "0":
        return value * float(row["scale"]) + float(row["offset"])  # type: ignore[operator]  # a number
    return value


@pytest.mark.parametrize(
    "settings",
    [
        LineSettings(servers=2, pumps_per_server=2, units="each", speed=0),
        LineSettings(servers=2, pumps_per_server=9, units="shared", speed=0),
        LineSettings(servers=1, tags_per_server=100, units="shared", speed=0),
    ],
)
async def test_what_the_map_says_is_what_a_client_reads(
    settings: LineSettings, tmp_path: Path
) -> None:
    async with run_line(settings) as line:
        truth, seen = line.values(), 0
        for index, plc in enumerate(line.plcs):
            write_map(tmp_path / "map.csv", line.rows(index))
            with (tmp_path / "map.csv").open(newline="") as file:
                rows = list(csv.DictReader(file))
            async with client_of(plc) as client:
                for row in rows:
                    if row["tag"] == "scan_count":
                        continue
                    value, wanted = await read(client, row), truth[f"{row['asset']}.{row['tag']}"]
                    if row["data_type"] in ("string", "bool", "uint64"):
                        assert value == wanted, row
                    elif row["data_type"] == "float32":
                        assert math.isclose(value, wanted, rel_tol=1e-6, abs_tol=1e-6), row
                    else:
                        assert abs(value - wanted) <= 0.5001 * float(row["scale"]), row
                    seen += 1
        assert seen == sum(len(line.rows(k)) - 1 for k in range(settings.servers))


async def test_every_scan_has_a_number_of_its_own_and_every_answer_is_counted() -> None:
    async with run_line(LineSettings(servers=2)) as line, client_of(line.plcs[0]) as client:
        counts = []
        for _ in range(5):
            answer = await client.read_input_registers(0, count=2, device_id=1)
            counts.append(client.convert_from_registers(answer.registers, TYPES.UINT32))
            await client.read_input_registers(0, count=24, device_id=12)
        assert counts == [1, 2, 3, 4, 5]
        truth = line.truth()
    first, second = truth["servers"]
    assert (first["scan_count"], second["scan_count"]) == (5, 0)
    assert (truth["requests_answered"], second["requests_answered"]) == (10, 0)
    assert first["reads"] == [
        {"unit_id": u, "table": "input_register", "address": 0, "count": n, "answered": 5}
        for u, n in ((1, 2), (12, 24))
    ]


async def test_the_plant_runs_while_it_is_read(until: Callable[..., Any]) -> None:
    async with run_line(LineSettings(servers=1, speed=50)) as line, client_of(line.plcs[0]) as c:
        first = (await c.read_input_registers(0, count=24, device_id=11)).registers
        start = line.pumps.steps
        await until(lambda: line.pumps.steps > start + 50)
        assert (await c.read_input_registers(0, count=24, device_id=11)).registers != first


async def test_requests_in_one_packet_are_answered_in_order() -> None:
    async with run_line(LineSettings(servers=1)) as line:
        plc = line.plcs[0]
        reader, writer = await asyncio.open_connection(plc.host, plc.port)
        frames = [struct.pack(">HHHBBHH", k, 0, 6, 1, 4, 0, 2) for k in range(20)]
        sent = b"".join(frames)
        writer.write(sent[:131])  # the last one torn in two
        await writer.drain()
        await asyncio.sleep(0)
        writer.write(sent[131:])
        for k in range(20):
            answer = await asyncio.wait_for(reader.readexactly(13), 5)
            assert struct.unpack(">HHHBBBI", answer) == (k, 0, 7, 1, 4, 4, k + 1)
        writer.close()


async def test_refusals_are_those_of_the_protocol() -> None:
    async with run_line(LineSettings(servers=1)) as line, client_of(line.plcs[0]) as client:
        beyond = await client.read_input_registers(0, count=25, device_id=11)
        write = await client.write_register(0, 1, device_id=11)
        assert (beyond.exception_code, write.exception_code) == (2, 1)
        assert line.plcs[0].truth()["requests_answered"] == 0


async def test_a_pump_that_is_offline_does_not_answer_and_its_neighbour_does() -> None:
    async with run_line(LineSettings(servers=1)) as line:
        board = line.pumps.board
        board.start(parse_fault("device_offline@pump-2"), line.pumps.now_s)
        async with client_of(line.plcs[0], timeout_s=0.2) as client:
            with pytest.raises(ModbusIOException, match="No response"):
                await client.read_input_registers(0, count=2, device_id=12)
            assert not (await client.read_input_registers(0, count=2, device_id=11)).isError()
            board.stop()
            assert not (await client.read_input_registers(0, count=2, device_id=12)).isError()


async def test_a_plc_that_is_offline_answers_for_none_of_its_units() -> None:
    async with run_line(LineSettings(servers=2)) as line:
        line.pumps.board.start(parse_fault("device_offline@plc-1"), line.pumps.now_s)
        async with client_of(line.plcs[0], timeout_s=0.1) as client:
            for unit in (1, 11, 12):
                with pytest.raises(ModbusIOException, match="No response"):
                    await client.read_input_registers(0, count=2, device_id=unit)
        async with client_of(line.plcs[1]) as client:
            assert not (await client.read_input_registers(0, count=2, device_id=1)).isError()


async def test_ports_follow_each_other_and_are_free_again_afterwards() -> None:
    async with run_line(LineSettings(servers=1)) as probe:
        port = probe.plcs[0].port
    settings = LineSettings(servers=1, port=port)
    for _ in range(2):
        async with run_line(settings) as line, client_of(line.plcs[0]) as client:
            assert line.plcs[0].port == port
            assert client.connected


async def test_a_port_that_is_taken_is_said() -> None:
    async with run_line(LineSettings(servers=1)) as line:
        with pytest.raises(OSError, match="plc-1 cannot listen"):
            async with run_line(LineSettings(servers=1, port=line.plcs[0].port)):
                pass


async def test_a_stranger_who_does_not_speak_modbus_is_put_out() -> None:
    async with run_line(LineSettings(servers=1)) as line:
        plc = line.plcs[0]
        reader, writer = await asyncio.open_connection(plc.host, plc.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        async with client_of(plc) as client:
            assert not (await client.read_input_registers(0, count=2, device_id=1)).isError()


async def test_nothing_is_left_running_afterwards() -> None:
    before = asyncio.all_tasks()
    async with run_line(LineSettings(servers=3)) as line, client_of(line.plcs[1]) as client:
        await client.read_coils(0, count=1, device_id=11)
    assert asyncio.all_tasks() == before


async def test_an_error_in_the_block_leaves_as_it_is() -> None:
    async def use() -> None:
        async with run_line(LineSettings(servers=1)) as line:
            raise KeyError(line.plcs[0].name)

    with pytest.raises(KeyError, match="plc-1"):
        await use()
