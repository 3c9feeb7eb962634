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
from typing import Any

import numpy as np

from gateway.errors import ModelFailed
from gateway.inference.child import LENGTHS, write_message
from gateway.inference.manifest import Manifest
from gateway.inference.runtime import Float32Array

__all__ = ["ChildRunner", "Limits"]

# Python, numpy and ONNX Runtime from a cold card on a small board.
START_S_MAX = 30.0
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
        self.ms = 0.0  # of the newest run, as the child measured it
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
                {}, memoryview(self.windows.tobytes()), time.monotonic() + self._limits.run_s
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
            self.answer, _ = self.ask(order, memoryview(model), time.monotonic() + START_S_MAX)
        except ModelFailed:
            self.end()
            raise
        if "error" in self.answer:
            self.end()
            raise ModelFailed(str(self.answer["error"])[:200])

    def ask(
        self, said: dict[str, Any], content: memoryview, deadline_s: float
    ) -> tuple[dict[str, Any], bytes]:
        """Send an order and wait for its answer; after a ModelFailed the child is of no use."""
        try:
            write_message(_Deadlined(self._orders.fileno(), deadline_s), said, content)
            lengths = self._read(LENGTHS.size, deadline_s)
            head, rest = LENGTHS.unpack(lengths)
            if head + rest > ANSWER_BYTES_MAX:
                raise ModelFailed("the child's answer is too long")
            return json.loads(self._read(head, deadline_s)), self._read(rest, deadline_s)
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

    def _read(self, length: int, deadline_s: float) -> bytes:
        parts = bytearray()
        while len(parts) < length:
            _wait(self._answers.fileno(), deadline_s, select.POLLIN)
            part = os.read(self._answers.fileno(), min(length - len(parts), 2**20))
            if not part:
                self._process.wait(1)
                raise OSError("it said nothing more")
            parts += part
        return bytes(parts)


class _Deadlined:
    """A pipe to write to, with a deadline."""

    def __init__(self, fd: int, deadline_s: float) -> None:
        self._fd = fd
        self._deadline_s = deadline_s

    def write(self, content: bytes | memoryview) -> None:
        rest = memoryview(content)
        while rest:
            _wait(self._fd, self._deadline_s, select.POLLOUT)
            rest = rest[os.write(self._fd, rest[: 2**16]) :]

    def flush(self) -> None:
        """Nothing is held back."""


def _wait(fd: int, deadline_s: float, what: int) -> None:
    """Until it can be read or written; TimeoutError at the deadline."""
    poll = select.poll()
    poll.register(fd, what)
    left_s = deadline_s - time.monotonic()
    if left_s <= 0 or not poll.poll(left_s * 1000):
        raise TimeoutError
