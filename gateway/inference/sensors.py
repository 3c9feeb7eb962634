"""Sensors: what an input looks like while all is well, and which one cannot be believed. Pure.

`learn` gives, for each feature, the facts that a bundle carries (`Healthy`, in the manifest).
`SensorWatch` looks at all inputs of all assets at every tick and finds those that are

    missing       no usable sample for so long that the score is not known, while others have some
    out of range  outside the tag's plausible range; or further from the healthy range than
                  RANGE_SPANS times its width, while every other input of the asset is near its own
    jumping       back and forth by more than JUMP_STEPS of the largest healthy step and more than
                  the healthy range is wide, out of that range and into it again, while the other
                  inputs do not (a worn bearing shakes more wildly, too, but never as of old)
    frozen, flat  the very same value, or no noise, for longer than FLAT_RUNS of the longest
                  healthy run (and not for features that stand still for minutes in good health)

A verdict holds until the window that the model sees is free of what gave rise to it. Each is a
function of a bounded past (`memory` ticks), so that a replay as long as that arrives at the same.
A fault of the machine shows in several inputs, or moves one input further and further; a verdict
asks for what a machine cannot do to one input alone. What looks like both is left to the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import IntEnum
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from gateway.frame import BoolArray, ByteArray, FloatArray
from gateway.inference.manifest import Healthy
from gateway.inference.rings import NOWHERE, CellArray

__all__ = ["SensorFault", "SensorWatch", "learn", "still_max"]

# A verdict that needs a longer run than this would make every restart replay as much.
FLAT_TICKS_MAX = 600
FLAT_RUNS = 3
# Fewer equal samples in a row than this happen to a coarse register by chance.
FLAT_TICKS_MIN = 10
JUMP_STEPS = 8
KEPT_TICKS = 8
RANGE_SPANS = 20

# A change of less than this share of the usual one is none: the noise that every live input has
# is gone. Zero for an input that is usually still, and then only the very same value counts.
STILL_SHARE = 0.05
# Of an asset's inputs: more than this missing at once is its source, not its sensors.
AWAY_SHARE = 0.5
_DECILES = np.arange(1, 10) * 10


Noise = TypeVar("Noise", float, FloatArray)


class SensorFault(IntEnum):
    """What is wrong with an input; of several the greatest is told."""

    NONE = 0
    FLAT = 1
    FROZEN = 2
    JUMPING = 3
    OUT_OF_RANGE = 4
    MISSING = 5

    @property
    def word(self) -> str:
        return self.name.lower().replace("_", " ")


class SensorWatch:
    """The inputs of all assets of one model; slots and features are those of its rings."""

    def __init__(self, healthy: Sequence[Healthy | None], *, window: int, invalid_max: int) -> None:
        """`invalid_max` is how many ticks of a window may be invalid before there is no score."""
        facts = [fact or _UNKNOWN for fact in healthy]
        self._window = window
        self._missing_after = max(1, invalid_max)
        noise, step, flat, low, high = (
            np.array([getattr(fact, name) for fact in facts], np.float64)
            for name in ("noise", "step_max", "flat_max", "low", "high")
        )
        span = high - low
        is_known = np.array([fact is not None for fact in healthy])
        self._still = np.where(is_known, still_max(noise), -1.0)  # nothing is that still
        limit = FLAT_RUNS * flat + FLAT_TICKS_MIN
        self._flat_after = np.where(is_known & (limit <= FLAT_TICKS_MAX), limit, np.inf)
        jump = np.maximum(JUMP_STEPS * step, span)
        self._low, self._high = low, high
        self._jump = np.where(is_known & (step > 0), jump, np.inf)
        self._far_low = np.where(is_known & (span > 0), low - RANGE_SPANS * span, -np.inf)
        self._far_high = np.where(is_known & (span > 0), high + RANGE_SPANS * span, np.inf)
        self._near_low = np.where(span > 0, low - span, -np.inf)
        self._near_high = np.where(span > 0, high + span, np.inf)
        self._alone_max = max(1, len(facts) // 4)
        # The longest run that matters, and as long as a verdict then holds.
        runs = self._flat_after[np.isfinite(self._flat_after)]
        self.memory = int(runs.max(initial=0)) + 2 * window + self._missing_after + 2
        shape = (0, len(facts))
        self._before: FloatArray = np.zeros(shape)
        self._change: FloatArray = np.zeros(shape)
        self._kept: FloatArray = np.zeros(
            (KEPT_TICKS, *shape)
        )  # ticks that are yet to be looked at
        self._kept_ticks: npt.NDArray[np.int64] = np.zeros(KEPT_TICKS, np.int64)
        self._kept_count = 0
        self._was_fresh: BoolArray = np.zeros(shape, np.bool_)
        self._moved: npt.NDArray[np.int64] = np.zeros(shape, np.int64)  # at which tick it last did
        self._heard: npt.NDArray[np.int64] = np.zeros(shape, np.int64)  # tick it was last fresh
        self._held_until: npt.NDArray[np.int64] = np.zeros(shape, np.int64)
        self._had_holes = True
        self._jumps: dict[tuple[int, int], list[tuple[int, float]]] = {}  # (tick, by how much)
        # By slot and feature: what is wrong now. The caller must not write.
        self.faults: ByteArray = np.zeros(shape, np.uint8)
        self.has_faults = False
        self._outside_cells: BoolArray = np.zeros(1, np.bool_)  # of their tag's own range
        self.any_outside = False

    def grow(self, slots: int, tick: int) -> None:
        """Room for more assets, of which nothing is known before `tick`."""
        more = slots - len(self._before)
        if more <= 0:
            return
        self._catch_up()
        self._kept = np.zeros((KEPT_TICKS, slots, self._before.shape[1]))
        filled = {"_before": 0, "_moved": tick, "_heard": tick, "_held_until": -1}
        for name in (*filled, "_change", "_was_fresh", "faults"):
            old = getattr(self, name)
            new = np.full((more, old.shape[1]), filled.get(name, 0), old.dtype)
            setattr(self, name, np.concatenate([old, new]))
        more_cells = np.zeros(more * self._before.shape[1], np.bool_)
        self._outside_cells = np.concatenate([self._outside_cells, more_cells])
        self._had_holes = True

    def start(self, tick: int) -> None:
        """The first tick there is, of which those before know nothing."""
        self._moved[:] = self._heard[:] = tick

    def note_outside(self, cells: CellArray, is_outside: BoolArray) -> None:
        """Which of the newest samples lie outside of their tags' plausible range.

        Cells are those of the rings: NOWHERE, then slot by slot each feature.
        """
        if self.any_outside or is_outside.any():
            flat = self._outside_cells
            flat[cells] = is_outside
            flat[NOWHERE] = False
            self.any_outside = bool(flat.any())

    def push(self, tick: int, values: FloatArray, fresh: BoolArray | None) -> None:
        """What the inputs are at a tick, (slots, features); `fresh` is None when all of them are.

        While all are fresh they are only kept, and looked at a few ticks at a time: a numpy call
        costs about a microsecond whatever its length.
        """
        if fresh is None and not self._had_holes:
            self._kept[self._kept_count] = values
            self._kept_ticks[self._kept_count] = tick
            self._kept_count += 1
            if self._kept_count == KEPT_TICKS:
                self._catch_up()
            return
        self._catch_up()
        now = np.ones(values.shape, np.bool_) if fresh is None else fresh
        change = self._change
        np.subtract(values, self._before, out=change)
        np.abs(change, out=change)
        moved = (change > self._still) | ~now | ~self._was_fresh
        jumped = (change > self._jump) & now & self._was_fresh
        np.copyto(self._heard, tick, where=now)
        self._was_fresh = now.copy()
        self._had_holes = fresh is not None
        np.copyto(self._moved, tick, where=moved)
        if jumped.any():
            self._note_jumps(tick, self._before, values, jumped)
        np.copyto(self._before, values)

    def _catch_up(self) -> None:
        """Look at the ticks that were kept, oldest first."""
        count, self._kept_count = self._kept_count, 0
        if not count:
            return
        values, ticks = self._kept[:count], self._kept_ticks[:count]
        before = np.concatenate([self._before[np.newaxis], values[:-1]])
        change = np.abs(values - before)
        moved = change > self._still
        newest = ticks[count - 1 - np.argmax(moved[::-1], axis=0)]
        np.copyto(self._moved, newest, where=moved.any(axis=0))
        jumped = change > self._jump
        if jumped.any():
            for i in np.flatnonzero(jumped.any(axis=(1, 2))).tolist():
                self._note_jumps(int(ticks[i]), before[i], values[i], jumped[i])
        self._change = change[-1]
        np.copyto(self._before, values[-1])

    @property
    def is_suspicious(self) -> bool:
        """Whether something asks for a judgement: a fault that is known, a hole, a jump."""
        return self.has_faults or self._had_holes or bool(self._jumps) or self.any_outside

    def judge(self, tick: int) -> None:
        """Bring `faults` up to a tick, which was the last to be pushed."""
        self._catch_up()
        if not self._had_holes:
            self._heard[:] = tick
        found = np.zeros(self.faults.shape, np.uint8)
        still = tick - self._moved > self._flat_after
        if still.any():
            found[still] = SensorFault.FLAT
            found[still & (self._change == 0)] = SensorFault.FROZEN
        if self._jumps:
            self._find_jumping(tick, found)
        outside = (self._before < self._far_low) | (self._before > self._far_high)
        if outside.any():
            self._keep_lone(outside)
        if self.any_outside:
            outside |= self._outside_cells[1:].reshape(outside.shape)
        found[outside & self._was_fresh] = SensorFault.OUT_OF_RANGE
        if self._had_holes:
            missing = tick - self._heard > self._missing_after
            # Most of an asset's at once: its source is away. Not all, since a tag with a deadband
            # is believed for a while longer than the others.
            missing &= missing.mean(axis=1, keepdims=True) <= AWAY_SHARE
            found[missing] = SensorFault.MISSING
        is_found = found > 0
        if is_found.any():
            self.faults[is_found] = found[is_found]
            # A jump is looked for as long as it lies in the window; the others are seen only now.
            hold = np.where(found[is_found] == SensorFault.JUMPING, 0, self._window)
            self._held_until[is_found] = tick + hold
            self.has_faults = True
        if self.has_faults:
            self.faults[self._held_until < tick] = SensorFault.NONE
            self.has_faults = bool(self.faults.any())

    def clock_stepped_back(self, tick: int) -> None:
        """Ticks of before the step must not look like the future."""
        self._catch_up()
        for ticks in (self._moved, self._heard):
            np.minimum(ticks, tick, out=ticks)
        np.minimum(self._held_until, tick + self._window, out=self._held_until)
        self._jumps.clear()

    def describe(self, slot: int, fields: Sequence[str]) -> str:
        """What is wrong with an asset's inputs: "flow frozen,speed missing"; nothing if nothing."""
        faults = self.faults[slot].tolist()
        return ",".join(
            f"{field} {SensorFault(fault).word}"
            for field, fault in zip(fields, faults, strict=True)
            if fault
        )

    def _note_jumps(
        self, tick: int, before: FloatArray, values: FloatArray, jumped: BoolArray
    ) -> None:
        steps = values - before
        jumped = jumped & (self._is_healthy(before) | self._is_healthy(values))
        for slot, feature in zip(*(axis.tolist() for axis in np.nonzero(jumped)), strict=True):
            by = float(steps[slot, feature])
            jumps = self._jumps.setdefault((slot, feature), [])
            jumps.append((tick, by))
            del jumps[: -self._window]

    def _is_healthy(self, values: FloatArray) -> BoolArray:
        return (values >= self._low) & (values <= self._high)

    def _find_jumping(self, tick: int, found: ByteArray) -> None:
        """Inputs that went there and back within a window, but for those of a whole asset."""
        recent = {}
        for place, jumps in self._jumps.items():
            kept = [(at, by) for at, by in jumps if at > tick - self._window]
            if kept:
                recent[place] = kept
        self._jumps = recent
        jumping = Counter(slot for slot, _ in recent)
        for (slot, feature), jumps in recent.items():
            way = sum(abs(by) for _, by in jumps)
            returned = len(jumps) > 1 and abs(sum(by for _, by in jumps)) < way / 4
            if returned and jumping[slot] <= self._alone_max:
                found[slot, feature] = SensorFault.JUMPING

    def _keep_lone(self, outside: BoolArray) -> None:
        """Drop what is far outside where another input of the asset is outside, too."""
        slots = np.flatnonzero(outside.any(axis=1))
        values = self._before[slots]
        away = (values < self._near_low) | (values > self._near_high)
        alone = (away.sum(axis=1) == 1) & (outside.shape[1] > 1)
        outside[slots[~alone]] = False


