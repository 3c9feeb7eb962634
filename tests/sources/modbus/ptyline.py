"""A serial line without wires: a pty pair with a device on its far end that a test scripts."""

from __future__ import annotations

import asyncio
import os
import pty
import tty
from collections.abc import Callable
from pathlib import Path

from gateway.sources.modbus.config import ModbusRtuSettings
from gateway.sources.modbus.rtu import crc16
from gateway.sources.modbus.wire import Request

__all__ = ["Line", "block_of", "framed", "holding", "settings_of", "truth"]


def framed(body: bytes) -> bytes:
    return body + crc16(body)


def truth(unit_id: int, address: int) -> int:
    return (unit_id * 1000 + address * 7) % 65536


class Line:
    """A pty pair: the gateway opens `port`, the devices are on the other end."""

    def __init__(self, folder: Path) -> None:
        self.port = folder / "ttyUSB0"
        self.asked: list[bytes] = []
        self.answer: Callable[[int, int, int], bytes] = self.right
        self.plug()

    def plug(self) -> None:
        self._far, near = pty.openpty()
        tty.setraw(self._far)
        self.port.unlink(missing_ok=True)
        self.port.symlink_to(os.ttyname(near))
        self._near = near
        asyncio.get_running_loop().add_reader(self._far, self._read)
        self._heard = b""

    def unplug(self) -> None:
        asyncio.get_running_loop().remove_reader(self._far)
        self.port.unlink(missing_ok=True)
        os.close(self._far)
        os.close(self._near)

    def wire(self, far: Callable[[bytes], object]) -> None:
        """Have somebody else answer."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._far)
        loop.add_reader(self._far, lambda: far(os.read(self._far, 4096)))

    def send(self, data: bytes) -> None:
        os.write(self._far, data)

    @staticmethod
    def right(unit_id: int, address: int, quantity: int) -> bytes:
        values = (
            truth(unit_id, at).to_bytes(2, "big") for at in range(address, address + quantity)
        )
        return framed(bytes([unit_id, 3, 2 * quantity]) + b"".join(values))

    def _read(self) -> None:
        self._heard += os.read(self._far, 4096)
        while len(self._heard) >= 8:
            frame, self._heard = self._heard[:8], self._heard[8:]
            assert crc16(frame[:6]) == frame[6:]
            self.asked.append(frame)
            answer = self.answer(
                frame[0], int.from_bytes(frame[2:4], "big"), int.from_bytes(frame[4:6], "big")
            )
            if answer:
                self.send(answer)


def settings_of(line: Line, **more: object) -> ModbusRtuSettings:
    facts = {"type": "modbus-rtu", "name": "line", "device": str(line.port), "map": "x.csv"}
    return ModbusRtuSettings.model_validate(facts | {"baud_rate": 115200, "parity": "none"} | more)


def holding(unit_id: int, address: int, quantity: int) -> Request:
    return Request(unit_id, 3, address, quantity)


def block_of(request: Request) -> bytes:
    return Line.right(request.unit_id, request.address, request.quantity)[3:-2]
