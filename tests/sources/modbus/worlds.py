"""Worlds of Modbus faults in memory: a connection of ours, a device that errs by a seed, no clock.

Time passes only when nothing is left to do, and then at once: a time-out costs nothing, so that a
million polls take minutes. The device frames its answers with code of its own. It is told what it
may do wrong by what a client could possibly notice: a frame with a right check and a number that
is right is an answer, whoever made it.
"""

from __future__ import annotations

import asyncio
import binascii
import random
import selectors
import struct
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from gateway.errors import DeviceRefused, SourceError, WireError
from gateway.sources.modbus.client import Connection, Peer, ResponseTimeout, new_connection
from gateway.sources.modbus.config import ModbusRtuSettings, ModbusSettings, ModbusTcpSettings
from gateway.sources.modbus.wire import Request

__all__ = ["KINDS", "World", "run"]

T = TypeVar("T")

_UNTRUE = ("unit", "function", "count", "odd", "length")
TIMEOUT_S = 0.1
LATEST_S = 40.0

_TCP = {"type": "modbus-tcp", "name": "plc", "host": "h", "map": "m.csv"}
_LINE = {"type": "modbus-rtu", "name": "line", "device": "/dev/x", "map": "m.csv"}
KINDS: Mapping[str, Mapping[str, object]] = {
    "tcp": _TCP,
    "pipelined": _TCP | {"in_flight": 4},
    "id always 0": _TCP | {"transaction_id_zero": True},
    "udp": _TCP | {"transport": "udp"},
    "rtu": _LINE | {"baud_rate": 115200},
    "rtu over tcp": _TCP | {"framing": "rtu"},
    "ascii": _LINE | {"framing": "ascii", "data_bits": 7, "baud_rate": 115200},
    "ascii over tcp": _TCP | {"framing": "ascii"},
}


def truth(unit_id: int, function: int, address: int) -> int:
    return (unit_id * 9973 + function * 31337 + address * 7 + 1) % 65536


