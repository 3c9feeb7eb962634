"""An MQTT broker for as long as a block lasts: mosquitto where it is installed, else amqtt.

mosquitto runs as a process of its own with persistence on, and can be stopped, killed and started
again on the same port with what it had kept. amqtt lives in this event loop; it keeps nothing.
"""

from __future__ import annotations

import asyncio
import getpass
import logging
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

__all__ = ["Broker", "BrokerError", "MosquittoBroker", "open_broker"]

log = logging.getLogger(__name__)

# A port found free may be taken by another before mosquitto has it; so often is unlucky indeed.
_PORT_ATTEMPTS = 5
_START_S = 10.0
_STOP_S = 5.0


class BrokerError(RuntimeError):
    """No broker could be started; the message says why."""


class Broker(Protocol):
    """A broker that takes connections."""

    kind: str
    host: str
    port: int


class MosquittoBroker:
    """mosquitto on loopback, or on `host`."""

    kind = "mosquitto"

    def __init__(self, program: Path, host: str, port: int, folder: Path) -> None:
        self.host = host
        self.port = port
        self.log_file = folder / "mosquitto.log"
        self._program = program
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, while it runs."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start, or start again; raises BrokerError."""
        fixed = self.port
        for _ in range(1 if fixed else _PORT_ATTEMPTS):
            try:
                self.port = _free_port(self.host, fixed)
            except OSError as error:
                raise BrokerError(_complaint(self, str(error))) from error
            if await self._start_once():
                return
        raise BrokerError(_complaint(self, f"see {self.log_file}"))

    async def stop(self) -> None:
        """As an operator stops it: what it keeps is written first."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """As a power cut stops it."""
        await self._end(signal.SIGKILL)

    async def _start_once(self) -> bool:
        config = self._folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} {self.host}\n"
            "allow_anonymous true\n"
            "persistence true\n"
            f"persistence_location {self._folder}/\n"
            "max_queued_messages 0\n"  # no limit: a test's broker never drops what waits
            f"user {getpass.getuser()}\n"
            f"log_dest file {self.log_file}\n"
        )
        self._process = await asyncio.create_subprocess_exec(
            self._program,
            "-c",
            config,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is ours; we stop it when all is sent
        )
        give_up = asyncio.get_running_loop().time() + _START_S
        while self._process.returncode is None:
            if await _answers(self.host, self.port):
                return True
            if asyncio.get_running_loop().time() > give_up:
                await self.kill()
                break
            await asyncio.sleep(0.02)
        self._process = None
        return False

    async def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.send_signal(number)
        try:
            await asyncio.wait_for(process.wait(), _STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()


class _AmqttBroker:
    kind = "amqtt"

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._broker: Any = None

    async def start(self) -> None:
        from amqtt.broker import Broker as Amqtt  # noqa: PLC0415 - seldom needed, and slow to load

        # It logs every packet at INFO, and its state machine every change.
        for name in ("amqtt", "transitions"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self._broker = Amqtt(
            {
                "listeners": {"default": {"type": "tcp", "bind": f"{self.host}:{self.port}"}},
                "plugins": {
                    "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}
                },
            }
        )
        try:
            await self._broker.start()
        except Exception as error:
            raise BrokerError(_complaint(self, str(error))) from error
        server = self._broker._servers["default"].instance  # noqa: SLF001 - the only way to the port
        self.port = server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._broker is not None:
            await self._broker.shutdown()
            self._broker = None


@asynccontextmanager
async def open_broker(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    kind: Literal["auto", "mosquitto", "amqtt"] = "auto",
    folder: Path | None = None,
) -> AsyncIterator[Broker]:
    """A broker that takes connections on `host` and `port` (0: a free one); raises BrokerError.

    `folder` is where mosquitto keeps its state; by default a temporary one.
    """
    program = _mosquitto() if kind != "amqtt" else None
    if kind == "mosquitto" and program is None:
        raise BrokerError("mosquitto is not installed")
    with tempfile.TemporaryDirectory(prefix="mosquitto-") as temporary:
        broker = (
            MosquittoBroker(program, host, port, folder or Path(temporary))
            if program
            else _AmqttBroker(host, port)
        )
        await broker.start()
        log.info("broker.started kind=%s host=%s port=%d", broker.kind, broker.host, broker.port)
        try:
            yield broker
        finally:
            await broker.stop()


def _mosquitto() -> Path | None:
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    return Path(found) if found else None


def _complaint(broker: Broker, reason: str) -> str:
    return f"{broker.kind} did not start on {broker.host}:{broker.port}: {reason}"


def _free_port(host: str, wanted: int) -> int:
    """The wanted port, or any where that is 0; raises OSError when it is taken.

    Asked beforehand: whoever has it would answer in mosquitto's place.
    """
    with socket.create_server((host, wanted)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def _answers(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True
