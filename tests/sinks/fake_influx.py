"""An InfluxDB that says what it is told to, and remembers what it was sent."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class FakeInflux:
    """`answer` decides about each body; what it takes (204) is in `stored`, by series and time."""

    answer: Callable[[list[str]], web.Response | None] = lambda _: web.Response(status=204)
    requests: list[web.BaseRequest] = field(default_factory=list)
    stored: dict[str, str] = field(default_factory=dict)
    bodies: list[list[str]] = field(default_factory=list)
    url: str = ""

    async def asked(self, times: int) -> None:
        """Wait until it has been asked this often."""
        async with asyncio.timeout(10):
            while len(self.requests) < times:  # noqa: ASYNC110 - the handler must stay simple
                await asyncio.sleep(0.005)

    async def handle(self, request: web.BaseRequest) -> web.Response:
        body = await request.read()  # aiohttp has undone the compression
        lines = body.decode().splitlines()
        self.requests.append(request)
        self.bodies.append(lines)
        answer = self.answer(lines)
        if answer is None or answer.status == 204:
            for line in lines:
                head, fields, time = line.rsplit(" ", 2)
                self.stored[f"{head} {time}"] = fields
        if answer is None:  # stored, but the connection dies before it can say so
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return answer


@asynccontextmanager
async def fake_influx(tls: ssl.SSLContext | None = None) -> AsyncIterator[FakeInflux]:
    fake = FakeInflux()
    runner = web.ServerRunner(web.Server(fake.handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    fake.url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield fake
    finally:
        await runner.cleanup()
