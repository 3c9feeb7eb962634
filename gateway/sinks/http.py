"""HTTP for sinks: one connection pool, one deadline, one meaning for what goes wrong.

A sink says which statuses mean that a batch is stored; what every other answer means is in
`gateway.sinks.answers`, the same for all of them. Bytes are sent by aiohttp
(docs/decisions/0006-influx-client.md).
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
import unicodedata
import zlib
from collections.abc import AsyncIterator, Container, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gateway.errors import (
    SinkError,
    SinkParked,
    SinkUnavailable,
    SluicegateError,
)
from gateway.resolve import unresolved
from gateway.settings import Secret
from gateway.sinks import SinkStats
from gateway.sinks.answers import verdict
from gateway.sinks.config import HttpLoginSettings, HttpSinkSettings
from gateway.sinks.refusal import WORDS_BYTES_MAX

if TYPE_CHECKING:
    import aiohttp

__all__ = [
    "Answer",
    "HttpClient",
    "basic",
    "cuts",
    "login",
    "read_secret",
    "token_header",
    "trusted_by",
    "untrusted",
]

# As much of an answer is read: a server that names refused lines quotes them.
ANSWER_BYTES_MAX = 256 * 1024
# Compressing more than this takes over a millisecond: not on the event loop.
COMPRESS_INLINE_BYTES_MAX = 64 * 1024
GZIP_LEVEL = 1
_GZIP_WBITS = 31
# Those that Unicode has no name for.
_SIGN_NAMES = {"\n": "line break", "\r": "line break", "\t": "tab", "\0": "NUL"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said; a body only where the batch is not stored."""

    error: SinkError | None  # None: stored
    said: bytes


class HttpClient:
    """The connections of one sink."""

    def __init__(
        self,
        settings: HttpSinkSettings,
        stats: SinkStats,
        *,
        stored: Container[int],
        portal_hint: str = "a proxy or a log-in page answers in the server's place",
        is_page_stored: bool = True,
    ) -> None:
        """`stored` are the statuses that mean so; `is_page_stored`: also with a web page."""
        self._settings = settings
        self._stats = stats
        self._stored = stored
        self._portal_hint = portal_hint
        self._is_page_stored = is_page_stored
        self._session: aiohttp.ClientSession | None = None
        self._session_before: aiohttp.ClientSession | None = None
        self._is_once = False  # a connection is not used again

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """What is sent meanwhile shares its connections; the server need not be there."""
        try:
            yield
        finally:
            for session in (self._session, self._session_before):
                if session is not None:
                    await session.close()
            self._session = self._session_before = None

    async def post(
        self, url: str, query: Mapping[str, str], body: bytes, headers: Mapping[str, str]
    ) -> Answer:
        """Send one body.

        Raises SinkUnavailable or SinkParked where there is no answer; what an answer means is in
        it. The body is compressed where the settings say so, unless it says it is already.
        """
        import aiohttp  # noqa: PLC0415 - 12 MB that only those pay who forward

        headers = {"Accept-Encoding": "identity", **headers}  # its words are read as they come
        if self._settings.gzip and "Content-Encoding" not in headers:
            headers["Content-Encoding"] = "gzip"
            small = len(body) <= COMPRESS_INLINE_BYTES_MAX
            body = _gzip(body) if small else await asyncio.to_thread(_gzip, body)
        session = self._opened()
        self._stats.bytes_total += len(body)  # also what is refused costs the link
        began_s = time.monotonic()
        try:
            async with session.post(
                url, params=query, data=body, headers=headers, allow_redirects=False
            ) as answer:
                said = b"" if answer.status == 204 else await _read(answer.content)
                if answer.status == 204 and _announces_body(answer.headers):
                    self._use_connections_once()
                stored = self._stored
                if not self._is_page_stored and answer.content_type == "text/html":
                    stored = ()
                error = verdict(
                    answer.status,
                    said,
                    answer.headers,
                    stored=stored,
                    portal_hint=self._portal_hint,
                    url=url,
                    is_gzip=headers.get("Content-Encoding") == "gzip",
                )
        except TimeoutError as late:
            is_connected = not isinstance(late, aiohttp.ServerTimeoutError)
            raise self._late(url, is_connected=is_connected) from late
        except aiohttp.ClientConnectorDNSError as unknown:
            raise SinkUnavailable(f"{url}: {unknown.strerror or unknown}") from unknown
        except aiohttp.ClientResponseError as garbled:
            raise _unreadable(url, garbled.message) from garbled
        except aiohttp.ClientConnectorCertificateError as refused:
            raise untrusted(url, str(refused.certificate_error)) from refused
        except (aiohttp.ClientError, OSError, ValueError) as failed:
            is_cut = isinstance(failed, (aiohttp.ServerDisconnectedError, ConnectionError))
            is_cut = is_cut and not isinstance(failed, aiohttp.ClientConnectorError)
            said_ = f"{url}: {str(failed) or type(failed).__name__}"
            raise SinkUnavailable(said_, is_cut=is_cut) from failed
        if error is None:
            self._stats.latency_ms_last = (time.monotonic() - began_s) * 1000
        return Answer(error, said)

    def _use_connections_once(self) -> None:
        """From now on: what may come behind an answer would be taken for the next one.

        aiohttp has given this connection back by now; with those before it, it is left alone.
        """
        if not self._is_once:
            self._is_once = True
            self._session_before, self._session = self._session, None

    def _late(self, url: str, *, is_connected: bool) -> SinkUnavailable:
        """What took too long."""
        timeout_s = self._settings.timeout
        if told := unresolved(urlsplit(url).hostname or "", timeout_s):
            return SinkUnavailable(f"{url}: {told}")
        if not is_connected:
            return SinkUnavailable(f"{url}: not connected within {timeout_s / 2:g} s")
        return SinkUnavailable(f"{url}: no answer within {timeout_s:g} s", is_slow=True)

    def _opened(self) -> aiohttp.ClientSession:
        """The pool of connections; opened late, so that a bad CA file parks this sink only."""
        import aiohttp  # noqa: PLC0415 - loaded by now

        if self._session is None:
            timeout_s = self._settings.timeout
            trusted = trusted_by(self._settings.tls_ca)
            # Names as the event loop has them; aiohttp would prefer a resolver of its own to that.
            names = aiohttp.ThreadedResolver()
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=2, ssl=trusted or True, resolver=names, force_close=self._is_once
                ),
                # A server that does not even take the connection is told from one that is slow.
                timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=timeout_s / 2),
                auto_decompress=False,
            )
        return self._session


