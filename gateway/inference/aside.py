"""Aside: a model in a process of its own, with limits on its memory and on the time of a run.

For models that are heavy, or that nobody we trust has signed and that need more than the plain
operators; and to try any new bundle before it is let into the gateway. A child that overruns is
killed, and a new one is started with the next run; who keeps count of the failures is the watcher.
A child that has grown is replaced between two runs, the new one being ready before the old one
goes, so that no run is missed.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gateway.errors import ModelFailed
from gateway.inference.child import LENGTHS, write_message
from gateway.inference.manifest import Manifest
from gateway.inference.runtime import Float32Array

__all__ = ["ChildRunner", "Limits"]

# Python, numpy and ONNX Runtime from a cold card on a small board.
START_S_MAX = 30.0
# A child that has to wait for a core, or for the disk, is no worse for it; but nobody waits longer
# than so many times what it may work.
WAIT_TIMES_MAX = 10
_TICKS_S = os.sysconf("SC_CLK_TCK")

# ONNX Runtime keeps some memory with each shape it has seen; this much more than at the first run
# is not that.
GROWTH_BYTES_MAX = 64 * 2**20
ANSWER_BYTES_MAX = 256 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a model may use."""

    memory_bytes: int = 256 * 2**20  # beyond what Python and ONNX Runtime take themselves
    run_s: float = 1.0


