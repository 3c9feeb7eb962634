"""Modbus source: scan classes on a monotonic schedule over one connection.

A scan reads the blocks of one class, one after the other, and gives one frame. What goes wrong
with a block costs that block: its tags get a bad quality with the reason, the rest is read.

    exception 2 or 3   the block is halved until the refused tags are found; those are parked
                       (bad, asked again every few minutes), the others go on in the same scan
    other exceptions   the block's tags are bad with the reason for this scan
    time-out, nonsense the connection is replaced at once; the unit id is left alone for a while,
                       longer each time, so that a dead unit costs the others its own slot only
    reset              once more on a new connection

When no unit id answers, the session is over and supervision takes it from there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import numpy as np

from gateway.errors import DeviceRefused, SourceError, SourceLost, SourceUnavailable, WireError
from gateway.frame import Arrival, Frame, IdArray
from gateway.sources import SourceContext, SourceStats
from gateway.sources.modbus.client import Connection, ResponseTimeout, connect
from gateway.sources.modbus.config import ModbusSettings, RegisterRow
from gateway.sources.modbus.decode import BlockDecoder
from gateway.sources.modbus.plan import Block, ScanPlan, plan, width_of
from gateway.sources.modbus.rows import load_register_map
from gateway.sources.modbus.wire import Request
from gateway.tag import Quality, Tag

__all__ = ["ModbusSource", "build"]

log = logging.getLogger(__name__)

# A refused address seldom becomes right by itself; when it does (new firmware), within minutes.
PARKED_S = 300.0
# A unit id that does not answer: left alone this long, doubled each time up to the maximum.
UNIT_PAUSE_S = 1.0
UNIT_PAUSE_MAX_S = 60.0

_QUALITY_OF_CODE = {
    1: Quality.BAD_CONFIGURATION,
    2: Quality.BAD_CONFIGURATION,
    3: Quality.BAD_CONFIGURATION,
    5: Quality.BAD_TIMEOUT,
    6: Quality.BAD_TIMEOUT,
    10: Quality.BAD_NO_COMMUNICATION,
    11: Quality.BAD_NO_COMMUNICATION,
}


def build(settings: ModbusSettings, context: SourceContext) -> ModbusSource:
    """The source, with its tags in the table."""
    rows = load_register_map(settings.register_map, settings.scan_classes).rows
    return ModbusSource(settings, context, rows)


class ModbusSource:
    """One connection's worth of tags."""

    def __init__(
        self, settings: ModbusSettings, context: SourceContext, rows: Sequence[RegisterRow]
    ) -> None:
        self.name = settings.name
        self.stats = SourceStats()
        self.settings = settings
        self.context = context
        self.rows = rows
        self.ids = np.array([context.table.add(self._tag(row)) for row in rows], np.int32)
        self.parked: dict[int, float] = {}  # row -> when it is asked again, monotonic
        self.pauses: dict[int, tuple[float, float]] = {}  # unit id -> (until, how long)

    @property
    def tag_ids(self) -> IdArray:
        return self.ids

    @asynccontextmanager
    async def session(self) -> AsyncIterator[_Session]:
        """Connected; raises SourceUnavailable."""
        async with AsyncExitStack() as connections:
            session = _Session(self, connections)
            await session.reconnect()
            yield session

    def _tag(self, row: RegisterRow) -> Tag:
        return self.context.assets.tag(
            row.asset,
            row.tag,
            source=self.name,
            data_type=row.data_type,
            scale=row.scale,
            offset=row.offset,
            eng_unit=row.eng_unit,
            eu_low=-np.inf if row.low is None else row.low,
            eu_high=np.inf if row.high is None else row.high,
            deadband=row.deadband,
        )


class _Reader:
    """One block, ready to be read: its request, its tags, its decoder."""

    __slots__ = ("block", "decoder", "ids")

    def __init__(self, block: Block, source: ModbusSource) -> None:
        self.block = block
        self.decoder = BlockDecoder(block, source.rows)
        self.ids: IdArray = source.ids[np.array(block.rows, np.intp)]


@dataclass(slots=True)
class _Slot:
    """When a scan class is due; multiples of its period from the session's start."""

    plan: ScanPlan
    readers: list[_Reader]
    due_s: float


