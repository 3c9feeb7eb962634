"""Windows: tumbling aggregates by event time, one instance an [[aggregate]].

Window w of length L holds the samples with `t_ns // L == w`. Each tag keeps its newest
`windows_kept` windows as columns of small 2-D arrays (slot = w modulo kept), so that all tags are
accumulated by a handful of numpy calls.

A window is given out once `lateness` has passed since its end and since the last sample that
went into it. A sample that comes later still corrects it: the window is given out again, whole,
with the same time, and overwrites itself wherever it has been sent. So a broker's backlog after
an outage ends up in the aggregates it belongs to. What is older than the windows kept is counted
late and is in the raw lane only.

When to give out follows from `now_ns` and the samples alone; a replay gives the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gateway.frame import EMPTY_FRAME, FloatArray, Frame, IdArray, Lane, TimeArray
from gateway.settings import matches_any
from gateway.stages.config import AggregateSettings, Statistic
from gateway.tag import DataType, Quality, Tag, TagTable

__all__ = ["Windows", "aggregate_tag", "duration_text"]

_NEVER = np.iinfo(np.int64).max
_NO_WINDOW = np.iinfo(np.int64).min
_NEVER_SEEN = _NO_WINDOW // 2
_FLOOR = "floor"  # in a snapshot, beside the arrays of the state
# After a restart, late samples can correct windows this far back (more would be more to replay).
CORRECTION_AFTER_RESTART_NS = 120 * 10**9


class Windows:
    """The open and recent windows of all tags that one [[aggregate]] covers."""

    def __init__(self, settings: AggregateSettings, table: TagTable) -> None:
        self._settings = settings
        self._table = table
        self._length_ns = round(settings.every * 1e9)
        self._lateness_ns = round(settings.lateness * 1e9)
        self._kept = settings.windows_kept
        self._floor = _NO_WINDOW  # windows before this one may lack samples, and are left alone
        self._column = np.empty(0, np.int32)  # tag id -> column of the state, -1 for not covered
        self._outputs: list[list[int]] = []  # column -> ids of the derived tags
        self._state = _State(self._kept, 0)
        self._due_ns = _NEVER  # no window is due before
        self._now_ns = _NO_WINDOW  # of the last turn
        self.samples_late_total = 0
        self._grow()

    @property
    def horizon_ns(self) -> int:
        """How much history before now must be replayed to rebuild what is still open."""
        corrected = min(self._kept * self._length_ns, CORRECTION_AFTER_RESTART_NS)
        return self._length_ns + self._lateness_ns + corrected

    @property
    def due_ns(self) -> int:
        """No window is given out before this time."""
        return self._due_ns

    def start_from(self, t_ns: int) -> None:
        """Leave alone every window that began before `t_ns`: its samples are not all known."""
        self._floor = -(-t_ns // self._length_ns)

    @property
    def settings(self) -> AggregateSettings:
        return self._settings

    def snapshot(self) -> tuple[IdArray, dict[str, npt.NDArray[Any]]]:
        """Ids of the tags that have had samples, and copies of their windows, a column a tag."""
        tag_ids = np.flatnonzero(self._column >= 0).astype(np.int32)
        columns = self._column[tag_ids]
        has_had = self._state.newest[columns] > _NEVER_SEEN
        tag_ids, columns = tag_ids[has_had], columns[has_had]
        state = {name: array[..., columns] for name, array in vars(self._state).items()}
        state[_FLOOR] = np.full(len(tag_ids), self._floor)
        return tag_ids, state

    def restore(self, tag_ids: IdArray, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a snapshot that windows of the same settings gave; -1 for a tag that is gone.

        Raises ValueError or KeyError if it is not one.
        """
        self._grow()
        columns = np.where(tag_ids >= 0, self._column[tag_ids], -1)
        covered = columns >= 0
        restored = _State(self._kept, len(self._outputs))
        for name, array in vars(restored).items():
            array[..., columns[covered]] = state[name][..., covered]
        self._state = restored
        self._floor = int(state[_FLOOR].max(initial=_NO_WINDOW))
        self._due_ns = _NO_WINDOW  # to be found out by the next turn

    def give_all(self) -> Frame:
        """Every aggregate that has not been given out, complete or not, and none after it."""
        slots, columns = np.nonzero(self._state.unsaid)
        order = np.lexsort((columns, self._state.window[slots, columns]))
        given = self._give(slots[order], columns[order]) if len(slots) else EMPTY_FRAME
        self.forget()
        return given

    def forget(self) -> None:
        """Be without a sample again."""
        self._state = _State(self._kept, len(self._outputs))
        self._floor, self._due_ns = _NO_WINDOW, _NEVER

    def apply(self, frame: Frame, now_ns: int) -> Frame:
        """Take the samples of one turn; the aggregates that are due."""
        self._grow()
        given: list[Frame] = []
        if now_ns + self._kept * self._length_ns < self._now_ns:
            # The clock was set back: everything would be late until it is as late again as it was.
            given.append(self.give_all())
        self._now_ns = now_ns
        if len(frame):
            self._take(frame, now_ns, given)
        if now_ns >= self._due_ns:
            self._give_due(now_ns, given)
        return Frame.concatenate(given)

    def _take(self, frame: Frame, now_ns: int, given: list[Frame]) -> None:
        columns = self._column[frame.tag_ids]
        usable = columns >= 0
        if not usable.any():
            return
        windows = frame.t_ns // self._length_ns
        first, last = int(windows.min()), int(windows.max())
        # A turn nearly always falls into one window; a backlog into several, oldest first.
        for window in (first,) if first == last else np.unique(windows[usable]).tolist():
            rows = usable if first == last else usable & (windows == window)
            self._take_window(int(window), columns[rows], frame.where(rows), now_ns, given)

    def _take_window(
        self, window: int, columns: IdArray, frame: Frame, now_ns: int, given: list[Frame]
    ) -> None:
        state, slot = self._state, window % self._kept
        alive = state.newest[columns] - self._kept < window
        if window < self._floor or not alive.all():
            if window < self._floor:
                alive[:] = False
            self.samples_late_total += len(columns) - int(alive.sum())
            columns, frame = columns[alive], frame.where(alive)
            if not len(columns):
                return
        taken_over = columns[state.window[slot, columns] != window]
        if len(taken_over):
            taken_over = np.unique(taken_over)
            unsaid = taken_over[state.unsaid[slot, taken_over]]
            if len(unsaid):
                given.append(self._give(np.full(len(unsaid), slot), unsaid))
            state.clear(slot, taken_over, window)
        state.newest[columns] = np.maximum(state.newest[columns], window)
        state.add(slot, columns, frame)
        state.touched_ns[slot, columns] = now_ns
        end_ns = (window + 1) * self._length_ns
        self._due_ns = min(self._due_ns, max(end_ns, now_ns) + self._lateness_ns)

    def _give_due(self, now_ns: int, given: list[Frame]) -> None:
        state = self._state
        slots, columns = np.nonzero(state.unsaid)
        if not len(slots):
            self._due_ns = _NEVER
            return
        end_ns = (state.window[slots, columns] + 1) * self._length_ns
        due_ns = np.maximum(end_ns, state.touched_ns[slots, columns]) + self._lateness_ns
        due = due_ns <= now_ns
        self._due_ns = int(due_ns[~due].min()) if not due.all() else _NEVER
        slots, columns = slots[due], columns[due]
        if len(slots):
            order = np.lexsort((columns, state.window[slots, columns]))
            given.append(self._give(slots[order], columns[order]))

    def _give(self, slots: npt.NDArray[np.intp], columns: IdArray | npt.NDArray[np.intp]) -> Frame:
        """The aggregates of some (slot, column) pairs, as they are now."""
        state = self._state
        state.unsaid[slots, columns] = False
        t_ns = state.window[slots, columns] * self._length_ns
        statistics = state.statistics(slots, columns)
        values = np.stack([statistics[name] for name in self._settings.statistics], axis=1)
        quality = np.where(
            state.count[slots, columns] == 0,
            np.uint8(Quality.BAD),
            np.where(
                state.worst[slots, columns] > 0, np.uint8(Quality.UNCERTAIN_SUBNORMAL), np.uint8(0)
            ),
        ).astype(np.uint8)
        width = values.shape[1]
        codes = np.repeat(quality, width).reshape(values.shape)
        if Statistic.COUNT in self._settings.statistics:
            # That there were no samples is itself well known.
            codes[:, self._settings.statistics.index(Statistic.COUNT)] = Quality.GOOD
        ids = np.array([self._outputs[column] for column in columns.tolist()], np.int32)
        return Frame(np.repeat(t_ns, width), ids.ravel(), values.ravel(), codes.ravel())

    def _grow(self) -> None:
        """Cover the tags that appeared since the last turn."""
        known = len(self._column)
        if known == len(self._table):
            return
        new: list[int] = []
        # Adding derived tags makes the table longer; those are never covered themselves.
        table = self._table
        for tag_id in range(known, len(table)):
            tag = table[tag_id]
            covered = tag.lane is Lane.RAW and tag.data_type is not DataType.STRING
            if covered and matches_any(tag.name, self._settings.tags):
                new.append(len(self._outputs))
                made = [table.put_beside(tag, derived) for derived in self._derived(tag)]
                self._outputs.append(made)
            else:
                new.append(-1)
        new += [-1] * (len(self._table) - known - len(new))
        self._column = np.concatenate([self._column, np.array(new, np.int32)])
        self._state = self._state.widened(len(self._outputs))

    def _derived(self, tag: Tag) -> Iterable[Tag]:
        return (
            aggregate_tag(tag, self._settings.every, name) for name in self._settings.statistics
        )


