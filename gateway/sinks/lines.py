"""Line protocol to anything that takes it: over HTTP(S), TCP (with TLS if wanted) or UDP.

Over HTTP a status says that a batch is stored. TCP and UDP say nothing of the kind:

    TCP   a batch counts as stored once the other machine has confirmed every byte of it (the
          kernel's send queue is empty). What a receiver had confirmed but not yet read when it
          died, it tells by a reset; then the last `resend_bytes` are sent again, since points
          overwrite themselves. Lost is what it had read and not stored, or more than that; and what
          it had not read when the gateway ended, if it dies before it does. That is said in the
          log: a receiver that has read to the end closes as well.
    UDP   a batch counts as stored once it is sent. Only a port on which nobody listens is noticed.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import ssl
import struct
import termios
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

from gateway.errors import SinkUnavailable
from gateway.frame import Frame
from gateway.sinks import Receipt, Sink, SinkStats, http
from gateway.sinks.config import LineProtocolSettings
from gateway.sinks.influxdb import Api, InfluxSink
from gateway.sinks.lineprotocol import LineEncoder
from gateway.sinks.naming import FieldTypes
from gateway.tag import Tags

__all__ = ["DatagramSink", "StreamSink", "build"]

log = logging.getLogger(__name__)

# How often the send queue is looked at while a batch is on its way.
CONFIRM_PERIOD_S = 0.005
# At the end a receiver has so long to read what it was sent: several may stand still, and all must
# have ended within five seconds.
END_S = 0.5
# Bytes in the send queue that the peer has not acknowledged (tcp(7)), and of these, those that did
# not go out yet (linux/sockios.h).
_SIOCOUTQ, _SIOCOUTQNSD = termios.TIOCOUTQ, 0x894B
# A receiver's socket holds some hundred kilobytes; more than that at once, and datagrams are lost.
BURST_BYTES = 64 * 1024
BURST_PAUSE_S = 0.002


def build(settings: LineProtocolSettings, table: Tags, types: FieldTypes | None = None) -> Sink:
    """The sink for one [[sink]]."""
    match urlsplit(settings.url).scheme:
        case "udp":
            return DatagramSink(settings, table, types)
        case "tcp" | "tls":
            return StreamSink(settings, table, types)
    api = Api(
        url=settings.url,
        query={},
        authorize=partial(http.login, settings),
        stored=settings.accept,
    )
    return InfluxSink(settings, api, table, types)


class StreamSink:
    """Writes lines to a TCP connection that it keeps open."""

    is_concurrent = False

    def __init__(
        self, settings: LineProtocolSettings, table: Tags, types: FieldTypes | None = None
    ) -> None:
        self.name = settings.name
        self.stats = SinkStats()
        self._settings = settings
        self._encoder = LineEncoder(table, types)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._recent = b""  # what was sent last, whole lines
        self._is_doubtful = False  # the last connection was lost with `recent` on it
        self._sent_bytes = 0  # confirmed, on this connection

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """The receiver need not be there."""
        try:
            yield
        finally:
            await self._end()

    async def write(self, frame: Frame) -> Receipt:
        """Send the points of a frame; see `Sink.write`."""
        encoded = self._encoder.encode(frame)
        body = b"".join(encoded.points)
        if body:
            began_s = time.monotonic()
            try:
                async with asyncio.timeout(self._settings.timeout):
                    await self._send(body)
            except TimeoutError as late:
                self._lose()
                waited = f"not taken within {self._settings.timeout:g} s"
                raise SinkUnavailable(f"{self._settings.url}: {waited}", is_slow=True) from late
            except ssl.SSLCertVerificationError as refused:
                raise http.untrusted(self._settings.url, refused.verify_message) from refused
            except OSError as failed:
                self._lose()
                raise SinkUnavailable(
                    f"{self._settings.url}: {failed.strerror or failed}"
                ) from failed
            self.stats.latency_ms_last = (time.monotonic() - began_s) * 1000
        return Receipt(accepted=range(len(frame)), rejected=encoded.refused)

    async def _send(self, body: bytes) -> None:
        writer = await self._opened()
        data = self._recent + body if self._is_doubtful else body
        try:
            writer.write(data)
            await writer.drain()
            await self._confirmed(writer)
        finally:
            self.stats.bytes_total += max(0, len(data) - _bytes_unsent(writer))
        self._sent_bytes += len(data)
        self._is_doubtful = False
        self._keep(body)

    async def _opened(self) -> asyncio.StreamWriter:
        if self._writer is not None and not self._is_over():
            return self._writer
        if self._writer is not None:
            self._lose()
        url = urlsplit(self._settings.url)
        tls = None
        if url.scheme == "tls":
            tls = http.trusted_by(self._settings.tls_ca) or True
        self._reader, self._writer = await asyncio.open_connection(url.hostname, url.port, ssl=tls)
        self._sent_bytes = 0
        return self._writer

    async def _end(self) -> None:
        """Close, once the receiver has read all if that is soon; say so if it is not."""
        if self._writer is None:
            return
        assert self._reader is not None
        if self._sent_bytes and self._writer.can_write_eof():  # TLS cannot be closed by half
            try:
                async with asyncio.timeout(END_S):
                    self._writer.write_eof()
                    while await self._reader.read(4096):
                        pass
            except OSError:  # a TimeoutError is one
                told = "sink.unread sink=%s sent_bytes=%d hint=%s"
                hint = "the receiver stands still; what it has not read is lost if it ends now"
                log.warning(told, self.name, self._sent_bytes, hint)
        self._writer.close()
        self._writer = self._reader = None

    def _is_over(self) -> bool:
        """Whether the receiver has closed the connection, or it broke."""
        assert self._reader is not None
        assert self._writer is not None
        is_broken = self._reader.exception() is not None or self._writer.is_closing()
        return is_broken or self._reader.at_eof()

    async def _confirmed(self, writer: asyncio.StreamWriter) -> None:
        """Return once the other machine has confirmed every byte. Raises OSError."""
        while True:
            if self._is_over():
                raise ConnectionResetError("the receiver closed the connection")
            if not (writer.transport.get_write_buffer_size() or _bytes_queued(writer, _SIOCOUTQ)):
                return
            await asyncio.sleep(CONFIRM_PERIOD_S)

    def _keep(self, body: bytes) -> None:
        """Remember the last `resend_bytes`, without a line that this would cut."""
        sent = self._recent + body
        begin = max(0, len(sent) - self._settings.resend_bytes)
        if begin and sent[begin - 1 : begin] != b"\n":
            begin = sent.find(b"\n", begin) + 1 or len(sent)
        self._recent = sent[begin:]

    def _lose(self) -> None:
        """The connection is of no use any more."""
        if self._writer is not None and self._reader is not None:
            if self._sent_bytes and self._reader.exception() is not None:
                told = "sink.reset sink=%s sent_bytes=%d again_bytes=%d"
                log.warning(told, self.name, self._sent_bytes, len(self._recent))
            self._writer.transport.abort()
            self._is_doubtful = True
        self._writer = self._reader = None


def _bytes_queued(writer: asyncio.StreamWriter, request: int) -> int:
    """Bytes in the send queue of a connection's socket, of the kind that an ioctl counts."""
    descriptor = writer.get_extra_info("socket").fileno()
    answer = fcntl.ioctl(descriptor, request, b"\0\0\0\0")
    return int(struct.unpack("i", answer)[0])


