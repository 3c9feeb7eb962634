"""Refusal: which points a 400 or 422 is about, where the server says so for certain.

A server refuses batches for what is in a few of their points, for as long as these come: a tag
whose type was changed, samples older than the retention. Halving finds any of them, at
log2 n + 1 requests each; the words of the answer often tell at once:

    partial write: ... dropped=17             17 points were not stored; the batch had 17: all of it
    unable to parse 'pump,... 1': reason      this very line (InfluxDB 1 and 2)
    {"data": [{"line_number": 3, ...}]}       the third line (InfluxDB 3)
    field type conflict: input field "flow" on measurement "pump" is type float, ...
                                              a field; its points were dropped, neighbours and all

What is not certain is not named, and left to halving. Nothing here is believed further than that:
a line must be one of ours, a field must be in the batch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

__all__ = ["WORDS_BYTES_MAX", "Conflict", "conflict_in", "named_points", "words_of"]

# Of the server's words, this much goes into logs and dead letters.
WORDS_BYTES_MAX = 255

_DROPPED = re.compile(r"\bpartial write\b.*\bdropped=(\d+)\s*$", re.DOTALL)
_UNPARSED = "unable to parse '"
_CONFLICT = re.compile(
    r'input field "(?P<field>.*?)" on measurement "(?P<measurement>.*?)"'
    r" is type \w+, already exists as type (?P<kept>\w+)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """A field that the server keeps as another type than the one it was sent as."""

    measurement: str
    field: str
    kept: str  # "float", "integer", "boolean", "string"


def words_of(said: bytes) -> str:
    """What a server says, without its JSON, short enough for a log."""
    message = _message(_json(said)) or said[: 4 * WORDS_BYTES_MAX].decode("utf-8", "replace")
    return message.encode("utf-8", "replace")[:WORDS_BYTES_MAX].decode("utf-8", "ignore").strip()


def named_points(said: bytes, points: Sequence[bytes]) -> Mapping[int, str]:
    """The points that were certainly refused, each with the reason; others may have been too."""
    answer = _json(said)
    message = _message(answer)
    dropped = _DROPPED.search(message)
    if dropped and int(dropped[1][:9]) == len(points):
        return dict.fromkeys(range(len(points)), words_of(said))
    named = _numbered(answer, points)
    if _UNPARSED in message:
        places = {point[:-1].decode(): i for i, point in enumerate(points)}
        for part in message.split(_UNPARSED)[1:]:
            line, _, reason = part.rstrip("\n").rpartition("': ")
            if line in places:
                named[places[line]] = reason[:WORDS_BYTES_MAX]
    return named


def conflict_in(said: bytes) -> Conflict | None:
    """The field that a field type conflict is about."""
    match = _CONFLICT.search(_message(_json(said)))
    return Conflict(**match.groupdict()) if match else None


def _json(said: bytes) -> Any:
    try:
        return orjson.loads(said)
    except orjson.JSONDecodeError:
        return None


def _message(answer: Any) -> str:
    """InfluxDB 1 and 3 put it under "error", InfluxDB 2 under "message"."""
    if not isinstance(answer, dict):
        return ""
    message = answer.get("error") or answer.get("message")
    return message if isinstance(message, str) else ""


def _numbered(answer: Any, points: Sequence[bytes]) -> dict[int, str]:
    """Points named by line number, if the line quoted beside it is that point's beginning."""
    entries = answer.get("data") if isinstance(answer, dict) else None
    named: dict[int, str] = {}
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, dict):
            continue
        number, line = entry.get("line_number"), entry.get("original_line")
        if not isinstance(number, int) or not isinstance(line, str) or not line:
            continue
        if 1 <= number <= len(points) and points[number - 1].startswith(line.encode()):
            named[number - 1] = str(entry.get("error_message", ""))[:WORDS_BYTES_MAX]
    return named