class ChildRunner:
    """What `runtime.Runner` is, in another process. Raises ModelFailed like that."""

    is_aside = True

    def __init__(self, model: bytes, manifest: Manifest, limits: Limits) -> None:
        self._model = model
        self._manifest = manifest
        self._limits = limits
        self._child: _Child | None = None
        self._rss_first = 0
        self.rss_bytes = 0  # after the newest run
        self.ms = 0.0  # that the newest run worked, as the child measured it
        self.starts_total = 0
        self.windows: Float32Array = np.zeros((0, 0, 0), np.float32)
        self._child = self._start()

    def interface(self, window: int, features: int) -> list[tuple[str, str, str]]:
        """What differs from the promised inputs and outputs: (key, found, mend)."""
        assert (window, features) == (self._manifest.window, len(self._manifest.features))
        assert self._child is not None
        return [tuple(differs) for differs in self._child.answer["differing"]]

    def reserve(self, rows: int, window: int, features: int) -> None:
        """Make room for at least `rows` windows; what `windows` held is gone."""
        self.windows = np.zeros((rows, window, features), np.float32)

    def run(self) -> tuple[Float32Array, Float32Array | None]:
        """Scores (rows,) and contributions (rows, features) of `windows`."""
        if self._child is None:
            self._child = self._start()
        elif self._rss_first and self.rss_bytes > self._rss_first + GROWTH_BYTES_MAX:
            grown, self._child = self._child, self._start()
            grown.end()
        rows, _, features = self.windows.shape
        try:
            said, content = self._child.ask(
                {}, memoryview(self.windows.tobytes()), self._limits.run_s
            )
        except ModelFailed:
            self.close()
            raise
        if "error" in said:
            raise ModelFailed(str(said["error"])[:200])
        self.ms, self.rss_bytes = float(said["ms"]), int(said["rss_bytes"])
        self._rss_first = self._rss_first or self.rss_bytes
        found = np.frombuffer(content, np.float32)
        if len(found) != rows * (1 + features * bool(said["has_shares"])):
            self.close()
            raise ModelFailed("the child's answer has another length than it should")
        shares = found[rows:].reshape(rows, features) if said["has_shares"] else None
        return found[:rows], shares

    def close(self) -> None:
        """End the child; a later run would start another."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def _start(self) -> _Child:
        self.starts_total += 1
        self._rss_first = 0
        manifest = self._manifest
        order = {
            "input": manifest.input,
            "score": manifest.output.score,
            "contributions": manifest.output.contributions,
            "column": manifest.output.column,
            "layout": manifest.layout.value,
            "strict": manifest.format == 1,
            "window": manifest.window,
            "features": len(manifest.features),
            "memory_bytes": self._limits.memory_bytes,
        }
        return _Child(order, self._model)


class _Child:
    """One process, from its start to its end."""

    def __init__(self, order: dict[str, Any], model: bytes) -> None:
        # What the parent can import the child can; of its secrets it is told nothing.
        environment = {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gateway.inference.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise ModelFailed(f"no process could be started for it: {error.strerror}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders, self._answers = self._process.stdin, self._process.stdout
        os.set_blocking(self._answers.fileno(), False)
        os.set_blocking(self._orders.fileno(), False)
        try:
            self.answer, _ = self.ask(order, memoryview(model), START_S_MAX)
        except ModelFailed:
            self.end()
            raise
        if "error" in self.answer:
            self.end()
            raise ModelFailed(str(self.answer["error"])[:200])

    def ask(
        self, said: dict[str, Any], content: memoryview, work_s: float
    ) -> tuple[dict[str, Any], bytes]:
        """Send an order and wait for its answer; after a ModelFailed the child is of no use.

        It may work for `work_s`, and may take longer where it has to wait.
        """
        allowance = _Allowance(self._process.pid, work_s)
        try:
            write_message(_Allowed(self._orders.fileno(), allowance), said, content)
            lengths = self._read(LENGTHS.size, allowance)
            head, rest = LENGTHS.unpack(lengths)
            if head + rest > ANSWER_BYTES_MAX:
                raise ModelFailed("the child's answer is too long")
            return json.loads(self._read(head, allowance)), self._read(rest, allowance)
        except TimeoutError as error:
            raise ModelFailed("it took longer than it may, and was killed") from error
        except (OSError, ValueError) as error:
            code = self._process.poll()
            why = f"by signal {-code}" if code is not None and code < 0 else f"{error}"
            raise ModelFailed(f"its process ended: {why}"[:200]) from error

    def end(self) -> None:
        """Kill it, if it lives, and take its memory back."""
        self._process.kill()
        for stream in (self._orders, self._answers):
            with suppress(OSError):
                stream.close()
        self._process.wait()

    def _read(self, length: int, allowance: _Allowance) -> bytes:
        parts = bytearray()
        while len(parts) < length:
            allowance.wait(self._answers.fileno(), select.POLLIN)
            part = os.read(self._answers.fileno(), min(length - len(parts), 2**20))
            if not part:
                self._process.wait(1)
                raise OSError("it said nothing more")
            parts += part
        return bytes(parts)


class _Allowance:
    """For how long a process may work, and be waited for."""

    def __init__(self, pid: int, work_s: float) -> None:
        self._pid = pid
        self._work_s = work_s
        self._worked_before_s = _worked_s(pid)
        now_s = time.monotonic()
        self._look_s, self._end_s = now_s + work_s, now_s + WAIT_TIMES_MAX * work_s

    def wait(self, fd: int, what: int) -> None:
        """Until it can be read or written; TimeoutError when the process has had its time."""
        poll = select.poll()
        poll.register(fd, what)
        while not poll.poll(max(0.0, self._look_s - time.monotonic()) * 1000):
            now_s = time.monotonic()
            left_s = self._work_s - (_worked_s(self._pid) - self._worked_before_s)
            if left_s <= 0 or now_s >= self._end_s:
                raise TimeoutError
            self._look_s = min(now_s + left_s, self._end_s)


def _worked_s(pid: int) -> float:
    """CPU time of a process, to a hundredth of a second (proc(5): utime and stime)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended; whoever waits for it hears of that
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_S


class _Allowed:
    """A pipe to write to, as long as that is allowed."""

    def __init__(self, fd: int, allowance: _Allowance) -> None:
        self._fd = fd
        self._allowance = allowance

    def write(self, content: bytes | memoryview) -> None:
        rest = memoryview(content)
        while rest:
            self._allowance.wait(self._fd, select.POLLOUT)
            rest = rest[os.write(self._fd, rest[: 2**16]) :]

    def flush(self) -> None:
        """Nothing is held back."""
