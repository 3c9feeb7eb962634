"""Said: what the log is told of a device, each once until it changes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from gateway.errors import DeviceRefused, SourceError
from gateway.sources import SourceStats
from gateway.sources.modbus.device import Device
from gateway.sources.modbus.gaps import Gap
from gateway.sources.modbus.plan import Verdict
from gateway.sources.modbus.wire import Request

__all__ = ["Said"]

log = logging.getLogger(__name__)

_TAGS_NAMED_MAX = 3  # in one log line


class Said:
    """What was said of a device in one session; it counts the unit ids that are not well."""

    def __init__(self, name: str, device: Device, stats: SourceStats) -> None:
        self._name = name
        self._device = device
        self._stats = stats
        self._silent: frozenset[int] = frozenset()  # unit ids
        self._strange: set[int] = set()
        self._failing: dict[int, Request] = {}  # by unit id
        stats.units_unwell = 0

    def answered(self, request: Request) -> None:
        """If this is what was failing, its unit id is well again."""
        if self._failing and self._failing.get(request.unit_id) == request:
            del self._failing[request.unit_id]
            self._count_unwell()
            log.info("modbus.unit_well source=%s unit_id=%d", self._name, request.unit_id)

    def failing(self, request: Request, error: SourceError) -> None:
        """The same has failed often enough; once for a unit id."""
        if request.unit_id not in self._failing:
            self._failing[request.unit_id] = request
            self._count_unwell()
            log.warning("modbus.unit_unwell source=%s error=%s", self._name, error)

    def silent(self, silent: frozenset[int], error: SourceError) -> None:
        """The unit ids that do not answer now, all of them, and how the last one failed."""
        if silent == self._silent:
            return
        for unit_id in silent - self._silent:
            log.warning(
                "modbus.unit_silent source=%s unit_id=%d error=%s", self._name, unit_id, error
            )
        for unit_id in self._silent - silent:
            log.info("modbus.unit_answers source=%s unit_id=%d", self._name, unit_id)
        self._silent = silent
        self._count_unwell()

    def strange(self, request: Request) -> None:
        """It was answered as another device would; once for a unit id."""
        unit_id = request.unit_id
        if unit_id not in self._strange:
            self._strange.add(unit_id)
            log.warning(
                "modbus.unexpected source=%s unit_id=%d address=%d",
                *(self._name, unit_id, request.address),
            )

    def refused(self, refused: Sequence[tuple[int, DeviceRefused]]) -> None:
        """Rows that a scan has found refused."""
        names = ",".join(self._tag(row) for row, _ in refused[:_TAGS_NAMED_MAX])
        log.warning(
            "modbus.tags_refused source=%s count=%d tags=%s error=%s",
            self._name,
            len(refused),
            names + ("..." if len(refused) > _TAGS_NAMED_MAX else ""),
            refused[0][1],
        )

    def accepted(self, row: int) -> None:
        """A row that was refused is no longer."""
        log.info("modbus.tag_accepted source=%s tag=%s", self._name, self._tag(row))

    def cut(self, request: Request, at: int) -> None:
        """A block is read in two from now on."""
        log.warning(
            "modbus.block_cut source=%s unit_id=%d function=%d addresses=%d-%d at=%d",
            *(self._name, request.unit_id, request.function, request.address),
            request.address + request.quantity - 1,
            at,
        )

    def settled(self, gap: Gap, verdict: Verdict) -> None:
        """It is known whether a gap is read over."""
        (unit_id, function), (first, end) = gap.place, gap.span
        log.info(
            "modbus.gap source=%s unit_id=%d function=%d addresses=%d-%d read_over=%s apart_ms=%.2f"
            " together_ms=%.2f",
            *(self._name, unit_id, function, first, end - 1, verdict, gap.apart_ns / 1e6),
            min(gap.took_ns, default=0) / 1e6,
        )

    def _count_unwell(self) -> None:
        self._stats.units_unwell = len(self._silent | self._failing.keys())

    def _tag(self, row: int) -> str:
        return f"{self._device.rows[row].asset}.{self._device.rows[row].tag}"
