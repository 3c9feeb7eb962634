"""Jobs of a model: one run of it, and what it has to write down. For any thread to do."""

from __future__ import annotations

import time

from gateway.errors import ModelFailed
from gateway.inference.aside import ChildRunner
from gateway.inference.bundle import Bundle
from gateway.inference.drift import Drift
from gateway.inference.runtime import Float32Array

__all__ = ["Run", "Save"]

# A run that takes longer than this is not done on the event loop.
RUN_ON_LOOP_MS_MAX = 2.0


class Run:
    """One run of a model over the windows that were gathered for it."""

    def __init__(self, bundle: Bundle, ms_max: float) -> None:
        """A run that works for more than `ms_max` counts as failed, though it came to an end."""
        self.runner = bundle.runner
        self.contributions: Float32Array | None = None
        self.scores: Float32Array | None = None  # None: it failed
        self.error = ""
        self.ms = 0.0
        self._ms_max = ms_max

    @property
    def is_slow(self) -> bool:
        """Whether it would hold up an event loop, as far as the last time tells."""
        return self.runner.is_aside or self.ms > RUN_ON_LOOP_MS_MAX

    def do(self) -> None:
        began_s, worked_s = time.perf_counter(), time.thread_time()
        try:
            self.scores, self.contributions = self.runner.run()
            self.error = ""
        except ModelFailed as error:
            self.scores, self.contributions = None, None
            self.error = str(error)
        self.ms = (time.perf_counter() - began_s) * 1000
        # On a busy board any model has to wait for a core; that is no fault of it.
        here_ms = (time.thread_time() - worked_s) * 1000
        worked_ms = self.runner.ms if isinstance(self.runner, ChildRunner) else here_ms
        if worked_ms > self._ms_max and not self.error:
            self.scores, self.contributions = None, None
            self.error = f"it took {worked_ms:.0f} ms; {self._ms_max:.0f} are allowed"


class Save:
    """Have what is known of drift written down: a job that waits for the disk."""

    is_slow = True

    def __init__(self, drift: Drift) -> None:
        self._drift = drift

    def do(self) -> None:
        self._drift.save()
