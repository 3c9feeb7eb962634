"""Offers: chosen tags as Modbus registers, for a PLC or an HMI to read. It cannot be written.

Functions 1 and 2 read the bits, 3 and 4 the registers, of any unit id; everything else is refused
with exception 1. What is between the offered addresses is zero; beyond them is exception 2. A tag
that is bad, or older than `stale_after`, is answered as `bad` says.
"""

from __future__ import annotations

import asyncio
import csv
import logging
import math
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gateway.clock import Clock
from gateway.config.schema import ModbusServerSettings
from gateway.errors import ConfigError, Problem, SluicegateError
from gateway.stages.latest import Latest
from gateway.tag import Quality, TagTable

__all__ = ["Offer", "OfferStats", "load_offers", "serve_offers"]

log = logging.getLogger(__name__)

CLIENTS_MAX = 16
IDLE_S = 120.0  # a client that asks nothing for so long is gone
REQUEST_S = 5.0  # from a request's first byte to its last
BYTES_MAX = 4 * 2**20
_FORMATS = {
    "int16": ">h", "uint16": ">H", "int32": ">i", "uint32": ">I", "int64": ">q", "uint64": ">Q",
    "float32": ">f", "float64": ">d",
}  # fmt: skip
_COLUMNS = ("tag", "address", "data_type", "byte_order", "scale")


@dataclass(slots=True)
class OfferStats:
    """What an operator wants to know of it. Counters only rise."""

    requests_total: int = 0
    refusals_total: int = 0
    connections_refused_total: int = 0
    clients: int = 0


@dataclass(frozen=True, slots=True)
class Offer:
    """One tag at its address; `bool` is a bit, everything else registers."""

    tag: str
    address: int
    data_type: str
    byte_order: str = "ABCD"
    scale: float = 1.0  # what is offered = value / scale

    @property
    def size(self) -> int:
        """Registers, or one bit."""
        return 1 if self.data_type == "bool" else struct.calcsize(_FORMATS[self.data_type]) // 2

    def encode(self, value: float | None) -> bytes:
        """The registers of a value, kept within what the type holds; None is the sentinel."""
        form = _FORMATS[self.data_type]
        if self.data_type.startswith("float"):
            stored = math.nan if value is None else value / self.scale
            with suppress(OverflowError):
                return self._ordered(struct.pack(form, stored))
            return self._ordered(struct.pack(form, math.nan))
        bits = 8 * struct.calcsize(form)
        is_signed = self.data_type.startswith("int")
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_signed else (0, 2**bits - 1)
        missing = low if is_signed else high
        if value is None or not math.isfinite(value):
            return self._ordered(struct.pack(form, missing))
        exact = value if self.scale == 1.0 else value / self.scale
        return self._ordered(struct.pack(form, min(max(round(exact), low), high)))

    def _ordered(self, data: bytes) -> bytes:
        words = [data[i : i + 2] for i in range(0, len(data), 2)]
        if self.byte_order in ("CDAB", "DCBA"):
            words.reverse()
        if self.byte_order in ("BADC", "DCBA"):
            words = [word[::-1] for word in words]
        return b"".join(words)


def load_offers(path: Path) -> list[Offer]:
    """The map of what is offered; raises ConfigError with every row that is wrong."""
    try:
        if path.stat().st_size > BYTES_MAX:
            raise SluicegateError(f"{path} is larger than 4 MiB")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SluicegateError(
            f"{path} cannot be read: {error}", hint="see [gateway.modbus_server]"
        ) from error
    problems: list[Problem] = []
    offers: list[Offer] = []
    taken: dict[tuple[bool, int], str] = {}
    for number, cells in enumerate(csv.DictReader(lines), start=2):
        given = {k: (v or "").strip() for k, v in cells.items() if isinstance(v, str) and k}
        try:
            offer = Offer(
                given.get("tag", ""), int(given.get("address", "")),
                given.get("data_type") or "float32", given.get("byte_order") or "ABCD",
                float(given.get("scale") or 1),
            )  # fmt: skip
            said = _mistake(offer, taken)
        except ValueError as error:
            said = str(error)
        if said:
            mend = f"The columns are {', '.join(_COLUMNS)}."
            problems.append(Problem(file=str(path), place=f"row {number}", found=said, mend=mend))
        else:
            offers.append(offer)
    if problems:
        raise ConfigError(problems)
    return offers


def _mistake(offer: Offer, taken: dict[tuple[bool, int], str]) -> str:
    if not offer.tag:
        return "it has no tag"
    if offer.data_type != "bool" and offer.data_type not in _FORMATS:
        return f"data_type {offer.data_type} is unknown"
    if offer.byte_order not in ("ABCD", "CDAB", "BADC", "DCBA"):
        return f"byte_order {offer.byte_order} is unknown"
    if not 0 <= offer.address <= 65536 - offer.size:
        return f"address {offer.address} is not one"
    if not math.isfinite(offer.scale) or offer.scale == 0:
        return f"scale {offer.scale} is none"
    for place in range(offer.address, offer.address + offer.size):
        other = taken.setdefault((offer.data_type == "bool", place), offer.tag)
        if other != offer.tag:
            return f"address {place} is that of {other} too"
    return ""