def duration_text(seconds: float) -> str:
    """A duration as users write it: "10s", "5m", "1h", "500ms"."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if seconds >= length and seconds % length == 0:
            return f"{int(seconds // length)}{unit}"
    return f"{seconds * 1000:g}ms"


def aggregate_tag(tag: Tag, every: float, statistic: Statistic) -> Tag:
    """The derived tag that carries one statistic of a tag: `<tag>@<every>.<statistic>`."""
    window = duration_text(every)
    counts = statistic is Statistic.COUNT
    return Tag(
        name=f"{tag.name}@{window}.{statistic}",
        asset=tag.asset,
        asset_class=tag.asset_class,
        field=f"{tag.field}_{statistic}",
        measurement=f"{tag.measurement}_aggregate",
        labels=tuple(sorted((*tag.labels, ("window", window)))),
        lane=Lane.AGGREGATE,
        source=tag.source,
        data_type=DataType.INT64 if counts else DataType.FLOAT64,
        eng_unit="" if counts else tag.eng_unit,
    )


class _State:
    """Running sums of `kept` windows (rows) of each covered tag (columns)."""

    def __init__(self, kept: int, width: int) -> None:
        shape = (kept, width)
        self.newest: TimeArray = np.full(width, _NEVER_SEEN)  # newest window seen, a column
        self.window: TimeArray = np.full(shape, _NO_WINDOW)  # which window the slot holds
        self.unsaid = np.zeros(shape, np.bool_)  # holds what has not been given out yet
        self.touched_ns: TimeArray = np.zeros(shape, np.int64)  # now_ns of the latest sample in it
        self.count: TimeArray = np.zeros(shape, np.int64)
        self.worst = np.zeros(shape, np.uint8)  # worst quality seen
        self.base: FloatArray = np.zeros(shape)  # first value; sums are of distances from it
        self.sum: FloatArray = np.zeros(shape)
        self.squares: FloatArray = np.zeros(shape)
        self.low: FloatArray = np.zeros(shape)
        self.high: FloatArray = np.zeros(shape)
        self.last: FloatArray = np.zeros(shape)
        self.last_ns: TimeArray = np.zeros(shape, np.int64)

    def widened(self, width: int) -> _State:
        """The same with room for more columns."""
        if width == len(self.newest):
            return self
        wider = _State(self.window.shape[0], width)
        for name, array in vars(self).items():
            getattr(wider, name)[..., : array.shape[-1]] = array
        return wider

    def clear(self, slot: int, columns: IdArray, window: int) -> None:
        """Begin a new window in a slot."""
        self.window[slot, columns] = window
        for array in (self.count, self.worst, self.sum, self.squares, self.base):
            array[slot, columns] = 0
        self.low[slot, columns], self.high[slot, columns] = np.inf, -np.inf
        self.last[slot, columns] = np.nan
        self.last_ns[slot, columns] = np.iinfo(np.int64).min

    def add(self, slot: int, columns: IdArray, frame: Frame) -> None:
        """Take samples, all of the window the slot holds; bad ones only darken its quality."""
        self.unsaid[slot, columns] = True
        np.maximum.at(self.worst[slot], columns, frame.quality)
        good = (frame.quality < Quality.BAD) & np.isfinite(frame.values)
        if not good.all():
            columns, frame = columns[good], frame.where(good)
            if not len(columns):
                return
        value = frame.values
        fresh = self.count[slot, columns] == 0
        # Reversed, so that of several samples the first one stays.
        self.base[slot, columns[fresh][::-1]] = value[fresh][::-1]
        distance = value - self.base[slot, columns]
        np.add.at(self.count[slot], columns, 1)
        np.add.at(self.sum[slot], columns, distance)
        np.add.at(self.squares[slot], columns, distance * distance)
        np.minimum.at(self.low[slot], columns, value)
        np.maximum.at(self.high[slot], columns, value)
        np.maximum.at(self.last_ns[slot], columns, frame.t_ns)
        newest = frame.t_ns == self.last_ns[slot, columns]
        self.last[slot, columns[newest]] = value[newest]

    def statistics(
        self, slots: npt.NDArray[np.intp], columns: IdArray | npt.NDArray[np.intp]
    ) -> dict[Statistic, FloatArray]:
        """Each statistic of some (slot, column) pairs; NaN where there was no usable sample."""
        count = self.count[slots, columns].astype(np.float64)
        some = np.where(count > 0, count, np.nan)
        mean_distance = self.sum[slots, columns] / some
        variance = self.squares[slots, columns] / some - mean_distance**2
        empty = np.isnan(some)
        return {
            Statistic.MEAN: self.base[slots, columns] + mean_distance,
            Statistic.MIN: np.where(empty, np.nan, self.low[slots, columns]),
            Statistic.MAX: np.where(empty, np.nan, self.high[slots, columns]),
            Statistic.LAST: self.last[slots, columns],
            Statistic.COUNT: count,
            # Population standard deviation; rounding may leave a tiny negative variance.
            Statistic.STD: np.sqrt(np.maximum(variance, 0.0)),
        }
