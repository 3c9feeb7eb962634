"""API: what a program or a person with the token may tell a running gateway to do.

    POST /api/<command>, Authorization: Bearer <token>, Content-Type: application/json

There is none without `gateway.http.token`: then nothing can be changed over the network at all.
A command is its name, what its body may say, and what does it; `Api.add` is all that another one
takes. Whatever a page of another site could make a browser send is refused before the body is
read: its `Origin` (by the server), a body that is not JSON, a request without the token, which no
browser sends by itself.

Guessing is slow: after LOGINS_FAILED_MAX wrong tokens an address waits, with the right one too.
Each command is told to `audit` once it is done or refused, so that it can be kept.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from aiohttp import web
from pydantic import ValidationError

from gateway.clock import Clock
from gateway.errors import SluicegateError
from gateway.settings import Secret, Settings
from gateway.stats import stat, stats

__all__ = ["Api", "ApiStats", "Audit", "Refusal", "parse_body"]

log = logging.getLogger(__name__)

B = TypeVar("B", bound=Settings)
Audit = Callable[[dict[str, Any]], None]
"""Takes what was commanded, by whom, and how it ended."""

PATH = "/api/"
# A command names a few tags or an event; nothing here carries data.
BODY_BYTES_MAX = 16 * 1024
# As long as a random one of 96 bits is in base64; a shorter one is a word that can be guessed.
TOKEN_CHARACTERS_MIN = 16
LOGINS_FAILED_MAX = 5
LOGIN_WAIT_S = 60.0
# Addresses remembered; whoever has more of them than this guesses at most so much faster.
ADDRESSES_MAX = 256
_AUDITED_CHARACTERS_MAX = 512


class Refusal(Exception):
    """A command that is not done: the status and the reason that are answered."""

    def __init__(self, status: int, reason: str, *, retry_after_s: int = 0) -> None:
        super().__init__(reason)
        self.status = status
        self.retry_after_s = retry_after_s


@stats
class ApiStats:
    """What an operator wants to know of the commands. Counters only rise."""

    commands_total: int = stat("commands taken over the API")
    commands_failed_total: int = stat("commands over the API that were not done")
    logins_failed_total: int = stat("requests to the API without the right token")


@dataclass(frozen=True, slots=True)
class _Command:
    body: type[Settings]
    run: Callable[[Any], Awaitable[Any]]


class Api:
    """The commands there are, and who may give them."""

    def __init__(self, token: Secret, clock: Clock, audit: Audit | None = None) -> None:
        """`token` is read anew for each command, so that it can be changed without a restart."""
        self._token = token
        self._audit = audit
        self.clock = clock
        self._commands: dict[str, _Command] = {}
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()  # count, when last
        self.stats = ApiStats()

    def add(self, name: str, body: type[B], run: Callable[[B], Awaitable[Any]]) -> None:
        """A command at POST /api/<name>; what `run` gives is answered as JSON.

        A SluicegateError of it is answered with 409, ValueError and LookupError with 400.
        """
        assert name not in self._commands, f"there is a command {name} already"
        self._commands[name] = _Command(body, run)

    async def answer(self, request: web.BaseRequest, on_read: Callable[[], None]) -> Any:
        """Do what is asked, and give what is to be answered; raises Refusal.

        `on_read` is called once the request has been read to its end.
        """
        peer = request.remote or ""
        self._log_in(request.headers.get("Authorization", ""), peer)
        name = request.path.removeprefix(PATH)
        command = self._commands.get(name)
        if command is None:
            raise Refusal(404, f"there is no command {name[:64]!r}")
        data = await _read(request)
        on_read()
        body = parse_body(data, command.body)
        self.stats.commands_total += 1
        outcome = "done"
        try:
            return await command.run(body)
        except SluicegateError as error:
            outcome = str(error)
            raise Refusal(409, outcome) from error
        except (ValueError, LookupError) as error:
            outcome = str(error)
            raise Refusal(400, outcome) from error
        except BaseException as error:
            outcome = f"failed: {type(error).__name__}"
            raise
        finally:
            self.stats.commands_failed_total += outcome != "done"
            said = body.model_dump_json()[:_AUDITED_CHARACTERS_MAX]
            log.info("api.command name=%s peer=%s body=%s outcome=%s", name, peer, said, outcome)
            if self._audit is not None:
                self._audit({"command": name, "peer": peer, "body": said, "outcome": outcome})

    def _log_in(self, header: str, peer: str) -> None:
        """Raise Refusal for all but the token."""
        now_s = self.clock.monotonic_s()
        count, last_s = self._failed.get(peer, (0, 0.0))
        if now_s - last_s >= LOGIN_WAIT_S:
            count = 0
        if count >= LOGINS_FAILED_MAX:
            wait_s = max(1, round(last_s + LOGIN_WAIT_S - now_s))
            raise Refusal(429, "too many wrong tokens; wait", retry_after_s=wait_s)
        try:
            token = self._token.read()
        except SluicegateError as error:
            log.warning("api.no_token error=%s", error)
            raise Refusal(503, "the gateway's own token cannot be read") from error
        if len(token) < TOKEN_CHARACTERS_MIN:
            log.warning("api.token_too_short characters_min=%d", TOKEN_CHARACTERS_MIN)
            raise Refusal(503, f"the gateway's token has less than {TOKEN_CHARACTERS_MIN} signs")
        scheme, _, given = header.partition(" ")
        is_right = hmac.compare_digest(_digest(given.strip()), _digest(token))
        if is_right and scheme.lower() == "bearer":
            self._failed.pop(peer, None)
            return
        self.stats.logins_failed_total += 1
        self._failed[peer] = (count + 1, now_s)
        self._failed.move_to_end(peer)
        if len(self._failed) > ADDRESSES_MAX:
            self._failed.popitem(last=False)
        log.warning("api.login_failed peer=%s", peer)
        said = "that is not the token" if given else "name the token: Authorization: Bearer ..."
        raise Refusal(401, said)


def _digest(token: str) -> bytes:
    """Of equal length for every token, so that the comparison does not tell it either."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


async def _read(request: web.BaseRequest) -> bytes:
    """The body, if it is JSON and not too much; its deadline is the connection's."""
    if request.content_type != "application/json":
        raise Refusal(415, "write JSON: Content-Type: application/json")
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise Refusal(415, "compressed bodies are not taken")
    if (request.content_length or 0) > BODY_BYTES_MAX:
        raise Refusal(413, f"more than {BODY_BYTES_MAX} bytes")
    body = b""
    async for part in request.content.iter_any():
        body += part
        if len(body) > BODY_BYTES_MAX:
            raise Refusal(413, f"more than {BODY_BYTES_MAX} bytes")
    return body


def parse_body(data: bytes, body: type[B]) -> B:
    """What a command says, strictly; raises Refusal."""
    try:
        orjson.loads(data)  # bounds the nesting, and knows no NaN
        json.loads(data, object_pairs_hook=_refuse_twice)
        return body.model_validate_json(data, strict=True)
    except ValidationError as error:
        said = error.errors(include_url=False, include_input=False, include_context=False)[:5]
        places = (".".join(map(str, each["loc"])) or "the body" for each in said)
        reasons = [f"{place}: {each['msg']}" for place, each in zip(places, said, strict=True)]
        raise Refusal(400, "; ".join(reasons)[:1024]) from error
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "the body is not JSON, or has a key twice") from error


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Which of two values was meant, nobody can say."""
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)
