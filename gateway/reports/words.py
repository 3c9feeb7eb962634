"""Words: durations, rates and times as people write them."""

from __future__ import annotations

import math
from datetime import UTC, datetime

__all__ = ["duration", "rate", "utc"]


def duration(seconds: float) -> str:
    """Such as "90 s", "5.5 min", "2 h", "3.2 days"."""
    if not math.isfinite(seconds):
        return "-"
    for unit, length, most in (("s", 1, 100), ("min", 60, 120), ("h", 3600, 72)):
        if abs(seconds) < most * length:
            return f"{_three(seconds / length)} {unit}"
    return f"{_three(seconds / 86400)} days"


def rate(per_day: float) -> str:
    """Such as "3 a day", "1 a week", "0.5 a month"."""
    if not math.isfinite(per_day):
        return "any number"
    if per_day == 0:
        return "none"
    if per_day >= 24:
        return f"{_three(per_day / 24)} an hour"
    if per_day >= 1:
        return f"{_three(per_day)} a day"
    if per_day * 7 >= 0.99:
        return f"{_three(per_day * 7)} a week"
    if per_day * 30.44 >= 0.99:
        return f"{_three(per_day * 30.44)} a month"
    return f"{_three(per_day * 365.25)} a year"


def utc(t_ns: int) -> str:
    """A time to the second, UTC."""
    return datetime.fromtimestamp(t_ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _three(value: float) -> str:
    """Three digits, without a tail of zeros."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    said = f"{value:,.{digits}f}"
    return said.rstrip("0").rstrip(".") if "." in said else said
