"""Serial lines: a port opened raw and for ourselves alone, as a transport for `client`.

The standard library sets a port up as well as any package does (docs/decisions/0008-serial.md).
Where the port goes away - an adapter is unplugged - reading fails and the connection is closed. An
adapter that comes back may have another name, and another one its old name: the kernel counts
ttyUSB0, ttyUSB1 as they are plugged in. So the lasting name below /dev/serial/by-id is remembered
from the first opening on, and the next attempt, a few seconds later at most, opens that.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from gateway.errors import SourceUnavailable
from gateway.sources.modbus.config import ModbusRtuSettings
from gateway.sources.modbus.peer import Peer

__all__ = ["REOPEN_S_MAX", "SerialTransport", "character_s", "open_port"]

# An adapter that is plugged in again is read within five seconds: looking for it costs nothing.
REOPEN_S_MAX = 3.0
BY_ID = Path("/dev/serial/by-id")
_PSEUDO_TERMINALS = range(136, 144)  # major numbers (Linux, devices.txt)
_LINKS_MAX = 256  # adapters on one machine
_READ_BYTES = 4096
_IFLAG, _OFLAG, _CFLAG, _LFLAG, _ISPEED, _OSPEED, _CC = range(7)


class Receiver(Protocol):
    """What the transport tells."""

    def data_received(self, data: bytes) -> None: ...

    def connection_lost(self, exc: Exception | None) -> None: ...


def character_s(settings: ModbusRtuSettings) -> float:
    """How long one character takes: start bit, data, parity and stop bits."""
    bits = 1 + settings.data_bits + (settings.parity != "none") + settings.stop_bits
    return bits / settings.baud_rate


def open_port(settings: ModbusRtuSettings, peer: Peer) -> int:
    """A descriptor of the port, set up and without old bytes. Raises SourceUnavailable.

    `peer` remembers the port's lasting name.
    """
    port = peer.port_link or settings.device
    try:
        descriptor = os.open(port, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as error:
        moved = f", known as {port}" if port != settings.device else ""
        raise SourceUnavailable(
            f"cannot open {settings.device}{moved}: {error.strerror}",
            hint="check that the adapter is plugged in, and that the service may use it"
            " (group dialout); restart the gateway after an adapter was replaced",
            retry_s_max=REOPEN_S_MAX,
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
            retry_s_max=REOPEN_S_MAX,
        ) from error
    except (OSError, termios.error) as error:
        os.close(descriptor)
        raise SourceUnavailable(
            f"cannot set {settings.device} up as a serial port: {error}",
            hint="check that it is one, and that it can do this baud rate, parity and stop bits",
            retry_s_max=REOPEN_S_MAX,
        ) from error
    peer.port_link = peer.port_link or _lasting_name(settings.device)
    return descriptor


def _lasting_name(device: str) -> str:
    """The name below /dev/serial/by-id of a port that was given by another; "" where it has none.

    One that was given by a lasting name, or by a link of the operator's, keeps it.
    """
    if Path(device).is_symlink():
        return ""
    with contextlib.suppress(OSError):
        for link in sorted(BY_ID.iterdir())[:_LINKS_MAX]:
            if link.exists() and link.samefile(device):
                return str(link)
    return ""


def _set_up(descriptor: int, settings: ModbusRtuSettings) -> None:
    """Raw, nobody else's echo or signals (termios(3), cfmakeraw)."""
    speed = getattr(termios, f"B{settings.baud_rate}")
    control = termios.CREAD | termios.CLOCAL
    control |= termios.CS8 if settings.data_bits == 8 else termios.CS7
    if settings.parity != "none":
        control |= termios.PARENB
    if settings.parity == "odd":
        control |= termios.PARODD
    if settings.stop_bits == 2:
        control |= termios.CSTOPB
    is_wire = os.major(os.fstat(descriptor).st_rdev) not in _PSEUDO_TERMINALS
    if not is_wire:
        # It has eight bits and no parity, and asked for others a second time it fails.
        control = control & ~(termios.PARENB | termios.PARODD | termios.CSIZE) | termios.CS8
    attributes = termios.tcgetattr(descriptor)
    attributes[_IFLAG] = termios.IGNPAR if settings.parity == "none" else termios.INPCK
    attributes[_OFLAG] = attributes[_LFLAG] = 0
    attributes[_CFLAG] = control
    attributes[_ISPEED] = attributes[_OSPEED] = speed
    attributes[_CC][termios.VMIN], attributes[_CC][termios.VTIME] = 0, 0
    termios.tcsetattr(descriptor, termios.TCSANOW, attributes)
    # A port that can do some of it does that, and calls it success (termios(3)).
    taken = termios.tcgetattr(descriptor)
    lacks = [
        name
        for name, bits in (
            ("parity", termios.PARENB | termios.PARODD),
            ("stop_bits", termios.CSTOPB),
            ("data_bits", termios.CSIZE),
        )
        if (taken[_CFLAG] ^ control) & bits
    ]
    if taken[_OSPEED] != speed:
        lacks.append("baud_rate")
    if lacks and is_wire:
        raise OSError(errno.EINVAL, f"it does not take its {', '.join(lacks)}")


class SerialTransport:
    """Reads as bytes come; a request is 513 characters at most, which a port takes at once."""

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
