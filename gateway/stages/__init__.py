"""Stages: what happens to a frame between source and spool. Pure: no await, no clock, no I/O.

A stage gets the turn's frame and `now_ns` and gives a frame. What it remembers follows from the
frames and times it was given alone, so that replaying the raw lane rebuilds it.
"""

from __future__ import annotations

from typing import Protocol

from gateway.frame import Frame

__all__ = ["Stage"]


class Stage(Protocol):
    """One step of a turn."""

    def apply(self, frame: Frame, now_ns: int) -> Frame:
        """The frame this step makes of `frame`; EMPTY_FRAME where it has nothing to say."""
        ...
