"""Sinks drain the spool. This is their contract; a destination is one file beside this one.

A sink encodes and sends one batch and says what became of it. Retrying, bisecting, dead letters,
the cursor and the statistics are `gateway.sinks.delivery`, the same for every sink.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from gateway.frame import Frame
from gateway.sinks.naming import FieldTypes, Renamed
from gateway.stats import stat, stats
from gateway.tag import Tags, TagTable

__all__ = ["Receipt", "Sink", "SinkStats", "build_sink", "tags_of"]

_NONE: Mapping[int, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a sink did with a frame; rows in neither set are kept and offered again."""

    accepted: range
    rejected: Mapping[int, str] = field(
        default_factory=lambda: _NONE
    )  # row -> the server's reason, or ours


@stats
class SinkStats:
    """What an operator wants to know of one sink. Counters only rise."""

    state: str = stat(
        "1 for what the sink does: starting, sending, idle, retrying, parked (a person must act),"
        " budget (used up)",
        default="starting",
    )
    batches_total: int = stat("batches done with")
    samples_total: int = stat("samples that the destination has stored")
    samples_skipped_total: int = stat("samples not sent: tags and exclude_tags leave them out")
    bytes_total: int = stat("bytes sent, as compressed, also what was refused")
    budget_bytes_left: int = stat("bytes that the hour's or day's budget has left; 0 without one")
    retries_total: int = stat("attempts that failed and are made again")
    dead_letters_total: int = stat("samples that were refused and put to the dead letters")
    dead_letters_unkept_total: int = stat("dead letters that could not be written, and are gone")
    burying: str = ""  # what became dead letters in the last hour
    error_last: str = ""
    latency_ms_last: float = stat("how long the newest request took", default=0.0)
    lag_s: float = stat("age of the oldest sample that is not delivered", default=0.0)
    lag_samples: int = stat("samples in the spool that are not delivered")


class Sink(Protocol):
    """One [[sink]]."""

    name: str
    stats: SinkStats
    is_concurrent: bool  # a second `write` may be called while one is under way

    def session(self) -> AbstractAsyncContextManager[None]:
        """Holds what the sink works with (a connection pool); does not need the server."""
        ...

    async def write(self, frame: Frame) -> Receipt:
        """Send one frame.

        Raises SinkUnavailable (send the same again), SinkParked (a person must act),
        SinkTooLarge (halve it) or SinkRejected (something in it is poison, find it).
        """
        ...


_BUILDERS = {
    "influxdb1": "gateway.sinks.influxdb",
    "influxdb2": "gateway.sinks.influxdb",
    "influxdb3": "gateway.sinks.influxdb",
    "lineprotocol": "gateway.sinks.lines",
    "prometheus": "gateway.sinks.prometheus",
    "http_json": "gateway.sinks.http_json",
    "file": "gateway.sinks.file",
    "nats": "gateway.sinks.nats",
    "kafka": "gateway.sinks.kafka",
}


# Databases that keep the type a field was first written with.
_TYPED = frozenset({"influxdb1", "influxdb2", "influxdb3", "lineprotocol"})


def tags_of(settings: Any, table: TagTable) -> Tags:
    """The tags as a [[sink]] names them."""
    if settings.rename.is_empty:
        return table
    return Renamed(table, settings.rename, settings.name)


def build_sink(settings: Any, tags: Tags, directory: Path | None = None) -> Sink:
    """The sink for one validated [[sink]]; its module has a function `build`.

    `directory` is where it keeps what its database's fields are.
    """
    module = importlib.import_module(_BUILDERS[settings.type])
    if settings.type not in _TYPED:
        sink: Sink = module.build(settings, tags)
        return sink
    path = directory / "field-types" / f"{settings.name}.json" if directory else None
    typed: Sink = module.build(settings, tags, FieldTypes(path, settings.name))
    return typed
