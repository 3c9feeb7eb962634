"""The event loop: uvloop's, but for names.

uvloop has libuv look names up, which lends two threads to all look-ups together. Two silent names
then keep everybody else from connecting: to addresses that are numbers too, for its `sock_connect`,
which aiohttp uses, has libuv look these up as well. And at the end of the process libuv waits for
what is in its queue: 30 s with eight such names. Here `gateway.resolve` does it, for whoever
connects through the loop: our sources and sinks, aiohttp, nats-py.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from gateway.resolve import Addresses, Names

__all__ = ["Loop"]


class Loop(uvloop.Loop):
    """uvloop's loop, which never gives libuv a name."""

    def __init__(self) -> None:
        super().__init__()
        self.names = Names()

    async def getaddrinfo(
        self,
        host: str | bytes | None,
        port: str | bytes | int | None,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002 - asyncio's word
        proto: int = 0,
        flags: int = 0,
    ) -> Addresses:
        """As asyncio has it; uvloop's `sock_connect` uses it too."""
        port = port.decode() if isinstance(port, bytes) else port
        return await self.names.look_up(host, port, family, type, proto, flags)

    async def create_connection(
        self,
        protocol_factory: Callable[[], Any],
        host: str | None = None,
        port: int | None = None,
        *,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        **options: Any,
    ) -> tuple[Any, Any]:
        """As asyncio has it: a name's addresses are tried one after another."""
        create: Callable[..., Awaitable[tuple[Any, Any]]] = super().create_connection
        if not host:
            return await create(
                protocol_factory, host, port, family=family, proto=proto, flags=flags, **options
            )
        found = await self.getaddrinfo(
            host, port, family=family, type=socket.SOCK_STREAM, proto=proto, flags=flags
        )
        if options.get("ssl") and options.get("server_hostname") is None:
            options["server_hostname"] = host
        protocol = protocol_factory()
        failures: list[OSError] = []
        for address in found:
            try:
                return await create(lambda: protocol, *_number(address[4]), **options)
            except ssl.SSLError:
                raise  # the other end is there
            except OSError as error:
                failures.append(error)
        if len({str(error) for error in failures}) == 1:
            raise failures[0]
        raise OSError(f"no address of {host}: {'; '.join(map(str, failures))}")

    async def create_datagram_endpoint(  # type: ignore[override]  # the rest goes by name
        self,
        protocol_factory: Callable[[], Any],
        local_addr: tuple[str, int] | None = None,
        remote_addr: tuple[str, int] | None = None,
        **options: Any,
    ) -> tuple[Any, Any]:
        """As asyncio has it; of a name's addresses the first is taken."""
        if remote_addr is not None:
            found = await self.getaddrinfo(*remote_addr, type=socket.SOCK_DGRAM)
            remote_addr = _number(found[0][4])
        return await super().create_datagram_endpoint(
            protocol_factory, local_addr, remote_addr, **options
        )


def _number(address: tuple[Any, ...]) -> tuple[str, int]:
    """An address in numbers, with the interface where it holds only there (RFC 4007)."""
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    host, port = socket.getnameinfo(address, flags)
    return host, int(port)
