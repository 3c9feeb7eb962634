"""A Modbus device that misbehaves on demand: pymodbus answers, and then we spoil what it says.

    sluicegate simulate device --port 5020 --framing rtu --fault wrong_unit@0.1

Holding and input register `a` of unit `u` hold (7 * a + 1000 * u) mod 65536. Faults are switched at
run time over HTTP, loopback only: POST /fault?name=late&rate=0.5, DELETE /fault, GET /. On a serial
line the adapter is pulled out for some seconds by POST /unplug?seconds=3.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pymodbus.constants import ExcCodes
from pymodbus.framer import FramerType
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from simulators.serial_line import SerialLine, pluggable_line
from simulators.wire import WIRE_FAULTS, relay

__all__ = ["FAULTS", "MisbehavingDevice", "main", "truth"]

REGISTERS = 1000
LATE_S = 1.5  # beyond the usual response_timeout
_HEAD_BYTES_MAX = 8192


_FRAMERS = {"tcp": FramerType.SOCKET, "rtu": FramerType.RTU, "ascii": FramerType.ASCII}


def _flip(data: bytes, place: int, bits: int = 1) -> bytes:
    spoiled = bytearray(data)
    spoiled[place % len(data)] ^= bits
    return bytes(spoiled)


# What becomes of the bytes of a right answer. The unit id is byte 6 of TCP, byte 0 of RTU.
FAULTS: dict[str, Callable[[bytes, int], bytes]] = {
    "wrong_transaction": lambda data, _: _flip(data, 1),
    "transaction_zero": lambda data, _: b"\0\0" + data[2:],
    "wrong_unit": lambda data, unit: _flip(data, unit, 3),
    "wrong_function": lambda data, unit: _flip(data, unit + 1, 7),
    "wrong_byte_count": lambda data, unit: _flip(data, unit + 2, 2),
    "length_lies": lambda data, _: _flip(data, 5, 4),
    "short": lambda data, _: data[:-2],
    "long": lambda data, _: data + b"\0\0",
    "twice": lambda data, _: data + data,
    "flipped_bit": lambda data, _: _flip(data, len(data) - 3, 16),
    "noise": lambda data, _: bytes(random.randbytes(5)) + data,
    "silence": lambda _data, _unit: b"",
    "late": lambda data, _: data,  # delayed before pymodbus answers
    **{f"exception_{int(code)}": lambda data, _: data for code in ExcCodes},
}


KINDS = (*FAULTS, *WIRE_FAULTS)


def truth(unit_id: int, address: int) -> int:
    """What a register holds."""
    return (7 * address + 1000 * unit_id) % 65536


class MisbehavingDevice:
    """A server with some unit ids; `faults` (name -> share of answers) may change at any time."""

    def __init__(self, units: range = range(1, 4), framing: str = "tcp", seed: int = 1) -> None:
        self.faults: dict[str, float] = {}
        self.done: Counter[str] = Counter()
        self.port = 0
        self._units = units
        self._framing = framing
        self._seed = seed
        self._random = random.Random(seed)

    def switch(self, name: str, rate: float = 1.0) -> None:
        """Have a share of the answers spoiled so; ValueError for what is no fault."""
        if name not in KINDS or not 0 <= rate <= 1:
            raise ValueError(f"{name!r} at {rate} is none; there are {', '.join(KINDS)}")
        self.faults[name] = rate

    @asynccontextmanager
    async def serving(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
        """Answer until the block ends; the port."""
        framer = _FRAMERS[self._framing]
        server = ModbusTcpServer(
            [self._device(unit_id) for unit_id in self._units],
            framer=framer,
            address=("127.0.0.1", 0),
            trace_packet=self._spoil,
        )
        await server.listen()
        transport: Any = server.transport
        inner = transport.sockets[0].getsockname()[1]
        try:
            async with relay(inner, self._draws, seed=self._seed, host=host, port=port) as own:
                self.port = own
                yield own
        finally:
            await server.shutdown()  # type: ignore[no-untyped-call]  # pymodbus has none there

    def _device(self, unit_id: int) -> SimDevice:
        values = [truth(unit_id, address) for address in range(REGISTERS)]
        data = [SimData(0, values=values, datatype=DataType.REGISTERS)]
        return SimDevice(unit_id, simdata=data, action=self._delay)

    async def _delay(self, *_: Any) -> ExcCodes | None:
        if self._draws("late"):
            await asyncio.sleep(LATE_S)
        for name in [name for name in self.faults if name.startswith("exception_")]:
            if self._draws(name):
                return ExcCodes(int(name.removeprefix("exception_")))
        return None

    def _draws(self, name: str) -> bool:
        is_drawn = self._random.random() < self.faults.get(name, 0.0)
        self.done[name] += is_drawn
        return is_drawn

    def _spoil(self, is_sending: bool, data: bytes) -> bytes:
        if not is_sending or not data:
            return data
        unit = 0 if self._framing == "rtu" else 6
        for name in list(self.faults):
            is_of_bytes = name in FAULTS and name != "late" and not name.startswith("exception_")
            if is_of_bytes and self._draws(name):
                return FAULTS[name](data, unit)
        return data


@asynccontextmanager
async def control(
    device: MisbehavingDevice, port: int = 0, line: SerialLine | None = None
) -> AsyncIterator[int]:
    """Serve the faults over HTTP until the block ends; the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(5):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status, answer = _answer(device, line, *head.split(" ", 2)[:2])
            body = json.dumps(answer).encode() + b"\n"
            size = f"Content-Length: {len(body)}\r\nConnection: close"
            writer.write(f"HTTP/1.1 {status}\r\n{size}\r\n\r\n".encode() + body)
        except (TimeoutError, OSError, ValueError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port, limit=_HEAD_BYTES_MAX)
    async with server:
        yield server.sockets[0].getsockname()[1]


