"""A small HTTP server beside a plant: what it really sent, and faults on demand. Loopback only.

GET /                                   the plant, its faults, and this list
GET /truth                              what was served or published, and what was acknowledged
POST /fault?asset=pump-3&name=cavitation[&tag=][&severity=][&after=][&ramp=]
DELETE /fault[?asset=pump-3][&name=cavitation]
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from simulators.faults import FaultBoard, FaultError, make_fault

__all__ = ["ControlledPlant", "control_server"]

# A request is a line and a few headers, sent at once by a program.
_HEAD_BYTES_MAX = 8 * 1024
_REQUEST_S = 5.0


@dataclass(frozen=True, slots=True)
class ControlledPlant:
    """What a plant lends to the control server."""

    truth: Callable[[], Mapping[str, Any]]
    board: FaultBoard
    now_s: Callable[[], float]


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@asynccontextmanager
async def control_server(plant: ControlledPlant, port: int = 0) -> AsyncIterator[str]:
    """Serves until the block is left; its URL. Raises OSError when the port is taken."""
    server = await asyncio.start_server(
        lambda reader, writer: _serve(plant, reader, writer),
        "127.0.0.1",
        port,
        limit=_HEAD_BYTES_MAX,
    )
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def _serve(
    plant: ControlledPlant, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """One request, one answer, one connection."""
    try:
        async with asyncio.timeout(_REQUEST_S):
            status, answer = HTTPStatus.OK, await _answer(plant, reader)
    except _Refused as error:
        status, answer = error.status, {"error": str(error)}
    except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        writer.transport.abort()
        return
    body = json.dumps(answer, indent=1).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)
    writer.close()


async def _answer(plant: ControlledPlant, reader: asyncio.StreamReader) -> Mapping[str, Any]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    try:
        method, target, _ = head[0].split(" ")
    except ValueError as error:
        raise _Refused(HTTPStatus.BAD_REQUEST, "not a request line") from error
    headers = {name.strip().lower(): value.strip() for name, _, value in map(_field, head[1:])}
    # A page in a browser on this machine must not reach us through a name of its own.
    if "origin" in headers or not _is_here(headers.get("host", "")):
        raise _Refused(HTTPStatus.FORBIDDEN, "only programs on this machine")
    url = urlsplit(target)
    query = dict(parse_qsl(url.query))
    match method, url.path:
        case "GET", "/":
            return _overview(plant)
        case "GET", "/truth":
            return plant.truth()
        case "POST", "/fault":
            return _start_fault(plant, query)
        case "DELETE", "/fault":
            return {"ended": plant.board.stop(query.get("asset", ""), query.get("name", ""))}
        case _, "/" | "/truth" | "/fault":
            raise _Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"{url.path} does not take {method}")
    raise _Refused(HTTPStatus.NOT_FOUND, "there are /, /truth and /fault")


def _field(line: str) -> tuple[str, str, str]:
    return line.partition(":")


def _is_here(host: str) -> bool:
    name = host.rpartition(":")[0] or host
    try:
        return name == "localhost" or ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _overview(plant: ControlledPlant) -> Mapping[str, Any]:
    board = plant.board
    return {
        "assets": [*board.assets, *board.devices],
        "tags": list(board.tags),
        "faults": sorted(board.kinds),
        "active": board.active(),
        "plant_s": plant.now_s(),
        "endpoints": [
            "GET /truth",
            "POST /fault?asset=&name=&tag=&severity=&after=&ramp=",
            "DELETE /fault?asset=&name=",
        ],
    }


def _start_fault(plant: ControlledPlant, query: dict[str, str]) -> Mapping[str, Any]:
    asset, name, tag = (query.pop(key, "") for key in ("asset", "name", "tag"))
    try:
        fault = make_fault(f"{asset}.{tag}" if tag else asset, name, query)
        plant.board.start(fault, plant.now_s())
    except FaultError as error:
        raise _Refused(HTTPStatus.BAD_REQUEST, str(error)) from error
    return {"active": plant.board.active()}
