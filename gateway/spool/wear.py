"""Wear: what the spool and its device write a day, and how long a card bears that.

Flash dies of being erased. A card survives about `rewrites_max` times its own size, so

    life = card_bytes * rewrites_max / bytes that wear it a day

Bytes that wear it are whichever is more: what the kernel says the device was given (everybody's
writes, journal included), or our own, where each flush costs at least one page of the flash.
What a cheap controller makes of that is not known; the estimate is an order of magnitude.

`Wear` is pure: counters in, rates out, forgetting over a week. `WearMeter` does the reading and
keeps the state over restarts, in a file written rarely for reasons that are plain here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from gateway.clock import Clock
from gateway.spool.config import WearSettings
from gateway.spool.stats import SpoolStats
from gateway.stats import stat, stats

__all__ = [
    "DeviceWrites",
    "Wear",
    "WearMeter",
    "WearStats",
    "find_device",
    "life_days_of",
    "saved_wear",
]

log = logging.getLogger(__name__)

DAY_S = 86_400.0
# Rates follow a change of configuration within days, and do not jump with the hour.
MEMORY_S = 7 * DAY_S
# Shorter than this a start-up, a backlog or a query is most of what was measured.
OBSERVED_MIN_S = 600.0
# NAND is programmed a page at a time, 16 KiB in most cards made since 2015.
FLUSH_BYTES = 16 * 1024
SECTOR_BYTES = 512  # /sys counts in these, whatever the device has
PERIOD_S = 60.0
SAVE_PERIOD_S = 6 * 3600.0
FILE_NAME = "wear.json"


@dataclass(frozen=True, slots=True)
class Wear:
    """What was written within the span that is remembered."""

    observed_s: float = 0.0
    bytes: float = 0.0
    flushes: float = 0.0
    device_s: float = 0.0  # of which the device's own counters are known
    device_bytes: float = 0.0
    bytes_total: float = 0.0  # ours, since the file was begun; never forgotten

    def after(
        self, seconds: float, written: float, flushes: float, device_bytes: float | None
    ) -> Wear:
        """The state some time later, in which this much was written; None: the device is mute."""
        if seconds <= 0:
            return self
        kept = math.exp(-seconds / MEMORY_S)
        known = device_bytes is not None
        return Wear(
            observed_s=self.observed_s * kept + seconds,
            bytes=self.bytes * kept + written,
            flushes=self.flushes * kept + flushes,
            device_s=self.device_s * kept + seconds if known else self.device_s * kept,
            device_bytes=self.device_bytes * kept + (device_bytes or 0.0),
            bytes_total=self.bytes_total + written,
        )

    @property
    def bytes_day(self) -> float:
        return self.bytes / self.observed_s * DAY_S if self.observed_s else 0.0

    @property
    def flushes_day(self) -> float:
        return self.flushes / self.observed_s * DAY_S if self.observed_s else 0.0

    @property
    def device_bytes_day(self) -> float:
        """0 where the kernel does not say."""
        return self.device_bytes / self.device_s * DAY_S if self.device_s else 0.0

    @property
    def worn_day(self) -> float:
        """Bytes a day that wear the flash."""
        return max(self.device_bytes_day, self.bytes_day + self.flushes_day * FLUSH_BYTES)


_FIELDS = tuple(field.name for field in dataclasses.fields(Wear))


@stats
class WearStats:
    """For the page, /metrics and health."""

    observed_s: float = stat("time that the rates of wear are measured over", default=0.0)
    bytes_day: float = stat("bytes a day that the spool writes", default=0.0)
    flushes_day: float = stat("flushes a day that the spool asks for", default=0.0)
    device_bytes_day: float = stat(
        "bytes a day that everybody writes to the spool's device; 0: not known", default=0.0
    )
    bytes_total: float = stat("bytes the spool has written since it was begun", default=0.0)
    card_bytes: int = stat("size of the card, in bytes")
    life_days: float = stat(
        "estimate of the card's life at these rates, in days; NaN: not known yet", default=math.nan
    )
    warning: str = ""


@dataclass(frozen=True, slots=True)
class DeviceWrites:
    """What the kernel counts of a block device."""

    sectors_written: int

    @staticmethod
    def parse(text: str) -> DeviceWrites | None:
        """From /sys/dev/block/MAJOR:MINOR/stat (Documentation/block/stat.rst)."""
        fields = text.split()
        if len(fields) < 7 or not fields[6].isdigit():
            return None
        return DeviceWrites(int(fields[6]))

    @property
    def bytes(self) -> int:
        return self.sectors_written * SECTOR_BYTES


def find_device(directory: Path, sys: Path = Path("/sys/dev/block")) -> Path | None:
    """The file with the counters of the device that a folder is on; None for none of its own."""
    try:
        device = directory.stat().st_dev
        path = sys / f"{os.major(device)}:{os.minor(device)}" / "stat"
        return path if DeviceWrites.parse(path.read_text()) else None
    except (OSError, ValueError):
        return None


def life_days_of(wear: Wear, card_bytes: int, rewrites_max: int) -> float:
    """Days that a new card lasts at this rate; NaN while that is not known."""
    if wear.observed_s < OBSERVED_MIN_S or not card_bytes:
        return math.nan
    return card_bytes * rewrites_max / wear.worn_day if wear.worn_day else math.inf


class WearMeter:
    """Measures once a minute in a thread of its own: a disk that hangs holds nobody else."""

    def __init__(
        self, directory: Path, settings: WearSettings, spool: SpoolStats, clock: Clock
    ) -> None:
        self.stats = WearStats(card_bytes=settings.card_bytes)
        self._path = directory / FILE_NAME
        self._settings = settings
        self._spool = spool
        self._clock = clock
        self._wear = Wear()
        self._is_loaded = False
        self._device: Path | None = None
        self._before: tuple[float, int, int, int | None] | None = None
        self._saved_s = clock.monotonic_s()
        self._is_ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spool-wear", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Measure a last time and save; waited for by nobody."""
        self._is_ending.set()

    def _run(self) -> None:
        self.measure()
        while not self._is_ending.wait(PERIOD_S):
            self.measure()
        self.measure()
        self.save()

    def measure(self) -> WearStats:
        """Take up what was written since the last time."""
        if not self._is_loaded:
            self._is_loaded = True
            self._wear = load(self._path)
            self._device = find_device(self._path.parent)
            if not self.stats.card_bytes:
                self.stats.card_bytes = _file_system_bytes(self._path.parent)
        now_s = self._clock.monotonic_s()
        now = (now_s, self._spool.bytes_written_total, self._spool.fsyncs_total, self._written())
        if self._before is not None:
            before_s, bytes_before, flushes_before, device_before = self._before
            device = None
            if now[3] is not None and device_before is not None:
                # A card that was changed begins at 0.
                device = float(max(now[3] - device_before, 0))
            seconds = now_s - before_s
            written, flushes = now[1] - bytes_before, now[2] - flushes_before
            self._wear = self._wear.after(seconds, written, flushes, device)
        self._before = now
        self._tell()
        if now_s - self._saved_s >= SAVE_PERIOD_S:
            self.save()
        return self.stats

    def save(self) -> None:
        """Keep the state for the next start; without it the estimate begins anew, that is all."""
        self._saved_s = self._clock.monotonic_s()
        with contextlib.suppress(OSError):
            save(self._path, self._wear)

    def _written(self) -> int | None:
        if self._device is None:
            return None
        try:
            counted = DeviceWrites.parse(self._device.read_text())
        except OSError:
            return None
        return counted.bytes if counted else None

    def _tell(self) -> None:
        warning_before = self.stats.warning
        _fill(self.stats, self._wear, self._settings)
        warning = self.stats.warning
        if warning and not warning_before:
            log.warning("spool.wear_exceeded %s", warning)
        elif warning_before and not warning:
            log.info("spool.wear_within_limits")


