"""InfluxDB 1, 2 and 3, and all that speak their write APIs (VictoriaMetrics, Telegraf).

Only status 204 means stored; a captive portal says 200. What every other answer means is in
`verdict`, a pure function. Bytes are sent by aiohttp: influxdb-client's asyncio client is built on
it, and would only stand between us and the status, the headers and the time-out
(docs/decisions/0006-influx-client.md).
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import numpy as np

from gateway.errors import (
    SinkError,
    SinkParked,
    SinkRejected,
    SinkTooLarge,
    SinkUnavailable,
    SluicegateError,
)
from gateway.frame import BoolArray, Frame
from gateway.sinks import Receipt, SinkStats
from gateway.sinks.config import Influx1Settings, Influx2Settings
from gateway.sinks.lineprotocol import Encoded, LineEncoder, RowArray
from gateway.sinks.refusal import Conflict, conflict_in, named_points, words_of
from gateway.tag import Quality, TagTable

if TYPE_CHECKING:
    import aiohttp

__all__ = ["InfluxSink", "build", "verdict"]

STORED = 204
# As much of an answer is read: a server that names refused lines quotes them.
ANSWER_BYTES_MAX = 256 * 1024
# Fields that a batch may have of another type than the server keeps, before it is halved.
CONFLICTS_MAX = 16
# Compressing more than this takes over a millisecond: not on the event loop.
COMPRESS_INLINE_BYTES_MAX = 64 * 1024
GZIP_LEVEL = 1
_GZIP_WBITS = 31


def build(settings: Influx1Settings | Influx2Settings, table: TagTable) -> InfluxSink:
    """The sink for one [[sink]]."""
    return InfluxSink(settings, table)


class InfluxSink:
    """Writes frames as line protocol over HTTP."""

    def __init__(self, settings: Influx1Settings | Influx2Settings, table: TagTable) -> None:
        self.name = settings.name
        self.stats = SinkStats()
        self._settings = settings
        self._table = table
        self._encoder = LineEncoder(table)
        self._endpoint = _endpoint(settings)
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """What is sent meanwhile shares its connections; the server need not be there."""
        try:
            yield
        finally:
            if self._session is not None:
                await self._session.close()
                self._session = None

    async def write(self, frame: Frame) -> Receipt:
        """Send the points of a frame; see `Sink.write`."""
        return await self._write(frame, CONFLICTS_MAX)

    async def _write(self, frame: Frame, conflicts_max: int) -> Receipt:
        encoded = self._encoder.encode(frame)
        rejected = dict(encoded.refused)
        start = 0
        for stop in _cuts(encoded.points, self._settings.bytes_max):
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
        ids = frame.tag_ids[rows]
        tags = [
            i
            for i in np.unique(ids).tolist()
            if self._table[i].measurement == conflict.measurement
            and self._table[i].field == conflict.field
        ]
        has_value = np.isfinite(frame.values)
        has_value[list(frame.exact)] = True
        has_value &= frame.quality < int(Quality.BAD)
        wrote: BoolArray = np.isin(ids, tags) & has_value[rows]
        return wrote

    async def _post(self, points: list[bytes]) -> _Refusal | None:
        """Send one body; None when it is stored. Raises what `verdict` says, but SinkRejected."""
        import aiohttp  # noqa: PLC0415 - 12 MB that only those pay who forward

        body = b"".join(points)
        headers = {
            "Content-Type": "text/plain; charset=utf-8",
            "Accept-Encoding": "identity",  # its words are read as they come
            **self._authorization(),
        }
        if self._settings.gzip:
            headers["Content-Encoding"] = "gzip"
            small = len(body) <= COMPRESS_INLINE_BYTES_MAX
            body = _gzip(body) if small else await asyncio.to_thread(_gzip, body)
        session = self._opened()
        began_s = time.monotonic()
        url, query = self._endpoint
        try:
            async with session.post(
                url, params=query, data=body, headers=headers, allow_redirects=False
            ) as answer:
                said = b"" if answer.status == STORED else await _read(answer.content)
                error = verdict(answer.status, said, answer.headers)
        except TimeoutError as late:
            is_slow = not isinstance(late, aiohttp.ServerTimeoutError)  # that one: not connected
            waited = f"no answer within {self._settings.timeout:g} s"
            raise SinkUnavailable(f"{url}: {waited}", is_slow=is_slow) from late
        except aiohttp.ClientConnectorCertificateError as untrusted:
            reason = str(untrusted.certificate_error)
            hint = "nothing was sent; check the server's certificate, tls_ca and this clock"
            raise SinkParked(f"{url}: {reason}", hint=hint) from untrusted
        except (aiohttp.ClientError, OSError, ValueError) as failed:
            raise SinkUnavailable(f"{url}: {str(failed) or type(failed).__name__}") from failed
        if isinstance(error, SinkRejected):
            return _Refusal(error, said)
        if error is not None:
            raise error
        self.stats.bytes_total += len(body)
        self.stats.latency_ms_last = (time.monotonic() - began_s) * 1000
        return None

    def _opened(self) -> aiohttp.ClientSession:
        """The pool of connections; opened late, so that a bad CA file parks this sink only."""
        import aiohttp  # noqa: PLC0415 - loaded by now

        if self._session is None:
            ca, timeout_s = self._settings.tls_ca, self._settings.timeout
            try:
                trusted = ssl.create_default_context(cafile=ca) if ca else True
            except OSError as bad:  # ssl.SSLError is one
                reason = f"cannot use tls_ca {ca}: {bad.strerror or bad}"
                raise SinkParked(reason, hint="it must be a PEM file the service may read") from bad
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=2, ssl=trusted),
                # A server that does not even take the connection is told from one that is slow.
                timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=timeout_s / 2),
                auto_decompress=False,
            )
        return self._session

    def _authorization(self) -> dict[str, str]:
        """The header that lets us in, its secret read anew so that it can be rotated."""
        settings = self._settings
        try:
            if isinstance(settings, Influx2Settings):
                token = settings.token.read() if settings.token else ""
                if not token.isprintable():
                    raise SinkParked("the token has a line break in it", hint="write it anew")
                return {"Authorization": f"Token {token}"} if token else {}
            password = settings.password.read() if settings.password else ""
        except SluicegateError as missing:
            raise SinkParked(missing.message, hint=missing.hint) from missing
        if not settings.username:
            return {}
        if ":" in settings.username:
            raise SinkParked("a username cannot have a colon", hint="change username")  # RFC 7617
        login = base64.b64encode(f"{settings.username}:{password}".encode()).decode()
        return {"Authorization": f"Basic {login}"}


def verdict(status: int, said: bytes, headers: Mapping[str, str]) -> SinkError | None:
    """What an answer means for the batch; None when it is stored."""
    words = words_of(said)
    told = f"the server answered {status}: {words}" if words else f"the server answered {status}"
    match status:
        case 204:
            return None
        case 400 | 422:
            return SinkRejected(told, hint="the samples it names are in the dead letters")
        case 401 | 403:
            return SinkParked(told, hint="check the token or password, and what it may write to")
        case 404:
            return SinkParked(told, hint="check the bucket, organisation or database, and the URL")
        case 413:
            return SinkTooLarge(told)
        case 429 | 503:
            return SinkUnavailable(told, retry_after_s=_retry_after_s(headers))
        case _ if 200 <= status < 400:
            hint = "this is no InfluxDB: a proxy or a log-in page answers in its place"
            return SinkUnavailable(told, hint=hint)
        case _:
            return SinkUnavailable(told, is_server_fault=status >= 500)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A 400 or 422, and all that was said with it."""

    error: SinkRejected
    said: bytes


