"""InfluxDB 1, 2 and 3, and all that speak their write APIs (VictoriaMetrics, Telegraf).

Only status 204 means stored; a captive portal says 200. What every other answer means is in
`verdict`, a pure function. Bytes are sent by aiohttp: influxdb-client's asyncio client is built on
it, and would only stand between us and the status, the headers and the time-out
(docs/decisions/0006-influx-client.md).
"""

from __future__ import annotations

import asyncio
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from gateway.errors import (
    SinkError,
    SinkParked,
    SinkRejected,
    SinkTooLarge,
    SinkUnavailable,
    SluicegateError,
)
from gateway.frame import Frame
from gateway.sinks import Receipt, SinkStats
from gateway.sinks.config import Influx1Settings, Influx2Settings
from gateway.sinks.lineprotocol import LineEncoder
from gateway.tag import TagTable

if TYPE_CHECKING:
    import aiohttp

__all__ = ["InfluxSink", "build", "verdict"]

STORED = 204
# A hostile or chatty server may put this much of its words into our log and dead letters.
FOREIGN_BYTES_MAX = 255
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
        self._encoder = LineEncoder(table)
        self._endpoint = _endpoint(settings)
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """A pool of connections; the server need not be there."""
        import aiohttp  # noqa: PLC0415 - 12 MB that only those pay who forward

        trusted = (
            ssl.create_default_context(cafile=self._settings.tls_ca)
            if self._settings.tls_ca
            else True
        )
        timeout = aiohttp.ClientTimeout(total=self._settings.timeout)
        connector = aiohttp.TCPConnector(limit=2, ssl=trusted)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False
        ) as self._session:
            yield

    async def write(self, frame: Frame) -> Receipt:
        """Send the points of a frame; see `Sink.write`."""
        encoded = self._encoder.encode(frame)
        start = 0
        for stop in _cuts(encoded.points, self._settings.bytes_max):
            await self._post(b"".join(encoded.points[start:stop]))
            start = stop
        return Receipt(accepted=range(len(frame)), rejected=encoded.refused)

    async def _post(self, body: bytes) -> None:
        import aiohttp  # noqa: PLC0415 - loaded by now

        assert self._session is not None, "write needs session()"
        headers = {"Content-Type": "text/plain; charset=utf-8", **self._authorization()}
        if self._settings.gzip:
            headers["Content-Encoding"] = "gzip"
            small = len(body) <= COMPRESS_INLINE_BYTES_MAX
            body = _gzip(body) if small else await asyncio.to_thread(_gzip, body)
        began_s = time.monotonic()
        url, query = self._endpoint
        try:
            async with self._session.post(
                url, params=query, data=body, headers=headers, allow_redirects=False
            ) as answer:
                status = answer.status
                said = b"" if status == STORED else await answer.content.read(FOREIGN_BYTES_MAX)
                error = verdict(status, said, answer.headers)
        except TimeoutError as late:
            waited = f"no answer within {self._settings.timeout:g} s"
            raise SinkUnavailable(f"{url}: {waited}") from late
        except (aiohttp.ClientError, OSError, ValueError) as failed:
            raise SinkUnavailable(f"{url}: {str(failed) or type(failed).__name__}") from failed
        if error is not None:
            raise error
        self.stats.bytes_total += len(body)
        self.stats.latency_ms_last = (time.monotonic() - began_s) * 1000

    def _authorization(self) -> dict[str, str]:
        """The header that lets us in, its secret read anew so that it can be rotated."""
        import aiohttp  # noqa: PLC0415 - loaded by now

        settings = self._settings
        try:
            if isinstance(settings, Influx2Settings):
                token = settings.token.read() if settings.token else ""
                return {"Authorization": f"Token {token}"} if token else {}
            password = settings.password.read() if settings.password else ""
        except SluicegateError as missing:
            raise SinkParked(missing.message, hint=missing.hint) from missing
        if not settings.username:
            return {}
        login = aiohttp.BasicAuth(settings.username, password, encoding="utf-8")
        return {"Authorization": login.encode()}


def verdict(status: int, said: bytes, headers: Mapping[str, str]) -> SinkError | None:
    """What an answer means for the batch; None when it is stored."""
    words = said[:FOREIGN_BYTES_MAX].decode("utf-8", "replace").strip()
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
