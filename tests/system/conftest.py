"""A small plant and its gateway, each a process, for the tests in this folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import Process, sluicegate


class Plant:
    """The pump line as a process, and the configuration it wrote for a gateway."""

    def __init__(self, process: Process, folder: Path) -> None:
        self.process = process
        self.ready = json.loads(process.wait_for('"ready"'))
        self.config = folder / "gateway" / "sluicegate.toml"
        self.control: str = self.ready["control"]
        # A free port, not the page's usual one.
        text = self.config.read_text().replace("127.0.0.1:8080", "127.0.0.1:0")
        self.config.write_text(text)


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    arguments = ["simulate", "line", "--servers", "2", "--write-config", str(tmp_path / "gateway")]
    with sluicegate("line", arguments, tmp_path) as process:
        yield Plant(process, tmp_path)


def page_of(gateway: Process) -> str:
    """The address of a gateway's page, from its log."""
    line = gateway.wait_for("gateway.page")
    return line.split("url=")[1].split()[0].rstrip("/")
