"""History: /api/history, stored samples of some tags, within bounds.

    GET /api/history?tag=pump-1.pressure&tag=pump-1.speed&start=15m&lane=raw

`start` and `end` are a duration ago ("15m", "2h") or an ISO 8601 time (UTC unless it says
otherwise); from a quarter of an hour ago to now without them. The answer has one series a tag,
times in nanoseconds, oldest first; `truncated` says that there was more.

With `points`, all of the span is looked at and thinned to about that many points a tag, which draw
the same line; `buckets` has least, greatest, mean and count of each piece of the span.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from gateway.frame import Frame, Lane
from gateway.ops.health import text_of
from gateway.ops.view import GatewayView
from gateway.settings import parse_duration
from gateway.tag import TagTable

__all__ = ["BadQuestion", "Question", "answer", "read_question"]

TAGS_MAX = 32
SAMPLES_MAX = 20_000  # about a megabyte of JSON
POINTS_MIN, POINTS_MAX = 4, 4000  # four a column of pixels
NAME_CHARS_MAX = 512
START_DEFAULT = "15m"


class BadQuestion(Exception):
    """A question that cannot be answered, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What was asked."""

    names: Sequence[str]
    start_ns: int
    end_ns: int
    lane: Lane
    points: int = 0  # 0: the samples themselves


def read_question(parameters: Sequence[tuple[str, str]], now_ns: int) -> Question:
    """The question in a query string; raises BadQuestion."""
    names = [value for key, value in parameters if key == "tag"]
    single = {key: value for key, value in parameters if key != "tag"}
    unknown = single.keys() - {"start", "end", "lane", "points"}
    if unknown:
        raise BadQuestion(f"no such parameter: {text_of(min(unknown))}")
    if not 1 <= len(names) <= TAGS_MAX:
        raise BadQuestion(f"name 1 to {TAGS_MAX} tags: tag=pump-1.pressure&tag=...")
    if max(map(len, names)) > NAME_CHARS_MAX:
        raise BadQuestion(f"a tag's name has at most {NAME_CHARS_MAX} characters")
    try:
        lane = Lane[single.get("lane", "raw").upper()]
    except KeyError:
        raise BadQuestion("lane is one of event, score, aggregate, raw") from None
    start_ns = _time_ns(single.get("start", START_DEFAULT), now_ns)
    end_ns = _time_ns(single.get("end", "0s"), now_ns)
    if start_ns >= end_ns:
        raise BadQuestion("start must be before end")
    points = _points(single.get("points"))
    return Question(names=names, start_ns=start_ns, end_ns=end_ns, lane=lane, points=points)


async def answer(view: GatewayView, question: Question) -> Mapping[str, Any]:
    """The stored samples, or a plot of them, ready for JSON."""
    if question.points:
        return await _plot(view, question)
    frame = await view.history(
        question.names, question.start_ns, question.end_ns, question.lane, SAMPLES_MAX
    )
    return {"series": _series(frame, view.table), "truncated": len(frame) >= SAMPLES_MAX}


async def _plot(view: GatewayView, question: Question) -> Mapping[str, Any]:
    plot = await view.plot(
        question.names, question.start_ns, question.end_ns, question.lane, question.points
    )
    return {
        "series": [
            {
                "tag": text_of(series.tag),
                "eng_unit": text_of(series.eng_unit),
                "t_ns": series.t_ns,
                "value": series.values,
                "buckets": {
                    "t_ns": series.bucket_ns,
                    "min": series.min,
                    "max": series.max,
                    "mean": series.mean,
                    "count": series.count,
                    "without": series.without,
                    "quality": series.quality,
                },
            }
            for series in plot.series
        ],
        "bucket_s": plot.bucket_s,
        "samples": plot.samples,
        "truncated": plot.is_cut or plot.tags_left_out > 0,
    }


def _points(text: str | None) -> int:
    if text is None:
        return 0
    # Digits alone, and few: int() takes more than a number of points should be.
    points = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0
    if not POINTS_MIN <= points <= POINTS_MAX:
        raise BadQuestion(f"points is a whole number from {POINTS_MIN} to {POINTS_MAX}")
    return points


def _series(frame: Frame, table: TagTable) -> list[dict[str, Any]]:
    found = []
    for tag_id in np.unique(frame.tag_ids).tolist():
        of_tag = frame.where(frame.tag_ids == tag_id)
        values: Any = of_tag.values
        if of_tag.exact:
            # Integers as text: JSON's readers keep 53 bits of them.
            values = [str(v) if r in of_tag.exact else v for r, v in _values(of_tag)]
        found.append(
            {
                "tag": text_of(table[tag_id].name),
                "eng_unit": text_of(table[tag_id].eng_unit),
                "t_ns": np.ascontiguousarray(of_tag.t_ns),
                "value": values if of_tag.exact else np.ascontiguousarray(values),
                "quality": np.ascontiguousarray(of_tag.quality),
            }
        )
    return found


def _values(frame: Frame) -> list[tuple[int, float | int | str]]:
    return [(row, frame.value(row)) for row in range(len(frame))]


def _time_ns(text: str, now_ns: int) -> int:
    try:
        return now_ns - round(parse_duration(text) * 1e9)
    except (ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1e9)
    except (ValueError, OverflowError):
        raise BadQuestion(
            'start and end are a duration ago, such as "15m", or an ISO 8601 time'
        ) from None
