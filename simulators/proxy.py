"""A TCP proxy that misbehaves on command: what networks do to a connection, made repeatable.

Client -> proxy -> server. A fault is set for a direction and holds until `heal()`; `cut` and
`drop_link` act at once. What is random (which byte is corrupted) comes from the seed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from simulators.serving import reset, serving

__all__ = ["Direction", "FaultProxy", "fault_proxy"]

Direction: TypeAlias = Literal["to_server", "to_client", "both"]

_CHUNK_BYTES = 64 * 1024
# Written but not taken by the peer: above it the proxy reads no more, as a real link would not.
_BUFFER_BYTES = 64 * 1024
_CONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class _Conditions:
    """What happens to bytes of one direction."""

    delay_s: float = 0.0
    dribble_s: float = 0.0  # between single bytes
    corrupt_share: float = 0.0  # of the chunks, one byte each
    cut_after_bytes: int = -1  # -1 = never


@dataclass(slots=True, eq=False)
class _Link:
    """One connection through the proxy."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter

    def reset(self) -> None:
        for writer in (self.client, self.server):
            reset(writer)


@dataclass(slots=True)
class FaultProxy:
    """Listens on `host`:`port` for one server; made by `fault_proxy`."""

    target_host: str
    target_port: int
    seed: int = 0
    host: str = "127.0.0.1"
    port: int = 0
    connections_total: int = 0
    bytes_to_server: int = 0
    bytes_to_client: int = 0
    bytes_corrupted: int = 0
    _random: random.Random = field(init=False, repr=False)
    _conditions: dict[str, _Conditions] = field(init=False)
    _flowing: dict[str, asyncio.Event] = field(init=False, repr=False)
    _links: set[_Link] = field(init=False, repr=False, default_factory=set)
    _down: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._conditions = {"to_server": _Conditions(), "to_client": _Conditions()}
        self._flowing = {"to_server": asyncio.Event(), "to_client": asyncio.Event()}
        for event in self._flowing.values():
            event.set()

    @property
    def connections(self) -> int:
        """Open now."""
        return len(self._links)

    def delay(self, seconds: float, direction: Direction = "both") -> None:
        """Hold each chunk back by `seconds`."""
        self._change(direction, delay_s=seconds)

    def dribble(self, period_s: float, direction: Direction = "to_client") -> None:
        """One byte every `period_s`."""
        self._change(direction, dribble_s=period_s)

    def corrupt(self, share: float, direction: Direction = "to_client") -> None:
        """Flip one bit in this share of the chunks."""
        self._change(direction, corrupt_share=share)

    def cut_after(self, count: int, direction: Direction = "to_client") -> None:
        """Reset the connection when so many more bytes have passed: in the middle of an answer."""
        self._change(direction, cut_after_bytes=count)

    def stall(self, direction: Direction = "both") -> None:
        """Keep connections open and pass nothing on."""
        for name in _directions(direction):
            self._flowing[name].clear()

    def heal(self) -> None:
        """End every fault; what a stall held back flows."""
        self._change("both", delay_s=0.0, dribble_s=0.0, corrupt_share=0.0, cut_after_bytes=-1)
        for event in self._flowing.values():
            event.set()
        self._down = False

    def cut(self) -> int:
        """Reset (RST) every connection; how many."""
        links = list(self._links)
        for link in links:
            link.reset()
        return len(links)

    async def drop_link(self, seconds: float) -> None:
        """Reset every connection, and every new one for so long."""
        self._down = True
        self.cut()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._down = False

    def _change(self, direction: Direction, **facts: float) -> None:
        for name in _directions(direction):
            self._conditions[name] = replace(self._conditions[name], **facts)  # type: ignore[arg-type]  # by name

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from the client's to its end."""
        self.connections_total += 1
        if self._down:
            reset(writer)
            return
        try:
            async with asyncio.timeout(_CONNECT_S):
                target = await asyncio.open_connection(self.target_host, self.target_port)
        except OSError:  # a TimeoutError too
            reset(writer)
            return
        for end in (writer, target[1]):
            end.transport.set_write_buffer_limits(_BUFFER_BYTES)
        link = _Link(writer, target[1])
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pass_on(link, "to_server", reader), name="proxy:to_server")
                tasks.create_task(
                    self._pass_on(link, "to_client", target[0]), name="proxy:to_client"
                )
        finally:
            self._links.discard(link)
            link.client.close()
            link.server.close()

    async def _pass_on(self, link: _Link, name: str, reader: asyncio.StreamReader) -> None:
        """Bytes of one direction until its end, which is passed on too."""
        writer = link.server if name == "to_server" else link.client
        try:
            while data := await reader.read(_CHUNK_BYTES):
                conditions = self._conditions[name]
                if conditions.delay_s:
                    await asyncio.sleep(conditions.delay_s)
                await self._flowing[name].wait()
                await self._write(link, name, writer, self._corrupted(name, data))
            await self._flowing[name].wait()
            if writer.can_write_eof():
                writer.write_eof()
        except OSError:
            # One end was reset: so is the other, or it would wait for ever.
            link.reset()

    async def _write(
        self, link: _Link, name: str, writer: asyncio.StreamWriter, data: bytes
    ) -> None:
        conditions = self._conditions[name]
        left = conditions.cut_after_bytes
        is_last = 0 <= left <= len(data)
        if is_last:
            data = data[:left]
        if left >= 0:
            left = -1 if is_last else left - len(data)
            self._conditions[name] = replace(conditions, cut_after_bytes=left)
        step = 1 if conditions.dribble_s else len(data) or 1
        for start in range(0, len(data), step):
            piece = data[start : start + step]
            writer.write(piece)
            await writer.drain()
            if name == "to_server":
                self.bytes_to_server += len(piece)
            else:
                self.bytes_to_client += len(piece)
            if step < len(data):
                await asyncio.sleep(self._conditions[name].dribble_s)  # 0 once healed
        if is_last:
            link.reset()

    def _corrupted(self, name: str, data: bytes) -> bytes:
        share = self._conditions[name].corrupt_share
        if not share or self._random.random() >= share:
            return data
        place = self._random.randrange(len(data))
        self.bytes_corrupted += 1
        changed = bytearray(data)
        changed[place] ^= 1 << self._random.randrange(8)
        return bytes(changed)


@asynccontextmanager
async def fault_proxy(
    target_host: str, target_port: int, *, seed: int = 0, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[FaultProxy]:
    """A proxy in front of a server until the block is left; then every connection is reset."""
    proxy = FaultProxy(target_host, target_port, seed, host)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await proxy.serve(reader, writer)
        except asyncio.CancelledError:
            reset(writer)  # the proxy ends, perhaps before there was a link
            raise

    async with serving(serve, host, port) as proxy.port:
        try:
            yield proxy
        finally:
            proxy.cut()


def _directions(direction: Direction) -> tuple[str, ...]:
    return ("to_server", "to_client") if direction == "both" else (direction,)
