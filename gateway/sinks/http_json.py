"""HTTP JSON: samples posted as an array of objects, to a web server of one's own.

    [{"time": "2026-01-01T00:00:00.000000000Z", "tag": "pump-1.flow", "value": 12.5,
      "unit": "m3/h", "measurement": "pump", "field": "flow",
      "labels": {"asset": "pump-1", ...}, "quality": "good"}, ...]

A batch may come a second time, after an answer that was lost; (tag, time) tells.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from gateway.frame import Frame
from gateway.sinks import Receipt, SinkStats, http
from gateway.sinks.config import HttpJsonSettings
from gateway.sinks.rows import json_rows
from gateway.tag import Tags

__all__ = ["HttpJsonSink", "build"]

_FRAMING_BYTES = 2  # the brackets of an array


def build(settings: HttpJsonSettings, table: Tags) -> HttpJsonSink:
    """The sink for one [[sink]]."""
    return HttpJsonSink(settings, table)


class HttpJsonSink:
    """Posts frames as JSON."""

    is_concurrent = True

    def __init__(self, settings: HttpJsonSettings, table: Tags) -> None:
        self.name = settings.name
        self.stats = SinkStats()
        self._settings = settings
        self._encoder = json_rows(table)
        self._client = http.HttpClient(
            settings,
            self.stats,
            stored=settings.accept or range(200, 300),
            is_page_stored=False,
        )

    def session(self) -> AbstractAsyncContextManager[None]:
        """What is sent meanwhile shares its connections; the server need not be there."""
        return self._client.session()

    async def write(self, frame: Frame) -> Receipt:
        """Send a frame; see `Sink.write`."""
        rows = self._encoder.encode(frame)
        start = 0
        for stop in http.cuts(rows, self._settings.bytes_max - _FRAMING_BYTES, between=1):
            body = b"[" + b",".join(rows[start:stop]) + b"]"
            answer = await self._client.post(self._settings.url, {}, body, self._headers())
            if answer.error is not None:
                raise answer.error
            start = stop
        return Receipt(accepted=range(len(frame)))

    def _headers(self) -> dict[str, str]:
        return {
            "Content-Type": "application/json",
            **self._settings.headers,
            **http.login(self._settings),
        }
