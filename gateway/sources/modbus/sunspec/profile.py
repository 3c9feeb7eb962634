"""Profile: what is known of the SunSpec units of one [[source]], kept over restarts.

A unit is asked for its models before it is scanned, at every connect: what it had last time is only
what its tags are called while it is away. Each model's id and length are read with its values; when
they are others, nothing of that request is believed and the unit is asked again. A unit that does
not answer, or is no SunSpec device, is asked again later, one request at a time, while the others
are scanned.
"""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from gateway.errors import SourceError
from gateway.sources.modbus.config import ModbusSettings, RegisterRow
from gateway.sources.modbus.rows import load_register_map
from gateway.sources.modbus.sunspec.discover import (
    BASES,
    MEASURING,
    Discovered,
    NoMarker,
    discover,
    find_marker,
)
from gateway.sources.modbus.sunspec.layout import FAST, SLOW
from gateway.sources.modbus.wire import Request

__all__ = ["Profile", "csv_text", "file_of"]

log = logging.getLogger(__name__)

# A unit that is away costs the others one deadline then, and half of that share each time after.
PAUSE_FIRST_S = 2.0
PAUSE_MAX_S = 300.0

Ask = Callable[[Request], Awaitable[bytes]]


def file_of(directory: Path | None, source: str) -> Path | None:
    """Where a source's profile is kept."""
    return directory / f"{source}.sunspec.csv" if directory else None


def csv_text(rows: Iterable[RegisterRow]) -> str:
    """Rows as a register map, with the columns that they need."""
    said = [row.model_dump(mode="json", exclude_defaults=True) for row in rows]
    used = {column for row in said for column in row}
    columns = [column for column in RegisterRow.model_fields if column in used]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(said)
    return text.getvalue()


class _Unit:
    """One unit id."""

    def __init__(self, unit_id: int, asset: str) -> None:
        self.unit_id = unit_id
        self.asset = asset
        self.rows: Sequence[RegisterRow] = ()  # as far as it is known
        self.is_confirmed = False  # in this session
        self.bases: Sequence[int] = BASES  # the likeliest first
        self.tried = 0  # attempts without success in this session
        self.due_s = 0.0
        self.error = ""  # why it is not read
        self.said = ""  # of that, and of what is odd about it, what was logged last