def _answer(
    device: MisbehavingDevice, line: SerialLine | None, method: str, target: str
) -> tuple[str, Any]:
    url = urlsplit(target)
    query = dict(parse_qsl(url.query))
    if url.path == "/fault" and method == "POST":
        try:
            device.switch(query.get("name", ""), float(query.get("rate", "1")))
        except ValueError as error:
            return "400 Bad Request", {"error": str(error)}
    elif url.path == "/fault" and method == "DELETE":
        if "name" in query:
            device.faults.pop(query["name"], None)
        else:
            device.faults.clear()
    elif url.path == "/unplug" and method == "POST":
        if line is None:
            return "400 Bad Request", {"error": "there is no serial line"}
        try:
            line.unplug(float(query.get("seconds", "3")))
        except ValueError as error:
            return "400 Bad Request", {"error": str(error)}
    elif url.path != "/" or method != "GET":
        said = "there are GET /, POST /fault, DELETE /fault and POST /unplug"
        return "404 Not Found", {"error": said}
    return "200 OK", {"faults": device.faults, "done": device.done, "kinds": list(KINDS)}


async def _main(options: argparse.Namespace) -> None:
    device = MisbehavingDevice(range(1, options.units + 1), options.framing, options.seed)
    for name, rate in options.fault:
        device.switch(name, rate)
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(device.serving(options.host, options.port))
        ready: dict[str, Any] = {"event": "ready", "port": port}
        line = None
        if options.serial:
            line = await stack.enter_async_context(pluggable_line("127.0.0.1", port))
            ready["device"] = line.path
        controlled = control(device, options.control_port, line)
        ready["control"] = f"http://127.0.0.1:{await stack.enter_async_context(controlled)}"
        print(json.dumps(ready), flush=True)  # noqa: T201 - what the program is for
        await asyncio.Event().wait()


def _fault(text: str) -> tuple[str, float]:
    name, _, rate = text.partition("@")
    try:
        MisbehavingDevice().switch(name, share := float(rate or 1))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return name, share


def main(argv: Sequence[str] | None = None, *, port: Callable[[str], int] = int) -> int:
    """The command; the exit status. `port` is the type of a port."""
    listed = "".join(f"\n  {name:18}{what}" for name, what in WIRE_FAULTS.items())
    parser = argparse.ArgumentParser(
        prog="sluicegate simulate device",
        description="A Modbus device that misbehaves on demand.",
        epilog=f"faults: {', '.join(FAULTS)}; and on the way:{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address (default 127.0.0.1)")
    parser.add_argument("--port", type=port, default=0, help="0 = a free one")
    parser.add_argument("--control-port", type=port, default=0, help="of the faults' HTTP")
    parser.add_argument(
        "--units", type=int, choices=range(1, 248), default=3, metavar="N", help="ids 1 to N (3)"
    )
    parser.add_argument("--framing", choices=tuple(_FRAMERS), default="tcp")
    parser.add_argument("--serial", action="store_true", help="on a pseudo-terminal, too")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same faults (default 1)")
    parser.add_argument(
        "--fault", type=_fault, action="append", default=[], metavar="NAME[@RATE]", help="see below"
    )
    options = parser.parse_args(argv)
    if options.serial and options.framing == "tcp":
        parser.error("--serial needs --framing rtu or ascii")
    try:
        asyncio.run(_main(options))
    except OSError as error:
        print(f"sluicegate: {error}", file=sys.stderr)  # noqa: T201 - likewise
        return 69
    return 0


if __name__ == "__main__":
    sys.exit(main())
