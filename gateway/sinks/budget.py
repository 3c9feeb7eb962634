"""Budget: what a sink may send in an hour and a day, for links that are paid for by the megabyte.

Hours and days are those of UTC. Events may use all of it, everything else a share: an alarm at the
end of the day must not wait for midnight because of values that nobody looks at. What was used is
kept in a small file, so that a restart does not begin anew; damaged or missing, it begins anew.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path

from gateway.frame import Lane

__all__ = ["Budget"]

log = logging.getLogger(__name__)

OTHERS_SHARE = 0.8
# Of the nearer bound: so much may be sent anew after a kill.
UNSAVED_SHARE = 1 / 16
HOUR_NS = 3600 * 10**9
DAY_NS = 24 * HOUR_NS


@dataclass(slots=True)
class _Period:
    """One hour or day, and what was sent in it."""

    length_ns: int
    bytes_max: int
    number: int = 0
    used: int = 0

    def add(self, size: int, now_ns: int) -> None:
        number = now_ns // self.length_ns
        if number != self.number:
            self.number, self.used = number, 0
        self.used += size

    def allows(self, lane: Lane, now_ns: int) -> bool:
        self.add(0, now_ns)
        share = 1.0 if lane is Lane.EVENT else OTHERS_SHARE
        return not self.bytes_max or self.used < share * self.bytes_max


class Budget:
    """What one sink may still send."""

    def __init__(self, path: Path, bytes_hour: int = 0, bytes_day: int = 0) -> None:
        """0 is no bound. Nothing is read before `load`."""
        self._path = path
        self._hour = _Period(HOUR_NS, bytes_hour)
        self._day = _Period(DAY_NS, bytes_day)
        self._counted = 0
        self._unsaved = 0

    @property
    def wants_saving(self) -> bool:
        """Whether a kill would give much of it back."""
        bounds = [period.bytes_max for period in (self._hour, self._day) if period.bytes_max]
        return self._unsaved > UNSAVED_SHARE * min(bounds, default=math.inf)

    @property
    def is_bounded(self) -> bool:
        return bool(self._hour.bytes_max or self._day.bytes_max)

    def count(self, sent_total: int, now_ns: int) -> None:
        """So much has been sent in all since the start, stored or not."""
        size, self._counted = sent_total - self._counted, sent_total
        self.add(size, now_ns)

    def add(self, size: int, now_ns: int) -> None:
        """So much more has been sent."""
        self._hour.add(size, now_ns)
        self._day.add(size, now_ns)
        self._unsaved += size

    def allows(self, lane: Lane, now_ns: int) -> bool:
        """Whether a batch of this lane may be sent now; it may go beyond the bound by itself."""
        return self._hour.allows(lane, now_ns) and self._day.allows(lane, now_ns)

    def left(self, now_ns: int) -> int:
        """Bytes until the nearer of the two bounds; for who asks whether there is one."""
        self.add(0, now_ns)
        bounded = [period for period in (self._hour, self._day) if period.bytes_max]
        return min((max(0, period.bytes_max - period.used) for period in bounded), default=0)

    def load(self) -> None:
        """Take up what was used in this hour and day. Touches the disk."""
        try:
            facts = json.loads(self._path.read_text(encoding="utf-8"))
            read = {name: [int(number) for number in facts[name]] for name in ("hour", "day")}
            self._hour.number, self._hour.used = read["hour"]
            self._day.number, self._day.used = read["day"]
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("sink.budget_unreadable file=%s error=%s", self._path, error)

    def save(self) -> None:
        """Keep what was used; not synced, a power cut may give some of it back. Raises OSError."""
        self._unsaved = 0
        facts = {
            "hour": [self._hour.number, self._hour.used],
            "day": [self._day.number, self._day.used],
        }
        self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(facts), encoding="utf-8")
        new.replace(self._path)