def block_of(unit_id: int, function: int, address: int, quantity: int) -> bytes:
    values = [truth(unit_id, function, address + i) for i in range(quantity)]
    if function > 2:
        return b"".join(value.to_bytes(2, "big") for value in values)
    bits = sum((value >> 3 & 1) << i for i, value in enumerate(values))
    return bits.to_bytes((quantity + 7) // 8, "little")


class _Skipping(selectors.DefaultSelector):
    """Waits by moving the loop's clock."""

    loop: _Loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everybody waits, and nothing will ever happen")
        self.loop.now_s += max(0.0, timeout)
        return []


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        selector = _Skipping()
        selector.loop = self
        self.now_s = 0.0
        super().__init__(selector)

    def time(self) -> float:
        return self.now_s


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run it in a loop whose time is not real."""
    loop = _Loop()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.close()


class World:
    """One device, one client, and what went wrong between them."""

    def __init__(self, kind: str, seed: int) -> None:
        facts = dict(KINDS[kind])
        model = ModbusTcpSettings if facts["type"] == "modbus-tcp" else ModbusRtuSettings
        self.settings: ModbusSettings = model.model_validate(facts)
        self.kind = kind
        self.framing = str(getattr(self.settings, "framing", "mbap"))
        self.rng = random.Random(seed)
        self.is_numbered = kind in {"tcp", "pipelined", "udp"}
        self.peer = Peer()
        self.connection: Connection | None = None
        self.faults: Counter[str] = Counter()  # that the device committed
        self.seen: Counter[str] = Counter()  # what came of the polls
        self._free_s = 0.0  # a device answers one request after the other
        self._line_free_s = 0.0
        self._old = b""

    # The client.

    async def poll(self, polls: int) -> None:
        """Ask so often, like a scanner does; an AssertionError for a wrong value."""
        workers = getattr(self.settings, "in_flight", 1)
        left = iter(range(polls))
        await asyncio.gather(*(self._work(left) for _ in range(workers)))

    async def _work(self, left: Any) -> None:
        rng = self.rng
        for _ in left:
            if self.connection is None or not self.connection.is_open:
                self.connection = new_connection(self.settings, self.peer)
                self.connection.connection_made(_Wire(self, self.connection))
            function = rng.choice((1, 2, 3, 3, 3, 4))
            quantity = rng.choice((1, 2, 2, 4, rng.randint(1, 100)))
            request = Request(rng.randint(1, 3), function, rng.randrange(3000), quantity)
            try:
                block = await self.connection.read(request, TIMEOUT_S)
            except DeviceRefused:
                self.seen["refused"] += 1
            except WireError as error:
                self.seen[error.kind] += 1
            except ResponseTimeout:
                self.seen["timeout"] += 1
            except SourceError:
                self.seen["closed"] += 1
            else:
                right = block_of(request.unit_id, function, request.address, quantity)
                assert block == right, f"{self.kind}: {request} gave {block.hex()}"
                self.seen["right"] += 1
                continue
            if rng.random() < 0.5:
                await asyncio.sleep(rng.choice((0.01, 0.5, 5.0)))

    # The device.

    def asked(self, data: bytes, connection: Connection) -> None:
        """A request came in."""
        loop, rng = asyncio.get_running_loop(), self.rng
        number, unit_id, function, address, quantity = self._parse(data)
        block = block_of(unit_id, function, address, quantity)
        pdu = bytes([function, len(block)]) + block
        wire = self._frame(number, unit_id, pdu)
        delay_s, lasts_s = rng.uniform(0.001, 0.005), 0.0
        fault = self._fault()
        if fault == "silent":
            return
        if fault == "late":
            delay_s = rng.choice((0.11, 0.15, 0.3, 1.0, rng.uniform(0.1, LATEST_S)))
        step_s = rng.choice((0.001, 0.02))
        if fault == "dribble":
            lasts_s = step_s * (len(wire) + 1)
        elif fault == "short":
            lasts_s = 2 * TIMEOUT_S
        when_s = loop.time() + delay_s
        if not self.is_numbered:
            # A device answers one request after the other.
            when_s = max(self._free_s, loop.time()) + delay_s
            self._free_s = when_s + lasts_s
        match fault:
            case "short":
                loop.call_at(when_s, self._stop_short, wire)
            case "dribble":
                loop.call_at(when_s, self._dribble, wire, step_s, connection)
            case "reset":
                loop.call_at(when_s, self._break, wire, connection)
            case _:
                spoilt = self._spoilt(fault, wire, (number, unit_id, function, pdu), data)
                self._old = wire
                loop.call_at(when_s, self._deliver, spoilt)
                if fault == "double":
                    loop.call_at(when_s + rng.uniform(0.0, 0.2), self._deliver, wire)

    def _fault(self) -> str:
        """What goes wrong this time: in half of the cases nothing."""
        fault = self.rng.choice(self._menu()) if self.rng.random() < 0.5 else "none"
        is_behind = self._free_s > asyncio.get_running_loop().time()
        if not self.is_numbered and is_behind and fault in _UNTRUE:
            # Late and in another unit's name: that no client can tell from an answer.
            fault = "none"
        self.faults[fault] += 1
        return fault

    def _menu(self) -> tuple[str, ...]:
        menu = (
            "silent",
            "late",
            "late",
            "reset",
            "short",
            "flip",
            "flip",
            "exception",
            "unit",
            "function",
        )
        menu += ("count", "odd", "length", "trailing", "garbage", "twice")
        if self.kind != "udp":
            menu += ("dribble",)
        if self.is_numbered:
            menu += ("double", "old", "number")
        if self.framing in {"rtu", "ascii"}:
            menu += ("echo", "noise")
        return menu

    def _spoilt(
        self, fault: str, wire: bytes, said: tuple[int, int, int, bytes], asked: bytes
    ) -> bytes:
        rng = self.rng
        spoil: Mapping[str, Callable[[], bytes]] = {
            "none": lambda: wire,
            "late": lambda: wire,
            "flip": lambda: self._flipped(wire),
            "trailing": lambda: wire + rng.randbytes(rng.randrange(1, 20)),
            "garbage": lambda: rng.randbytes(rng.randrange(1, 60)),
            "twice": lambda: wire + wire,
            "double": lambda: wire,
            "old": lambda: self._old or wire,
            "echo": lambda: asked + wire,
            "noise": lambda: rng.randbytes(rng.randrange(1, 4)) + wire,
        }
        return spoil[fault]() if fault in spoil else self._untrue(fault, *said)

    def _untrue(self, fault: str, number: int, unit_id: int, function: int, pdu: bytes) -> bytes:
        """A whole frame with a right check that is not the answer."""
        rng = self.rng
        match fault:
            case "exception":
                pdu = bytes([function | 0x80, rng.randint(1, 11)])
            case "unit":
                unit_id = unit_id % 3 + 1
                pdu = pdu[:2] + block_of(unit_id, function, 5, 100)[: len(pdu) - 2]
            case "function":
                pdu = bytes([{1: 2, 2: 1, 3: 4, 4: 3}[function]]) + pdu[1:]
            case "count":
                more = rng.randbytes(rng.choice((2, 4)))
                pdu = bytes([function, len(pdu) - 2 + len(more)]) + pdu[2:] + more
            case "odd":
                pdu = bytes([function, len(pdu) - 3]) + pdu[2:-1]
            case "length":
                pdu = pdu[:1] + bytes([(pdu[1] + rng.randrange(1, 255)) % 256]) + pdu[2:]
            case "number":
                number ^= 0x8000 >> rng.randrange(6)  # not one that is under way as well
            case _:
                raise AssertionError(fault)
        return self._frame(number, unit_id, pdu)

    def _flipped(self, wire: bytes) -> bytes:
        """As many bits as the framing is sure to notice, where it does."""
        spoilt, rng = bytearray(wire), self.rng
        if self.framing == "mbap":
            # TCP checks what it carries; what a device errs in is the header.
            places, bits = (
                (range(2, 9) if self.kind in {"id always 0", "pipelined"} else range(9)),
                1,
            )
        else:
            places, bits = range(len(wire)), 3 if self.framing == "rtu" else 1
        for _ in range(rng.randint(1, bits)):
            spoilt[rng.choice(places)] ^= 1 << rng.randrange(8)
        return bytes(spoilt)

    def _deliver(self, data: bytes) -> None:
        """To whoever is connected by now, as Modbus gateways do; frames do not mix."""
        now_s = asyncio.get_running_loop().time()
        if self.is_numbered and now_s < self._line_free_s:
            asyncio.get_running_loop().call_at(self._line_free_s, self._deliver, data)
            return
        cut = self.rng.choice((len(data), len(data), 1, 9)) if self.kind != "udp" else len(data)
        for part in (data[:cut], data[cut:]):
            self._send(part)

    def _stop_short(self, data: bytes) -> None:
        """Part of an answer, and then nothing for as long as somebody waits for the rest."""
        if asyncio.get_running_loop().time() < self._line_free_s:
            return
        self._send(data[: self.rng.randrange(len(data))])
        self._line_free_s = asyncio.get_running_loop().time() + 2 * TIMEOUT_S

    def _break(self, data: bytes, connection: Connection) -> None:
        """Part of an answer, and a reset."""
        if connection is self.connection:
            self._send(data[: self.rng.randrange(len(data))])
            connection.connection_lost(None)

    def _dribble(self, data: bytes, step_s: float, connection: Connection) -> None:
        """A byte at a time, to this connection alone."""
        if connection is self.connection and connection.is_open and data:
            self._send(data[:1])
            loop = asyncio.get_running_loop()
            self._line_free_s = loop.time() + step_s * 1.5
            loop.call_later(step_s, self._dribble, data[1:], step_s, connection)

    def _send(self, data: bytes) -> None:
        if self.connection is not None and self.connection.is_open and data:
            self.connection.data_received(data)

    def _parse(self, data: bytes) -> tuple[int, int, int, int, int]:
        number = 0
        match self.framing:
            case "mbap":
                number, protocol, length = struct.unpack(">HHH", data[:6])
                assert (protocol, length) == (0, 6)
                body = data[6:]
            case "rtu":
                body = data[:-2]
                assert _crc(body) == data[-2:]
            case _:
                assert data[:1] == b":"
                assert data[-2:] == b"\r\n"
                body = bytes.fromhex(data[1:-2].decode())
                assert sum(body) % 256 == 0
                body = body[:-1]
        unit_id, function, address, quantity = struct.unpack(">BBHH", body)
        return number, unit_id, function, address, quantity

    def _frame(self, number: int, unit_id: int, pdu: bytes) -> bytes:
        body = bytes([unit_id]) + pdu
        match self.framing:
            case "mbap":
                number = 0 if self.kind == "id always 0" else number
                return struct.pack(">HHH", number, 0, len(body)) + body
            case "rtu":
                return body + _crc(body)
            case _:
                check = (256 - sum(body) % 256) % 256
                return b":" + binascii.hexlify(body + bytes([check])).upper() + b"\r\n"


class _Wire:
    """The transport: what is written is asked."""

    def __init__(self, world: World, connection: Connection) -> None:
        self._world = world
        self._connection = connection

    def write(self, data: bytes) -> None:
        self._world.asked(data, self._connection)

    def abort(self) -> None:
        pass

    def get_extra_info(self, _: str) -> None:
        return None


def _crc(data: bytes) -> bytes:
    """CRC-16/MODBUS, bit by bit as the standard tells it."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc, carry = crc >> 1, crc & 1
            if carry:
                crc ^= 0xA001
    return struct.pack("<H", crc)
