"""What time it is, and whether to believe it; one that tests can turn.

UTC is monotonic time plus an offset, so stamps never run backwards between two steps of the
wall clock. `follow_wall` compares the two and adopts a step once, visibly.

A board without a clock chip starts somewhere in the past. Until something vouches for the wall
clock (`Believe`), the stamps of this boot are *provisional*: right to each other, wrong by an
offset that is not known yet. `boot` says so, and names the boot whose offset is missing. They go on
from the newest time that is known to have been, so that they are never older than what was stored.
"""

from __future__ import annotations

import ctypes
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeAlias

__all__ = ["Believe", "Clock", "ManualClock", "SystemClock", "boot_id", "who_vouches"]

log = logging.getLogger(__name__)

# NTP slews below half a second and steps above 128 ms; a difference this large is a step.
STEP_MIN_NS = 100_000_000
# What a server says is right to some tenths of a second.
HEARD_STEP_MIN_NS = 2_000_000_000
# No gateway of this version can run before it was made (2026-11-01).
BUILT_NS = 1_793_491_200_000_000_000

_RECORD, _SERVER = "this boot's record", "a server"  # they vouch for UTC, not for the wall clock

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_RTC = Path("/sys/class/rtc")
_CPU = Path("/proc/cpuinfo")
_TIMESYNCD = Path("/run/systemd/timesync/synchronized")
_STA_UNSYNC = 0x40  # linux/timex.h
_TIMEX_BYTES = 512  # struct timex has 208
_TIMEX_STATUS_AT = 40  # modes, offset, freq, maxerror, esterror, status

Believe: TypeAlias = Callable[[int, int], str]
"""Given wall time and the earliest time it can be: who vouches for it; "" for nobody."""


def boot_id() -> int:
    """The kernel's boot id as 64 bits: monotonic times compare within one boot only."""
    try:
        return int(_BOOT_ID.read_text().replace("-", "")[:16], 16)
    except (OSError, ValueError):
        return 0


def who_vouches(wall_ns: int, floor_ns: int) -> str:
    """Who says that the machine's wall clock is right; "" for nobody.

    The kernel's own word (adjtimex(2): STA_UNSYNC is clear) and that of the time daemon are
    believed from the day this version was made on. A clock chip from which the kernel has set
    itself, or a hypervisor's clock, may have an empty battery or a careless host: it must not be
    behind `floor_ns`, the newest time that has been.
    """
    if wall_ns < BUILT_NS:
        return ""
    if _is_kernel_synchronised():
        return "kernel"
    if _TIMESYNCD.exists():
        return "time daemon"
    if wall_ns < floor_ns:
        return ""
    if any(_text(path) == "1" for path in _RTC.glob("rtc*/hctosys")):
        return "clock chip"
    return "hypervisor" if " hypervisor" in _text(_CPU) else ""


def _is_kernel_synchronised() -> bool:
    try:
        timex = ctypes.create_string_buffer(_TIMEX_BYTES)
        state = ctypes.CDLL(None, use_errno=True).adjtimex(timex)
    except (OSError, AttributeError):  # a libc without it
        return False
    status = int.from_bytes(timex.raw[_TIMEX_STATUS_AT : _TIMEX_STATUS_AT + 4], "little")
    return state >= 0 and not status & _STA_UNSYNC


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


class Clock(Protocol):
    """The time, as everything in the gateway sees it."""

    @property
    def boot_id(self) -> int:
        """Which boot of the machine this is; never 0."""
        ...

    @property
    def boot(self) -> int:
        """0 while `utc_ns` is believed; else `boot_id`, the boot whose stamps are provisional."""
        ...

    @property
    def offset_ns(self) -> int:
        """UTC less monotonic time."""
        ...

    def monotonic_s(self) -> float: ...

    def monotonic_ns(self) -> int: ...

    def utc_ns(self) -> int: ...

    def begin(self, floor_ns: int, offset_ns: int | None, *, is_final: bool) -> None:
        """Say what is known of before: the newest time that was, and this boot's offset."""
        ...

    def missing_ns(self) -> int | None:
        """While stamps are provisional: how far they are behind UTC, once that is known."""
        ...

    def hear(self, offset_ns: int) -> None:
        """What a server says UTC less monotonic time is; believed while nobody else vouches."""
        ...

    def trust(self, missing_ns: int) -> None:
        """From now on UTC is what it was plus so much, and is believed."""
        ...

    def wall_ahead_ns(self) -> int:
        """How far the wall clock is ahead of ours."""
        ...

    def follow_wall(self) -> int:
        """Adopt a step of a believed wall clock; how far it went in nanoseconds, 0 for none."""
        ...


