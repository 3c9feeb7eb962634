"""Modbus source: scan classes on a monotonic schedule over one connection.

Slots are at start + offset + k x period. What cannot be done in its slot is left out and counted,
never done late or twice in a row. `gateway.sources.modbus.scan` does a scan and says what went
wrong; here is when. When nothing answers any more the session is over, and supervision takes it
from there; what was learned of the device stays.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from gateway.asset import tag_facts
from gateway.errors import ConfigError, SluicegateError, SourceError, SourceUnavailable
from gateway.frame import Arrival, Frame, IdArray
from gateway.sources import SourceContext, SourceStats
from gateway.sources.modbus.config import ModbusSettings, RegisterRow
from gateway.sources.modbus.device import Device
from gateway.sources.modbus.plan import ScanPlan
from gateway.sources.modbus.rows import load_register_map
from gateway.sources.modbus.scan import Scan, Scanner
from gateway.sources.modbus.standby import Ways
from gateway.sources.modbus.wire import Query, Request
from gateway.tag import Quality, Tag

if TYPE_CHECKING:
    from gateway.sources.modbus.sunspec.profile import Profile

__all__ = ["ModbusSource", "Slots", "build"]

log = logging.getLogger(__name__)

# Enough to spread the first scans of a hundred devices; nobody misses the time.
OFFSET_MAX_S = 0.25

T = TypeVar("T")


def build(settings: ModbusSettings, context: SourceContext) -> ModbusSource:
    """The source, with its tags in the table; raises ConfigError when its map is not right."""
    rows: tuple[RegisterRow, ...] = ()
    if settings.register_map is not None:
        register_map = load_register_map(settings.register_map, settings.periods)
        if register_map.problems:
            raise ConfigError(register_map.problems)
        rows = register_map.rows
    profile = None
    if settings.profile:
        from gateway.sources.modbus.sunspec.profile import Profile, file_of  # noqa: PLC0415 - if used

        profile = Profile(settings, file_of(context.directory, settings.name))
    return ModbusSource(settings, context, rows, profile)


class Slots:
    """When one scan class is due: start + k x period, in whole nanoseconds, so without drift."""

    def __init__(self, scan_class: str, period_s: float, start_ns: int) -> None:
        self.scan_class = scan_class
        self.period_ns = round(period_s * 1e9)
        self.due_ns = start_ns

    def take(self, now_ns: int) -> tuple[int, int]:
        """Use the latest slot that is due; how many before it were missed, and its lateness."""
        late_ns = max(0, now_ns - self.due_ns)
        missed, late_ns = divmod(late_ns, self.period_ns)
        self.due_ns += (missed + 1) * self.period_ns
        return missed, late_ns


class ModbusSource:
    """One connection's worth of tags."""

    def __init__(
        self,
        settings: ModbusSettings,
        context: SourceContext,
        rows: Sequence[RegisterRow],
        profile: Profile | None = None,
    ) -> None:
        """`rows` are the map's; a `profile` finds out more of them."""
        self.name = settings.name
        self.stats = SourceStats()
        self.context = context
        self.writes = settings.writes
        self._scanner: Scanner | None = None
        self._map = tuple(rows)
        self.profile = profile
        directory = context.directory
        file = directory / f"{self.name}.json" if directory else None
        ids = [context.table.add(self._tag(row)) for row in rows]
        self.device = Device(settings, rows, np.array(ids, np.int32), file)
        self._map_ids = self.device.ids
        self._said_left_out = ""
        self._all_ids = self.device.ids
        self.ways = Ways(settings, self.device, self.stats, context.clock)
        self._has_ways = profile is not None or self.ways.are_several
        if profile is not None:
            self._know(self._take_up(profile.rows)[1])

    @property
    def has_business(self) -> bool:
        """Whether there is anything to see to between two scans."""
        return self._has_ways or self.device.gaps.is_open

    @property
    def tag_ids(self) -> IdArray:
        return self._all_ids

    @asynccontextmanager
    async def session(self) -> AsyncIterator[_Session]:
        """Connected; raises SourceUnavailable."""
        scanner = Scanner(self.name, self.device, self.context.clock, self.stats)
        self.device.patience.forgive()
        try:
            async with self.ways.open(scanner):
                if self.profile is not None:
                    self.profile.begin()
                    await self.look(scanner)
                self._scanner = scanner
                yield _Session(self, scanner)
        finally:
            self._scanner = None
            if self.device.measure():
                await self.device.remember()
            await scanner.close()

    async def ask(self, query: Query[T], timeout_s: float) -> T:
        """Ask something beside the scans; raises SourceUnavailable while there is no session."""
        if self._scanner is None:
            raise SourceUnavailable(f"source {self.name} is not connected")
        return await self._scanner.ask(query, timeout_s)

    async def look(self, scanner: Scanner) -> Frame | None:
        """Ask what the units have that are due to say so, and read that from now on.

        Gives the tags that cannot be read now, with that quality. Raises SourceError.
        """
        profile, clock = self.profile, self.context.clock
        assert profile is not None
        settings = self.device.settings

        async def ask(request: Request) -> bytes:
            await asyncio.sleep(settings.request_pause)
            return await scanner.ask(request, settings.response_timeout)

        try:
            await profile.look(ask, clock.monotonic_s())
        except SourceError as error:
            self.stats.errors_total["sunspec"] += 1
            if not self._map:
                raise SourceUnavailable(error.message, hint=error.hint) from error
        self.stats.error_last = profile.fault or self.stats.error_last
        found, found_ids = self._take_up(profile.confirmed_rows)
        rows = (*self._map, *found)
        if rows != tuple(self.device.rows):
            ids = np.append(self._map_ids, found_ids)
            self.device.adopt(rows, ids)
            self._know(ids)
            await asyncio.to_thread(profile.save)
        if not len(self.device.ids):
            raise SourceUnavailable(
                "the device has none of the SunSpec models and points that are asked for",
                hint="see sunspec.models and sunspec.points",
            )
        away = np.setdiff1d(self._all_ids, self.device.ids)
        nothing = np.full(len(away), np.nan)
        quality = int(Quality.BAD_NO_COMMUNICATION)
        return Frame.of(clock.utc_ns(), away, nothing, quality) if len(away) else None

    def _take_up(self, rows: Sequence[RegisterRow]) -> tuple[list[RegisterRow], IdArray]:
        """Rows of the profile that can be tags, and their ids.

        Those that the map has are left out: a person wrote that. So are those whose name is another
        source's, and those beyond `tags_max`.
        """
        own = {(row.asset, row.tag) for row in self._map}
        taken, ids, left_out = [], [], ""
        for row in rows:
            if (row.asset, row.tag) in own:
                continue
            try:
                ids.append(self.context.table.add(self._tag(row)))
            except SluicegateError as error:
                left_out = str(error)
            else:
                taken.append(row)
        if left_out and left_out != self._said_left_out:
            count = len(rows) - len(taken)
            log.warning("sunspec.left_out source=%s tags=%d error=%s", self.name, count, left_out)
        self._said_left_out = left_out
        return taken, np.array(ids, np.int32)

    def _know(self, ids: IdArray) -> None:
        self._all_ids = np.union1d(self._all_ids, ids).astype(np.int32)

    def _tag(self, row: RegisterRow) -> Tag:
        return self.context.assets.tag(
            row.asset,
            row.tag,
            source=self.name,
            **tag_facts(row),
        )


