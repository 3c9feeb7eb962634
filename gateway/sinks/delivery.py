"""Delivery: from the spool through one sink, the same for every sink.

A batch is sent until each of its samples is stored or in the dead letters; only then is it
acknowledged and the cursor moves. What a sink raises decides what happens next:

    SinkUnavailable  the same again, after full-jitter exponential back-off or Retry-After
    SinkParked       the same again, slowly; a person must act, so it is an ERROR, said once
    SinkTooLarge     in halves, and smaller batches from now on (they grow again)
    SinkRejected     in halves until the poison stands alone: <= log2 n + 1 requests a bad point

Sending twice is harmless: times were fixed before the spool, and a point overwrites itself.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from gateway.clock import Clock
from gateway.errors import SinkError, SinkParked, SinkRejected, SinkTooLarge, SinkUnavailable
from gateway.frame import Frame
from gateway.sinks import Receipt, Sink
from gateway.sinks.deadletters import DeadLetters
from gateway.spool.reader import Backlog, Batch
from gateway.tag import TagTable

__all__ = ["Delivery", "Reader"]

log = logging.getLogger(__name__)

RETRY_FIRST_S = 0.5
# Credentials are mended by people; asking twice a minute finds that out soon enough.
PARKED_RETRY_S = (10.0, 30.0)
# A server that fails on the same bytes this often may be failing because of them.
SAME_FAILURES_MAX = 8
GROWTH = 1.2  # of the batch size, with each batch that went through


class Reader(Protocol):
    """What a delivery needs of the spool's reader."""

    async def next(self, samples_max: int) -> Batch: ...

    async def acknowledge(self, batch: Batch) -> None: ...

    def backlog(self) -> Backlog: ...


class Pace(Protocol):
    """What a delivery needs of a sink's settings."""

    @property
    def samples_max(self) -> int: ...

    @property
    def retry_max(self) -> float: ...


class Delivery:
    """One sink at work."""

    def __init__(
        self,
        *,
        sink: Sink,
        reader: Reader,
        settings: Pace,
        clock: Clock,
        dead_letters: DeadLetters,
        table: TagTable,
    ) -> None:
        self._sink = sink
        self._stats = sink.stats
        self._reader = reader
        self._settings = settings
        self._clock = clock
        self._dead_letters = dead_letters
        self._table = table
        self._samples_max = float(settings.samples_max)

    async def run(self) -> None:
        """Deliver until cancelled; what was under way then is delivered again."""
        while True:
            if not self._stats.error_last:
                self._stats.state = "idle"
            batch = await self._reader.next(int(self._samples_max))
            await self._deliver(batch.frame)
            await self._reader.acknowledge(batch)
            self._stats.batches_total += 1
            self._refresh_lag()

    async def _deliver(self, frame: Frame) -> None:
        """Return once every row is stored or a dead letter."""
        waiting = [frame]
        while waiting:
            part = waiting.pop()
            try:
                await self._send(part)
            except (SinkTooLarge, SinkRejected) as refusal:
                if isinstance(refusal, SinkTooLarge):
                    self._samples_max = max(1.0, min(self._samples_max, len(part) / 2))
                cut = self._middle(part)
                if cut:
                    waiting += [part.rows(cut, len(part)), part.rows(0, cut)]
                else:
                    self._bury(part, dict.fromkeys(range(len(part)), str(refusal)))
            else:
                grown = self._samples_max * GROWTH
                self._samples_max = min(float(self._settings.samples_max), grown)

    async def _send(self, frame: Frame) -> None:
        """Send one frame, again and again while that may help."""
        failures = 0
        while True:
            try:
                receipt = await self._write(frame)
            except SinkParked as error:
                self._trouble("parked", error)
                pause_s = random.uniform(*PARKED_RETRY_S)  # noqa: S311 - jitter, not a secret
            except SinkUnavailable as error:
                failures += 1
                if error.is_server_fault and failures >= SAME_FAILURES_MAX:
                    raise SinkRejected(str(error)) from error
                self._trouble("retrying", error)
                pause_s = self._pause_s(failures, error.retry_after_s)
            else:
                self._well(frame, receipt.rejected)
                return
            self._stats.retries_total += 1
            self._refresh_lag()
            await asyncio.sleep(pause_s)

    async def _write(self, frame: Frame) -> Receipt:
        """What the sink says; a defect in it counts as a failure that these rows may cause."""
        try:
            return await self._sink.write(frame)
        except SinkError:
            raise
        except Exception as defect:
            if not self._stats.error_last:
                log.exception("sink.defect sink=%s", self._sink.name)
            said = f"{type(defect).__name__}: {defect}"
            raise SinkUnavailable(f"a defect in the sink: {said}", is_server_fault=True) from defect

    def _pause_s(self, failures: int, asked_s: float | None) -> float:
        limit_s = min(self._settings.retry_max, RETRY_FIRST_S * 2 ** min(failures, 16))
        own_s = random.uniform(limit_s / 4, limit_s)  # noqa: S311 - jitter, not a secret
        # A server that asks for a day is not believed: the data may need it sooner.
        return max(own_s, min(asked_s or 0.0, 10 * self._settings.retry_max))

    def _well(self, frame: Frame, rejected: Mapping[int, str]) -> None:
        stats = self._stats
        if stats.error_last:
            log.info("sink.recovered sink=%s", self._sink.name)
        stats.state, stats.error_last = "sending", ""
        stats.samples_total += len(frame)
        if rejected:
            self._bury(frame, rejected)

    def _trouble(self, state: str, error: SinkError) -> None:
        stats = self._stats
        if stats.state != state:
            level = logging.ERROR if state == "parked" else logging.WARNING
            log.log(level, "sink.%s sink=%s error=%s", state, self._sink.name, error)
        stats.state, stats.error_last = state, str(error)

    def _bury(self, frame: Frame, reasons: Mapping[int, str]) -> None:
        before = self._stats.dead_letters_total
        self._stats.dead_letters_total += len(reasons)
        self._dead_letters.put(frame, reasons, self._table)
        if not before:
            why = next(iter(reasons.values()))
            log.error(
                "sink.dead_letter sink=%s samples=%d reason=%s", self._sink.name, len(reasons), why
            )

    def _middle(self, frame: Frame) -> int:
        """A row near the middle where another point begins; 0 when it is all one point."""
        table = self._table
        series = np.array([hash((table[i].measurement, table[i].labels)) for i in frame.tag_ids])
        begins = (series[1:] != series[:-1]) | (frame.t_ns[1:] != frame.t_ns[:-1])
        cuts = np.flatnonzero(begins) + 1
        return int(cuts[len(cuts) // 2]) if len(cuts) else 0

    def _refresh_lag(self) -> None:
        backlog = self._reader.backlog()
        self._stats.lag_samples = backlog.samples
        age_ns = self._clock.utc_ns() - backlog.oldest_ns
        self._stats.lag_s = max(0.0, age_ns / 1e9) if backlog.samples else 0.0