class _Registers:
    """Answers to PDUs."""

    def __init__(
        self,
        offers: list[Offer],
        settings: ModbusServerSettings,
        table: TagTable,
        latest: Latest,
        clock: Clock,
    ) -> None:
        self._bits = [offer for offer in offers if offer.data_type == "bool"]
        self._words = [offer for offer in offers if offer.data_type != "bool"]
        self._settings = settings
        self._table = table
        self._latest = latest
        self._clock = clock

    def answer(self, pdu: bytes) -> bytes:
        """The PDU of an answer, whatever the request is."""
        function = pdu[0]
        if function not in (1, 2, 3, 4):
            return bytes([function & 0x7F | 0x80, 1])
        if len(pdu) != 5:
            return bytes([function | 0x80, 3])
        address, count = struct.unpack(">HH", pdu[1:])
        is_bits = function <= 2
        offers = self._bits if is_bits else self._words
        if not 1 <= count <= (2000 if is_bits else 125):
            return bytes([function | 0x80, 3])
        if address + count > max((o.address + o.size for o in offers), default=0):
            return bytes([function | 0x80, 2])
        data = self._block(offers, address, count, is_bits=is_bits)
        if data is None:
            return bytes([function | 0x80, 4])
        if is_bits:
            number = sum(bit << i for i, bit in enumerate(data))
            data = number.to_bytes((count + 7) // 8, "little")
        return bytes([function, len(data)]) + data

    def _block(
        self, offers: list[Offer], address: int, count: int, *, is_bits: bool
    ) -> bytes | None:
        """A byte a bit, or two a register; None where a bad tag is to be an exception."""
        size = 1 if is_bits else 2
        data = bytearray(size * count)
        for offer in offers:
            if offer.address + offer.size <= address or offer.address >= address + count:
                continue
            value = self._value(offer.tag)
            if value is None and (self._settings.bad == "exception" or is_bits):
                return None
            raw = bytes([bool(value)]) if is_bits else offer.encode(value)
            for i in range(offer.size):
                place = offer.address + i - address
                if 0 <= place < count:
                    data[size * place : size * (place + 1)] = raw[size * i : size * (i + 1)]
        return bytes(data)

    def _value(self, tag: str) -> float | None:
        """The newest value; None where it is bad, stale, or not there."""
        tag_id, latest = self._table.id_of(tag), self._latest
        if tag_id is None or tag_id >= len(latest.t_ns):
            return None
        age_s = (self._clock.utc_ns() - int(latest.t_ns[tag_id])) / 1e9
        if latest.quality[tag_id] >= Quality.BAD or age_s > self._settings.stale_after:
            return None
        value = latest.exact.get(tag_id, float(latest.values[tag_id]))
        if isinstance(value, str) or value != value:  # noqa: PLR0124 - not a number
            return None
        return value


@asynccontextmanager
async def serve_offers(
    settings: ModbusServerSettings, base: Path, table: TagTable, latest: Latest, clock: Clock
) -> AsyncIterator[tuple[int, OfferStats]]:
    """Offer until the block ends; the port, and what happens there. Raises SluicegateError."""
    registers = _Registers(load_offers(base / settings.map), settings, table, latest, clock)
    stats = OfferStats()
    host, _, port = settings.listen.rpartition(":")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if stats.clients >= CLIENTS_MAX:
            stats.connections_refused_total += 1
            writer.transport.abort()
            return
        stats.clients += 1
        try:
            while True:
                async with asyncio.timeout(IDLE_S):
                    head = await reader.readexactly(1)
                async with asyncio.timeout(REQUEST_S):
                    head += await reader.readexactly(6)
                    number, protocol, length, unit_id = struct.unpack(">HHHB", head)
                    if protocol or not 2 <= length <= 254:
                        return
                    pdu = registers.answer(await reader.readexactly(length - 1))
                    stats.requests_total += 1
                    stats.refusals_total += pdu[0] > 0x7F
                    writer.write(struct.pack(">HHHB", number, 0, len(pdu) + 1, unit_id) + pdu)
                    await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            return
        finally:
            stats.clients -= 1
            writer.transport.abort()

    try:
        server = await asyncio.start_server(serve, host.strip("[]"), int(port), limit=4096)
    except OSError as error:
        raise SluicegateError(
            f"cannot listen on {settings.listen}: {error}",
            hint="change gateway.modbus_server.listen, or stop what listens there",
        ) from error
    try:
        yield server.sockets[0].getsockname()[1], stats
    finally:
        server.close()