def saved_wear(directory: Path, settings: WearSettings) -> WearStats:
    """What the gateway of a spool measured until it last saved it."""
    stats = WearStats(card_bytes=settings.card_bytes or _file_system_bytes(directory))
    _fill(stats, load(directory / FILE_NAME), settings)
    return stats


def _fill(stats: WearStats, wear: Wear, settings: WearSettings) -> None:
    stats.observed_s = wear.observed_s
    stats.bytes_day, stats.flushes_day = wear.bytes_day, wear.flushes_day
    stats.device_bytes_day = wear.device_bytes_day
    stats.bytes_total = wear.bytes_total
    stats.life_days = life_days_of(wear, stats.card_bytes, settings.rewrites_max)
    stats.warning = "; ".join(_exceeded(wear, settings))


def _exceeded(wear: Wear, settings: WearSettings) -> Iterator[str]:
    if wear.observed_s < OBSERVED_MIN_S:
        return
    written = max(wear.bytes_day, wear.device_bytes_day)
    if settings.bytes_day_max and written > settings.bytes_day_max:
        yield (
            f"{written / 2**20:,.0f} MiB a day are written,"
            f" bytes_day_max is {settings.bytes_day_max / 2**20:,.0f} MiB"
        )
    if settings.flushes_day_max and wear.flushes_day > settings.flushes_day_max:
        yield (
            f"{wear.flushes_day:,.0f} flushes a day,"
            f" flushes_day_max is {settings.flushes_day_max:,}"
        )


def load(path: Path) -> Wear:
    """The state of a run before; a new one if there is none that can be believed."""
    try:
        facts = orjson.loads(path.read_bytes())
        numbers = [float(facts[name]) for name in _FIELDS]
        is_sound = facts["crc"] == _crc(numbers)
    except (OSError, ValueError, TypeError, KeyError):
        return Wear()
    if not is_sound or not all(math.isfinite(n) and n >= 0 for n in numbers):
        return Wear()
    return Wear(*numbers)


def save(path: Path, wear: Wear) -> None:
    """Replace the file as a whole; not synced, since a power cut may as well cost some hours."""
    numbers = [getattr(wear, name) for name in _FIELDS]
    facts = {**dict(zip(_FIELDS, numbers, strict=True)), "crc": _crc(numbers)}
    unfinished = path.with_suffix(".tmp")
    unfinished.write_bytes(orjson.dumps(facts))
    unfinished.replace(path)


def _crc(numbers: list[float]) -> int:
    return zlib.crc32(orjson.dumps(numbers))


def _file_system_bytes(directory: Path) -> int:
    try:
        facts = os.statvfs(directory)
    except OSError:
        return 0
    return facts.f_blocks * facts.f_frsize
