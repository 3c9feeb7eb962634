"""Turns: what happens to everything that arrived since the last turn.

    arrivals -> duplicates -> condition -> deadband -+-> raw lane
                                                     +-> windows -> aggregate lane
                                                     +-> rings -> scores, events

A turn is the unit of work because a numpy call costs about a microsecond whatever its length:
paid once for all that arrived in some ten milliseconds, not once a message or device.

Everything here is a function of the frames and of `now_ns`. So the raw lane is the write-ahead
log of all that is in memory: `recover` replays its tail and arrives at the same windows, rings
and open events; what a derived lane has already got is made again, but not written again.
Windows may be hours long, so of these there are checkpoints; the rest has short memories.

Where times are not comparable with those of before, because the clock is trusted at last, there is
a *seam*: models begin anew behind it. Windows of provisional times are a set of their own, which is
given out at the seam, whole or not; those of known times wait for the next sample that they cover.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gateway.errors import SluicegateError
from gateway.frame import EMPTY_FRAME, Arrival, Frame, Lane, Turn
from gateway.jobs import Work, finished
from gateway.spool.checkpoint import Checkpoint
from gateway.spool.dictionary import Dictionary
from gateway.stages.condition import Condition
from gateway.stages.config import AggregateSettings
from gateway.stages.deadband import Deadband
from gateway.stages.duplicates import Duplicates
from gateway.stages.latest import Latest
from gateway.stages.windows import Windows
from gateway.stats import stat, stats
from gateway.tag import TagTable

__all__ = ["CHECKPOINT_PERIOD_NS", "Scorer", "TurnStats", "Turns"]

log = logging.getLogger(__name__)

DERIVED = (Lane.AGGREGATE, Lane.SCORE, Lane.EVENT)
# The broker redelivers within seconds of a restart; this is how far back its copies are known.
DUPLICATES_HORIZON_NS = 60 * 10**9
# A replay of this much takes a second or two on a small board; only longer windows are worth the
# writing of checkpoints.
CHECKPOINT_PERIOD_NS = 600 * 10**9
# Enough for the newest events of a few hundred assets, ten fields each and of some two records.
EVENT_SAMPLES_RESTORED = 8192


_TAGS = "tags"  # in a checkpoint, the tags that the columns of one [[aggregate]] stand for


class Scorer(Protocol):
    """What a turn asks of the inference engine."""

    @property
    def horizon_ns(self) -> int: ...

    def work(self, frame: Frame, now_ns: int) -> Work[tuple[Frame, Frame]]: ...

    def settle(self) -> Frame: ...

    def restore_events(self, frame: Frame) -> None: ...


class Replayable(Protocol):
    """What recovery asks of the spool."""

    last_boot: int
    checkpoint: Checkpoint | None

    @property
    def last_turn_ns(self) -> int: ...

    @property
    def derived_turn_ns(self) -> int: ...

    def replay(self, since_ns: int, after: int | None = None) -> Iterable[tuple[int, Turn]]: ...

    def applied(self, lane: Lane) -> int: ...

    def tail(self, lane: Lane, samples_max: int) -> Frame: ...

    def missing_ns(self, boot: int) -> int: ...


@stats
class TurnStats:
    """What an operator wants to know of the pipeline. Counters only rise."""

    turns_total: int = stat("turns: times that what had arrived was worked on, as one batch")
    samples_total: int = stat("samples taken up, without duplicates and what is within deadbands")
    samples_unchanged_total: int = stat("samples left out: within their deadband")
    samples_duplicate_total: int = stat("samples left out: redelivered, and stored already")
    samples_late_total: int = stat("samples too late for their aggregate")
    turns_failed_total: int = stat("turns that failed: kept raw, without aggregates and scores")
    turn_ms_last: float = stat("how long the newest turn took", default=0.0)
    replayed_turns: int = stat("turns read back from the spool at the start")
    replay_ms: float = stat("how long reading them back took", default=0.0)


class Turns:
    """The stages in their order."""

    def __init__(
        self,
        table: TagTable,
        aggregates: Sequence[AggregateSettings],
        deadband_report_s: float,
        engine: Scorer | None,
    ) -> None:
        self._table = table
        self._duplicates = Duplicates()
        self._condition = Condition(table)
        self._deadband = Deadband(table, deadband_report_s)
        self._aggregates = tuple(aggregates)
        self._windows = [Windows(settings, table) for settings in aggregates]  # of known times
        self._provisional: list[Windows] = []  # of this boot's, while they are not known
        self._engine = engine
        self._failing = False
        self._now_ns = 0  # of the last turn
        self._boot = 0  # whose times it had
        self._missing_ns = 0  # at the last seam: how far behind the times before it were
        self.latest = Latest(table)
        self.stats = TurnStats()

    def turn(self, arrivals: Sequence[Arrival], now_ns: int) -> Turn:
        """Everything that this turn's arrivals give, lane by lane."""
        return finished(self.work(arrivals, now_ns))

    def work(self, arrivals: Sequence[Arrival], now_ns: int) -> Work[Turn]:
        """The same, each run of a model being yielded as a job for the caller to do.

        What comes out does not depend on where a job is done, nor how long it takes. An arrival
        that was stamped before the last seam gets the times it has behind it.
        """
        frames_in = [
            self._duplicates.screen(arrival).shifted(
                0 if arrival.boot == self._boot else self._missing_ns
            )
            for arrival in arrivals
        ]
        conditioned = self._condition.apply(Frame.concatenate(frames_in), now_ns)
        frame = self._deadband.apply(conditioned, now_ns)
        derived = yield from self._derive(conditioned, frame, now_ns, self._current)
        frames = {Lane.RAW: frame, **derived}
        stats = self.stats
        stats.turns_total += 1
        stats.samples_total += len(frame)
        stats.samples_unchanged_total += len(conditioned) - len(frame)
        stats.samples_duplicate_total = self._duplicates.dropped_total
        stats.samples_late_total = sum(
            window.samples_late_total for window in (*self._windows, *self._provisional)
        )
        made_of = {lane: made for lane, made in frames.items() if len(made)}
        return Turn(now_ns, made_of, self._boot)

    def seam(self, boot: int, missing_ns: int = 0) -> Turn | None:
        """Go on with the times of `boot`; a last turn with those of before, if they were others.

        `missing_ns`: how far behind those were, where that is known.
        """
        if boot == self._boot:
            return None
        turn = Turn(self._now_ns, self._settle(), self._boot)
        self._enter(boot)
        self._missing_ns, self._now_ns = missing_ns, 0
        return turn if turn.now_ns else None

    def seam_after(self, lacking: Sequence[Turn], boot: int) -> list[Turn]:
        """What recovery found lacking, and the last turn of before, if `boot` is another now."""
        last = self.seam(boot)
        return [*lacking, *([last] if last is not None else [])]

    @property
    def _current(self) -> list[Windows]:
        return self._provisional if self._boot else self._windows

    def _enter(self, boot: int) -> None:
        self._boot = boot
        self._provisional = [Windows(each, self._table) for each in self._aggregates if boot]

    def _settle(self) -> dict[Lane, Frame]:
        """What ends with the times there were."""
        self._deadband.forget()
        aggregates = Frame.concatenate([window.give_all() for window in self._provisional])
        events = EMPTY_FRAME if self._engine is None else self._engine.settle()
        found = {Lane.AGGREGATE: aggregates, Lane.EVENT: events}
        return {lane: frame for lane, frame in found.items() if len(frame)}

    @property
    def wants_checkpoints(self) -> bool:
        """Whether a replay without one could be long."""
        return not self._boot and any(
            window.horizon_ns > CHECKPOINT_PERIOD_NS for window in self._windows
        )

    def checkpoint(self) -> Checkpoint:
        """The windows as they are; which raw record this is after is for the caller to say."""
        snapshots = [window.snapshot() for window in self._windows]
        every_id = np.unique(np.concatenate([tag_ids for tag_ids, _ in snapshots]))
        state: dict[str, npt.NDArray[Any]] = {}
        for i, (tag_ids, arrays) in enumerate(snapshots):
            key = _key(i, self._windows[i])
            state[f"{key}/{_TAGS}"] = np.searchsorted(every_id, tag_ids)
            state.update((f"{key}/{name}", array) for name, array in arrays.items())
        return Checkpoint(0, [self._table[tag_id] for tag_id in every_id.tolist()], state)

    def recover(self, spool: Replayable) -> list[Turn]:
        """Rebuild what was in memory; what the derived lanes lack of it, to be appended first.

        Within the horizon every raw turn is worked again. A derived lane names the last raw
        sequence it has the outcome of (`applied`), so only what comes after it is missing. With a
        checkpoint the windows take what came after that; without one, all within their horizon.
        Behind a seam all began anew, so what is before one is only worked for what it lacks.
        """
        if not spool.last_turn_ns:
            return []
        # What the derived lanes may lack was made from state that is older still.
        last_ns = min(spool.last_turn_ns, spool.derived_turn_ns)
        start_ns = last_ns - DUPLICATES_HORIZON_NS
        if self._engine is not None:
            start_ns = min(start_ns, last_ns - self._engine.horizon_ns)
            self._engine.restore_events(spool.tail(Lane.EVENT, EVENT_SAMPLES_RESTORED))
        windows_after = self._restore(spool.checkpoint)
        if windows_after is None:
            start_ns = min([start_ns, *(last_ns - window.horizon_ns for window in self._windows)])
        lacking: list[Turn] = []
        missing: dict[Lane, list[Frame]] = {lane: [] for lane in DERIVED}
        sequence_last = 0
        for sequence, turn in spool.replay(start_ns, windows_after):
            if not self.stats.replayed_turns:
                self._enter(turn.boot)
                if windows_after is None:
                    self._start_from(start_ns, spool.missing_ns(turn.boot))
            self.stats.replayed_turns += 1
            settled = self.seam(turn.boot)
            if settled is not None:
                self._miss(settled.frames, sequence_last, spool, missing)
                lacking += _turns_of(missing, settled, sequence_last)
            sequence_last = sequence
            frame = turn.frames.get(Lane.RAW, EMPTY_FRAME)
            self._duplicates.seen(frame)
            self._deadband.seen(frame)
            is_new = windows_after is None or sequence > windows_after
            windows = self._current if is_new else ()
            derived = finished(self._derive(frame, frame, turn.now_ns, windows))
            self._miss(derived, sequence, spool, missing)
        if not self.stats.replayed_turns:
            self._enter(spool.last_boot)
        last_ns = self._now_ns or spool.last_turn_ns
        last = Turn(last_ns, {}, self._boot)
        return [*lacking, *_turns_of(missing, last, sequence_last)]

    def _start_from(self, start_ns: int, missing_ns: int) -> None:
        """Leave windows alone of which not all samples are replayed."""
        for window in self._windows:
            window.start_from(start_ns)
        for window in self._provisional:
            window.start_from(start_ns - missing_ns)

    @staticmethod
    def _miss(
        made: Mapping[Lane, Frame],
        sequence: int,
        spool: Replayable,
        missing: dict[Lane, list[Frame]],
    ) -> None:
        """Remember what was made of a raw record, where a derived lane has not got it."""
        for lane, frame in made.items():
            if len(frame) and sequence > spool.applied(lane):
                missing[lane].append(frame)

    def _restore(self, checkpoint: Checkpoint | None) -> int | None:
        """The raw sequence up to which all windows are known now; None if they are not."""
        if checkpoint is None:
            return None
        state = checkpoint.state
        table_ids = Dictionary.of(checkpoint.tags).table_ids(self._table)
        try:
            for i, window in enumerate(self._windows):
                prefix = f"{_key(i, window)}/"
                arrays = {
                    name.removeprefix(prefix): array
                    for name, array in state.items()
                    if name.startswith(prefix)
                }
                window.restore(table_ids[arrays.pop(_TAGS)], arrays)
        except (LookupError, TypeError, ValueError) as error:
            log.info("pipeline.checkpoint_passed_over reason=other aggregates now (%s)", error)
            for window in self._windows:
                window.forget()
            return None
        return checkpoint.sequence

    def _derive(
        self, every: Frame, reported: Frame, now_ns: int, windows: Iterable[Windows]
    ) -> Work[dict[Lane, Frame]]:
        self.latest.update(every)
        self._now_ns = now_ns
        try:
            aggregates = Frame.concatenate([w.apply(reported, now_ns) for w in windows])
            scores, events = EMPTY_FRAME, EMPTY_FRAME
            if self._engine is not None:
                scores, events = yield from self._engine.work(reported, now_ns)
        except (SluicegateError, ArithmeticError, LookupError, TypeError, ValueError):
            # A defect of ours must not cost the samples: they are kept raw, the rest is missing.
            self.stats.turns_failed_total += 1
            if not self._failing:
                log.exception("pipeline.turn_failed samples=%d", len(reported))
            self._failing = True
            return {}
        self._failing = False
        return {Lane.AGGREGATE: aggregates, Lane.SCORE: scores, Lane.EVENT: events}


def _turns_of(missing: dict[Lane, list[Frame]], last: Turn, raw_sequence: int) -> list[Turn]:
    """What is missing as a turn like `last`, and no longer missing; none if it is nothing."""
    frames = {lane: Frame.concatenate(made) for lane, made in missing.items() if made}
    for made in missing.values():
        made.clear()
    return [Turn(last.now_ns, frames, last.boot, raw_sequence)] if frames else []


def _key(index: int, window: Windows) -> str:
    """What a checkpoint calls these windows: it is of use only while they are the same."""
    return f"{index}:{window.settings.model_dump_json()}"