class SystemClock:
    """The machine's clocks."""

    def __init__(self, believe: Believe = lambda _wall_ns, _floor_ns: "the user") -> None:
        """Without `believe` the wall clock is always right."""
        self._believe = believe
        # Where the kernel does not say, none is on record: what was known of another boot's time
        # would be believed of this one.
        self.boot_id = boot_id() or secrets.randbits(64) | 1
        self._floor_ns = BUILT_NS
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        self._is_wall_impossible = False  # and the log was told
        self._heard_ns: int | None = None  # the offset that a server says
        self.trusted_by = believe(time.time_ns(), BUILT_NS)

    @property
    def boot(self) -> int:
        return 0 if self.trusted_by else self.boot_id

    @property
    def offset_ns(self) -> int:
        return self._offset_ns

    def monotonic_s(self) -> float:
        return time.monotonic()

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def utc_ns(self) -> int:
        return time.monotonic_ns() + self._offset_ns

    def begin(self, floor_ns: int, offset_ns: int | None, *, is_final: bool) -> None:
        self._floor_ns = max(floor_ns, BUILT_NS)
        if offset_ns is not None and is_final:
            self._offset_ns, self.trusted_by = offset_ns, self.trusted_by or _RECORD
            return
        self.trusted_by = self._believe(time.time_ns(), self._floor_ns)
        if self.trusted_by:
            return
        if offset_ns is None:  # a saved time, as fake-hwclock has it, is later than our floor
            offset_ns = max(time.time_ns(), self._floor_ns) - time.monotonic_ns()
        self._offset_ns = offset_ns

    def missing_ns(self) -> int | None:
        wall_ns, now_ns = time.time_ns(), self.utc_ns()
        if self.trusted_by:
            return None
        # The stamps of this boot may have run ahead; they are no witness against the wall clock.
        if self._believe(wall_ns, min(self._floor_ns, now_ns)):
            return wall_ns - now_ns
        return None if self._heard_ns is None else self._heard_ns - self._offset_ns

    def hear(self, offset_ns: int) -> None:
        utc_ns = time.monotonic_ns() + offset_ns
        if utc_ns >= min(self._floor_ns, self.utc_ns()):  # no time that has been already
            self._heard_ns = offset_ns

    def trust(self, missing_ns: int) -> None:
        self._offset_ns += missing_ns
        wall = "the wall clock" if self._heard_ns is None else _SERVER
        self.trusted_by = self._believe(time.time_ns(), self._floor_ns) or wall

    def wall_ahead_ns(self) -> int:
        return time.time_ns() - self.utc_ns()

    def follow_wall(self) -> int:
        if not self.trusted_by:
            return 0
        step_ns, least_ns = self.wall_ahead_ns(), STEP_MIN_NS
        if self.trusted_by in (_RECORD, _SERVER):  # the wall clock itself may still be in 1970
            vouched = self._believe(time.time_ns(), self._floor_ns)
            if vouched:
                self.trusted_by = vouched
            else:
                heard_ns = self._offset_ns if self._heard_ns is None else self._heard_ns
                step_ns, least_ns = heard_ns - self._offset_ns, HEARD_STEP_MIN_NS
        elif time.time_ns() < BUILT_NS:
            self._say_impossible(step_ns)
            return 0
        self._is_wall_impossible = False
        if abs(step_ns) < least_ns:
            return 0
        self._offset_ns += step_ns
        return step_ns

    def _say_impossible(self, step_ns: int) -> None:
        if not self._is_wall_impossible:
            self._is_wall_impossible = True
            log.warning(
                "clock.impossible seconds=%.0f consequence=not followed, ours goes on"
                " hint=see who sets the time, and to what",
                step_ns / 1e9,
            )


class ManualClock:
    """A clock that stands still until a test turns it."""

    def __init__(
        self, utc_ns: int = 1_767_225_600_000_000_000, *, boot_id: int = 1, trusted: bool = True
    ) -> None:
        """2026-01-01T00:00:00Z, unless told; its stamps are provisional while not trusted."""
        self._monotonic_ns = 1_000_000_000
        self._offset_ns = utc_ns - self._monotonic_ns
        self._step_ns = 0
        self._missing_ns: int | None = None
        self.boot_id = boot_id
        self.boot = 0 if trusted else boot_id

    @property
    def offset_ns(self) -> int:
        return self._offset_ns

    def advance(self, seconds: float) -> None:
        self._monotonic_ns += round(seconds * 1e9)

    def step_wall(self, seconds: float) -> None:
        """Step the wall clock; adopted at the next `follow_wall`."""
        self._step_ns += round(seconds * 1e9)

    def hear(self, offset_ns: int) -> None:
        if self.boot:
            self._missing_ns = offset_ns - self._offset_ns

    def find_out(self, seconds: float) -> None:
        """Somebody vouches for a wall clock that is so far ahead of provisional time."""
        self._missing_ns = round(seconds * 1e9)

    def monotonic_s(self) -> float:
        return self._monotonic_ns / 1e9

    def monotonic_ns(self) -> int:
        return self._monotonic_ns

    def utc_ns(self) -> int:
        return self._monotonic_ns + self._offset_ns

    def begin(self, floor_ns: int, offset_ns: int | None, *, is_final: bool) -> None:
        if not self.boot:
            return
        if offset_ns is not None:
            self._offset_ns = offset_ns
            self.boot = 0 if is_final else self.boot
        else:
            self._offset_ns = max(self._offset_ns, floor_ns - self._monotonic_ns)

    def missing_ns(self) -> int | None:
        return self._missing_ns if self.boot else None

    def trust(self, missing_ns: int) -> None:
        self._offset_ns += missing_ns
        self._missing_ns, self.boot = None, 0

    def wall_ahead_ns(self) -> int:
        return self._step_ns + (self._missing_ns or 0)

    def follow_wall(self) -> int:
        if self.boot:
            return 0
        step_ns, self._step_ns = self._step_ns, 0
        self._offset_ns += step_ns
        return step_ns
