"""Workers that are killed, traced or starved, and what is found in their spool afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from gateway.clock import ManualClock
from gateway.frame import Lane
from gateway.spool.disk import Disk
from gateway.spool.store import Store
from tests.faults.worker import make_settings, make_table, parse, run
from tests.rig import ROOT

__all__ = ["check", "fork_worker", "last_durable", "numbers_in", "start_worker"]

BYTES_MAX = 64 * 2**20


def start_worker(
    directory: Path, first: int, *arguments: str, under: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    """A worker as a process of its own; `under` is what runs it, such as strace."""
    command = [*under, sys.executable, "-m", "tests.faults.worker", str(directory), str(first)]
    return subprocess.Popen(
        [*command, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def fork_worker(directory: Path, first: int, after_s: float) -> tuple[list[str], float]:
    """Fork a worker, kill it so long after it is ready; what it said until then.

    Everything is imported already, so a life costs milliseconds.
    """
    said, says = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(says, 1)
        sys.stdout = os.fdopen(1, "w")
        try:
            asyncio.run(run(parse([str(directory), str(first), "--bytes-max", str(BYTES_MAX)])))
        finally:
            os._exit(1)
    os.close(says)
    lines = os.fdopen(said)
    began_s = time.monotonic()
    first_line = lines.readline()
    ready_s = time.monotonic() - began_s
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    rest = lines.read()
    lines.close()
    os.waitpid(child, 0)
    whole = rest[: rest.rfind("\n") + 1]
    return [first_line.strip(), *whole.splitlines()], ready_s


def last_durable(lines: list[str], before: int) -> int:
    """The last number that was said to be durable."""
    numbers = [int(line.split()[1]) for line in lines if line.startswith("durable ")]
    return max(numbers, default=before)


def numbers_in(directory: Path, bytes_max: int = BYTES_MAX) -> tuple[list[int], Store]:
    """Every number that a fresh start finds, in order."""
    settings = make_settings(bytes_max)
    store = Store(directory, settings, make_table(), ManualClock(), Disk())
    store.open()
    try:
        newest_first = [
            rows.columns.frame.values.astype(int).tolist()
            for rows in store.rows_backwards(Lane.RAW)
        ]
    finally:
        store.close()
    return [number for numbers in reversed(newest_first) for number in numbers], store


def check(directory: Path, durable: int, bytes_max: int = BYTES_MAX) -> int:
    """All numbers up to `durable` are there, once, in order; the last one that is."""
    numbers, store = numbers_in(directory, bytes_max)
    first = numbers[0] if numbers else 0
    assert first == store.samples_begin(Lane.RAW)
    assert numbers == list(range(first, first + len(numbers))), "not once, or not in order"
    last = first + len(numbers) - 1
    assert last >= durable, f"{durable - last} acknowledged samples are missing"
    assert store.stats.records_damaged_total == 0
    assert store.stats.samples_lost_total == 0
    return last