# Stands where a bundle says nothing; every limit made of it is switched off.
_UNKNOWN = Healthy(low=0, high=0, noise=0, step_max=0, flat_max=0, deciles=(0.0,) * 9)


def still_max(noise: Noise) -> Noise:
    """The largest change from a tick to the next that counts as standing still."""
    return STILL_SHARE * noise


def learn(values: FloatArray, usable: BoolArray, period_s: float) -> list[Healthy | None]:
    """The healthy facts of each feature; None for one that is never usable.

    `values` and `usable` are (ticks, features): what the model's input was at each tick of its
    sample period, in engineering units, and whether it was there and healthy. Rows left out of a
    recording need a row that is not usable in their place, lest the step across the gap count.
    """
    assert values.shape == usable.shape
    assert period_s > 0
    usable = usable & np.isfinite(values)
    return [_learn_one(values[:, i], usable[:, i]) for i in range(values.shape[1])]


def _learn_one(values: FloatArray, usable: BoolArray) -> Healthy | None:
    there = values[usable]
    if not len(there):
        return None
    steps = np.abs(np.diff(values))[usable[1:] & usable[:-1]]
    noise = float(np.median(steps)) if len(steps) else 0.0
    with np.errstate(invalid="ignore"):
        still = usable[1:] & usable[:-1] & (np.abs(np.diff(values)) <= still_max(noise))
    return Healthy(
        low=float(there.min()),
        high=float(there.max()),
        noise=noise,
        step_max=float(steps.max(initial=0.0)),
        flat_max=_longest_run(still),
        deciles=tuple(np.percentile(there, _DECILES).tolist()),
    )


def _longest_run(flags: BoolArray) -> int:
    """The most `True` in a row."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))
