"""Selection: which tags a sink is sent, as a mask by tag id that grows with the table."""

from __future__ import annotations

import numpy as np

from gateway.frame import BoolArray, Frame
from gateway.settings import matches_any
from gateway.tag import Tags

__all__ = ["Selection"]


class Selection:
    """What matches one of `tags` and none of `exclude_tags`."""

    def __init__(
        self, table: Tags, tags: tuple[str, ...] = ("*",), exclude_tags: tuple[str, ...] = ()
    ) -> None:
        self._table = table
        self._tags = tags
        self._exclude_tags = exclude_tags
        self._is_all = "*" in tags and not exclude_tags
        self._mask: BoolArray = np.empty(0, np.bool_)

    def apply(self, frame: Frame) -> Frame:
        """The rows of the frame that are to be sent, in order."""
        if self._is_all:
            return frame
        known = len(self._mask)
        if known < len(self._table):
            names = [self._table[tag_id].name for tag_id in range(known, len(self._table))]
            self._mask = np.append(self._mask, [self._wants(name) for name in names])
        return frame.where(self._mask[frame.tag_ids])

    def _wants(self, name: str) -> bool:
        return matches_any(name, self._tags) and not matches_any(name, self._exclude_tags)
