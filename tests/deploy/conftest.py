"""A real InfluxDB 1.x, for the dashboard's queries."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Influx:
    """A server with one database, spoken to with nothing but its HTTP API."""

    url: str
    database: str = "sluicegate"

    def write(self, lines: list[str]) -> None:
        body = "\n".join(lines).encode()
        request = urllib.request.Request(f"{self.url}/write?db={self.database}", body)
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 204

    def query(self, text: str) -> list[dict[str, Any]]:
        """The series of the one statement; AssertionError with the server's words."""
        arguments = urllib.parse.urlencode({"db": self.database, "q": text})
        try:
            with urllib.request.urlopen(f"{self.url}/query?{arguments}", timeout=10) as answer:
                (result,) = json.load(answer)["results"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{text}: {error.read().decode()}") from error
        assert "error" not in result, f"{text}: {result['error']}"
        series: list[dict[str, Any]] = result.get("series", [])
        return series


@pytest.fixture(scope="module")
def influx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influx]:
    folder = tmp_path_factory.mktemp("influxdb")
    port = _free_port()
    environment = os.environ | {
        "INFLUXDB_REPORTING_DISABLED": "true",
        "INFLUXDB_BIND_ADDRESS": "127.0.0.1:0",
        "INFLUXDB_HTTP_BIND_ADDRESS": f"127.0.0.1:{port}",
        "INFLUXDB_META_DIR": str(folder / "meta"),
        "INFLUXDB_DATA_DIR": str(folder / "data"),
        "INFLUXDB_DATA_WAL_DIR": str(folder / "wal"),
        "INFLUXDB_MONITOR_STORE_ENABLED": "false",
    }
    config = folder / "empty.toml"
    config.write_text("")
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            ["influxd", "-config", str(config)], env=environment, stdout=log, stderr=log
        )
    try:
        found = Influx(f"http://127.0.0.1:{port}")
        _await_ready(found, server, folder / "log")
        found.query(f"CREATE DATABASE {found.database}")
        yield found
    finally:
        server.terminate()
        server.wait(timeout=20)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_ready(influx: Influx, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{influx.url}/ping", timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(log.read_text())
