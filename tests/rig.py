"""A whole plant on one machine: simulators, broker, database, gateway - each a process of its own.

The tests in tests/system and the runs in bench/ stand on it. Everything is on loopback, on ports
that were free, in one temporary folder, and ends with the `with` block.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Process", "free_port", "get_json", "mounted", "pause", "sluicegate", "wait_until"]

ROOT = Path(__file__).parents[1]
SLUICEGATE = [sys.executable, "-m", "gateway.cli.main"]


def free_port() -> int:
    """A port nobody listens on; whoever uses it should start at once."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_until(what: Callable[[], Any], timeout_s: float = 30.0, period_s: float = 0.05) -> Any:
    """The first true answer of `what`; AssertionError when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(OSError, ValueError):
            answer = what()
            if answer:
                return answer
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(period_s)


def get_json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


def pause(pid: int) -> None:
    """Stop a process until SIGCONT, all of its threads: what they have begun they may yet do."""
    os.kill(pid, signal.SIGSTOP)

    def is_paused() -> bool:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        stats = [(thread / "stat").read_text().rpartition(")")[2].split() for thread in threads]
        return all(stat[0] == "T" for stat in stats)

    wait_until(is_paused)


class Process:
    """A child process whose output goes to a file."""

    def __init__(self, name: str, command: list[str], folder: Path, **environment: str) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.command = command
        self._environment = os.environ | {"PYTHONUNBUFFERED": "1"} | environment
        self.process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        self._said_before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, stdout=log, stderr=log, env=self._environment
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, timeout_s: float = 30.0) -> str:
        """The first line of output with this text."""

        def found() -> str:
            assert self.process.poll() is None, f"{self.name} ended:\n{self.output()[-4000:]}"
            said = self.output()[self._said_before :]  # since the last start
            return next((line for line in said.splitlines() if text in line), "")

        line: str = wait_until(found, timeout_s)
        return line

    def kill(self) -> None:
        """As a power cut would, as far as a process can tell."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def stop(self, timeout_s: float = 15.0) -> float:
        """SIGTERM; how many seconds it took to end."""
        began = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        return time.monotonic() - began


@contextlib.contextmanager
def sluicegate(
    name: str, arguments: list[str], folder: Path, **environment: str
) -> Iterator[Process]:
    """`sluicegate ...` as a process."""
    process = Process(name, [*SLUICEGATE, *arguments], folder, **environment)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.kill()


@contextlib.contextmanager
def mounted(what: Path | str, folder: Path, *options: str) -> Iterator[Path]:
    """A file system of its own in a folder; a test is skipped where none can be mounted."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", *options, what, folder]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"file systems cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
