"""Spool: append turns and be told when they are durable; replay them; give them to sinks.

    append(turn) -> open group --period over, full, or an event in it--> writer's thread
                        |                                                    | raw: write, fdatasync
                        `- future <------------ durable ---------------------| derived: likewise

A group is what one commit makes durable: a record a lane, one future for all who wait. At most
the open group and those being written are lost by a crash, and nobody was told that they are safe.

Turns in which nothing happened (the plant is silent) do not make a group worth writing: they ride
with the next one that has samples, so that replay sees every turn between the samples it sees.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gateway.clock import Clock
from gateway.errors import SpoolError
from gateway.frame import Frame, Lane, Turn
from gateway.spool.boots import Boot, Verdict
from gateway.spool.catalog import Rows
from gateway.spool.checkpoint import Checkpoint
from gateway.spool.config import SpoolSettings
from gateway.spool.disk import Disk
from gateway.spool.group import Group
from gateway.spool.history import History
from gateway.spool.reader import Backlog, Batch, SpoolReader
from gateway.spool.stats import LaneStats, SpoolStats
from gateway.spool.store import Store
from gateway.spool.waiting import SEQUENCE_MAX
from gateway.spool.writer import Writer
from gateway.tag import TagTable

__all__ = ["Backlog", "Batch", "LaneStats", "Spool", "SpoolReader", "SpoolStats"]

log = logging.getLogger(__name__)

# What a turn costs while it waits: the arrays of its samples, and the objects around them.
SAMPLE_BYTES = 21
EXACT_BYTES = 100
TURN_BYTES = 500
# A silent plant turns four times a second; a quarter of an hour of that is written as one record.
SILENT_TURNS_MAX = 4096
# A supervisor grants five seconds from SIGTERM to exit; the pipeline may have used three of them.
CLOSE_S = 1.5


@dataclass(slots=True, eq=False)
class _Open:
    """The group that turns are added to."""

    future: asyncio.Future[int]
    boot: int  # of all its turns
    group: Group = field(default_factory=Group)
    bytes_pending: int = 0
    samples: int = 0


class Spool:
    """The spool of one gateway; all methods belong to the event loop's thread."""

    def __init__(
        self, store: Store, settings: SpoolSettings, table: TagTable, clock: Clock
    ) -> None:
        self._store = store
        self._settings = settings
        self._table = table
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._provisional_ns: int | None = None  # Clock.offset_ns while it is not believed
        self._open: _Open | None = None
        self._period: asyncio.TimerHandle | None = None
        self._waiting: dict[Group, _Open] = {}
        self._room = asyncio.Event()
        self._room.set()
        self._ended = asyncio.Event()
        self._readers: list[SpoolReader] = []
        # A thread each, so that a long question never keeps a sink waiting.
        self._sink_reads = ThreadPoolExecutor(1, thread_name_prefix="spool-reader")
        self._history_reads = ThreadPoolExecutor(1, thread_name_prefix="spool-history")
        self._writer = Writer(store, self._on_done, self._on_held, self._on_end)
        self.history = History(store.catalog, table, self._history_reads)
        self.stats: SpoolStats = store.stats
        self.last_boot = store.last_boot
        # What the windows can go on from; None: nothing.
        self.checkpoint = store.checkpoint

    @staticmethod
    @asynccontextmanager
    async def open(
        directory: Path,
        settings: SpoolSettings,
        table: TagTable,
        clock: Clock,
        disk: Disk | None = None,
    ) -> AsyncIterator[Spool]:
        """The spool in `directory`, created or recovered.

        Raises SpoolLocked if another process writes to it. Whatever else is wrong with the disk,
        the spool opens: degraded if need be, and in the open until the disk answers again.
        """
        store = Store(directory, settings, table, clock, disk or Disk())
        try:
            store.open()
        except OSError as error:
            store.stats.state, store.stats.error_last = "degraded", str(error)
            log.error(  # noqa: TRY400 - the traceback says nothing that the error does not
                "spool.degraded error=%s consequence=samples wait in memory", error
            )
        spool = Spool(store, settings, table, clock)
        spool._writer.start()
        try:
            yield spool
        finally:
            await spool._close()

    def append(self, turn: Turn) -> asyncio.Future[int]:
        """Make a turn durable; its group's future gives the raw sequence once it is.

        Never waits. The future fails only for a group that cannot be written at all, and is
        cancelled when the spool is closed while the disk refuses.
        """
        pending = self._open
        if pending is not None and pending.boot != turn.boot:
            self._commit_open()
            pending = None
        if pending is None:
            pending = self._open = _Open(self._loop.create_future(), turn.boot)
        elif pending.future.done():  # whoever awaited it was cancelled, and the future with it
            pending.future = self._loop.create_future()
        pending.group.turns.append(turn)
        samples, size = _size_of(turn)
        if samples:
            pending.samples += samples
            pending.bytes_pending += size
            self._add_pending(size)
        if len(turn.frames.get(Lane.EVENT, ())) or (
            pending.bytes_pending >= self._settings.commit_bytes
        ):
            self._commit_open()
        elif self._period is None:
            self._period = self._loop.call_later(self._settings.commit_period, self._period_over)
        return pending.future

    @property
    def last_turn_ns(self) -> int:
        """Time of the last durable turn; 0 if there is none, or raw turns are not kept."""
        return self._store.last_turn_ns

    @property
    def derived_turn_ns(self) -> int:
        """From the turn behind this one on, a power cut may have taken what was derived."""
        return self._store.derived_turn_ns

    @property
    def has_room(self) -> bool:
        """Whether less than `pending_bytes_max` waits for the disk."""
        return self._room.is_set()

    async def wait_for_room(self) -> None:
        await self._room.wait()

    def replay(self, since_ns: int, after: int | None = None) -> Iterator[tuple[int, Turn]]:
        """Durable raw turns at or after `since_ns` with their sequences, in order.

        Their times are those they were stamped with; `since_ns` is what is known by now.

        With them all of the records after the sequence `after`, whatever their time.
        Reads from disk as it goes: for the start, before the first append.
        """
        if not self._settings.raw:
            return
        if after is None:
            after = SEQUENCE_MAX
        for rows in self._store.rows_since(Lane.RAW, since_ns, after):
            columns = rows.columns
            whole = rows.frame(self._table)
            is_whole = len(whole) == len(columns.frame)  # no row left out: turns can be cut from it
            start = 0
            since_stored_ns = since_ns - self.missing_ns(rows.boot)
            for now_ns, stop in zip(
                columns.now_ns.tolist(), columns.row_ends.tolist(), strict=True
            ):
                if now_ns >= since_stored_ns or rows.sequence > after:
                    frame = (
                        whole.rows(start, stop)
                        if is_whole
                        else rows.frame(self._table, start, stop)
                    )
                    yield rows.sequence, Turn(now_ns, {Lane.RAW: frame}, rows.boot)
                start = stop

    def applied(self, lane: Lane) -> int:
        """Raw sequence up to which a derived lane has what follows from it; 0 for nothing."""
        return self._store.applied(lane)

    def missing_ns(self, boot: int) -> int:
        """What is to be added to the times of a boot's turns; 0 if that is not known."""
        return self._store.boots[boot].missing_ns if boot else 0

    def tail(self, lane: Lane, samples_max: int) -> Frame:
        """The newest samples of a lane, in the order and with the times they were stored."""
        newest: list[Rows] = []
        samples = 0
        for rows in self._store.rows_backwards(lane, as_stored=True):
            if samples >= samples_max:
                break
            newest.append(rows)
            samples += len(rows.columns.frame)
        frame = Frame.concatenate([rows.frame(self._table) for rows in reversed(newest)])
        return frame.rows(max(0, len(frame) - samples_max), len(frame))

    def begin_clock(self) -> None:
        """Tell the clock what the disk knows of the time, and settle what the clock knows.

        Before the first append. A disk that cannot be written is told again at each commit.
        """
        clock, boots = self._clock, self._store.boots
        this, is_known = boots[clock.boot_id], clock.boot_id in boots
        offset_ns = this.offset_ns + this.missing_ns if is_known else None
        clock.begin(self._store.newest_ns(), offset_ns, is_final=this.verdict == "exact")
        if clock.boot:
            self._provisional_ns = clock.offset_ns
        elif is_known:
            self._provisional_ns = this.offset_ns
        with _tried("spool.boot_not_recorded"):
            if not clock.boot:
                self._settle_clock("exact")
            elif not is_known:
                self._store.begin_boot(clock.boot, clock.offset_ns)

    async def settle_clock(self, verdict: Verdict = "exact") -> bool:
        """Have on record how wrong this boot's provisional times were; whether that is done.

        From then on sinks get what waits. It is decided once: a boot that is settled stays so.
        """
        with _tried("spool.boot_not_settled"):
            await self._loop.run_in_executor(self._history_reads, self._settle_clock, verdict)
        self._wake_readers()
        return not self.samples_waiting

    def _settle_clock(self, verdict: Verdict) -> None:
        clock, store = self._clock, self._store
        own, boot_id = store.boots[clock.boot_id], 0
        if self._provisional_ns is not None and not own.is_known:
            missing_ns = 0 if clock.boot else clock.offset_ns - self._provisional_ns
            own, boot_id = Boot(self._provisional_ns, missing_ns, verdict), clock.boot_id
        # UTC of the monotonic clock's zero is when this boot began.
        store.settle_boots(boot_id, own, clock.offset_ns)

    @property
    def samples_waiting(self) -> int:
        """Samples that no sink gets before their time is known."""
        return self._store.samples_waiting

    @property
    def is_between_groups(self) -> bool:
        """Whether every turn with samples so far is in a group that is on its way to the disk."""
        return self._open is None or not self._open.samples

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Have it written soon, in the place of the one before. Never waits, never fails."""
        self._writer.save(checkpoint)

    def reader(self, name: str, lanes: Sequence[Lane]) -> SpoolReader:
        """The way of the sink `name` through some lanes; it goes on where its cursor stands.

        A new sink begins with the oldest samples there are.
        """
        reader = SpoolReader(name, lanes, self._store, self._table, self._sink_reads)
        self._readers.append(reader)
        return reader

    def _period_over(self) -> None:
        self._period = None
        pending = self._open
        if pending is None:
            return
        if pending.samples or len(pending.group.turns) >= SILENT_TURNS_MAX:
            self._commit_open()
            return
        # Nothing to make durable; the turns ride with the next group.
        if not pending.future.done():
            pending.future.set_result(self._store.applied(Lane.RAW))
        if not self._settings.raw:
            self._open = None

    def _commit_open(self) -> None:
        pending, self._open = self._open, None
        if self._period is not None:
            self._period.cancel()
            self._period = None
        if pending is not None:
            self._waiting[pending.group] = pending
            self._writer.put(pending.group)

    def _add_pending(self, size: int) -> None:
        self.stats.pending_bytes += size
        if self.stats.pending_bytes < self._settings.pending_bytes_max:
            self._room.set()
        else:
            self._room.clear()

    def _on_done(self, groups: Sequence[Group], error: BaseException | None) -> None:
        """In the writer's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._settle, groups, error)

    def _on_held(self, groups: Sequence[Group]) -> None:
        """In the writer's thread."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._hold, groups)

    def _hold(self, groups: Sequence[Group]) -> None:
        """The groups may be read, but are in memory only: their futures wait."""
        for group in groups:
            held = self._waiting[group]
            self._add_pending(-held.bytes_pending)
            held.bytes_pending = 0
        self._wake_readers()

    def _wake_readers(self) -> None:
        for reader in self._readers:
            reader.wake()

    def _settle(self, groups: Sequence[Group], error: BaseException | None) -> None:
        settled = [self._waiting.pop(group) for group in groups]
        self._add_pending(-sum(done.bytes_pending for done in settled))
        for group, done in zip(groups, settled, strict=True):
            if done.future.done():
                continue
            if error is None:
                done.future.set_result(group.sequence)
            elif isinstance(error, SpoolError):
                done.future.set_exception(error)
            else:
                done.future.cancel()
        if error is not None and not isinstance(error, SpoolError):
            samples = sum(done.samples for done in settled)
            log.error("spool.closed_undurable samples=%d error=%s", samples, error)
        self._wake_readers()

    def _on_end(self) -> None:
        """In the writer's thread."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ended.set)

    async def _close(self) -> None:
        """Commit what is open, if the disk answers in time, and end the threads."""
        if self._open is not None and self._open.samples:
            self._commit_open()
        elif self._open is not None:
            self._open.future.cancel()
        if self._period is not None:
            self._period.cancel()
        self._writer.end()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._ended.wait()
        except TimeoutError:
            log.error(  # noqa: TRY400 - likewise
                "spool.close_timeout seconds=%s groups=%d", CLOSE_S, len(self._waiting)
            )
        finally:
            for pending in self._waiting.values():
                pending.future.cancel()
            self._sink_reads.shutdown(wait=False, cancel_futures=True)
            self._history_reads.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _tried(what: str) -> Iterator[None]:
    """Do what the next time will do as well."""
    try:
        yield
    except OSError as error:
        log.warning("%s error=%s", what, error)


def _size_of(turn: Turn) -> tuple[int, int]:
    """Samples of a turn, and roughly the bytes of memory that it takes until it is on disk."""
    samples, exact_bytes = 0, 0
    for frame in turn.frames.values():
        samples += len(frame)
        for value in frame.exact.values():
            exact_bytes += EXACT_BYTES + (len(value) if isinstance(value, str) else 0)
    return samples, TURN_BYTES + SAMPLE_BYTES * samples + exact_bytes
