"""Real servers for the tests, each on loopback, a free port and a folder of its own.

A server can be stopped, killed and started again on the same port and data. One that is not
installed is a failure: `tests/install-packages` installs them.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from tests.rig import Process, free_port, wait_until

__all__ = ["Influx1", "Mosquitto", "Nats", "Victoria", "running"]


def program(name: str) -> str:
    """The path of a server's program; AssertionError where it is missing."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    assert found, f"{name} is not installed; run tests/install-packages"
    return found


class _Server:
    """A server process that can die and come back."""

    ready_path = "/"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self._process: Process | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def is_ready(self) -> bool:
        with urllib.request.urlopen(f"{self.url}{self.ready_path}", timeout=2) as answer:
            return bool(answer.status < 300)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._process = Process(type(self).__name__.lower(), self.command(), self.folder)
        wait_until(self.is_ready, 30.0)

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()


class Victoria(_Server):
    """VictoriaMetrics, single node; takes InfluxDB's /write and /api/v2/write, and lines by TCP and
    UDP on `lines_port`.
    """

    ready_path = "/health"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.lines_port = free_port()

    def command(self) -> list[str]:
        return [
            program("victoria-metrics"),
            f"-httpListenAddr=127.0.0.1:{self.port}",
            f"-influxListenAddr=127.0.0.1:{self.lines_port}",
            f"-storageDataPath={self.folder / 'data'}",
            "-retentionPeriod=100y",
            "-search.disableCache",
            "-memory.allowedBytes=256MB",
        ]

    def export(self, selector: str) -> list[dict[str, Any]]:
        """Every raw sample of some series: metric, values, timestamps (ms)."""
        with urllib.request.urlopen(f"{self.url}/internal/force_flush", timeout=30):
            pass
        query = urllib.parse.urlencode({"match[]": selector})
        with urllib.request.urlopen(f"{self.url}/api/v1/export?{query}", timeout=60) as answer:
            return [json.loads(line) for line in answer]


class Influx1(_Server):
    """InfluxDB 1.x."""

    ready_path = "/ping"

    def command(self) -> list[str]:
        config = self.folder / "influxdb.conf"
        data = self.folder / "data"
        config.write_text(
            "reporting-disabled = true\n"
            f'bind-address = "127.0.0.1:{free_port()}"\n'
            f'[meta]\n dir = "{data}/meta"\n'
            f'[data]\n dir = "{data}/data"\n wal-dir = "{data}/wal"\n query-log-enabled = false\n'
            f'[http]\n bind-address = "127.0.0.1:{self.port}"\n log-enabled = false\n'
            "[monitor]\n store-enabled = false\n"
        )
        return [program("influxd"), "-config", str(config)]

    def query(self, text: str, database: str = "") -> list[dict[str, Any]]:
        """The series that an InfluxQL query gives."""
        form = urllib.parse.urlencode({"q": text, "db": database, "epoch": "ns"}).encode()
        with urllib.request.urlopen(f"{self.url}/query", form, timeout=30) as answer:
            result = json.load(answer)["results"][0]
        assert "error" not in result, result
        series: list[dict[str, Any]] = result.get("series", [])
        return series


class Mosquitto(_Server):
    """The MQTT broker, with persistence, so that it keeps sessions over a kill."""

    def __init__(self, folder: Path, *, lines: str = "allow_anonymous true\n") -> None:
        super().__init__(folder)
        self._lines = lines

    def command(self) -> list[str]:
        config = self.folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\n"
            f"{self._lines}"
            "max_queued_messages 0\n"
            "persistence true\n"
            f"persistence_location {self.folder}/\n"
            "autosave_on_changes true\n"
            "autosave_interval 1\n"
            f"user {self.folder.owner()}\n"
        )
        return [program("mosquitto"), "-c", str(config)]

    def is_ready(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), 1):
            return True


class Nats(_Server):
    """The NATS server with JetStream, its streams on disk."""

    def __init__(self, folder: Path, *, lines: str = "") -> None:
        super().__init__(folder)
        self._lines = lines

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        config = self.folder / "nats.conf"
        config.write_text(
            f'host: "127.0.0.1"\nport: {self.port}\n'
            f'jetstream {{ store_dir: "{self.folder}/js" }}\n'
            f"{self._lines}"
        )
        return [program("nats-server"), "-c", str(config)]

    def is_ready(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), 1) as link:
            return link.recv(4) == b"INFO"


ServerT = TypeVar("ServerT", bound=_Server)


@contextlib.contextmanager
def running(server: ServerT) -> Iterator[ServerT]:
    """Start a server; stop it in the end."""
    server.start()
    try:
        yield server
    finally:
        server.stop()