def trusted_by(tls_ca: str) -> ssl.SSLContext | None:
    """What trusts a CA file; None for the system's. Raises SinkParked if it cannot be used."""
    if not tls_ca:
        return None
    try:
        return ssl.create_default_context(cafile=tls_ca)
    except OSError as bad:  # ssl.SSLError is one
        reason = f"cannot use tls_ca {tls_ca}: {bad.strerror or bad}"
        raise SinkParked(reason, hint="it must be a PEM file the service may read") from bad


def token_header(scheme: str, token: Secret | None) -> dict[str, str]:
    """The header of an API token; none without one."""
    secret = read_secret(token)
    for i, sign in enumerate(secret, 1):
        if not sign.isprintable():
            assert token is not None
            name = unicodedata.name(sign, "control character").lower()
            where = f"{_SIGN_NAMES.get(sign, name)} (U+{ord(sign):04X}) at place {i}"
            said = f"the token of {token.reference!r} has a {where}"
            raise SinkParked(said, hint="write it anew, without that")
    return {"Authorization": f"{scheme} {secret}"} if secret else {}


def basic(username: str, password: Secret | None) -> dict[str, str]:
    """The header of a login (RFC 7617); none without a username."""
    secret = read_secret(password)
    if not username:
        return {}
    if ":" in username:
        raise SinkParked("a username cannot have a colon", hint="change username")
    login = base64.b64encode(f"{username}:{secret}".encode()).decode()
    return {"Authorization": f"Basic {login}"}


def cuts(pieces: list[bytes], bytes_max: int, *, between: int = 0) -> list[int]:
    """Where to cut pieces into bodies of at most `bytes_max`, one piece at least.

    `between` are the bytes that stand between two pieces.
    """
    found, size = [], 0
    for i, piece in enumerate(pieces):
        if size and size + len(piece) > bytes_max:
            found.append(i)
            size = 0
        size += len(piece) + between
    return [*found, len(pieces)] if pieces else []


def read_secret(secret: Secret | None) -> str:
    """A secret, read anew so that it can be rotated; "" for none. Raises SinkParked."""
    if secret is None:
        return ""
    try:
        found = secret.read()
    except SluicegateError as missing:
        raise SinkParked(missing.message, hint=missing.hint) from missing
    if not found.strip():
        raise SinkParked(f"the secret of {secret.reference!r} is empty", hint="put it there")
    return found


def login(settings: HttpLoginSettings) -> dict[str, str]:
    """The header that lets us in, by name and password or by token; none where neither is set."""
    return {
        **basic(settings.username, settings.password),
        **token_header("Bearer", settings.token),
    }


def untrusted(url: str, reason: str) -> SinkParked:
    """The other end shows a certificate that nobody vouches for."""
    hint = "nothing was sent; check the server's certificate, tls_ca and this clock"
    return SinkParked(f"{url}: {reason}", hint=hint)


def _announces_body(headers: Mapping[str, str]) -> bool:
    """Whether a 204 says that a body follows, which none may have (RFC 9110, 15.3.5)."""
    return headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers


def _unreadable(url: str, reason: str) -> SinkUnavailable:
    """What came was no answer, or one with more behind it: whether the batch is stored is open."""
    said = " ".join(reason.split()).encode("utf-8", "replace")[:WORDS_BYTES_MAX]
    told = f"{url}: the answer cannot be read as HTTP: {said.decode('utf-8', 'ignore')}"
    hint = "another protocol answers there, or a 204 with a body, which HTTP forbids: mend that"
    return SinkUnavailable(told, hint=hint)


async def _read(content: aiohttp.StreamReader) -> bytes:
    """An answer's body, or the beginning of it."""
    said = bytearray()
    while len(said) < ANSWER_BYTES_MAX:
        chunk = await content.read(ANSWER_BYTES_MAX - len(said))
        if not chunk:
            break
        said += chunk
    return bytes(said)


def _gzip(body: bytes) -> bytes:
    return zlib.compress(body, GZIP_LEVEL, wbits=_GZIP_WBITS)
