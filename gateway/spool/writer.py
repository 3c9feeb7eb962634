"""Writer: the one thread that touches the disk for the spool, however long the disk takes.

Groups come in by a queue and leave as durable, in order. While the disk refuses, the groups stay
and are tried again: the spool is degraded, and mends by itself. When that takes too long, they are
written to files in memory instead: sinks and queries go on, the oldest is given up when memory is
full, and nobody is told that anything is durable until it has been copied to the disk.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from gateway.errors import SpoolError, SpoolLocked
from gateway.spool.checkpoint import Checkpoint
from gateway.spool.group import Group
from gateway.spool.store import Store

__all__ = ["Writer"]

log = logging.getLogger(__name__)

# A disk that is full or away is so for minutes; trying costs a file each time.
RETRY_S = 2.0
# After a kill, so much is sent twice; it costs no flush.
CURSOR_PERIOD_S = 2.0
# After a power cut, so much is: the sinks take it, and a flush for each sink and batch would wear
# the card more than all the samples do.
CURSOR_SYNC_PERIOD_S = 60.0

# How far the derived lanes may be behind on disk: each flush wears the card, and the replay that
# makes them again grows by as much.
DERIVED_SYNC_PERIOD_S = 60.0

# Less is a card that cleans up. More, and what waits would soon hold the sources back.
MEMORY_AFTER_S = 5.0
# Groups in memory whose sources wait: three hours of them, some megabytes.
HELD_MAX = 10_000

OnHeld = Callable[[Sequence[Group]], None]
OnDone = Callable[[Sequence[Group], BaseException | None], None]


class Writer:
    """Commits groups; `on_done` is called in the writer's thread, with what kept them from it."""

    def __init__(
        self, store: Store, on_done: OnDone, on_held: OnHeld, on_end: Callable[[], None]
    ) -> None:
        self._store = store
        self._on_done = on_done
        self._on_held = on_held
        self._on_end = on_end
        self._groups: deque[Group] = deque()
        self._held: deque[Group] = deque()
        self._refused_since_s: float | None = None
        self._settle_tried_s = 0.0
        self._checkpoint: Checkpoint | None = None  # to be written
        self._changed = threading.Condition()
        self._is_ending = threading.Event()
        self._cursors_saved_s = store.clock.monotonic_s()
        self._cursors_synced_s = self._cursors_saved_s
        self._derived_synced_s = self._cursors_saved_s
        # A daemon: a disk that never answers must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, group: Group) -> None:
        with self._changed:
            self._groups.append(group)
            self._changed.notify()

    def save(self, checkpoint: Checkpoint) -> None:
        """Write it when nothing else waits; a newer one takes its place."""
        with self._changed:
            self._checkpoint = checkpoint
            self._changed.notify()

    def end(self) -> None:
        """Commit what was put, if the disk takes it at the first try, and stop."""
        with self._changed:
            self._is_ending.set()
            self._changed.notify()

    def _run(self) -> None:
        try:
            while True:
                groups = self._take()
                if groups:
                    self._commit(groups)
                elif self._is_ending.is_set():
                    break
                self._tidy()
            self._settle(at_end=True)
            self._save_checkpoint()
            self._save_cursors(sync=True)
        finally:
            self._store.close()
            self._on_end()

    def _take(self) -> list[Group]:
        """All that waits; none when nothing came for a while."""
        with self._changed:
            if not (self._groups or self._checkpoint or self._is_ending.is_set()):
                self._changed.wait(CURSOR_PERIOD_S)
            groups = list(self._groups)
            self._groups.clear()
        return groups

    def _commit(self, groups: Sequence[Group]) -> None:
        stats, clock = self._store.stats, self._store.clock
        while True:
            began_s = clock.monotonic_s()
            try:
                self._store.commit(groups)
            except (OSError, SpoolLocked) as error:
                self._degrade(error)
                if self._is_ending.is_set():
                    self._on_done(groups, error)
                    return
                if not self._enter_memory():
                    self._is_ending.wait(RETRY_S)
            except Exception as error:  # noqa: BLE001 - a defect must not cost the groups after it
                self._refuse(groups, error)
                return
            else:
                stats.commit_ms_last = (clock.monotonic_s() - began_s) * 1000
                if self._store.in_memory:
                    self._hold(groups)
                else:
                    self._recover()
                    self._on_done(groups, None)
                return

    def _enter_memory(self) -> bool:
        """Whether the groups are to be tried in memory, at once."""
        now_s = self._store.clock.monotonic_s()
        if self._refused_since_s is None:
            self._refused_since_s = now_s
        if self._store.in_memory or now_s - self._refused_since_s < MEMORY_AFTER_S:
            return False
        try:
            self._store.enter_memory()
        except (OSError, SpoolLocked) as error:
            self._store.stats.error_last = str(error)
            return False
        log.error("spool.in_memory consequence=forwarded as before, lost at a power cut")
        return True

    def _hold(self, groups: Sequence[Group]) -> None:
        """Readable, but not durable: the futures wait for the disk."""
        for group in groups:
            group.forget_turns()
        self._held += groups
        self._on_held(groups)
        given_up = []
        while len(self._held) > HELD_MAX:
            given_up.append(self._held.popleft())
        self._give_up(given_up)

    def _settle(self, *, at_end: bool = False) -> None:
        """Move from memory to the disk, if it takes it."""
        now_s = self._store.clock.monotonic_s()
        if not self._store.in_memory or (now_s - self._settle_tried_s < RETRY_S and not at_end):
            return
        self._settle_tried_s = now_s
        try:
            self._store.leave_memory()
        except (OSError, SpoolLocked) as error:
            self._store.stats.error_last = str(error)
            if at_end:
                self._on_done(list(self._held), error)
            return
        kept: list[Group] = []
        given_up: list[Group] = []
        for group in self._held:
            (kept if self._store.is_kept(group.sequence) else given_up).append(group)
        self._held.clear()
        self._recover()
        self._on_done(kept, None)
        self._give_up(given_up)

    def _give_up(self, groups: Sequence[Group]) -> None:
        if groups:
            self._on_done(groups, SpoolError("given up in memory while the disk refused"))

    def _degrade(self, error: Exception) -> None:
        stats = self._store.stats
        stats.error_last = str(error)
        if stats.state == "ok":
            stats.state = "degraded"
            log.error("spool.degraded error=%s consequence=samples wait in memory", error)

    def _recover(self) -> None:
        self._refused_since_s = None
        if self._store.stats.state != "ok":
            self._store.stats.state = "ok"
            log.info("spool.recovered")

    def _refuse(self, groups: Sequence[Group], error: Exception) -> None:
        """Something in these groups cannot be written, ever: find it, and keep the rest."""
        if len(groups) > 1:
            for group in groups:
                self._commit([group])
            return
        samples = sum(len(frame) for turn in groups[0].turns for frame in turn.frames.values())
        self._store.stats.samples_lost_total += samples
        log.error("spool.group_refused samples=%d", samples, exc_info=error)
        self._on_done(groups, SpoolError(f"a commit group cannot be written: {error}"))

    def _tidy(self) -> None:
        now_s = self._store.clock.monotonic_s()
        try:
            if not self._store.is_open:
                self._store.open()
                self._recover()
            self._settle()
            self._store.tidy()
            if now_s - self._derived_synced_s >= DERIVED_SYNC_PERIOD_S:
                self._derived_synced_s = now_s
                self._store.sync_derived()
        except (OSError, SpoolLocked) as error:
            self._degrade(error)
            if not self._store.is_open and self._enter_memory():
                self._on_held(())  # what is on disk can be read, though nothing new has come
        self._save_checkpoint()
        if now_s - self._cursors_saved_s >= CURSOR_PERIOD_S:
            self._cursors_saved_s = now_s
            is_due = now_s - self._cursors_synced_s >= CURSOR_SYNC_PERIOD_S
            if is_due:
                self._cursors_synced_s = now_s
            self._save_cursors(sync=is_due)

    def _save_checkpoint(self) -> None:
        checkpoint, self._checkpoint = self._checkpoint, None
        if checkpoint is None:
            return
        try:
            self._store.save_checkpoint(checkpoint)
        except Exception as error:  # noqa: BLE001 - it only saves work; the samples need this thread
            log.warning("spool.checkpoint_not_saved error=%s consequence=a longer replay", error)

    def _save_cursors(self, *, sync: bool) -> None:
        if not self._store.is_open:
            return  # what is on disk has not been read yet, and must not be overwritten
        try:
            self._store.save_cursors(sync=sync)
        except OSError as error:
            if not self._store.stats.cursors_error:
                log.warning("spool.cursors_not_saved error=%s", error)
            self._store.stats.cursors_error = str(error)
        else:
            self._store.stats.cursors_error = ""
