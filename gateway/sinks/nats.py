"""NATS JetStream: samples as messages in a stream, a subject an asset.

A message is stored once its PubAck is here. Each has a `Nats-Msg-Id` made of its content, so what
is sent again, because an acknowledgement was lost, is stored once within the stream's duplicate
window: in the same messages, however the batch is cut by then (`unanswered`). After a restart of
the gateway up to a minute of samples can come a second time: (tag, time) tells.

A connection that is lost is given up and made anew by the next batch; nats-py's own reconnecting
would keep what is written meanwhile in memory, and the spool is the better place.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gateway.errors import SinkError, SinkParked, SinkUnavailable
from gateway.frame import Frame
from gateway.sinks import Receipt, SinkStats, http
from gateway.sinks.config import NatsSettings
from gateway.sinks.messages import Message, MessageEncoder
from gateway.sinks.unanswered import Unanswered
from gateway.tag import Tags

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js.client import JetStreamContext

__all__ = ["NatsSink", "build", "subject_token"]

IN_FLIGHT_MAX = 64
# The server counts headers as payload; ours are 59 bytes.
HEADER_BYTES = 64
# JetStream's own codes (nats-server, server/errors.json).
_TOO_LARGE = 10054
# What a slow link is sent at least: 1.6 kB/s carry it within the usual deadline.
SLOW_BYTES_MIN = 16 * 1024
# A batch that takes no more of its deadline leaves room for larger messages.
QUICK_SHARE = 0.25
GROWTH = 1.05
_NOT_IN_TOKEN = re.compile(r"[\s.*>\x00-\x1f\x7f]")
_LOGIN_WORDS = ("authorization", "authentication", "credentials", "permissions")


def build(settings: NatsSettings, table: Tags) -> NatsSink:
    """The sink for one [[sink]]."""
    return NatsSink(settings, table)


def subject_token(asset: str) -> str:
    """An asset's name as one token of a subject."""
    return _NOT_IN_TOKEN.sub("_", asset) or "_"


@dataclass(slots=True)
class _Attempt:
    """What became of the messages of one batch."""

    waiting: set[Message] = field(default_factory=set)  # sent, and not answered
    stored: set[Message] = field(default_factory=set)
    too_large: dict[Message, str] = field(default_factory=dict)  # in the stream's words


