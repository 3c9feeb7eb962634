"""Dead letters: samples that a destination refuses for good, with its own words.

A file of JSON lines a sink, bounded: when it is full it becomes `<name>.1` and a new one begins.
It is for people to read, so it is not synced line by line; a disk that refuses it costs the
letter, counted, and never the delivery.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from gateway.frame import Frame
from gateway.tag import Quality, Tags

__all__ = ["DeadLetters"]

log = logging.getLogger(__name__)

# Some ten thousand letters, twice: enough to see what is wrong, nothing on a card.
FILE_BYTES_MAX = 2 * 2**20
REASON_CHARS_MAX = 255
# One bad tag gives a letter with each scan, for days.
SAY_PERIOD_S = 60.0
# So long a warning stays.
RECENT_S = 3600.0
# Of a text: what it is can be seen, and a letter stays a line.
VALUE_CHARS_MAX = 1000
_QUALITIES = frozenset(int(quality) for quality in Quality)


class DeadLetters:
    """Where one sink's refused samples go."""

    def __init__(
        self,
        path: Path,
        file_bytes_max: int = FILE_BYTES_MAX,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._seconds = seconds
        self._file_bytes_max = file_bytes_max
        self.letters_total = 0
        self.letters_lost_total = 0  # could not be written
        self._is_failing = False
        self._said_s = -math.inf  # when the log was told last
        self._unsaid = 0
        self._last = ""  # tag and reason of the newest
        self._recent = 0  # since the last hour without any
        self._recent_s = -math.inf  # when the newest was
        self._writing = threading.Lock()  # two deliveries of a sink may bury at once

    def put(self, frame: Frame, reasons: Mapping[int, str], table: Tags) -> None:
        """Keep some rows of a frame with the reason of each. In any thread."""
        if reasons:
            with self._writing:
                self._put(frame, reasons, table)
                row, why = next(iter(reasons.items()))
                self._unsaid += len(reasons)
                self._recent = len(reasons) + (self._recent if self._is_recent() else 0)
                self._recent_s = self._seconds()
                self._last = f"tag={table[int(frame.tag_ids[row])].name} reason={why}"
                self._say()

    def of_late(self) -> str:
        """What somebody should look at; "" once there was none for an hour."""
        if not self._is_recent():
            return ""
        return f"{self._recent} samples became dead letters, {self._last}; see {self._path}"

    def _is_recent(self) -> bool:
        return self._seconds() - self._recent_s < RECENT_S

    def say(self) -> None:
        """Tell the log what it was not told yet, if it is time."""
        if self._unsaid:
            with self._writing:
                self._say()

    def _say(self) -> None:
        now_s = self._seconds()
        if not self._unsaid or now_s - self._said_s < SAY_PERIOD_S:
            return
        log.error(
            "sink.dead_letter sink=%s samples=%d %s file=%s",
            *(self._path.stem, self._unsaid, self._last, self._path),
        )
        self._said_s, self._unsaid = now_s, 0

    def _put(self, frame: Frame, reasons: Mapping[int, str], table: Tags) -> None:
        self.letters_total += len(reasons)
        lines = [self._line(frame, row, why, table) for row, why in reasons.items()]
        sizes = np.cumsum([len(line) for line in lines])
        fit = int(np.searchsorted(sizes, self._file_bytes_max, side="right"))
        self.letters_lost_total += len(lines) - fit
        if not fit:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            used = self._path.stat().st_size if self._path.exists() else 0
            if used and used + int(sizes[fit - 1]) > self._file_bytes_max:
                self._path.replace(self._path.with_name(self._path.name + ".1"))
            with self._path.open("ab") as file:
                file.write(b"".join(lines[:fit]))
        except OSError as error:
            if not self._is_failing:
                log.error("sink.dead_letters_unwritable path=%s error=%s", self._path, error)  # noqa: TRY400 - the path says it all
            self._is_failing = True
            self.letters_lost_total += fit
        else:
            self._is_failing = False

    @staticmethod
    def _line(frame: Frame, row: int, why: str, table: Tags) -> bytes:
        value = frame.value(row)
        if isinstance(value, str):
            value = value[:VALUE_CHARS_MAX]
        elif isinstance(value, float) and not math.isfinite(value):
            value = str(value)  # JSON has no such numbers
        code = int(frame.quality[row])
        letter = {
            "refused_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "reason": why[:REASON_CHARS_MAX],
            "tag": table[int(frame.tag_ids[row])].name,
            "t_ns": int(frame.t_ns[row]),
            "value": value,
            "quality": Quality(code).name.lower() if code in _QUALITIES else code,
        }
        return json.dumps(letter).encode() + b"\n"
