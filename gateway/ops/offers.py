"""Offers: chosen tags as Modbus registers, for a PLC or an HMI to read. It cannot be written.

Functions 1 and 2 read the bits, 3 and 4 the registers, of any unit id; everything else is refused
with exception 1. What is between the offered addresses is zero; beyond them is exception 2. A tag
that is bad, older than `stale_after`, or beyond what its type holds is answered as `bad` says.
`<asset>.<model>.alarm` is no tag but a bit: whether that model has an event open of that asset.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.clock import Clock
from gateway.config.offers import ALARM, Offer, load_offers
from gateway.config.schema import ModbusServerSettings
from gateway.errors import SluicegateError
from gateway.stages.latest import Latest
from gateway.stats import stat, stats
from gateway.tag import Quality, TagTable

__all__ = ["OfferStats", "serve_offers"]

log = logging.getLogger(__name__)

HasAlarm = Callable[[str, str], bool | None]
"""Whether a model (the first) has an event open of an asset; None where that is not known."""

CLIENTS_MAX = 16
IDLE_S = 120.0  # a client that asks nothing for so long is gone
REQUEST_S = 5.0  # from a request's first byte to its last


@stats
class OfferStats:
    """What an operator wants to know of it. Counters only rise."""

    requests_total: int = stat("requests that Modbus clients made")
    refusals_total: int = stat("requests answered with an exception")
    connections_refused_total: int = stat("connections refused: too many at once")
    clients: int = stat("Modbus clients connected now")


class _Registers:
    """Answers to PDUs."""

    def __init__(
        self,
        offers: list[Offer],
        settings: ModbusServerSettings,
        table: TagTable,
        latest: Latest,
        clock: Clock,
        has_alarm: HasAlarm | None,
    ) -> None:
        self._has_alarm = has_alarm
        self._said: set[str] = set()  # tags of which a value was beyond what is offered
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
            raw = self._raw(offer, value, is_bits=is_bits) if value is not None else None
            if raw is None:
                if self._settings.bad == "exception" or is_bits:
                    return None
                raw = offer.encode(None)
                assert raw is not None, "every type has a sentinel"
            for i in range(offer.size):
                place = offer.address + i - address
                if 0 <= place < count:
                    data[size * place : size * (place + 1)] = raw[size * i : size * (i + 1)]
        return bytes(data)

    def _raw(self, offer: Offer, value: float, *, is_bits: bool) -> bytes | None:
        """The bytes of a value; None, said once a tag, for one that its registers cannot hold."""
        raw = bytes([bool(value)]) if is_bits else offer.encode(value)
        if raw is None and offer.tag not in self._said:
            self._said.add(offer.tag)
            log.warning(
                "offers.beyond tag=%s value=%r data_type=%s consequence=offered as bad",
                *(offer.tag, value, offer.data_type),
            )
        return raw

    def _value(self, tag: str) -> float | None:
        """The newest value; None where it is bad, stale, or not there."""
        if tag.endswith(ALARM):
            asset, model, _ = tag.rsplit(".", 2)
            return self._has_alarm(model, asset) if self._has_alarm is not None else None
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
    settings: ModbusServerSettings,
    base: Path,
    table: TagTable,
    latest: Latest,
    clock: Clock,
    has_alarm: HasAlarm | None = None,
) -> AsyncIterator[tuple[int, OfferStats]]:
    """Offer until the block ends; the port, and what happens there. Raises SluicegateError."""
    offers = load_offers(base / settings.map)
    registers = _Registers(offers, settings, table, latest, clock, has_alarm)
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
            hint="change gateway.modbus_server.listen: an address of this machine, and a free port",
        ) from error
    try:
        yield server.sockets[0].getsockname()[1], stats
    finally:
        server.close()
