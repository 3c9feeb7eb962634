"""Trial: what a new bundle has to stand before it runs in the gateway's own process.

It runs in a child first, under the limits it would have there: it must load, have the right
inputs and outputs, score its golden windows, and keep to its time for TRIAL_ROWS of them. One that
is heavy stays in a child; so does one that nobody trusted has signed and that needs more than the
plain operators, whose kernels are the least tried. The rest is let in. What was let in once is
remembered by its sum, so that a start does not try it again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from gateway.errors import ModelFailed, Problem
from gateway.inference.aside import ChildRunner, Limits
from gateway.inference.config import ModelSettings
from gateway.inference.manifest import Manifest
from gateway.inference.onnx_wire import uses_ml_operators
from gateway.inference.runtime import Runner

__all__ = ["AnyRunner", "Trial"]

log = logging.getLogger(__name__)

AnyRunner = Runner | ChildRunner

TRIAL_ROWS = 64
# Of one run of so many rows: a detector takes a tenth of a millisecond.
HEAVY_MS = 20.0
HEAVY_BYTES = 64 * 2**20
# Sums remembered; there are as many as bundles were ever used.
REMEMBERED_MAX = 64
# ONNX Runtime does not give back all that a session took. After so many loads in one process the
# next bundle runs in a child, whose memory goes with it.
LOADS_MAX = 16

Checks = Callable[[AnyRunner], list[Problem]]


@dataclass(slots=True)
class Trial:
    """How strictly bundles are taken: the limits, who is trusted, what was let in before."""

    limits: Limits = field(default_factory=Limits)
    isolate: str = "auto"
    memory: Path | None = None  # file of what was let in
    loads: int = 0

    @classmethod
    def of(cls, settings: ModelSettings, memory: Path | None = None) -> Trial:
        """As a [[model]] says."""
        limits = Limits(memory_bytes=settings.memory_max, run_s=settings.run_max)
        return cls(limits=limits, isolate=settings.isolate, memory=memory)

    def open(
        self, model: bytes, manifest: Manifest, *, is_trusted: bool, checks: Checks
    ) -> tuple[AnyRunner, list[Problem]]:
        """The model, in a child or here, and what the checks say; raises ModelFailed."""
        if self.isolate == "never":
            return self._here(model, manifest, checks)
        sum_ = hashlib.sha256(manifest.model_dump_json().encode() + model).hexdigest()
        if self.isolate == "auto" and self.loads < LOADS_MAX and sum_ in self._let_in():
            return self._here(model, manifest, checks)
        child = ChildRunner(model, manifest, self.limits)
        try:
            problems = checks(child)
            is_heavy = not problems and self._is_heavy(child, manifest)
        except ModelFailed:
            child.close()
            raise
        if problems:
            child.close()
            return child, problems
        is_strange = uses_ml_operators(model) and not is_trusted
        if self.isolate == "always" or is_heavy or is_strange or self.loads >= LOADS_MAX:
            return child, []
        child.close()
        self._remember(sum_)
        return self._here(model, manifest, checks)

    def _here(
        self, model: bytes, manifest: Manifest, checks: Checks
    ) -> tuple[Runner, list[Problem]]:
        self.loads += 1
        runner = Runner.of(model, manifest)
        return runner, checks(runner)

    def _is_heavy(self, child: ChildRunner, manifest: Manifest) -> bool:
        """Whether so many rows take long, or much memory."""
        child.reserve(TRIAL_ROWS, manifest.window, len(manifest.features))
        child.windows[:] = np.array(manifest.golden[0].window, np.float32)
        before, took_ms = child.rss_bytes, []
        for _ in range(3):
            child.run()
            took_ms.append(child.ms)
        return median(took_ms) > HEAVY_MS or child.rss_bytes - before > HEAVY_BYTES

    def _let_in(self) -> Sequence[str]:
        if self.memory is None:
            return ()
        try:
            found = json.loads(self.memory.read_text("utf-8"))
        except (OSError, ValueError):
            return ()
        return found if isinstance(found, list) else ()

    def _remember(self, sum_: str) -> None:
        if self.memory is None:
            return
        try:
            known = [*self._let_in(), sum_][-REMEMBERED_MAX:]
            self.memory.parent.mkdir(parents=True, exist_ok=True)
            self.memory.write_text(json.dumps(known), "utf-8")
        except OSError as error:
            log.warning("model.trial_not_remembered error=%s", error)
