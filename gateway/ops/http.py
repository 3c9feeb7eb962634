"""The gateway's own web server: the page, its events, /healthz, /metrics, /api/history, commands.

All but the commands (`api`) only ever read, and it is written for a hostile network all the same:
the bound address is usually loopback, but a web page opened on the same machine can reach loopback
too. So: requests must name us in `Host` (a rebound DNS name does not), other sites' scripts are
refused, nothing but GET and HEAD is answered (and POST to a command, with the token), and the page
sets text as text under a Content-Security-Policy without inline script.

One connection serves one request. That is all the page and Prometheus need, and it turns
slowness of every kind into a deadline on the connection: so long to ask, so long to take the
answer. An event stream has a deadline on each write instead.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

import orjson
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway.config.schema import HttpSettings
from gateway.errors import SluicegateError
from gateway.ops import history, metrics
from gateway.ops.api import PATH, Api, Refusal
from gateway.ops.broadcast import Broadcast
from gateway.ops.health import health_of
from gateway.ops.view import GatewayView, Stats
from gateway.stats import stat, stats

__all__ = ["HttpStats", "serve"]

log = logging.getLogger(__name__)

# A few browsers, a Prometheus, a health check; each costs some 100 kB at most.
CONNECTIONS_MAX = 64
CLIENTS_MAX = 16  # event streams; the other connections stay free for /healthz
REQUEST_S = 5.0  # from connecting to the end of the request
RESPONSE_S = 15.0  # to the last byte of the answer
EVENT_WRITE_S = 5.0  # a browser that takes longer for one event has gone to sleep
BODY_S = 5.0  # to the last byte of a command
COMMAND_S = 30.0  # to its answer; a device may be asked several times
COMMANDS_AT_ONCE_MAX = 8
HISTORY_S = 10.0
HISTORY_AT_ONCE_MAX = 2  # each reads the disk and holds its samples
# SIGTERM gives the whole gateway five seconds; what pages are waiting for is cut off.
SHUTDOWN_S = 0.5

_PAGE = Path(__file__).parent / "page"
_STATIC = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/assets.js": ("assets.js", "text/javascript"),
    "/format.js": ("format.js", "text/javascript"),
    "/history.js": ("history.js", "text/javascript"),
    "/operate.js": ("operate.js", "text/javascript"),
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        " img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
    "Server": "sluicegate",
}
_NONE: Mapping[str, str] = MappingProxyType({})


@stats
class HttpStats:
    """What an operator wants to know of the web server. Counters only rise."""

    responses_total: Counter[str] = stat("answers given, by status code", factory=Counter)
    connections_refused_total: int = stat("connections refused: too many at once")
    connections_timed_out_total: int = stat(
        "connections closed: too slow to ask, or to take the answer"
    )
    clients: int = stat("open pages now")


@asynccontextmanager
async def serve(
    view: GatewayView, settings: HttpSettings, api: Api | None = None
) -> AsyncIterator[tuple[str, int]]:
    """Serve until the block ends; gives the address and port it listens on.

    Without an `api` there is no command.

    Raises SluicegateError where it cannot listen there.
    """
    host, _, port = settings.listen.rpartition(":")
    host = host.strip("[]")
    async with Broadcast(view, takes_commands=api is not None) as broadcast:
        server = _Server(view, broadcast, _Hosts(host), api)
        try:
            listener = await asyncio.get_running_loop().create_server(server, host, int(port))
        except OSError as error:
            raise SluicegateError(
                f"cannot listen on {settings.listen}: {error}",
                hint="change gateway.http.listen: an address of this machine, and a free port",
            ) from error
        try:
            bound = listener.sockets[0].getsockname()
            yield bound[0], bound[1]
        finally:
            listener.close()
            await asyncio.sleep(0)  # what was just accepted comes to be known
            broadcast.close()
            await server.close()


class _Hosts:
    """Which names may stand in `Host`.

    Against DNS rebinding: a hostile site's name may be made to resolve to us, but its requests
    still carry that name. An address literal cannot be rebound, so one that listens on every
    address takes any of them, and the machine's own name.
    """

    def __init__(self, listen: str) -> None:
        self._any_address = ip_address(listen).is_unspecified
        own = {socket.gethostname().lower()} if self._any_address else set()
        self._names = {"localhost", "127.0.0.1", "::1", listen.lower()} | own
        self._names |= {f"{name}.local" for name in own}

    def allow(self, netloc: str) -> bool:
        """Whether `host[:port]` names us, on whatever port it was forwarded from."""
        try:
            name = urlsplit(f"//{netloc}").hostname
        except ValueError:
            return False
        if name is None or "@" in netloc:
            return False
        if name in self._names:
            return True
        try:
            return self._any_address and bool(ip_address(name))
        except ValueError:
            return False


class _Server(web.Server):
    """aiohttp's protocol server, with a bound on connections and a deadline for each."""

    def __init__(
        self, view: GatewayView, broadcast: Broadcast, hosts: _Hosts, api: Api | None
    ) -> None:
        super().__init__(self._handle, access_log=None, lingering_time=0, handler_cancellation=True)
        self._view = view
        self._broadcast = broadcast
        self._hosts = hosts
        self._api = api
        self._commands_at_once = 0
        self._deadlines: dict[RequestHandler, asyncio.TimerHandle] = {}
        self._static = {
            path: ((_PAGE / name).read_bytes(), content_type)
            for path, (name, content_type) in _STATIC.items()
        }
        self._history_at_once = 0
        self.stats = HttpStats()

    async def close(self) -> None:
        """End every connection."""
        self.pre_shutdown()
        await self.shutdown(SHUTDOWN_S)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self.connections) > CONNECTIONS_MAX:
            self.stats.connections_refused_total += 1
            transport.abort()
        else:
            self._set_deadline(handler, transport, REQUEST_S)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        deadline = self._deadlines.pop(handler, None)
        if deadline is not None:
            deadline.cancel()
        super().connection_lost(handler, exc)

    def _set_deadline(
        self, handler: RequestHandler, transport: asyncio.Transport | None, seconds: float
    ) -> None:
        """Cut the connection then, unless this is called again first."""
        before = self._deadlines.pop(handler, None)
        if before is not None:
            before.cancel()
        if transport is not None:  # the connection is not lost yet
            loop = asyncio.get_running_loop()
            self._deadlines[handler] = loop.call_later(seconds, self._cut, transport)

    def _cut(self, transport: asyncio.Transport) -> None:
        self.stats.connections_timed_out_total += 1
        transport.abort()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._set_deadline(request.protocol, request.transport, RESPONSE_S)
        response = self._refusal(request) or await self._answer(request)
        response.force_close()
        self.stats.responses_total[str(response.status)] += 1
        return response

    def _refusal(self, request: web.BaseRequest) -> web.Response | None:
        """Why a request is not answered, if so."""
        is_command = self._is_command(request)
        if request.method not in ("GET", "HEAD") and not is_command:
            return _text(405, "GET and HEAD only", {"Allow": "GET, HEAD"})
        if not self._hosts.allow(request.headers.get("Host", "")):
            return _text(421, "this gateway has another name; see gateway.http.listen")
        origin = request.headers.get("Origin")
        if origin is not None and not self._hosts.allow(_netloc(origin)):
            return _text(403, "not for other sites")
        # A link elsewhere may lead to us; a script or an image elsewhere may not ask us anything.
        site = request.headers.get("Sec-Fetch-Site", "none")
        mode = request.headers.get("Sec-Fetch-Mode", "")
        if site not in ("none", "same-origin") and (mode != "navigate" or is_command):
            return _text(403, "not for other sites")
        return None

    def _is_command(self, request: web.BaseRequest) -> bool:
        is_there = self._api is not None and request.path.startswith(PATH)
        return is_there and request.method == "POST"

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._is_command(request):
            return await self._command(request)
        if request.path in self._static:
            body, content_type = self._static[request.path]
            return web.Response(
                body=body, content_type=content_type, charset="utf-8", headers=_HEADERS
            )
        match request.path:
            case "/healthz":
                return self._healthz()
            case "/metrics":
                further: dict[str, Stats] = {"http": self.stats}
                if self._api is not None:
                    further["api"] = self._api.stats
                text = metrics.exposition(self._view, further)
                headers = {**_HEADERS, "Content-Type": metrics.CONTENT_TYPE}
                return web.Response(body=text.encode(), headers=headers)
            case "/events":
                return await self._events(request)
            case "/api/history":
                return await self._history(request)
        return _text(404, "there is nothing here")

    def _healthz(self) -> web.Response:
        health = health_of(self._view)
        report = {
            "status": health.status,
            "failures": health.failures,
            "warnings": health.warnings,
            "gateway": self._view.name,
            "version": self._view.version,
            "uptime_s": round(self._view.clock.monotonic_s() - self._view.started_s, 1),
        }
        return _json(503 if health.failures else 200, report)

    async def _command(self, request: web.BaseRequest) -> web.Response:
        assert self._api is not None
        if self._commands_at_once >= COMMANDS_AT_ONCE_MAX:
            return _json(503, {"error": "busy"}, {"Retry-After": "2"})
        self._commands_at_once += 1
        # A body that dribbles in is cut; once it is here there is time to do what it says.
        self._set_deadline(request.protocol, request.transport, BODY_S)
        try:
            async with asyncio.timeout(COMMAND_S):
                read = self._on_body_read(request)
                return _json(200, {"result": await self._api.answer(request, read)})
        except Refusal as refusal:
            headers = {"Retry-After": str(refusal.retry_after_s)} if refusal.retry_after_s else {}
            if refusal.status == 401:
                headers["WWW-Authenticate"] = "Bearer"
            return _json(refusal.status, {"error": str(refusal)}, headers)
        except TimeoutError:
            return _json(504, {"error": f"not done within {COMMAND_S:.0f} s"})
        finally:
            self._commands_at_once -= 1

    def _on_body_read(self, request: web.BaseRequest) -> Callable[[], None]:
        return partial(
            self._set_deadline, request.protocol, request.transport, COMMAND_S + RESPONSE_S
        )

    async def _history(self, request: web.BaseRequest) -> web.Response:
        try:
            question = history.read_question(list(request.query.items()), self._view.clock.utc_ns())
        except history.BadQuestion as error:
            return _json(400, {"error": str(error)})
        if self._history_at_once >= HISTORY_AT_ONCE_MAX:
            return _json(503, {"error": "busy"}, {"Retry-After": "2"})
        self._history_at_once += 1
        try:
            async with asyncio.timeout(HISTORY_S):
                return _json(200, await history.answer(self._view, question))
        except TimeoutError:
            return _json(503, {"error": f"no answer from the spool within {HISTORY_S:.0f} s"})
        except SluicegateError as error:
            return _json(503, {"error": str(error)})
        finally:
            self._history_at_once -= 1

    async def _events(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.stats.clients >= CLIENTS_MAX:
            return _text(503, "too many pages are open", {"Retry-After": "10"})
        headers = {**_HEADERS, "Content-Type": "text/event-stream"}
        response = web.StreamResponse(headers=headers)
        response.force_close()
        self.stats.clients += 1
        try:
            await response.prepare(request)
            if request.method == "HEAD":
                return response
            async with aclosing(self._broadcast.messages()) as messages:
                async for message in messages:
                    self._set_deadline(request.protocol, request.transport, EVENT_WRITE_S)
                    await response.write(message)
        finally:
            self.stats.clients -= 1
        return response


def _netloc(origin: str) -> str:
    """The `host:port` of an Origin; "" for "null" and nonsense."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _text(status: int, text: str, headers: Mapping[str, str] = _NONE) -> web.Response:
    return web.Response(status=status, text=text + "\n", headers={**_HEADERS, **headers})


def _json(status: int, data: object, headers: Mapping[str, str] = _NONE) -> web.Response:
    body = orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY)
    return web.Response(
        status=status,
        body=body,
        content_type="application/json",
        headers={**_HEADERS, **headers},
    )
