"""Latest: the newest sample of every tag, and a short ring of each for a sparkline.

Not a step of the data path: it makes no frame, it only remembers what a person wants to see now.
Rings cost 960 bytes a tag, so only the first `RECENT_TAGS_MAX` raw tags have one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gateway.frame import BoolArray, ByteArray, FloatArray, Frame, IdArray, Lane, TimeArray
from gateway.tag import Quality, TagTable

__all__ = ["RECENT_POINTS", "RECENT_TAGS_MAX", "Latest"]

# Two minutes at a sample a second: enough to see a trend, narrow enough for a sparkline.
RECENT_POINTS = 120
# What a page can show without drowning its reader; 1 MB of rings.
RECENT_TAGS_MAX = 1024
# Samples that come faster than this are thinned.
RECENT_SPACING_NS = 10**9
# Scans and their network jitter: a sample 50 ms early is still the next second's.
_SPACING_TOLERANCE_NS = 50_000_000


class Latest:
    """The newest sample of each tag by id; `update` is called with every frame.

    `t_ns`, `values` and `quality` have an entry for each tag covered so far: 0, NaN and
    BAD_WAITING for one that has had no sample. They are replaced when the table grows, so read
    them afresh. Strings, and integers beyond 2**53, are in `exact` by tag id.
    """

    def __init__(self, table: TagTable) -> None:
        self._table = table
        self.t_ns: TimeArray = np.empty(0, np.int64)
        self.values: FloatArray = np.empty(0, np.float64)
        self.quality: ByteArray = np.empty(0, np.uint8)
        self.exact: dict[int, int | str] = {}
        self._ring: IdArray = np.empty(0, np.int32)  # tag id -> its ring, -1 for none
        self._points = np.empty((0, RECENT_POINTS), np.float32)  # NaN: a bad sample, or none
        # Whole seconds: points are a second apart. Good until 2106.
        self._seconds = np.empty((0, RECENT_POINTS), np.uint32)
        self._head: IdArray = np.empty(0, np.int32)  # where a ring's next point goes
        self._last_ns: TimeArray = np.empty(0, np.int64)  # time of a ring's newest point
        self._grow()

    def update(self, frame: Frame) -> None:
        """Take the samples of a frame; of several of one tag the last row stays."""
        if len(self._table) != len(self.t_ns):
            self._grow()
        if not len(frame):
            return
        ids = frame.tag_ids
        self.t_ns[ids] = frame.t_ns
        self.values[ids] = frame.values
        self.quality[ids] = frame.quality
        if frame.exact or self.exact:
            self._keep_exact(frame)
        ringed = self._ring[ids] >= 0
        if ringed.any():
            self._add_points(frame if ringed.all() else frame.where(ringed))

    def recent(self, tag_id: int) -> tuple[TimeArray, FloatArray]:
        """Times (whole seconds, as nanoseconds) and values, oldest first; NaN for a bad sample."""
        if tag_id >= len(self._ring) or self._ring[tag_id] < 0:
            return np.empty(0, np.int64), np.empty(0, np.float64)
        ring = self._ring[tag_id]
        order = (self._head[ring] + np.arange(RECENT_POINTS)) % RECENT_POINTS
        seconds = self._seconds[ring, order].astype(np.int64)
        taken = seconds > 0
        return seconds[taken] * 10**9, self._points[ring, order][taken].astype(np.float64)

    def recent_of(self, tag_ids: IdArray) -> npt.NDArray[np.float32]:
        """Points of several tags that have a ring, a row each, oldest first, NaN where none."""
        rings = self._ring[tag_ids]
        assert (rings >= 0).all()
        order = (self._head[rings, None] + np.arange(RECENT_POINTS)) % RECENT_POINTS
        return np.take_along_axis(self._points[rings], order, axis=1)

    @property
    def has_ring(self) -> BoolArray:
        """By tag id, whether its recent points are kept."""
        return self._ring >= 0

    def _keep_exact(self, frame: Frame) -> None:
        known = np.isin(frame.tag_ids, np.fromiter(self.exact, np.int32))
        for row in sorted({*np.flatnonzero(known).tolist(), *frame.exact}):
            tag_id = int(frame.tag_ids[row])
            if row in frame.exact:
                self.exact[tag_id] = frame.exact[row]
            else:
                self.exact.pop(tag_id, None)

    def _add_points(self, frame: Frame) -> None:
        # A time far ahead or behind (a device's clock) only disturbs its own tag's spacing.
        rings = self._ring[frame.tag_ids]
        distance = np.abs(frame.t_ns - self._last_ns[rings])
        due = distance >= RECENT_SPACING_NS - _SPACING_TOLERANCE_NS
        if not due.any():
            return
        # One point a tag and frame, its last: a burst of a backlog need not be seen in full.
        rings, last = np.unique(rings[due][::-1], return_index=True)
        rows = np.flatnonzero(due)[::-1][last]
        head = self._head[rings]
        bad = frame.quality[rows] >= Quality.BAD
        with np.errstate(over="ignore"):  # beyond float32 a sparkline has nothing to show
            self._points[rings, head] = np.where(bad, np.nan, frame.values[rows])
        self._seconds[rings, head] = np.clip(frame.t_ns[rows] // 10**9, 1, 2**32 - 1)
        self._last_ns[rings] = frame.t_ns[rows]
        self._head[rings] = (head + 1) % RECENT_POINTS

    def _grow(self) -> None:
        """Cover the tags that were added since."""
        known, length = len(self.t_ns), len(self._table)
        new = length - known
        self.t_ns = np.concatenate([self.t_ns, np.zeros(new, np.int64)])
        self.values = np.concatenate([self.values, np.full(new, np.nan)])
        waiting = np.full(new, Quality.BAD_WAITING, np.uint8)
        self.quality = np.concatenate([self.quality, waiting])
        rings = np.full(new, -1, np.int32)
        count = len(self._points)
        for index in range(new):
            if self._table[known + index].lane is Lane.RAW and count < RECENT_TAGS_MAX:
                rings[index] = count
                count += 1
        self._ring = np.concatenate([self._ring, rings])
        more = count - len(self._points)
        if more:
            shape = (more, RECENT_POINTS)
            self._points = np.concatenate([self._points, np.full(shape, np.nan, np.float32)])
            self._seconds = np.concatenate([self._seconds, np.zeros(shape, np.uint32)])
            self._head = np.concatenate([self._head, np.zeros(more, np.int32)])
            self._last_ns = np.concatenate([self._last_ns, np.zeros(more, np.int64)])