class _Parts:
    """The frame of a scan, as it grows."""

    def __init__(self) -> None:
        self._frames: list[Frame] = []
        self.failed = 0

    def add(self, reader: _Reader, data: bytes, t_ns: int) -> None:
        values, quality, exact = reader.decoder.decode(data)
        self._frames.append(Frame.of(t_ns, reader.ids, values, quality, exact))

    def add_bad(self, reader: _Reader, quality: Quality, t_ns: int) -> None:
        nothing = np.full(len(reader.ids), np.nan)
        self._frames.append(Frame.of(t_ns, reader.ids, nothing, int(quality)))
        self.failed += 1

    def frame(self) -> Frame:
        return Frame.concatenate(self._frames)


class _Session:
    is_proven = False  # many devices accept a connection and answer nothing

    def __init__(self, source: ModbusSource, connections: AsyncExitStack) -> None:
        self._source = source
        self._clock = source.context.clock
        self._connections = connections
        self._connection: Connection
        self._slots = self._plan(self._clock.monotonic_s())
        self._error: SourceError = SourceLost("nothing was read yet")

    def _plan(self, now_s: float) -> list[_Slot]:
        source = self._source
        active = [i for i in range(len(source.rows)) if source.parked.get(i, 0.0) <= now_s]
        for i in active:
            source.parked.pop(i, None)
        parked = [source.rows[i] for i in source.parked]
        plans = plan([source.rows[i] for i in active], source.settings, parked)
        scans = [_reindexed(each, active) for each in plans]
        return [
            _Slot(scan, [_Reader(block, source) for block in scan.blocks], now_s) for scan in scans
        ]

    async def reconnect(self) -> None:
        """A new connection in the place of the one before, which dies with all it may still say."""
        await self._connections.aclose()
        settings = self._source.settings
        opening = connect(settings.host, settings.port, settings.connect_timeout)
        self._connection = await self._connections.enter_async_context(opening)

    async def read(self) -> Arrival:
        """The next scan that is due."""
        stats = self._source.stats
        while True:
            slot = await self._next_slot()
            wait_s = slot.due_s - self._clock.monotonic_s()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            lateness_s = max(0.0, self._clock.monotonic_s() - slot.due_s)
            missed = int(lateness_s // slot.plan.period_s)
            if missed:
                stats.scan_overruns_total += missed
                lateness_s -= missed * slot.plan.period_s
            slot.due_s += (missed + 1) * slot.plan.period_s
            stats.lateness_ms_last = lateness_s * 1000
            if self._source.context.has_room():
                break
            stats.scan_overruns_total += 1
        began_s = self._clock.monotonic_s()
        parts = _Parts()
        await self._scan(slot.readers, parts)
        stats.scan_ms_last = (self._clock.monotonic_s() - began_s) * 1000
        stats.scans_total += 1
        stats.scans_failed_total += parts.failed > 0
        frame = parts.frame()
        stats.samples_total += len(frame)
        return Arrival(frame)

    async def _next_slot(self) -> _Slot:
        """The scan class that is due first."""
        while not self._slots:
            # Every tag is refused: there is nothing to read until one may be asked for again.
            again_s = min(self._source.parked.values()) - self._clock.monotonic_s()
            await asyncio.sleep(max(again_s, 0.0))
            self._replan()
        return min(self._slots, key=lambda each: each.due_s)

    async def _scan(self, readers: Sequence[_Reader], parts: _Parts) -> None:
        source, now_s = self._source, self._clock.monotonic_s()
        if any(until_s <= now_s for until_s in source.parked.values()):
            self._replan()
        for reader in readers:
            unit_id = reader.block.request.unit_id
            until_s, _ = source.pauses.get(unit_id, (0.0, 0.0))
            if until_s > self._clock.monotonic_s():
                self._all_silent(unit_id)
                parts.add_bad(reader, Quality.BAD_TIMEOUT, self._clock.utc_ns())
                continue
            try:
                await self._read_block(reader, parts)
            except (ResponseTimeout, WireError) as error:
                self._count(error)
                self._pause(unit_id, error)
                parts.add_bad(reader, Quality.BAD_TIMEOUT, self._clock.utc_ns())
            else:
                source.pauses.pop(unit_id, None)

    async def _read_block(self, reader: _Reader, parts: _Parts) -> None:
        """Read one block into `parts`; halve it where the device refuses an address."""
        try:
            data, t_ns = await self._request(reader.block.request)
        except DeviceRefused as refused:
            self._count(refused)
            t_ns = self._clock.utc_ns()
            if refused.code not in (2, 3):
                quality = _QUALITY_OF_CODE.get(refused.code, Quality.BAD_DEVICE_FAILURE)
                parts.add_bad(reader, quality, t_ns)
            elif len(reader.ids) == 1:
                self._park(reader.block.rows[0], refused)
                parts.add_bad(reader, Quality.BAD_CONFIGURATION, t_ns)
            else:
                for half in _halves(reader.block, self._source.rows):
                    await self._read_block(_Reader(half, self._source), parts)
        else:
            parts.add(reader, data, t_ns)

    async def _request(self, request: Request) -> tuple[bytes, int]:
        """The block's bytes, and the middle of its request and answer in UTC."""
        timeout_s = self._source.settings.response_timeout
        for attempt in (1, 2):
            if not self._connection.is_open:
                try:
                    await self.reconnect()
                except SourceUnavailable as error:
                    self._count(error)
                    raise SourceLost(str(error)) from error
            began_ns = self._clock.utc_ns()
            try:
                data = await self._connection.read(request, timeout_s)
            except ResponseTimeout:
                raise
            except SourceLost as error:
                # A reset between two scans is seen at the next request: ask once more.
                self._count(error)
                if attempt == 2:
                    raise
            else:
                return data, (began_ns + self._clock.utc_ns()) // 2
        raise AssertionError("unreachable")

    def _pause(self, unit_id: int, error: SourceError) -> None:
        """Leave a unit id alone for a while; when that is all of them, the session is over."""
        _, before_s = self._source.pauses.get(unit_id, (0.0, 0.0))
        pause_s = min(max(UNIT_PAUSE_S, 2 * before_s), UNIT_PAUSE_MAX_S)
        self._source.pauses[unit_id] = (self._clock.monotonic_s() + pause_s, pause_s)
        self._source.stats.error_last = str(error)
        self._error = error
        self._all_silent(unit_id)

    def _all_silent(self, unit_id: int) -> None:
        """Raise SourceLost when there is no unit id left to ask."""
        now_s = self._clock.monotonic_s()
        others = {row.unit_id for row in self._source.rows} - {unit_id}
        if all(self._source.pauses.get(other, (0.0, 0.0))[0] > now_s for other in others):
            self._source.pauses.clear()
            raise SourceLost(f"no unit id answers: {self._error}")

    def _park(self, row: int, refused: DeviceRefused) -> None:
        source = self._source
        source.parked[row] = self._clock.monotonic_s() + PARKED_S
        name = f"{source.rows[row].asset}.{source.rows[row].tag}"
        log.warning("modbus.tag_refused source=%s tag=%s error=%s", source.name, name, refused)
        self._replan()

    def _replan(self) -> None:
        """Plan without the parked tags, keeping each class's schedule."""
        due = {slot.plan.scan_class: slot.due_s for slot in self._slots}
        self._slots = self._plan(self._clock.monotonic_s())
        for slot in self._slots:
            slot.due_s = due.get(slot.plan.scan_class, slot.due_s)

    def _count(self, error: SourceError) -> None:
        stats = self._source.stats
        match error:
            case WireError():
                stats.errors_total[f"wire_{error.kind}"] += 1
            case DeviceRefused():
                stats.errors_total[f"exception_{error.code}"] += 1
            case ResponseTimeout():
                stats.errors_total["timeout"] += 1
            case SourceUnavailable():
                stats.errors_total["connect"] += 1
            case _:
                stats.errors_total["reset"] += 1


def _halves(block: Block, rows: Sequence[RegisterRow]) -> tuple[Block, Block]:
    """A block's tags as two blocks."""
    middle = len(block.rows) // 2
    first, second = (
        Block(_covering(block.request, part, rows), part)
        for part in (block.rows[:middle], block.rows[middle:])
    )
    return first, second


def _covering(request: Request, part: Sequence[int], rows: Sequence[RegisterRow]) -> Request:
    start = min(rows[i].address for i in part)
    end = max(rows[i].address + width_of(rows[i]) for i in part)
    return request._replace(address=start, quantity=end - start)


def _reindexed(scan: ScanPlan, active: Sequence[int]) -> ScanPlan:
    """A plan over some rows, with the indexes those rows have in the whole map."""
    blocks = tuple(
        replace(block, rows=tuple(active[i] for i in block.rows)) for block in scan.blocks
    )
    return replace(scan, blocks=blocks)
