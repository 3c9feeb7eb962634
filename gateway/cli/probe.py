"""`sluicegate probe ENDPOINT`: who answers there, what can be read, and what it may mean.

Gentle: one request at a time with a pause after each, bounded in requests and in time. It only
reads. What it prints is a register map to edit; lines that begin with # say what was found.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import sys
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from gateway.errors import DeviceRefused, SluicegateError, SourceError, SourceLost, WireError

if TYPE_CHECKING:
    import numpy as np

    from gateway.sources.modbus.config import ModbusSettings, RegisterRow
    from gateway.sources.modbus.wire import Query

__all__ = ["add_parser"]

TABLES = {3: "holding_register", 4: "input_register", 1: "coil", 2: "discrete_input"}
BLOCK_REGISTERS = 64
REQUESTS_MAX = 5000
_AWAY = (10, 11)


def add_parser(subparsers: Any) -> None:
    """The `probe` command."""
    parser = subparsers.add_parser(
        "probe",
        help="find out what a Modbus device has",
        description="Find unit ids, identification and readable registers; propose a map.",
    )
    parser.add_argument("endpoint", help="tcp://host:502, rtu:///dev/ttyUSB0?baud_rate=9600, ...")
    parser.add_argument("--units", default="1-10", help='unit ids to try, such as "1,3,20-30"')
    parser.add_argument("--addresses", default="0-499", help='such as "0-499" or "40000-40199"')
    parser.add_argument("--looks", type=int, default=5, help="how often to look at what changes")
    parser.add_argument("--every", type=_seconds, default=1.0, help='between two looks ("1s")')
    parser.add_argument("--pause", type=_seconds, default=0.02, help='after each request ("20ms")')
    parser.add_argument("--time", type=_seconds, default=120.0, help='in all, at most ("2m")')
    parser.add_argument(
        "--sunspec", action="store_true", help="ask for SunSpec models, and print their map"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from gateway.sources.modbus.endpoint import settings_at

    settings = settings_at(options.endpoint)
    if "response_timeout" not in options.endpoint:
        settings = settings.model_copy(update={"response_timeout": 0.5})
    units, addresses = _numbers(options.units, 255), _numbers(options.addresses, 65535)
    if not 1 <= options.looks <= 1000 or not 0 <= options.every <= 3600 or options.pause < 0:
        raise SluicegateError("looks are 1 to 1000, every is 0 to 3600, pause is 0 or more")
    prober = _Prober(settings, options.pause, options.time)
    if options.sunspec:
        return asyncio.run(prober.run_sunspec(units))
    return asyncio.run(prober.run(units, addresses, options.looks, options.every))


def _seconds(text: str) -> float:
    """A duration; a bare number is of seconds."""
    from gateway.settings import parse_duration

    try:
        return float(text)
    except ValueError:
        pass
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _numbers(text: str, most: int) -> list[int]:
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        last = last or first
        is_right = first.isdecimal() and last.isdecimal() and int(first) <= int(last) <= most
        if not is_right:
            raise SluicegateError(f"{text!r} are no numbers up to {most}", hint="such as 1,3,20-30")
        numbers.update(range(int(first), int(last) + 1))
    return sorted(numbers)


class _Spent(Exception):
    """The time or the requests are used up."""


class _Prober:
    def __init__(self, settings: ModbusSettings, pause_s: float, time_s: float) -> None:
        from gateway.sources.modbus.client import Peer

        self._settings = settings
        self._pause_s = pause_s
        self._end_s = time.monotonic() + time_s
        self._peer = Peer("probe")
        self._requests = 0
        self._most: dict[tuple[int, int], int] = {}  # registers that were answered at once
        self._error: SourceError | None = None  # the last, of those that count as silence
        self._connection: Any = None
        self._opened = AsyncExitStack()

    async def run(self, units: list[int], addresses: list[int], looks: int, every_s: float) -> int:
        """Print what is found; 0 if anything is."""
        writer = csv.writer(sys.stdout, lineterminator="\n")
        header = "asset,tag,unit_id,table,address,data_type,length,byte_order"
        print(header)
        there = 0
        async with self._opened:
            await self._connect()
            try:
                for unit_id in units:
                    if await self._is_there(unit_id, addresses[0]):
                        there += 1
                        await self._unit(unit_id, addresses, looks, every_s, writer)
            except _Spent:
                print("# the time is used up: there may be more; see --time, --units, --addresses")
        if not there and self._error is not None:
            print(f"# nobody answered; the last attempt: {self._error}")
        print(f"# {there} unit ids, {self._requests} requests")
        return 0 if there else 1

    async def run_sunspec(self, units: list[int]) -> int:
        """Print the register map of every SunSpec device; 0 if there is any."""
        from gateway.sources.modbus.sunspec.profile import csv_text

        found: list[RegisterRow] = []
        async with self._opened:
            await self._connect()
            try:
                for unit_id in units:
                    found += await self._sunspec_unit(unit_id)
            except _Spent:
                print("# the time is used up: there may be more; see --time, --units")
        print(f"# {len({row.unit_id for row in found})} unit ids, {self._requests} requests")
        print(csv_text(found), end="")
        return 0 if found else 1

    async def _sunspec_unit(self, unit_id: int) -> list[RegisterRow]:
        from gateway.sources.modbus.sunspec.discover import discover
        from gateway.sources.modbus.wire import Request

        async def read(address: int, quantity: int) -> bytes:
            answer: bytes | None = await self._ask(Request(unit_id, 3, address, quantity))
            if answer is None:
                raise SourceLost("no answer")
            return answer

        try:
            found = await discover(read)
        except SourceError as error:
            print(f"# unit {unit_id}: {error.message}")
            return []
        listed = ", ".join(f"{model.model_id} at {model.address}" for model in found.models)
        print(f"# unit {unit_id}: marker at {found.base}, models {listed}")
        for note in found.notes:
            print(f"# unit {unit_id}: {note}")
        return found.rows(f"unit-{unit_id}", unit_id)

    async def _ask(self, query: Query[Any]) -> Any:
        """The answer, or None for silence and nonsense; raises DeviceRefused."""
        if time.monotonic() > self._end_s or self._requests >= REQUESTS_MAX:
            raise _Spent
        self._requests += 1
        if self._connection is None or not self._connection.is_open:
            await self._connect()
        try:
            return await self._connection.ask(query, self._settings.response_timeout)
        except (SourceLost, WireError) as error:
            self._error = error
            return None
        finally:
            await asyncio.sleep(self._pause_s)

    async def _connect(self) -> None:
        from gateway.sources.modbus.client import connect

        await self._opened.aclose()
        opening = connect(self._settings, self._peer)
        self._connection = await self._opened.enter_async_context(opening)

    async def _is_there(self, unit_id: int, first: int) -> bool:
        from gateway.sources.modbus.wire import Request

        # Some devices meet addresses that they have not with silence.
        for function, address in dict.fromkeys(((3, 0), (4, 0), (3, first), (4, first))):
            try:
                if await self._ask(Request(unit_id, function, address, 1)) is not None:
                    return True
            except DeviceRefused as refused:
                return refused.code not in _AWAY
        return False

    async def _unit(
        self, unit_id: int, addresses: list[int], looks: int, every_s: float, writer: Any
    ) -> None:
        print(f"# unit {unit_id}: {await self._identification(unit_id) or 'no identification'}")
        blocks = []
        for function, table in TABLES.items():
            spans = await self._spans(unit_id, function, addresses)
            for first, count in spans:
                print(f"# unit {unit_id}: {table} {first}-{first + count - 1} can be read")
                if function <= 2:
                    for place in range(first, first + count):
                        writer.writerow(_row(unit_id, table, place, "bool"))
                else:
                    blocks += [
                        (function, start, min(BLOCK_REGISTERS, first + count - start))
                        for start in range(first, first + count, BLOCK_REGISTERS)
                    ]
        await self._propose(unit_id, blocks, looks, every_s, writer)

    async def _identification(self, unit_id: int) -> str:
        from gateway.sources.modbus.identification import Identification, IdentificationRequest

        try:
            part = await self._ask(IdentificationRequest(unit_id))
        except DeviceRefused:
            return ""
        if part is None:
            return ""
        texts = Identification(part.conformity, dict(part.objects)).texts()
        return ", ".join(f"{name} {text[:64]}" for name, text in texts.items())

    async def _spans(
        self, unit_id: int, function: int, addresses: list[int]
    ) -> list[tuple[int, int]]:
        """What can be read, as (first address, count)."""
        readable: list[int] = []
        for start in range(0, len(addresses), BLOCK_REGISTERS):
            part = addresses[start : start + BLOCK_REGISTERS]
            if not await self._find(unit_id, function, part, readable):
                return []  # the function itself is refused
        spans: list[tuple[int, int]] = []
        for address in readable:
            if spans and sum(spans[-1]) == address:
                spans[-1] = (spans[-1][0], spans[-1][1] + 1)
            else:
                spans.append((address, 1))
        return spans

    async def _find(
        self, unit_id: int, function: int, part: list[int], readable: list[int]
    ) -> bool:
        from gateway.sources.modbus.wire import Request

        is_whole = part[-1] - part[0] + 1 == len(part)
        if is_whole:
            try:
                answer = await self._ask(Request(unit_id, function, part[0], len(part)))
            except DeviceRefused as refused:
                if refused.code == 1:
                    return False
            else:
                if answer is not None:
                    readable += part
                    most = self._most.get((unit_id, function), 0)
                    self._most[unit_id, function] = max(most, len(part))
                return True
            if len(part) == 1:
                return True
        middle = len(part) // 2
        for half in (part[:middle], part[middle:]):
            if half and not await self._find(unit_id, function, half, readable):
                return False
        return True

    async def _propose(
        self, unit_id: int, blocks: list[Any], looks: int, every_s: float, writer: Any
    ) -> None:
        import numpy as np

        from gateway.sources.modbus.guess import guess

        seen: dict[Any, list[np.ndarray[Any, Any]]] = {block: [] for block in blocks}
        for look in range(looks if blocks else 0):
            began_s = time.monotonic()
            for function, first, count in blocks:
                data = await self._block(unit_id, function, first, count)
                if data is not None:
                    seen[function, first, count].append(np.frombuffer(data, ">u2"))
            if look + 1 < looks:
                await asyncio.sleep(max(0.0, began_s + every_s - time.monotonic()))
        for (function, first, _), samples in seen.items():
            if not samples:
                continue
            for found in guess(np.array(samples).astype(np.uint16)):
                place, kind = first + found.offset, found.data_type
                length: int | str = found.registers if kind == "string" else ""
                least, most = _text(found.least), _text(found.most)
                print(f"# {least}" + (f" to {most}" if most != least else ""))
                row = _row(unit_id, TABLES[function], place, kind.value)
                writer.writerow([*row[:-2], length, found.byte_order.value])

    async def _block(self, unit_id: int, function: int, first: int, count: int) -> bytes | None:
        """Registers that can be read, in requests that the device answers."""
        from gateway.sources.modbus.wire import Request

        step = self._most.get((unit_id, function), count)
        data = b""
        for start in range(first, first + count, step):
            quantity = min(step, first + count - start)
            try:
                answer: bytes | None = await self._ask(Request(unit_id, function, start, quantity))
            except DeviceRefused:
                return None
            if answer is None:
                return None
            data += answer
        return data


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.7g}"


def _row(unit_id: int, table: str, address: int, kind: str) -> list[Any]:
    return [f"unit-{unit_id}", f"{table}_{address}", unit_id, table, address, kind, "", "ABCD"]
