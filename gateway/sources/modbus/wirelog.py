"""Wire log: what goes over one device's wire, in hexadecimal, while somebody wants to see it.

Off until switched on, and off again by itself after a while: nobody is left with a log that fills
a card. What was seen is kept for the page (`lines`), bounded, and written to the log
(`modbus.wire`) at a bounded rate.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime

from gateway.clock import Clock, SystemClock

__all__ = ["WireEntry", "WireLog"]

log = logging.getLogger(__name__)

ENTRIES_MAX = 1000  # of 260 bytes at most: a quarter of a megabyte a device
LOGGED_PER_S_MAX = 50  # a person reads fewer; a journal takes more, but not of 200 devices
ON_S_DEFAULT = 600.0
ON_S_MAX = 24 * 3600.0
BYTES_MAX = 260  # an ADU; ASCII frames are twice as long, and cut
_BYTES_LOGGED_MAX = 80  # 239 characters: what a peer sends may put 255 into a log


@dataclass(frozen=True, slots=True)
class WireEntry:
    """Some bytes that were sent or heard, or why the connection ended."""

    t_ns: int  # UTC
    direction: str  # "sent", "heard", "opened" or "closed"
    data: bytes
    size: int  # of what it was; `data` may be its beginning
    note: str = ""

    def __str__(self) -> str:
        time = datetime.fromtimestamp(self.t_ns / 1e9, UTC).isoformat(timespec="milliseconds")
        return f"{time} {self.direction:6s} {self.text()}"

    def text(self, bytes_max: int = BYTES_MAX) -> str:
        """The bytes in hexadecimal, or the note."""
        if self.note:
            return self.note
        cut = min(len(self.data), bytes_max)
        more = f" ... {self.size} bytes" if self.size > cut else ""
        return self.data[:cut].hex(" ") + more


class WireLog:
    """The log of one device; a connection asks `is_on` before it says anything."""

    def __init__(self, name: str = "", clock: Clock | None = None) -> None:
        self.is_on = False
        self.left_out_total = 0  # entries that were kept, but not written to the log
        self._name = name
        self._clock = clock or SystemClock()
        self._entries: deque[WireEntry] = deque(maxlen=ENTRIES_MAX)
        self._off_s = 0.0
        self._second = 0
        self._logged = 0

    def switch_on(self, seconds: float = ON_S_DEFAULT) -> None:
        """Log from now on, for so long; what an earlier time left is forgotten."""
        if not 0 < seconds <= ON_S_MAX:
            raise ValueError(f"{seconds:g} s is not from 0 to {ON_S_MAX:g} s")
        if not self.is_on:
            self._entries.clear()
        self.is_on = True
        self._off_s = self._clock.monotonic_s() + seconds
        log.info("modbus.wire_log_on source=%s seconds=%g", self._name, seconds)

    def switch_off(self) -> None:
        """Log no more; what was seen can still be read."""
        if self.is_on:
            self.is_on = False
            log.info("modbus.wire_log_off source=%s", self._name)

    def entries(self) -> list[WireEntry]:
        """What was seen, the oldest first."""
        return list(self._entries)

    def lines(self) -> list[str]:
        """What was seen, for people."""
        return [str(entry) for entry in self._entries]

    def sent(self, data: bytes) -> None:
        self._add("sent", data)

    def heard(self, data: bytes) -> None:
        self._add("heard", data)

    def opened(self) -> None:
        self._add("opened", b"", "connected")

    def closed(self, reason: Exception) -> None:
        self._add("closed", b"", str(reason)[:255] or type(reason).__name__)

    def _add(self, direction: str, data: bytes, note: str = "") -> None:
        if not self.is_on:
            return
        now_s = self._clock.monotonic_s()
        if now_s >= self._off_s:
            self.switch_off()
            return
        entry = WireEntry(self._clock.utc_ns(), direction, bytes(data[:BYTES_MAX]), len(data), note)
        self._entries.append(entry)
        if int(now_s) != self._second:
            self._second, self._logged = int(now_s), 0
        self._logged += 1
        if self._logged > LOGGED_PER_S_MAX:
            self.left_out_total += 1
            return
        text = entry.text(_BYTES_LOGGED_MAX)
        log.info("modbus.wire source=%s %s %s", self._name, direction, text)
