"""Delivery: from the spool through one sink, the same for every sink.

A batch is sent until each of its samples is stored or in the dead letters; only then is it
acknowledged and the cursor moves. What a sink raises decides what happens next:

    SinkUnavailable  the same again, after jittered exponential back-off or Retry-After
      is_server_fault  eight times in a row: searched like SinkRejected, but see below
      is_slow          three times in a row: less at once from now on
      is_cut           four times in a row: likewise
    SinkParked       the same again, slowly; a person must act, so it is an ERROR. If others are
                     taken meanwhile, something in these is refused: searched, as below
    SinkTooLarge     half of it, and smaller batches from now on (they grow again)
    SinkRejected     half of it, until the poison stands alone: log2 n + 1 refusals a bad point

`culprits` finds the poison, and makes sure that it is the data that is refused and not we: where
nothing at all is taken, the sink is parked.

After an outage two deliveries share a sink: one sends what is current, one what was left behind
(spool/reader.py). The second leaves the first its share of the time, and the asking to it while
the server is away; poison in the one does not hold up the other.

Sending twice is harmless: times were fixed before the spool, and a point overwrites itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from gateway.clock import Clock
from gateway.errors import SinkError, SinkParked, SinkRejected, SinkTooLarge, SinkUnavailable
from gateway.frame import EMPTY_FRAME, Frame, Lane
from gateway.settings import Secret
from gateway.sinks import Receipt, Sink
from gateway.sinks.budget import Budget
from gateway.sinks.culprits import SAME_FAILURES_MAX, SLOW_SAMPLES_MIN, Culprits, Refusal
from gateway.sinks.deadletters import DeadLetters
from gateway.sinks.search import points_of
from gateway.sinks.selection import Selection
from gateway.spool.reader import Backlog, Batch
from gateway.tag import Tags

__all__ = ["Delivery", "Link", "Reader"]

log = logging.getLogger(__name__)

RETRY_FIRST_S = 0.5
# Credentials are mended by people, and each try sends a whole batch over a link that may be paid
# for by the megabyte.
PARKED_RETRY_FIRST_S = 30.0
PARKED_RETRY_MAX_S = 300.0
# A batch that misses its deadline this often is too much for the link; this little is not.
SLOW_FAILURES_MAX = 3
# So long what was refused and taken later counts against the server.
DOUBT_BATCHES = 1000
# A path that ends connections this often, when something is sent on them, may bear only less.
CUT_FAILURES_MAX = 4
# A limit met by chance is left behind in fifty batches; a lasting one is met once in fourteen.
GROWTH = 1.05
# The longest pause of a backfill: its batches shrink on a slow link, and pauses with them.
PAUSE_MAX_S = 10.0
# How often it is asked whether the next hour has begun, or an event has come.
BUDGET_POLL_S = 1.0
# An outage may have many words for itself; a person who mends a login wants each at once.
SAY_PERIOD_S = 60.0
# How often, in a pause, secrets are looked at, and how far behind the sink is.
SECRET_POLL_S = 1.0


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

    @property
    def backfill_share(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What the deliveries of one sink share."""

    dead_letters: DeadLetters
    selection: Selection | None = None  # None: every tag
    budget: Budget | None = None
    secrets: tuple[Secret, ...] = ()  # that the sink logs in with
    writing: AbstractAsyncContextManager[object] = field(
        default_factory=contextlib.nullcontext
    )  # a lock, for a sink that takes one batch at a time


class _BudgetUsed(Exception):
    """What the link may carry in this hour or day is used up, in the middle of a batch."""


