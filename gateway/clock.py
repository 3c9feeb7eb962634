"""What time it is: monotonic for intervals, UTC nanoseconds for stamps; one that tests can turn.

UTC is monotonic time plus an offset, so stamps never run backwards between two steps of the
wall clock. `follow_wall` compares the two and adopts a step once, visibly.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

__all__ = ["Clock", "ManualClock", "SystemClock", "boot_id"]

# NTP slews below half a second and steps above 128 ms; a difference this large is a step.
STEP_MIN_NS = 100_000_000

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> int:
    """The kernel's boot id as 64 bits: monotonic times compare within one boot only."""
    try:
        return int(_BOOT_ID.read_text().replace("-", "")[:16], 16)
    except (OSError, ValueError):
        return 0


class Clock(Protocol):
    """The time, as everything in the gateway sees it."""

    def monotonic_s(self) -> float: ...

    def monotonic_ns(self) -> int: ...

    def utc_ns(self) -> int: ...

    def follow_wall(self) -> int:
        """Adopt a step of the wall clock; how far it went in nanoseconds, 0 for none."""
        ...


class SystemClock:
    """The machine's clocks."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def monotonic_s(self) -> float:
        return time.monotonic()

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def utc_ns(self) -> int:
        return time.monotonic_ns() + self._offset_ns

    def follow_wall(self) -> int:
        step_ns = time.time_ns() - self.utc_ns()
        if abs(step_ns) < STEP_MIN_NS:
            return 0
        self._offset_ns += step_ns
        return step_ns


class ManualClock:
    """A clock that stands still until a test turns it."""

    def __init__(self, utc_ns: int = 1_767_225_600_000_000_000) -> None:  # 2026-01-01T00:00:00Z
        self._monotonic_ns = 1_000_000_000
        self._offset_ns = utc_ns - self._monotonic_ns
        self._step_ns = 0

    def advance(self, seconds: float) -> None:
        self._monotonic_ns += round(seconds * 1e9)

    def step_wall(self, seconds: float) -> None:
        """Step the wall clock; adopted at the next `follow_wall`."""
        self._step_ns += round(seconds * 1e9)

    def monotonic_s(self) -> float:
        return self._monotonic_ns / 1e9

    def monotonic_ns(self) -> int:
        return self._monotonic_ns

    def utc_ns(self) -> int:
        return self._monotonic_ns + self._offset_ns

    def follow_wall(self) -> int:
        step_ns, self._step_ns = self._step_ns, 0
        self._offset_ns += step_ns
        return step_ns
