"""Duplicates: samples that a broker delivers a second time are not counted a second time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gateway.frame import Arrival, Frame

__all__ = ["Duplicates"]

# What can come again is what was on disk, but not yet acknowledged, when a link or the process
# died: at most `receive_max` messages a source, 1,024 unless told. This holds 64 fields of each.
KEYS_MAX = 65_536


class Duplicates:
    """Remembers (tag, time) of the latest samples that could be delivered again.

    The key is a 64-bit hash of the two; among the 65,536 kept, the chance that a redelivered
    sample meets a stranger's key is below 1 in 10**14.
    """

    def __init__(self) -> None:
        self._keys = np.zeros(KEYS_MAX, np.uint64)
        self._next = 0
        self.dropped_total = 0

    def screen(self, arrival: Arrival) -> Frame:
        """The arrival's frame without the samples seen before."""
        frame = arrival.frame
        if arrival.on_durable is None or not len(frame):
            return frame
        keys = _keys(frame)
        if arrival.redelivered:
            fresh = ~np.isin(keys, self._keys)
            self.dropped_total += len(frame) - int(fresh.sum())
            frame, keys = frame.where(fresh), keys[fresh]
        self._remember(keys)
        return frame

    def seen(self, frame: Frame) -> None:
        """Remember samples stored before, as when the raw lane is replayed."""
        self._remember(_keys(frame))

    def _remember(self, keys: npt.NDArray[np.uint64]) -> None:
        keys = keys[-KEYS_MAX:]
        head = min(len(keys), KEYS_MAX - self._next)
        self._keys[self._next : self._next + head] = keys[:head]
        self._keys[: len(keys) - head] = keys[head:]
        self._next = (self._next + len(keys)) % KEYS_MAX


def _keys(frame: Frame) -> npt.NDArray[np.uint64]:
    # Two rounds of a multiplicative mix (the constants are splitmix64's); wrap-around is meant.
    mixed = frame.t_ns.astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(29)
    mixed += frame.tag_ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(32)
    return mixed
