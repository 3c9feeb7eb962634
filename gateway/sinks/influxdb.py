"""InfluxDB 1, 2 and 3, and all that speak their write APIs (VictoriaMetrics, Telegraf).

Only status 204 means stored; a captive portal says 200. What a refusal is about is in `refusal`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from gateway.errors import SinkRejected
from gateway.frame import BoolArray, Frame
from gateway.sinks import Receipt, SinkStats, http
from gateway.sinks.config import (
    HttpSinkSettings,
    Influx1Settings,
    Influx2Settings,
    Influx3Settings,
)
from gateway.sinks.lineprotocol import Encoded, LineEncoder, RowArray
from gateway.sinks.naming import FieldTypes
from gateway.sinks.refusal import Conflict, conflict_in, named_points
from gateway.tag import Quality, Tags

__all__ = ["Api", "InfluxSink", "build"]

InfluxSettings: TypeAlias = Influx1Settings | Influx2Settings | Influx3Settings

# Fields that a batch may have of another type than the server keeps, before it is halved.
CONFLICTS_MAX = 16
PORTAL_HINT = "this is no InfluxDB: a proxy or a log-in page answers in its place"


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """Where line protocol is sent to, and how one is let in."""

    url: str
    query: Mapping[str, str]
    authorize: Callable[[], dict[str, str]]  # the header; its secret is read at each request
    stored: Container[int] = (204,)


def build(settings: InfluxSettings, table: Tags, types: FieldTypes | None = None) -> InfluxSink:
    """The sink for one [[sink]]."""
    return InfluxSink(settings, _api_of(settings), table, types)


class InfluxSink:
    """Writes frames as line protocol over HTTP."""

    is_concurrent = True

    def __init__(
        self, settings: HttpSinkSettings, api: Api, table: Tags, types: FieldTypes | None = None
    ) -> None:
        self.name = settings.name
        self.stats = SinkStats()
        self._settings = settings
        self._api = api
        self._table = table
        self._types = types if types is not None else FieldTypes()
        self._encoder = LineEncoder(table, self._types)
        self._client = http.HttpClient(
            settings, self.stats, stored=api.stored, portal_hint=PORTAL_HINT
        )

    def session(self) -> AbstractAsyncContextManager[None]:
        """What is sent meanwhile shares its connections; the server need not be there."""
        return self._client.session()

    async def write(self, frame: Frame) -> Receipt:
        """Send the points of a frame; see `Sink.write`."""
        receipt = await self._write(frame, CONFLICTS_MAX)
        if self._types.is_changed:
            await asyncio.to_thread(self._types.save)
        return receipt

    async def _write(self, frame: Frame, conflicts_max: int) -> Receipt:
        encoded = self._encoder.encode(frame)
        rejected = dict(encoded.refused)
        start = 0
        for stop in http.cuts(encoded.points, self._settings.bytes_max):
            cut = encoded.cut(start, stop)
            refusal = await self._post(cut.points)
            if refusal is not None:
                rejected |= await self._without_refused(frame, cut, refusal, conflicts_max)
            start = stop
        return Receipt(accepted=range(len(frame)), rejected=rejected)

    async def _without_refused(
        self, frame: Frame, cut: Encoded, refusal: _Refusal, conflicts_max: int
    ) -> Mapping[int, str]:
        """The rows that the answer names as refused, once the others are stored.

        Raises SinkRejected when it names none for certain.
        """
        conflict = conflict_in(refusal.said)
        if conflict is not None and conflicts_max:
            is_news = self._types.learn(conflict.measurement, conflict.field, conflict.kept)
            tags = [self._table[i] for i in self._tags_in(conflict)]
            if is_news and any(self._types.of(tag) is not tag.value_type for tag in tags):
                return await self._as_it_is_kept(frame, cut, conflicts_max)
            suspects = self._wrote_into(frame, cut.rows, conflict)
            if suspects.any() and not suspects.all():
                return await self._apart(frame, cut, suspects, conflicts_max)
        named = named_points(refusal.said, cut.points)
        if not named:
            raise refusal.error
        rest = [point for i, point in enumerate(cut.points) if i not in named]
        again = await self._post(rest) if rest else None
        if again is not None:
            raise again.error
        return {row: why for i, why in named.items() for row in cut.rows_of(i)}

    async def _as_it_is_kept(
        self, frame: Frame, cut: Encoded, conflicts_max: int
    ) -> Mapping[int, str]:
        """Write the same rows with the types that are known now."""
        self._encoder.forget()
        rows = np.sort(cut.rows)
        receipt = await self._write(_chosen(frame, rows), conflicts_max - 1)
        return {int(rows[row]): why for row, why in receipt.rejected.items()}

    async def _apart(
        self, frame: Frame, cut: Encoded, suspects: BoolArray, conflicts_max: int
    ) -> Mapping[int, str]:
        """Store what shares points with a conflicting field; then see which of these are refused.

        A server drops such points whole. And they need not all be refused: it may know the field
        by the other type in one shard only.
        """
        neighbours = np.sort(cut.rows[~suspects])
        receipt = await self._write(_chosen(frame, neighbours), conflicts_max - 1)
        rejected = {int(neighbours[row]): why for row, why in receipt.rejected.items()}
        points = cut.points_of()
        whole = cut.rows[np.isin(points, points[suspects])]
        whole = whole[~np.isin(whole, list(rejected))]
        again_points = self._encoder.encode(_chosen(frame, whole)).points
        again = await self._post(again_points)
        if again is not None:
            if len(named_points(again.said, again_points)) < len(again_points):
                raise again.error
            rejected |= dict.fromkeys(cut.rows[suspects].tolist(), again.error.message)
        return rejected

    def _wrote_into(self, frame: Frame, rows: RowArray, conflict: Conflict) -> BoolArray:
        """Which rows have a value in the field."""
        ids, tags = frame.tag_ids[rows], self._tags_in(conflict)
        has_value = np.isfinite(frame.values)
        has_value[list(frame.exact)] = True
        has_value &= frame.quality < int(Quality.BAD)
        wrote: BoolArray = np.isin(ids, tags) & has_value[rows]
        return wrote

    def _tags_in(self, conflict: Conflict) -> list[int]:
        return [
            i
            for i in range(len(self._table))
            if self._table[i].measurement == conflict.measurement
            and self._table[i].field == conflict.field
        ]

    async def _post(self, points: list[bytes]) -> _Refusal | None:
        """Send one body; None when it is stored. Raises what `verdict` says, but SinkRejected."""
        body = b"".join(points)
        headers = {"Content-Type": "text/plain; charset=utf-8", **self._api.authorize()}
        answer = await self._client.post(self._api.url, self._api.query, body, headers)
        if isinstance(answer.error, SinkRejected):
            return _Refusal(answer.error, answer.said)
        if answer.error is not None:
            raise answer.error
        return None


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A 400 or 422, and all that was said with it."""

    error: SinkRejected
    said: bytes


def _chosen(frame: Frame, rows: RowArray) -> Frame:
    """Some rows, in the frame's order."""
    chosen = np.zeros(len(frame), np.bool_)
    chosen[rows] = True
    return frame.where(chosen)


def _api_of(settings: InfluxSettings) -> Api:
    url = settings.url.rstrip("/") + settings.api_path
    match settings:
        case Influx1Settings():
            query = {"db": settings.database, "precision": "n"}
            if settings.retention_policy:
                query["rp"] = settings.retention_policy
            login = partial(http.basic, settings.username, settings.password)
            return Api(url=url, query=query, authorize=login)
        case Influx2Settings():
            query = {"org": settings.org, "bucket": settings.bucket, "precision": "ns"}
            login = partial(http.token_header, "Token", settings.token)
            return Api(url=url, query=query, authorize=login)
    # A point that is refused must not cost its neighbours; the answer names its line.
    query = {"db": settings.database, "precision": "nanosecond", "accept_partial": "true"}
    login = partial(http.token_header, "Bearer", settings.token)
    return Api(url=url, query=query, authorize=login)
