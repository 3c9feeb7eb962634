"""Condition: raw device values to engineering units, and what their quality is."""

from __future__ import annotations

import numpy as np

from gateway.frame import BoolArray, FloatArray, Frame, IdArray, TimeArray
from gateway.tag import Quality, TagTable

__all__ = ["Condition"]


class Condition:
    """Scales, marks what is not a number as bad and what is implausible as uncertain.

    Plausible is `eu_low <= value <= eu_high`. A quality that is worse already stays as it is.
    So is a change slower than `rate_max`, from one usable sample of the tag to the next: a counter
    that begins anew with its device, or a reading out of noise. What comes after is judged by it.
    Exact integers of scaled tags become floats like any other; strings pass.
    """

    def __init__(self, table: TagTable) -> None:
        self._table = table
        self._value: FloatArray = np.empty(0)  # by tag id: the last usable one
        self._t_ns: TimeArray = np.empty(0, np.int64)

    def apply(self, frame: Frame, now_ns: int) -> Frame:  # noqa: ARG002 - the Stage contract
        if not len(frame):
            return frame
        table, ids = self._table, frame.tag_ids
        values = frame.values * table.scale[ids] + table.offset[ids]
        exact = frame.exact
        if exact:
            exact = {
                row: value
                for row, value in exact.items()
                if isinstance(value, str) or not table[int(ids[row])].is_scaled
            }
        quality = frame.quality.copy()
        no_number = ~np.isfinite(values) & (quality < Quality.BAD)
        if no_number.any():
            no_number[[row for row in exact if no_number[row]]] = False
            quality[no_number] = Quality.BAD_SENSOR_FAILURE
        implausible = (values < table.eu_low[ids]) | (values > table.eu_high[ids])
        implausible &= quality < Quality.UNCERTAIN_RANGE
        quality[implausible] = Quality.UNCERTAIN_RANGE
        rated = np.isfinite(table.rate_max[ids]) & (quality < Quality.BAD)
        if rated.any():
            rows = np.flatnonzero(rated)
            jumps = rows[self._jumps(ids[rows], frame.t_ns[rows], values[rows])]
            quality[jumps] = np.maximum(quality[jumps], np.uint8(Quality.UNCERTAIN_RANGE))
        return Frame(frame.t_ns, ids, values, quality, exact)

    def _jumps(self, ids: IdArray, t_ns: TimeArray, values: FloatArray) -> BoolArray:
        """Rows whose value is farther from the tag's one before than the time between allows."""
        missing = len(self._table) - len(self._value)
        if missing > 0:
            self._value = np.append(self._value, np.full(missing, np.nan))
            self._t_ns = np.append(self._t_ns, np.zeros(missing, np.int64))
        order = np.argsort(ids, kind="stable")
        ids, t_ns, values = ids[order], t_ns[order], values[order]
        is_first = np.append(True, ids[1:] != ids[:-1])
        before, before_ns = np.roll(values, 1), np.roll(t_ns, 1)
        before[is_first], before_ns[is_first] = (
            self._value[ids[is_first]],
            self._t_ns[ids[is_first]],
        )
        self._value[ids], self._t_ns[ids] = values, t_ns  # of several of one tag the last stays
        seconds = np.abs(t_ns - before_ns) / 1e9
        jumps = np.empty(len(ids), np.bool_)
        jumps[order] = np.abs(values - before) > self._table.rate_max[ids] * seconds
        return jumps