async def _read(content: aiohttp.StreamReader) -> bytes:
    """An answer's body, or the beginning of it."""
    said = bytearray()
    while len(said) < ANSWER_BYTES_MAX:
        chunk = await content.read(ANSWER_BYTES_MAX - len(said))
        if not chunk:
            break
        said += chunk
    return bytes(said)


def _chosen(frame: Frame, rows: RowArray) -> Frame:
    """Some rows, in the frame's order."""
    chosen = np.zeros(len(frame), np.bool_)
    chosen[rows] = True
    return frame.where(chosen)


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


def _endpoint(settings: Influx1Settings | Influx2Settings) -> tuple[str, dict[str, str]]:
    base = settings.url.rstrip("/")
    if isinstance(settings, Influx2Settings):
        query = {"org": settings.org, "bucket": settings.bucket, "precision": "ns"}
        return f"{base}/api/v2/write", query
    query = {"db": settings.database, "precision": "n"}
    if settings.retention_policy:
        query["rp"] = settings.retention_policy
    return f"{base}/write", query


def _cuts(points: list[bytes], bytes_max: int) -> list[int]:
    """Where to cut the points into bodies of at most `bytes_max`, one point at least."""
    cuts, size = [], 0
    for i, point in enumerate(points):
        if size and size + len(point) > bytes_max:
            cuts.append(i)
            size = 0
        size += len(point)
    return [*cuts, len(points)] if points else []


def _gzip(body: bytes) -> bytes:
    return zlib.compress(body, GZIP_LEVEL, wbits=_GZIP_WBITS)
