"""Snapshot: what the page shows, as JSON. Two kinds, each built once and shared by all clients.

    whole  the layout (which tags, of which assets), two minutes of each tag, and a tick
    tick   what changes: one array for all values, one for all qualities, one for all ages

The tags' order in the arrays is the layout's; `layout` counts the layouts, and a client that has
another one asks for a whole again. A page does not get more than `RECENT_TAGS_MAX` tags.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import orjson

from gateway.frame import IdArray, Lane
from gateway.ops.health import health_of, text_of
from gateway.ops.view import GatewayView, Stats
from gateway.stages.latest import RECENT_POINTS
from gateway.tag import Quality

__all__ = ["Snapshots"]

EVENTS_MAX = 50
SCORES_MAX = 1024
TEXT_CHARS_MAX = 64  # of a string tag's value


class Snapshots:
    """The page's data, for one gateway."""

    def __init__(self, view: GatewayView, *, takes_commands: bool = False) -> None:
        self._view = view
        self._takes_commands = takes_commands
        self._tags_laid_out = -1
        self._ids: IdArray = np.empty(0, np.int32)
        self._places: dict[int, int] = {}  # tag id -> its place in the layout
        self._layout = 0

    def refresh(self) -> bool:
        """Take up new tags; whether there were any, so that clients need a whole."""
        latest = self._view.latest
        if len(latest.t_ns) == self._tags_laid_out:
            return False
        self._tags_laid_out = len(latest.t_ns)
        self._ids = np.flatnonzero(latest.has_ring).astype(np.int32)
        self._places = {tag_id: place for place, tag_id in enumerate(self._ids.tolist())}
        self._layout += 1
        return True

    def whole(self) -> bytes:
        """Everything a client needs that knows nothing yet."""
        view, table = self._view, self._view.table
        tags = [table[tag_id] for tag_id in self._ids.tolist()]
        raw_total = sum(tag.lane is Lane.RAW for tag in table)
        return _json(
            {
                "gateway": {
                    "name": view.name,
                    "site": view.site,
                    "version": view.version,
                    "takes_commands": self._takes_commands,
                },
                "tags": [
                    {
                        "asset": text_of(tag.asset),
                        "class": text_of(tag.asset_class),
                        "field": text_of(tag.field),
                        "unit": text_of(tag.eng_unit),
                        "source": text_of(tag.source),
                        "type": tag.data_type,
                    }
                    for tag in tags
                ],
                "tags_total": raw_total,
                "points": RECENT_POINTS,
                "recent": np.ascontiguousarray(view.latest.recent_of(self._ids)),
                "qualities": {code: code.name.lower().replace("_", " ") for code in Quality},
                "tick": self._tick(),
            }
        )

    def tick(self) -> bytes:
        """What is now."""
        return _json(self._tick())

    def _tick(self) -> dict[str, Any]:
        view, latest = self._view, self._view.latest
        now_ns = view.clock.utc_ns()
        t_ns = latest.t_ns[self._ids]
        ages_s = np.where(t_ns > 0, np.round((now_ns - t_ns) / 1e9, 1), np.nan)
        health = health_of(view)
        spool = view.spool
        return {
            "layout": self._layout,
            "t_ms": now_ns // 10**6,
            "uptime_s": round(view.clock.monotonic_s() - view.started_s),
            "status": health.status,
            "reasons": health.reasons,
            "values": latest.values[self._ids],
            "quality": latest.quality[self._ids],
            "ages_s": ages_s,
            "exact": self._exact(),
            "sources": [
                {"name": source.name, "tags": len(source.tag_ids), **_fields(source.stats)}
                for source in view.sources
            ],
            "sinks": [{"name": sink.name, **_fields(sink.stats)} for sink in view.sinks],
            "models": [{"name": name, **_fields(stats)} for name, stats in view.models.items()],
            "parts": {name: _fields(stats) for name, stats in view.parts.items()},
            "loop": _fields(view.loop),
            "spool": {
                "bytes_used": spool.bytes_used,
                "bytes_max": spool.bytes_max,
                "trouble": text_of(spool.trouble),
                "wear": _fields(spool.wear),
                "lanes": [
                    {
                        "name": lane.lane.name.lower(),
                        "bytes_used": lane.bytes_used,
                        "samples": lane.samples,
                        "age_s": (now_ns - lane.oldest_ns) / 1e9 if lane.oldest_ns else None,
                    }
                    for lane in spool.lanes
                ],
            },
            "scores": [
                {
                    "asset": text_of(score.asset),
                    "model": text_of(score.model),
                    "score": score.score,
                    "state": score.state,
                    "sensor": text_of(score.sensor),
                    "drift": text_of(score.drift),
                    "operator": score.operator,
                }
                for score in view.scores()[:SCORES_MAX]
            ],
            "events": [
                {
                    "asset": text_of(event.asset),
                    "model": text_of(event.model),
                    "start_ms": event.start_ns // 10**6,
                    "end_ms": event.end_ns // 10**6,
                    "open": event.is_open,
                    "peak": event.peak,
                    "top": text_of(event.top),
                    "severity": event.severity,
                    "deviation": text_of(event.deviation),
                    "sensor": text_of(event.sensor),
                    "said": view.said_of(event),
                }
                for event in view.events()[:EVENTS_MAX]
            ],
        }

    def _exact(self) -> dict[int, str]:
        """Values that no float holds, by place in the layout, as text."""
        exact = self._view.latest.exact
        return {
            self._places[tag_id]: text_of(str(value))[:TEXT_CHARS_MAX]
            for tag_id, value in exact.items()
            if tag_id in self._places
        }


def _fields(stats: Stats) -> dict[str, Any]:
    """A stats dataclass's numbers and text; what is nested is for /metrics."""
    found: dict[str, Any] = {}
    for declared in fields(stats):
        value = getattr(stats, declared.name)
        if isinstance(value, str):
            found[declared.name] = text_of(value)
        elif isinstance(value, (bool, int, float)):
            found[declared.name] = value
    return found


def _json(data: dict[str, Any]) -> bytes:
    # NaN becomes null, which is what it means here.
    return orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
