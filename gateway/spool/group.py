"""Group: turns that become durable as one, and the records that they will be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gateway.frame import EMPTY_FRAME, Frame, Lane, Turn
from gateway.spool.lane import Draft

__all__ = ["Group"]


@dataclass(slots=True, eq=False)
class Group:
    """Turns that become durable as one: a record a lane."""

    turns: list[Turn] = field(default_factory=list)  # all of one boot
    drafts: dict[Lane, Draft] | None = None  # made at the first try
    _sequence: int = 0

    @property
    def sequence(self) -> int:
        """Of its raw record; 0 where there is none."""
        raw = (self.drafts or {}).get(Lane.RAW)
        return raw.sequence if raw is not None else self._sequence

    @property
    def made_of(self) -> int:
        """The last raw record that what is derived in it follows from."""
        made_of = [turn.raw_sequence for turn in self.turns]
        return max(made_of) if made_of and all(made_of) else self.sequence

    def draft(self, *, keeps_raw: bool) -> dict[Lane, Draft]:
        """Its records to be, by lane; the same at every try."""
        if self.drafts is None:
            self.drafts = _drafts(self.turns, keeps_raw=keeps_raw)
        return self.drafts

    def forget_turns(self) -> None:
        """Keep the sequence only: the records are written, if only in memory."""
        self._sequence = self.sequence
        self.turns, self.drafts = [], {}


def _drafts(turns: Sequence[Turn], *, keeps_raw: bool) -> dict[Lane, Draft]:
    kept: dict[Lane, list[tuple[int, Frame]]] = defaultdict(list)
    for turn in turns:
        # Without rows a turn is kept in the raw lane alone: there replay needs it.
        if keeps_raw:
            kept[Lane.RAW].append((turn.now_ns, turn.frames.get(Lane.RAW, EMPTY_FRAME)))
        for lane, frame in turn.frames.items():
            if lane is not Lane.RAW and len(frame):
                kept[lane].append((turn.now_ns, frame))
    return {
        lane: Draft(
            now_ns=np.array([now_ns for now_ns, _ in parts], np.int64),
            row_ends=np.cumsum([len(frame) for _, frame in parts], dtype=np.int64),
            frame=Frame.concatenate([frame for _, frame in parts]),
            boot=turns[0].boot,
        )
        for lane, parts in kept.items()
    }
