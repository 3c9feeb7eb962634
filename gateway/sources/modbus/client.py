"""Client: the ways to a device. TCP, TLS, UDP and serial lines, each with its framings.

| settings                              | transport | framings                   |
|---------------------------------------|-----------|----------------------------|
| `modbus-tcp`                          | TCP       | mbap, rtu, ascii           |
| `modbus-tcp`, `tls = true`            | TLS       | mbap (Modbus/TCP Security) |
| `modbus-tcp`, `transport = "udp"`     | UDP       | mbap, rtu, ascii           |
| `modbus-rtu`                          | serial    | rtu, ascii                 |

One deadline covers connecting. What comes of it is a `Connection`, used once.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.errors import SourceLost, SourceUnavailable
from gateway.resolve import UNRESOLVED_HINT, unresolved
from gateway.sources.modbus import serial
from gateway.sources.modbus.ascii import CHARACTER_GAP_S, AsciiExchange
from gateway.sources.modbus.config import ModbusRtuSettings, ModbusSettings, ModbusTcpSettings
from gateway.sources.modbus.connection import (
    LATE_ANSWER_S,
    Connection,
    ConnectionClosed,
    Manner,
    NewExchange,
    ResponseTimeout,
)
from gateway.sources.modbus.line import quiet_s
from gateway.sources.modbus.peer import Peer
from gateway.sources.modbus.pipelined import PipelinedConnection
from gateway.sources.modbus.rtu import RtuExchange
from gateway.sources.modbus.transports import Datagrams
from gateway.sources.modbus.wire import Exchange

__all__ = ["Connection", "ConnectionClosed", "Peer", "ResponseTimeout", "connect", "new_connection"]


def new_connection(settings: ModbusSettings, peer: Peer) -> Connection:
    """A connection as the settings have it, still without a transport."""
    match settings:
        case ModbusTcpSettings():
            return _new_connection(settings, peer)
        case ModbusRtuSettings():
            return _new_line(settings, peer)
        case _:
            raise TypeError(f"no way to {type(settings).__name__}")


@asynccontextmanager
async def connect(settings: ModbusSettings, peer: Peer) -> AsyncIterator[Connection]:
    """A connection until the block ends; raises SourceUnavailable.

    All connections to one device share a `peer`.
    """
    match settings:
        case ModbusTcpSettings():
            connection = await _connect(settings, peer)
        case ModbusRtuSettings():
            connection = _open_line(settings, peer)
        case _:
            raise TypeError(f"no way to {type(settings).__name__}")
    try:
        yield connection
    finally:
        connection.close(SourceLost("closed"))


def _new_connection(settings: ModbusTcpSettings, peer: Peer) -> Connection:
    ids, takes_zero = peer.transaction_ids, settings.transaction_id_zero
    new: NewExchange
    match settings.framing:
        case "rtu":
            new = RtuExchange
        case "ascii":
            new = AsciiExchange
        case _:
            new = lambda query: Exchange(next(ids), query, takes_zero=takes_zero)  # noqa: E731 - short
    manner = Manner(
        gap_s=CHARACTER_GAP_S if settings.framing == "ascii" else 0.0,
        is_numbered=settings.framing == "mbap" and not takes_zero,
        is_datagram=settings.transport == "udp",
    )
    if settings.in_flight > 1:
        return PipelinedConnection(new, manner, peer, settings.in_flight)
    return Connection(new, manner, peer)


async def _connect(settings: ModbusTcpSettings, peer: Peer) -> Connection:
    loop = asyncio.get_running_loop()
    connection = _new_connection(settings, peer)
    try:
        async with asyncio.timeout(settings.connect_timeout):
            if settings.transport == "udp":
                there = (settings.host, settings.port)
                await loop.create_datagram_endpoint(
                    lambda: Datagrams(connection), remote_addr=there
                )
            else:
                await loop.create_connection(
                    lambda: connection,
                    settings.host,
                    settings.port,
                    ssl=_tls(settings) if settings.tls else None,
                )
    except TimeoutError as error:
        if told := unresolved(settings.host, settings.connect_timeout):
            raise SourceUnavailable(told, hint=UNRESOLVED_HINT) from error
        raise SourceUnavailable(
            f"{settings.address} does not answer within {settings.connect_timeout:g} s",
            hint="check the address, the cable and the firewall",
        ) from error
    except ssl.SSLCertVerificationError as error:
        raise SourceUnavailable(
            f"{settings.address}: {error.verify_message}",
            hint="check the device's certificate, tls_ca and this clock",
        ) from error
    except (OSError, UnicodeError) as error:  # a host name that IDNA refuses is a UnicodeError
        reason, hint = getattr(error, "strerror", None) or str(error), "its Modbus TCP server"
        if settings.tls:
            reason, hint = reason or "it does not speak TLS", "its Modbus/TCP Security (port 802)"
        raise SourceUnavailable(
            f"cannot connect to {settings.address}: {reason or type(error).__name__}",
            hint=f"check that the device is on and {hint} enabled",
        ) from error
    return connection


def _tls(settings: ModbusTcpSettings) -> ssl.SSLContext:
    """Modbus/TCP Security 2.1: TLS 1.2 or later, each side with a certificate."""
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca or None)
        if settings.tls_certificate:
            context.load_cert_chain(settings.tls_certificate)
    except OSError as error:  # ssl.SSLError is one
        raise SourceUnavailable(
            f"cannot use tls_ca or tls_certificate: {error.strerror or error}",
            hint="they must be PEM files the service may read",
        ) from error
    return context


def _open_line(settings: ModbusRtuSettings, peer: Peer) -> Connection:
    connection = _new_line(settings, peer)
    descriptor = serial.open_port(settings, peer)
    connection.connection_made(serial.SerialTransport(descriptor, connection))
    return connection


def _new_line(settings: ModbusRtuSettings, peer: Peer) -> Connection:
    has_echo, is_ascii = settings.echo, settings.framing == "ascii"
    framing = AsciiExchange if is_ascii else RtuExchange
    manner = Manner(
        quiet_s=quiet_s(settings),
        gap_s=CHARACTER_GAP_S if is_ascii else 0.0,
        is_numbered=False,
    )
    connection = Connection(lambda query: framing(query, has_echo=has_echo), manner, peer)
    # What was on its way when the line was given up must not be taken for the next answer.
    connection.hear(LATE_ANSWER_S)
    return connection
