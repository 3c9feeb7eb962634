"""Times as recordings write them: ISO 8601, or a number since 1970 in s, ms, us or ns."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from gateway.frame import FloatArray, TimeArray

__all__ = ["NotATime", "times_of_numbers", "times_of_texts"]

# A number since 1970 is taken by its size: (below, nanoseconds in one). Seconds until the year
# 5138, milliseconds from 1973 on, and so on.
_UNITS = ((1e11, 1e9), (1e14, 1e6), (1e17, 1e3), (9.2e18, 1.0))

_PLAIN = frozenset("0123456789-:.T ")

_ISO_MEND = (
    "write it as 2026-01-31T12:00:00 (UTC unless it says +02:00), or as a number since 1970"
    " in s, ms, us or ns"
)


class NotATime(ValueError):
    """`index` of the first cell that is no time; the message says what would be right."""

    def __init__(self, index: int, found: str, mend: str = _ISO_MEND) -> None:
        super().__init__(f"{found}. {mend}")
        self.index = index
        self.found = found
        self.mend = mend


def times_of_texts(texts: Sequence[str]) -> TimeArray:
    """UTC nanoseconds of cells; a time without a zone is UTC. Raises NotATime."""
    if not len(texts):
        return np.empty(0, np.int64)
    first = texts[0].strip()
    if _is_number(first):
        return times_of_numbers(_numbers(texts))
    quick = _times_of_one_shape(texts)
    if quick is not None:
        return quick
    return np.array([_time_of(i, text) for i, text in enumerate(texts)], np.int64)


def times_of_numbers(numbers: FloatArray | TimeArray) -> TimeArray:
    """UTC nanoseconds of numbers since 1970; small ones are seconds. Raises NotATime.

    Whole numbers keep all their digits; seconds with a fraction are good to a microsecond.
    """
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        raise NotATime(int(bad[0]), "there is no time")
    largest = float(np.abs(numbers).max(initial=0))
    factor = next((factor for below, factor in _UNITS if largest < below), None)
    if factor is None:
        worst = int(np.abs(numbers).argmax())
        raise NotATime(worst, f"{numbers[worst]} is beyond the year 2262")
    if np.issubdtype(numbers.dtype, np.integer):
        return numbers.astype(np.int64) * np.int64(factor)
    whole = np.floor(numbers)
    # The fraction of a double of this size is good to 0.2 us; more digits would be made up.
    fraction_us = np.round((numbers - whole) * 1e6) if factor == 1e9 else (numbers - whole) * factor
    scale = np.int64(1000) if factor == 1e9 else np.int64(1)
    return whole.astype(np.int64) * np.int64(factor) + fraction_us.astype(np.int64) * scale


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _numbers(texts: Sequence[str]) -> FloatArray | TimeArray:
    for i, text in enumerate(texts):
        if not _is_number(text):
            raise NotATime(i, f"{text[:40]!r} is not a time like those before it")
    try:
        return np.array([int(text) for text in texts], np.int64)
    except (ValueError, OverflowError):
        return np.array([float(text) for text in texts])


def _times_of_one_shape(texts: Sequence[str]) -> TimeArray | None:
    """The usual file: all cells alike, at most a Z behind them. None for anything else."""
    cells = np.array(texts, dtype=np.str_)
    if cells.dtype.itemsize > 4 * 32:  # nanoseconds and a zone need 35 characters, with a Z 30
        return None
    lengths = np.char.str_len(cells)
    if lengths.min() < len("2026-01-31T12:00"):
        return None
    if np.char.endswith(cells, "Z").all():
        cells = np.char.rstrip(cells, "Z")
    # With a zone, numpy would warn and be wrong; and it takes NaT for a time.
    if not _PLAIN.issuperset("".join(cells.tolist())) or (np.char.count(cells, "-") != 2).any():
        return None
    try:
        times = cells.astype("datetime64[ns]").view(np.int64)
    except ValueError:
        return None
    years = np.char.find(cells, "-")
    # Beyond 1678..2262 nanoseconds wrap around; such cells go the slow way and are refused there.
    return times if (years == 4).all() and _is_possible(cells) else None


def _is_possible(cells: np.ndarray[tuple[int], np.dtype[np.str_]]) -> bool:
    return bool((cells >= "1900").all() and (cells < "2262").all())


def _time_of(index: int, text: str) -> int:
    text = text.strip()
    if not text:
        raise NotATime(index, "there is no time")
    whole, fraction, zone = _split(text)
    try:
        moment = datetime.fromisoformat(whole + zone)
    except ValueError:
        raise NotATime(index, f"{text[:40]!r} is not a time") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        seconds = round(moment.timestamp())
    except (OverflowError, ValueError):
        seconds = 2**63
    t_ns = seconds * 10**9 + fraction
    if not -(2**63) <= t_ns < 2**63:
        raise NotATime(index, f"{text[:40]!r} is not between the years 1678 and 2262")
    return t_ns


def _split(text: str) -> tuple[str, int, str]:
    """Whole seconds, nanoseconds, zone; Python reads at most microseconds."""
    for mark in (".", ","):
        whole, found, rest = text.partition(mark)
        if not found:
            continue
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        if digits:
            return whole, int(digits[:9].ljust(9, "0")), rest[len(digits) :]
    return text, 0, ""
