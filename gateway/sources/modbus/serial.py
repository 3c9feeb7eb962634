"""Serial lines: a port opened raw and for ourselves alone, as a transport for `client`.

The standard library sets a port up as well as any package does (docs/decisions/0008-serial.md).
Where the port goes away - an adapter that is unplugged - reading fails, the connection is closed,
and the next attempt opens whatever has the name then.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import termios
from collections.abc import Callable
from typing import Protocol

from gateway.errors import SourceUnavailable
from gateway.sources.modbus.config import ModbusRtuSettings

__all__ = ["SerialTransport", "character_s", "open_port"]

_READ_BYTES = 4096
_IFLAG, _OFLAG, _CFLAG, _LFLAG, _ISPEED, _OSPEED, _CC = range(7)


class Receiver(Protocol):
    """What the transport tells."""

    def data_received(self, data: bytes) -> None: ...

    def connection_lost(self, exc: Exception | None) -> None: ...


def character_s(settings: ModbusRtuSettings) -> float:
    """How long one character takes: a start bit, eight bits, parity and stop bits."""
    bits = 9 + (settings.parity != "none") + settings.stop_bits
    return bits / settings.baud_rate


def open_port(settings: ModbusRtuSettings) -> int:
    """A descriptor of the port, set up and without old bytes. Raises SourceUnavailable."""
    try:
        descriptor = os.open(settings.device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as error:
        raise SourceUnavailable(
            f"cannot open {settings.device}: {error.strerror}",
            hint="check that the adapter is plugged in, and that the service may use it"
            " (group dialout)",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _set_up(descriptor, settings)
        termios.tcflush(descriptor, termios.TCIOFLUSH)
    except BlockingIOError as error:
        os.close(descriptor)
        raise SourceUnavailable(
            f"{settings.device} is in use by another program",
            hint="one line has one master: stop the other, or put both maps into one source",
        ) from error
    except (OSError, termios.error) as error:
        os.close(descriptor)
        raise SourceUnavailable(
            f"cannot set {settings.device} up as a serial port: {error}",
            hint="check that it is one, and that it can do this baud rate",
        ) from error
    return descriptor


def _set_up(descriptor: int, settings: ModbusRtuSettings) -> None:
    """Raw, eight bits, nobody else's echo or signals (termios(3), cfmakeraw)."""
    speed = getattr(termios, f"B{settings.baud_rate}")
    control = termios.CS8 | termios.CREAD | termios.CLOCAL
    if settings.parity != "none":
        control |= termios.PARENB
    if settings.parity == "odd":
        control |= termios.PARODD
    if settings.stop_bits == 2:
        control |= termios.CSTOPB
    attributes = termios.tcgetattr(descriptor)
    attributes[_IFLAG] = termios.IGNPAR if settings.parity == "none" else termios.INPCK
    attributes[_OFLAG] = attributes[_LFLAG] = 0
    attributes[_CFLAG] = control
    attributes[_ISPEED] = attributes[_OSPEED] = speed
    attributes[_CC][termios.VMIN], attributes[_CC][termios.VTIME] = 0, 0
    termios.tcsetattr(descriptor, termios.TCSANOW, attributes)


class SerialTransport:
    """Reads as bytes come; requests are eight bytes, which a port always takes at once."""

    def __init__(self, descriptor: int, receiver: Receiver) -> None:
        self._descriptor = descriptor
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(descriptor, self._read)

    def write(self, data: bytes) -> None:
        """Send; what goes wrong is told as a lost connection."""
        try:
            sent = os.write(self._descriptor, data)
        except OSError as error:
            self._lose(error)
        else:
            if sent < len(data):
                self._lose(OSError(f"the port took {sent} of {len(data)} bytes"))

    def abort(self) -> None:
        """Close the port, now."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            descriptor, self._descriptor = self._descriptor, -1
            with contextlib.suppress(OSError, termios.error):
                termios.tcflush(descriptor, termios.TCIOFLUSH)
            os.close(descriptor)

    def get_extra_info(self, name: str) -> None:
        """There is no socket."""

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error)
            return
        if data:
            self._receiver.data_received(data)
        else:
            self._lose(OSError("the port is gone"))

    def _lose(self, error: OSError) -> None:
        tell: Callable[[Exception], None] = self._receiver.connection_lost
        self._loop.call_soon(tell, error)
        self.abort()