class Profile:
    """The units of one source."""

    def __init__(self, settings: ModbusSettings, file: Path | None) -> None:
        self._settings = settings.sunspec
        self._models = self._settings.models or MEASURING
        self._name = settings.name
        self._file = file
        self._units = [_Unit(unit_id, asset) for unit_id, asset in settings.units.items()]
        self._saved = stored = list(_stored(file))
        for unit in self._units:
            if self._settings.base is not None:
                unit.bases = (self._settings.base,)
            unit.rows = [
                row for row in stored if row.unit_id == unit.unit_id and row.asset == unit.asset
            ]

    @property
    def rows(self) -> list[RegisterRow]:
        """Of all units, as far as they are known."""
        return [row for unit in self._units for row in unit.rows]

    @property
    def confirmed_rows(self) -> list[RegisterRow]:
        """Of the units that have said in this session what they have."""
        return [row for unit in self._units if unit.is_confirmed for row in unit.rows]

    @property
    def unknown(self) -> list[int]:
        """Unit ids of which nothing is known."""
        return [unit.unit_id for unit in self._units if not unit.rows]

    def begin(self) -> None:
        """A new session: every unit must say again what it has."""
        for unit in self._units:
            unit.is_confirmed, unit.tried, unit.due_s = False, 0, 0.0

    def doubt(self, unit_id: int, now_s: float, *, is_another: bool) -> None:
        """A unit was away and is back, or its models are not where they were: ask it again."""
        for unit in self._units:
            if unit.unit_id == unit_id:
                unit.due_s = now_s
                unit.is_confirmed = unit.is_confirmed and not is_another

    def due(self, now_s: float) -> bool:
        """Whether some unit is to be asked now."""
        return any(unit.due_s <= now_s for unit in self._units)

    @property
    def fault(self) -> str:
        """Why some units are not read; "" when all are."""
        away = (unit for unit in self._units if not unit.is_confirmed)
        return "; ".join(f"unit id {unit.unit_id}: {unit.error}" for unit in away)

    async def look(self, ask: Ask, now_s: float) -> None:
        """Ask the units that are due. Raises SourceError when none at all is known to be there."""
        error: SourceError | None = None
        for unit in self._units:
            if unit.due_s > now_s:
                continue
            try:
                found = await self._ask(unit, ask)
            except SourceError as failed:
                error = failed
                self._failed(unit, failed, now_s)
            else:
                self._found(unit, found)
        if error is not None and not any(unit.is_confirmed for unit in self._units):
            raise error

    async def _ask(self, unit: _Unit, ask: Ask) -> Discovered:
        async def read(address: int, quantity: int) -> bytes:
            return await ask(Request(unit.unit_id, 3, address, quantity))

        # Once it was in vain, one address at a time: each may cost the others a deadline.
        bases = unit.bases[:1] if unit.tried else unit.bases
        try:
            base = await find_marker(read, bases)
        except SourceError:
            # Some devices meet an address that they do not have with silence.
            unit.bases = (*unit.bases[1:], unit.bases[0])
            raise
        found = await discover(read, (base,), self._models)
        unit.bases = (base, *(other for other in unit.bases if other != base))
        return found

    def _failed(self, unit: _Unit, error: SourceError, now_s: float) -> None:
        unit.due_s = now_s + min(PAUSE_MAX_S, PAUSE_FIRST_S * 2 ** min(unit.tried, 8))
        unit.tried += 1
        unit.error = said = str(error)
        # One address after the other is asked: that none of them is right is said once.
        if said != unit.said and not (isinstance(error, NoMarker) and unit.tried > 1):
            unit.said = said
            log.warning(
                "sunspec.not_found source=%s unit_id=%d error=%s", self._name, unit.unit_id, said
            )

    def _found(self, unit: _Unit, found: Discovered) -> None:
        rows = found.rows(unit.asset, unit.unit_id, self._settings.points)
        is_new = rows != unit.rows
        unit.rows, unit.is_confirmed, unit.tried, unit.due_s = rows, True, 0, float("inf")
        said = "; ".join(found.notes)
        if is_new or said != unit.said:
            log.info(
                "sunspec.found source=%s unit_id=%d base=%d models=%s tags=%d",
                *(self._name, unit.unit_id, found.base),
                ",".join(str(model.model_id) for model in found.models),
                len(rows),
            )
            if said:
                log.warning(
                    "sunspec.odd source=%s unit_id=%d what=%s", self._name, unit.unit_id, said
                )
        unit.said = said

    def save(self) -> None:
        """Keep what is known; what cannot be written is asked for by the next start."""
        if self._file is None or self.rows == self._saved:
            return
        self._saved = self.rows
        new = self._file.with_suffix(".new")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with new.open("w", encoding="utf-8") as file:
                file.write(csv_text(self.rows))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._file)
        except OSError as error:
            log.warning("sunspec.not_saved path=%s error=%s", self._file, error)


def _stored(file: Path | None) -> Sequence[RegisterRow]:
    """What was kept; nothing where it cannot be believed, since the device is asked anyway."""
    if file is None or not _is_there(file):
        return ()
    classes: dict[str, Any] = {FAST: 1.0, SLOW: 1.0}
    found = load_register_map(file, classes)
    if found.problems:
        log.warning("sunspec.stored_unusable path=%s problem=%s", file, found.problems[0])
        return ()
    return found.rows


def _is_there(file: Path) -> bool:
    """Whether there is a file to read; who checks a configuration is not always the service."""
    try:
        return file.is_file() and os.access(file, os.R_OK)
    except OSError:
        return False