def _bytes_unsent(writer: asyncio.StreamWriter) -> int:
    """Bytes of a connection that are still here; of one that broke, all count as sent."""
    unsent = writer.transport.get_write_buffer_size()
    with contextlib.suppress(OSError, ValueError):
        unsent += _bytes_queued(writer, _SIOCOUTQNSD)
    return unsent


class _Errors(asyncio.DatagramProtocol):
    """Remembers that the other machine said nobody is there."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def error_received(self, error: Exception) -> None:
        self.error = error

    def connection_lost(self, error: Exception | None) -> None:
        self.error = error or ConnectionError("the socket is closed")


class DatagramSink:
    """Sends lines as datagrams of whole lines."""

    is_concurrent = False

    def __init__(
        self, settings: LineProtocolSettings, table: Tags, types: FieldTypes | None = None
    ) -> None:
        self.name = settings.name
        self.stats = SinkStats()
        self._settings = settings
        self._encoder = LineEncoder(table, types)
        self._transport: asyncio.DatagramTransport | None = None
        self._errors = _Errors()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """Nobody need be listening."""
        try:
            yield
        finally:
            self._close()

    async def write(self, frame: Frame) -> Receipt:
        """Send the points of a frame; see `Sink.write`."""
        encoded = self._encoder.encode(frame)
        rejected = dict(encoded.refused)
        bytes_max = self._settings.datagram_bytes_max
        points = []
        for i, point in enumerate(encoded.points):
            if len(point) <= bytes_max:
                points.append(point)
            else:
                why = f"the line has {len(point)} bytes, a datagram {bytes_max}"
                rejected |= dict.fromkeys(encoded.rows_of(i), why)
        try:
            await self._send(points)
        except OSError as failed:
            self._close()
            raise SinkUnavailable(f"{self._settings.url}: {failed.strerror or failed}") from failed
        return Receipt(accepted=range(len(frame)), rejected=rejected)

    async def _send(self, points: list[bytes]) -> None:
        start = burst = 0
        for stop in http.cuts(points, self._settings.datagram_bytes_max):
            datagram = b"".join(points[start:stop])
            (await self._opened()).sendto(datagram)
            self.stats.bytes_total += len(datagram)
            start, burst = stop, burst + len(datagram)
            if burst >= BURST_BYTES:
                burst = 0
                await asyncio.sleep(BURST_PAUSE_S)
                self._check()
        await asyncio.sleep(BURST_PAUSE_S)  # a refusal comes back at once, or not at all
        self._check()

    async def _opened(self) -> asyncio.DatagramTransport:
        if self._transport is None:
            url = urlsplit(self._settings.url)
            self._errors = _Errors()
            assert url.hostname is not None
            assert url.port is not None
            self._transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: self._errors, remote_addr=(url.hostname, url.port)
            )
        return self._transport

    def _check(self) -> None:
        error, self._errors.error = self._errors.error, None
        if error is not None:
            raise OSError(str(error)) from error

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None