class NatsSink:
    """Publishes frames to JetStream."""

    is_concurrent = False

    def __init__(self, settings: NatsSettings, table: Tags) -> None:
        self.name = settings.name
        self.stats = SinkStats()
        self._settings = settings
        self._encoder = MessageEncoder(table, settings.format)
        self._client: Client | None = None
        self._said = ""  # by the client, of what it tried last
        self._lost = asyncio.Event()  # the connection of `client` is over
        self._bytes_cut = settings.bytes_max  # less once the stream found that too large
        self._bytes_slow = float(settings.bytes_max)  # less while the link is slow
        self._unanswered = Unanswered()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """The server need not be there."""
        try:
            yield
        finally:
            await self._close()

    async def write(self, frame: Frame) -> Receipt:
        """Publish a frame; see `Sink.write`."""
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.timeout):
                rejected = await self._publish(frame)
        except TimeoutError as late:
            await self._close()
            waited = f"no answer within {self._settings.timeout:g} s"
            raise SinkUnavailable(f"{self._settings.url}: {waited}", is_slow=True) from late
        except SinkParked:
            await self._close()  # with the next attempt a secret is read anew
            raise
        except SinkError:
            raise
        except Exception as failed:
            await self._close()
            raise self._told(failed) from failed
        took_s = time.monotonic() - began_s
        if took_s < QUICK_SHARE * self._settings.timeout:
            self._bytes_slow = min(self._bytes_slow * GROWTH, float(self._settings.bytes_max))
        self.stats.latency_ms_last = took_s * 1000
        return Receipt(accepted=range(len(frame)), rejected=rejected)

    async def _publish(self, frame: Frame) -> dict[int, str]:
        """Have a frame stored; the rows that the stream will never take."""
        client = await self._connected()
        bytes_max = min(self._settings.bytes_max, client.max_payload - HEADER_BYTES)
        wholes, refused = self._encoder.encode(frame, bytes_max)
        again, new = self._unanswered.sort(wholes, time.monotonic())
        cut = min(bytes_max, self._bytes_cut, int(self._bytes_slow))
        messages = again + [message for whole in new for message in whole.cut(cut)]
        stream, attempt = client.jetstream(), _Attempt()
        try:
            while messages:
                await self._send_all(stream, messages, attempt)
                messages = self._cut_smaller(attempt, refused)
        except BaseException as failed:
            now_s = time.monotonic()
            self._unanswered.keep(attempt.stored, now_s, is_stored=True)
            self._unanswered.keep(attempt.waiting, now_s, is_stored=False)
            is_late = isinstance(failed, TimeoutError | asyncio.CancelledError)
            if is_late and not attempt.stored:
                self._bytes_slow = max(float(SLOW_BYTES_MIN), self._bytes_slow / 2)
            raise
        of_others = attempt.stored.intersection(again)
        self._unanswered.keep(of_others, time.monotonic(), is_stored=True)
        self._unanswered.forget(wholes)
        return refused

    def _cut_smaller(self, attempt: _Attempt, refused: dict[int, str]) -> list[Message]:
        """What to send in place of the messages that the stream finds too large."""
        self._unanswered.forget(attempt.too_large)
        messages = []
        for message, why in attempt.too_large.items():
            smaller = message.cut_smaller()
            messages += smaller
            if smaller:
                self._bytes_cut = min(self._bytes_cut, message.size // 2)
            else:
                refused |= dict.fromkeys(message.rows, why)
        attempt.too_large.clear()
        return messages

    async def _send_all(
        self, stream: JetStreamContext, messages: list[Message], attempt: _Attempt
    ) -> None:
        """Return once there is an answer to each."""
        room = asyncio.Semaphore(IN_FLIGHT_MAX)
        ending = asyncio.ensure_future(self._lost.wait())
        sending = asyncio.gather(
            *(self._send(stream, message, room, attempt) for message in messages)
        )
        both: set[asyncio.Future[Any]] = {ending, sending}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                raise ConnectionResetError("the connection was lost")
            sending.result()
        finally:
            ending.cancel()
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await sending

    async def _send(
        self,
        stream: JetStreamContext,
        message: Message,
        room: asyncio.Semaphore,
        attempt: _Attempt,
    ) -> None:
        """Publish one."""
        from nats.js.errors import APIError  # noqa: PLC0415 - loaded by now

        subject = self._settings.subject.replace("{asset}", subject_token(message.asset))
        payload = message.payload
        key = hashlib.blake2b(subject.encode() + b"\n" + payload, digest_size=16)
        async with room:
            attempt.waiting.add(message)
            self.stats.bytes_total += len(payload)
            try:
                await stream.publish(
                    subject,
                    payload,
                    timeout=self._settings.timeout,
                    headers={"Nats-Msg-Id": key.hexdigest()},
                )
            except APIError as refusal:
                attempt.waiting.discard(message)
                if refusal.err_code != _TOO_LARGE:
                    raise
                attempt.too_large[message] = str(refusal.description)
            else:
                attempt.waiting.discard(message)
                attempt.stored.add(message)

    async def _connected(self) -> Client:
        if self._client is not None and not self._lost.is_set():
            return self._client
        await self._close()
        try:
            import nats  # noqa: PLC0415 - optional: only this sink needs it
        except ImportError as missing:
            hint = "pip install 'sluicegate[nats]'"
            raise SinkParked("NATS needs nats-py, which is not installed", hint=hint) from missing
        self._lost = lost = asyncio.Event()
        self._bytes_cut = self._settings.bytes_max  # the stream may be another by now

        async def over() -> None:
            lost.set()

        async def said(error: Exception) -> None:
            self._said = str(error)

        self._client = await nats.connect(
            self._settings.url,
            name=f"sluicegate {self.name}",
            allow_reconnect=False,
            max_reconnect_attempts=1,  # of this connecting; with none it tries for ever
            reconnect_time_wait=0,
            connect_timeout=max(1, round(self._settings.timeout)),
            disconnected_cb=over,
            closed_cb=over,
            error_cb=said,
            **self._login(),
        )
        return self._client

    def _login(self) -> dict[str, Any]:
        """What the connection is made with, its secrets read anew."""
        settings = self._settings
        facts: dict[str, Any] = {}
        if settings.username:
            facts |= {"user": settings.username, "password": http.read_secret(settings.password)}
        elif settings.token:
            facts["token"] = http.read_secret(settings.token)
        if settings.credentials:
            _check_credentials(settings.credentials)
            facts["user_credentials"] = settings.credentials
        if urlsplit(settings.url).scheme == "tls":
            facts["tls"] = http.trusted_by(settings.tls_ca) or ssl.create_default_context()
        return facts

    def _told(self, failed: Exception) -> SinkError:
        from nats.errors import NoRespondersError, NoServersError  # noqa: PLC0415 - loaded by now
        from nats.js.errors import APIError, NoStreamResponseError  # noqa: PLC0415

        url = self._settings.url
        words = str(failed).removeprefix("nats: ") or type(failed).__name__
        if isinstance(failed, NoServersError) and self._said:
            words, self._said = self._said, ""
        match failed:
            case NoStreamResponseError() | NoRespondersError():
                subject = self._settings.subject.replace("{asset}", "*")
                hint = f"nats stream add --subjects '{subject}' makes one"
                return SinkParked(f"{url}: no stream takes {subject}", hint=hint)
            case APIError():
                return SinkUnavailable(f"{url}: {failed.description or words}")
            case ssl.SSLCertVerificationError():
                return http.untrusted(url, failed.verify_message)
        if any(word in words.lower() for word in _LOGIN_WORDS):
            return SinkParked(f"{url}: {words}", hint="check the login, and what it may publish")
        return SinkUnavailable(f"{url}: {words}")

    async def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(1.0):
                    await client.close()


def _check_credentials(path: str) -> None:
    """Raise SinkParked unless a file has a user's JWT and a seed that is one.

    nats-py looks for the JWT line by line and does not stop at the end of the file: without one it
    would keep the event loop, and with it the whole gateway, for ever.
    """
    hint = "it must be as nsc writes it, and the service must be able to read it"
    try:
        import nkeys  # noqa: PLC0415 - optional, as nats-py is
    except ImportError as missing:
        install = "pip install 'sluicegate[nats]'"
        told = "credentials need nkeys, which is not installed"
        raise SinkParked(told, hint=install) from missing
    try:
        lines = Path(path).read_bytes().split(b"\n")[:-1]  # it takes no unfinished line
    except OSError as bad:
        raise SinkParked(f"cannot read credentials {path}: {bad.strerror}", hint=hint) from bad
    if not _line_after(lines, b"BEGIN NATS USER JWT"):
        raise SinkParked(f"credentials {path} has no user's JWT", hint=hint)
    try:
        nkeys.from_seed(bytearray(_line_after(lines, b"BEGIN USER NKEY SEED"))).wipe()
    except (nkeys.NkeysError, ValueError) as bad:
        raise SinkParked(f"credentials {path} has no seed that is one", hint=hint) from bad


def _line_after(lines: list[bytes], mark: bytes) -> bytes:
    """What stands below the first line with a mark; empty if there is none."""
    return next((below for line, below in pairwise(lines) if mark in line), b"")
