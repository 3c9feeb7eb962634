"""Modbus source: scan classes on a monotonic schedule over one connection.

Slots are at start + k x period. What cannot be done in its slot is left out and counted, never
done late or twice in a row. `gateway.sources.modbus.scan` does a scan and says what went wrong;
here is when. When nothing answers any more the session is over, and supervision takes it from
there; what was learned of the device stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import numpy as np

from gateway.asset import tag_facts
from gateway.errors import ConfigError, SourceUnavailable
from gateway.frame import Arrival, IdArray
from gateway.sources import SourceContext, SourceStats
from gateway.sources.modbus.config import ModbusSettings, RegisterRow
from gateway.sources.modbus.rows import load_register_map
from gateway.sources.modbus.scan import Device, Scanner
from gateway.sources.modbus.wire import Query
from gateway.tag import Tag

__all__ = ["ModbusSource", "Slots", "build"]


T = TypeVar("T")


def build(settings: ModbusSettings, context: SourceContext) -> ModbusSource:
    """The source, with its tags in the table; raises ConfigError when its map is not right."""
    register_map = load_register_map(settings.register_map, settings.scan_classes)
    if register_map.problems:
        raise ConfigError(register_map.problems)
    return ModbusSource(settings, context, register_map.rows)


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
        self, settings: ModbusSettings, context: SourceContext, rows: Sequence[RegisterRow]
    ) -> None:
        self.name = settings.name
        self.stats = SourceStats()
        self.context = context
        self.writes = settings.writes
        self._scanner: Scanner | None = None
        ids = [context.table.add(self._tag(row)) for row in rows]
        directory = context.directory
        file = directory / f"{self.name}.json" if directory else None
        self.device = Device(settings, rows, np.array(ids, np.int32), file)

    @property
    def tag_ids(self) -> IdArray:
        return self.device.ids

    @asynccontextmanager
    async def session(self) -> AsyncIterator[_Session]:
        """Connected; raises SourceUnavailable."""
        scanner = Scanner(self.name, self.device, self.context.clock, self.stats)
        self.device.patience.forgive()
        try:
            await scanner.connect()
            self._scanner = scanner
            yield _Session(self, scanner)
        finally:
            self._scanner = None
            await scanner.close()

    async def ask(self, query: Query[T], timeout_s: float) -> T:
        """Ask something beside the scans; raises SourceUnavailable while there is no session."""
        if self._scanner is None:
            raise SourceUnavailable(f"source {self.name} is not connected")
        return await self._scanner.ask(query, timeout_s)

    def _tag(self, row: RegisterRow) -> Tag:
        return self.context.assets.tag(
            row.asset,
            row.tag,
            source=self.name,
            **tag_facts(row),
        )


class _Session:
    is_proven = False  # many devices accept a connection and answer nothing

    def __init__(self, source: ModbusSource, scanner: Scanner) -> None:
        self._stats = source.stats
        self._clock = source.context.clock
        self._has_room = source.context.has_room
        self._scanner = scanner
        now_ns = self._clock.monotonic_ns()
        self._slots = [
            Slots(plan.scan_class, plan.period_s, now_ns) for plan in source.device.plans
        ]

    async def read(self) -> Arrival:
        """The next scan that is due.

        A frame proves that the peer works: until there was any answer, none is given.
        """
        while True:
            scan_class = await self._wait()
            began_ns = self._clock.monotonic_ns()
            frame = await self._scanner.scan(scan_class)
            self._stats.scan_ms_last = (self._clock.monotonic_ns() - began_ns) / 1e6
            if self._scanner.has_answer:
                self._stats.scans_total += 1
                self._stats.samples_total += len(frame)
                return Arrival(frame)

    async def _wait(self) -> str:
        """Until a scan class is due, and there is room for what it will give."""
        while True:
            slots = min(self._slots, key=lambda each: each.due_ns)
            wait_ns = slots.due_ns - self._clock.monotonic_ns()
            if wait_ns > 0:
                await asyncio.sleep(wait_ns / 1e9)
            missed, late_ns = slots.take(self._clock.monotonic_ns())
            self._stats.scan_overruns_total += missed
            self._stats.lateness_ms_last = late_ns / 1e6
            if self._has_room():
                return slots.scan_class
            self._stats.scan_overruns_total += 1
