"""Answers: what a server's answer over HTTP means for a batch (docs/formats/points.md)."""

from __future__ import annotations

import re
import time
from collections.abc import Container, Mapping
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin, urlsplit

from gateway.errors import (
    SinkError,
    SinkParked,
    SinkRejected,
    SinkTooLarge,
    SinkUnavailable,
)
from gateway.sinks.refusal import words_of

__all__ = ["verdict"]

# Of where a redirect leads to.
LOCATION_CHARS_MAX = 255
# With such words InfluxDB 1 to 3, VictoriaMetrics, QuestDB, Telegraf and receivers of remote write
# refuse data; other answers of the same status may refuse whoever asks.
_ABOUT_POINTS = re.compile(
    r"partial write|unable to parse|(cannot|failed to|could not) (parse|unmarshal)|type conflict"
    r"|invalid (number|boolean|field|tag|label|metric|timestamp|character|line)|beyond retention"
    r"|max[- ](series|values)|(in|on|at) line \d|line[_ ]?number|out[- ]of[- ]order|out of bounds"
    r"|(too old|duplicate) sample|too far in the (past|future)|missing (fields|tag|measurement)",
    re.IGNORECASE,
)
# InfluxDB 1 says 500 to that.
_NO_POLICY = re.compile(r"retention policy not found", re.IGNORECASE)
# Of 400 to 499 these may pass by themselves: a time-out, a conflict, a request come too early.
_PASSING = frozenset({408, 409, 425})
_MOVED = frozenset({301, 302, 303, 307, 308})
_MOVED_FOR_GOOD = frozenset({301, 308})
# A person must act; what to do.
_LOGIN_HINT = "check the token or password, and what it may write to"
_PARKED_HINTS = {
    401: _LOGIN_HINT,
    403: _LOGIN_HINT,
    404: "check the bucket, organisation or database, and the URL",
    405: "check the URL: what answers there takes no POST",
    415: "check the URL: what answers there does not take this format",
}
_ZIPPED_HINT = "what answers there may not take compressed bodies: try gzip = false"
_OTHER_HINT = "check the URL, and what answers there"


def verdict(
    status: int,
    said: bytes,
    headers: Mapping[str, str],
    *,
    stored: Container[int],
    portal_hint: str,
    url: str = "",
    is_gzip: bool = False,
) -> SinkError | None:
    """What an answer to what was sent there means for the batch; None when it is stored."""
    words = words_of(said)
    told = f"the server answered {status}: {words}" if words else f"the server answered {status}"
    if status in stored:
        return None
    match status:
        case 400 | 422:
            is_certain = _ABOUT_POINTS.search(words) is not None
            hint = "the samples it names are in the dead letters"
            return SinkRejected(told, is_certain=is_certain, hint=hint)
        case 413:
            return SinkTooLarge(told)
        case 429 | 503:
            return SinkUnavailable(told, retry_after_s=_retry_after_s(headers))
        case 500 if _NO_POLICY.search(words):
            return SinkParked(told, hint="check retention_policy, or make it in the database")
        case _ if 200 <= status < 400:
            return _elsewhere(status, told, headers, portal_hint, url)
        case _ if 400 <= status < 500 and status not in _PASSING:
            is_zipped = status == 415 and is_gzip
            hint = _ZIPPED_HINT if is_zipped else _PARKED_HINTS.get(status, _OTHER_HINT)
            return SinkParked(told, hint=hint)
    return SinkUnavailable(told, is_server_fault=status >= 500)


def _elsewhere(
    status: int, told: str, headers: Mapping[str, str], portal_hint: str, url: str
) -> SinkError:
    """Something else answers, or sends us elsewhere: nobody said that the data may go there."""
    location = headers.get("Location", "")[:LOCATION_CHARS_MAX]
    if not location or status not in _MOVED:
        return SinkUnavailable(told, hint=portal_hint)
    told = f"the server answered {status}, which leads to {location}"
    try:
        is_same_host = urlsplit(urljoin(url, location)).hostname == urlsplit(url).hostname
    except ValueError:  # it is no URL
        is_same_host = False
    if is_same_host or status in _MOVED_FOR_GOOD:  # such as from HTTP to HTTPS
        return SinkParked(told, hint="redirects are not followed: if that is right, mend url")
    return SinkUnavailable(told, hint=portal_hint)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Retry-After (RFC 9110, 10.2.3) in seconds: a number of them, or a date."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdecimal():
        return float(value[:9])
    try:
        until = parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, until - time.time())