class _Session:
    """The scans of one connection, each at its own rate.

    Between two requests of a scan one of a faster class that is due goes first, so that a fast
    class on a slow line waits for a request of the others, not for a whole scan.
    """

    is_proven = False  # many devices accept a connection and answer nothing

    def __init__(self, source: ModbusSource, scanner: Scanner) -> None:
        self._source = source
        self._name = source.name
        self._stats = source.stats
        self._clock = source.context.clock
        self._has_room = source.context.has_room
        self._scanner = scanner
        self._began_ns = self._clock.monotonic_ns()
        self._slots: list[Slots] = []
        self._schedule()
        self._silent: frozenset[int] = frozenset()
        self._under_way: list[_UnderWay] = []  # the last one is at work, the others wait for it
        self._late: dict[str, int] = {}  # by scan class that is late: slots missed in this episode

    async def read(self) -> Arrival:
        """The next scan that is whole.

        A frame proves that the peer works: until there was any answer, none is given.
        """
        under_way = self._under_way
        while True:
            if under_way:
                slots = self._next_due() if len(self._slots) > 1 else None
            else:
                away = await self._between_scans() if self._source.has_business else None
                if away is not None:
                    return Arrival(away)
                slots = await self._wait()
            if slots is not None and not self._begin(slots):
                continue
            now = under_way[-1]
            frame = await self._scanner.step(now.scan)
            if frame is None:
                continue
            under_way.pop()
            ended_ns = self._clock.monotonic_ns()
            self._stats.scan_ms_last = (ended_ns - now.began_ns) / 1e6
            self._stats.busy_share = self._scanner.busy_ns / max(1, ended_ns - self._began_ns)
            if self._scanner.has_answer:
                self._stats.scans_total += 1
                self._stats.samples_total += len(frame)
                return Arrival(frame)

    def _schedule(self) -> None:
        """Slots for the classes there are; those that were there keep theirs."""
        now_ns, kept = (
            self._clock.monotonic_ns(),
            {slots.scan_class: slots for slots in self._slots},
        )
        # Sorted by rate: the first that is due goes first.
        self._slots = [
            kept.get(plan.scan_class)
            or Slots(plan.scan_class, plan.period_s, now_ns + _offset_ns(self._name, plan))
            for plan in sorted(self._source.device.plans, key=lambda plan: plan.period_s)
        ]

    async def _between_scans(self) -> Frame | None:
        """What is not a scan's business: another address, units that are to say what they have."""
        if self._source.ways.is_due_back:
            is_back = await self._source.ways.take_back(self._scanner)
            if is_back and self._source.profile is not None:
                self._source.profile.begin()
        away = await self._look()
        if self._source.device.gaps.is_open and away is None:
            due_ns = min(slots.due_ns for slots in self._slots)
            await self._scanner.try_gap((due_ns - self._clock.monotonic_ns()) / 1e9)
        return away

    async def _look(self) -> Frame | None:
        """With a profile: ask the units that have not said yet what they have, when it is time."""
        profile = self._source.profile
        if profile is None:
            return None
        now_s, silent = self._clock.monotonic_s(), self._source.device.patience.silent_units
        for unit_id in self._silent - silent:
            profile.doubt(unit_id, now_s, is_another=False)
        for unit_id in self._source.device.doubted:
            profile.doubt(unit_id, now_s, is_another=True)
        self._source.device.doubted.clear()
        self._silent = silent
        if not profile.due(now_s):
            return None
        away = await self._source.look(self._scanner)
        self._schedule()
        return away

    def _next_due(self) -> Slots | None:
        """A class that goes before the scan at work; None: that goes on."""
        now_ns, at_work = self._clock.monotonic_ns(), self._under_way[-1].slots
        for slots in self._slots:
            if slots.period_ns >= at_work.period_ns:
                return None
            if slots.due_ns <= now_ns and all(each.slots is not slots for each in self._under_way):
                return slots
        return None

    def _begin(self, slots: Slots) -> bool:
        """Start the scan of a slot that is due, unless the pipeline has no room for it."""
        now_ns = self._clock.monotonic_ns()
        missed, late_ns = slots.take(now_ns)
        has_room = self._has_room()
        self._stats.scan_overruns_total += missed + (not has_room)
        self._stats.lateness_ms_last = late_ns / 1e6
        if missed or self._late:
            self._say_late(slots.scan_class, missed)
        if has_room:
            scan = self._scanner.begin(slots.scan_class)
            self._under_way.append(_UnderWay(slots, scan, now_ns))
        return has_room

    def _say_late(self, scan_class: str, missed: int) -> None:
        """Once when a class no longer keeps its rate, and once when it does again."""
        before = self._late.get(scan_class, 0)
        if missed:
            self._late[scan_class] = before + missed
            if not before:
                log.warning("modbus.overrun source=%s class=%s", self._name, scan_class)
        elif before:
            del self._late[scan_class]
            log.info("modbus.on_time source=%s class=%s missed=%d", self._name, scan_class, before)

    async def _wait(self) -> Slots:
        """Until a scan class is due."""
        slots = self._slots[0]
        if len(self._slots) > 1:
            slots = min(self._slots, key=lambda each: each.due_ns)
        wait_ns = slots.due_ns - self._clock.monotonic_ns()
        if wait_ns > 0:
            await asyncio.sleep(wait_ns / 1e9)
        return slots


class _UnderWay(NamedTuple):
    """A scan that has begun."""

    slots: Slots
    scan: Scan
    began_ns: int


def _offset_ns(source: str, plan: ScanPlan) -> int:
    """When a class begins, so that not all of a plant's devices are asked in the same instant.

    The same after each restart, and soon: nobody waits an hour for the first value of an hour.
    """
    share = zlib.crc32(f"{source} {plan.scan_class}".encode()) / 2**32
    return round(share * min(plan.period_s, OFFSET_MAX_S) * 1e9)