class Delivery:
    """One sink at work."""

    def __init__(
        self,
        *,
        sink: Sink,
        reader: Reader,
        settings: Pace,
        clock: Clock,
        table: Tags,
        link: Link,
        ahead: Delivery | None = None,
    ) -> None:
        """`ahead` sends what is current; then this one what was left behind, giving way to it."""
        self._selection = link.selection or Selection(table)
        self._budget = link.budget
        self._secrets = link.secrets
        self._ahead = ahead
        self._writing = link.writing
        self._is_well = asyncio.Event()  # nothing keeps what is sent from being stored
        self._is_well.set()
        self._busy_s = 0.0  # since the last batch that was delivered
        self._sink = sink
        self._stats = sink.stats
        self._reader = reader
        self._settings = settings
        self._clock = clock
        self._dead_letters = link.dead_letters
        self._table = table
        self._samples_max = float(settings.samples_max)
        self._failures = 0  # in a row, of whatever was sent
        self._accepted = EMPTY_FRAME  # what the server took last
        self._batches = self._batches_ahead = 0
        self._lane = Lane.RAW  # of the batch that is sent
        self._said_s = 0.0  # when the log was told of a trouble last
        self._culprits = Culprits(self, table)

    async def run(self) -> None:
        """Deliver until cancelled; what was under way then is delivered again."""
        while True:
            is_waiting = self._stats.error_last or self._stats.state == "budget"
            if not is_waiting and self._ahead is None:
                self._stats.state = "idle"
            batch = await self._reader.next(int(self._samples_max))
            if not self._may_send(batch.lane):
                await asyncio.sleep(BUDGET_POLL_S)
                continue  # what is more urgent may have come, and may be sent
            frame = self._selection.apply(batch.frame)
            self._stats.samples_skipped_total += len(batch.frame) - len(frame)
            self._lane = batch.lane
            if len(frame):
                try:
                    await self._deliver(frame)
                except _BudgetUsed:
                    continue  # the rest of the batch is sent when there is more of it
            await self._reader.acknowledge(batch)
            self._dead_letters.say()
            self._samples_max = min(self._samples_max * GROWTH, float(self._settings.samples_max))
            self._stats.batches_total += 1
            self._batches += 1
            if self._batches % DOUBT_BATCHES == 0:
                self._culprits.forget()
            self._refresh_lag()
            if self._ahead is not None:
                await self._give_way(self._ahead)

    def _may_send(self, lane: Lane) -> bool:
        """Whether the link's budget has room for another batch."""
        budget = self._budget
        if budget is None or not budget.is_bounded:
            return True
        now_ns = self._clock.utc_ns()
        may_send = budget.allows(lane, now_ns)
        self._stats.budget_bytes_left = budget.left(now_ns)
        if not may_send:
            if self._stats.state != "budget":
                log.warning("sink.budget_used sink=%s lane=%s", self._sink.name, lane.name.lower())
            self._stats.state = "budget"
            self._refresh_lag()
        return may_send

    async def _give_way(self, ahead: Delivery) -> None:
        """Leave the link to what is current, for as much of the time as the settings say."""
        busy_s, self._busy_s = self._busy_s, 0.0
        is_alone, self._batches_ahead = ahead.batches == self._batches_ahead, ahead.batches
        if not is_alone:
            share = self._settings.backfill_share
            await asyncio.sleep(min(busy_s * (1 / share - 1), PAUSE_MAX_S))

    @property
    def batches(self) -> int:
        """Delivered so far."""
        return self._batches

    async def _deliver(self, frame: Frame) -> None:
        """Return once every row is stored or a dead letter."""
        rounds = 0
        while (refusal := await self._try(frame)) is not None:
            frame = refusal.left
            said = f"it refuses whatever it is sent: {refusal.trouble.message}"
            trouble = SinkParked(said, hint="check the URL, and what answers there")
            while True:
                self._trouble("parked", trouble)
                self._stats.retries_total += 1
                self._refresh_lag()
                pause_s = _jittered(PARKED_RETRY_FIRST_S, PARKED_RETRY_MAX_S, rounds)
                await self._pause(pause_s, self._secrets)
                rounds += 1
                if await self._takes_any(frame):
                    break

    async def _try(self, frame: Frame) -> Refusal | None:
        """Have every row stored or buried; else what was said to those left, and to others."""
        trouble = await self.send(frame, SAME_FAILURES_MAX)
        if trouble is not None:
            refusal = await self._culprits.find(frame, trouble)
            if refusal is not None:
                return refusal
            self._recovered()
        return None

    async def takes_accepted(self) -> bool | None:
        """Whether the server takes once more what it took last; None if it has taken nothing."""
        if not len(self._accepted):
            return None
        points = points_of(self._accepted, self._table)
        return await self.takes(self._accepted.where(points == points[-1]))

    async def _takes_any(self, frame: Frame) -> bool:
        """Whether the server takes a point now: what it took last, or one of these."""
        if len(self._accepted):
            frame = self._accepted
        points = points_of(frame, self._table)
        return await self.takes(frame.where(points == random.choice(points)))  # noqa: S311

    async def takes(self, frame: Frame) -> bool:
        try:
            receipt = await self._write(frame)
        except SinkError:
            return False
        self._failures = 0
        self._remember(frame, receipt)
        return len(receipt.rejected) < len(frame)

    async def send(self, frame: Frame, patience: int, *, quiet: bool = False) -> SinkError | None:
        """None once a frame is stored; else why it will not do to send it again as it is.

        `patience` is how many faults of the server in a row are believed to be its own. A `quiet`
        one is an experiment: what becomes of it is no news of the sink.
        """
        faults = slow = cuts = parks = 0
        while True:
            trouble: SinkParked | SinkUnavailable
            try:
                receipt = await self._write(frame)
            except (SinkTooLarge, SinkRejected) as refusal:
                self._failures = 0
                self._is_well.set()
                return refusal
            except SinkParked as parked:
                trouble, state = parked, "parked"
                faults = slow = cuts = 0
                if (parks or quiet) and await self.takes_accepted():
                    return parked  # it is this that is refused, as by a firewall, and not we
                pause_s = _jittered(PARKED_RETRY_FIRST_S, PARKED_RETRY_MAX_S, parks)
                parks += 1
            except SinkUnavailable as unavailable:
                trouble, state, parks = unavailable, "retrying", 0
                faults = faults + 1 if unavailable.is_server_fault else 0
                slow = slow + 1 if unavailable.is_slow else 0
                cuts = cuts + 1 if unavailable.is_cut else 0
                pause_s = self._pause_s(unavailable.retry_after_s)
            else:
                await self._well(frame, receipt, quiet=quiet)
                return None
            if not quiet or state == "parked":
                self._trouble(state, trouble)
            self._failures += 1
            self._stats.retries_total += 1
            self._refresh_lag()
            await self._pause(pause_s, self._secrets if state == "parked" else ())
            too_slow = slow >= SLOW_FAILURES_MAX and len(frame) > SLOW_SAMPLES_MIN
            if faults >= patience or too_slow or cuts >= CUT_FAILURES_MAX:
                return trouble

    async def _pause(self, pause_s: float, secrets: Sequence[Secret] = ()) -> None:
        """Sleep, and go on saying how far behind the sink is.

        It ends as soon as the file of one of the secrets is written anew.
        """
        before = await _stamps(secrets)
        loop = asyncio.get_running_loop()
        end_s = loop.time() + pause_s
        while (left_s := end_s - loop.time()) > 0:
            await asyncio.sleep(min(left_s, SECRET_POLL_S))
            self._refresh_lag()
            if await _stamps(secrets) != before:
                return

    async def _write(self, frame: Frame) -> Receipt:
        """What the sink says; a defect in it counts as a failure that these rows may cause."""
        if not self._may_send(self._lane):
            raise _BudgetUsed
        if self._ahead is not None:
            await self._ahead.wait_until_well()  # one is enough to ask a server that is away
        began_s = self._clock.monotonic_s()
        try:
            async with self._writing:
                return await self._sink.write(frame)
        except SinkError:
            raise
        except Exception as defect:
            if not self._stats.error_last:
                log.exception("sink.defect sink=%s", self._sink.name)
            said = f"{type(defect).__name__}: {defect}"
            raise SinkUnavailable(f"a defect in the sink: {said}", is_server_fault=True) from defect
        finally:
            self._busy_s += self._clock.monotonic_s() - began_s
            if self._budget is not None:
                self._budget.count(self._stats.bytes_total, self._clock.utc_ns())

    async def wait_until_well(self) -> None:
        """Return once nothing keeps this delivery from its sink."""
        await self._is_well.wait()

    def _pause_s(self, asked_s: float | None) -> float:
        own_s = _jittered(RETRY_FIRST_S, self._settings.retry_max, self._failures)
        # A server that asks for a day is not believed: the data may need it sooner.
        return max(own_s, min(asked_s or 0.0, 10 * self._settings.retry_max))

    async def _well(self, frame: Frame, receipt: Receipt, *, quiet: bool) -> None:
        self._failures = 0
        self._is_well.set()
        if not quiet:
            self._recovered()
        self._stats.samples_total += len(frame) - len(receipt.rejected)
        self._remember(frame, receipt)
        if receipt.rejected:
            await self.bury(frame, receipt.rejected)

    def _recovered(self) -> None:
        if self._stats.error_last:
            log.info("sink.recovered sink=%s", self._sink.name)
        self._stats.state, self._stats.error_last = "sending", ""
        self._is_well.set()

    def _remember(self, frame: Frame, receipt: Receipt) -> None:
        """Keep what the server took last. Rows that only the encoder saw are no proof of it."""
        if receipt.rejected:
            taken = np.ones(len(frame), np.bool_)
            taken[list(receipt.rejected)] = False
            frame = frame.where(taken)
        if len(frame):
            self._accepted = frame

    def _trouble(self, state: str, error: SinkError) -> None:
        stats = self._stats
        self._is_well.clear()
        said, now_s = str(error), self._clock.monotonic_s()
        is_due = state == "parked" or now_s - self._said_s >= SAY_PERIOD_S
        if stats.state != state or (stats.error_last != said and is_due):
            self._said_s = now_s
            level = logging.ERROR if state == "parked" else logging.WARNING
            log.log(level, "sink.%s sink=%s error=%s", state, self._sink.name, said)
        stats.state, stats.error_last = state, said

    def shrink(self, samples: float, samples_min: int) -> None:
        self._samples_max = max(float(samples_min), min(self._samples_max, samples))

    async def bury(self, frame: Frame, reasons: Mapping[int, str]) -> None:
        self._stats.dead_letters_total += len(reasons)
        # A card that is busy must not hold up the scans.
        await asyncio.to_thread(self._dead_letters.put, frame, reasons, self._table)
        self._stats.dead_letters_unkept_total = self._dead_letters.letters_lost_total

    def _refresh_lag(self) -> None:
        self._stats.burying = self._dead_letters.of_late()
        backlog = self._reader.backlog()
        self._stats.lag_samples = backlog.samples
        age_ns = self._clock.utc_ns() - backlog.oldest_ns
        self._stats.lag_s = max(0.0, age_ns / 1e9) if backlog.samples else 0.0


async def _stamps(secrets: Sequence[Secret]) -> list[tuple[int, int] | None]:
    """What is another once the file of a secret is written anew."""
    if not secrets:
        return []
    return await asyncio.to_thread(lambda: [secret.stamp() for secret in secrets])


def _jittered(first_s: float, max_s: float, failures: int) -> float:
    """The pause after some failures in a row: doubling, and spread, so that not all come back."""
    limit_s = min(max_s, first_s * 2 ** min(failures, 16))
    return random.uniform(limit_s / 4, limit_s)  # noqa: S311 - jitter, not a secret
