"""Condition: raw device values to engineering units, and what their quality is."""

from __future__ import annotations

import numpy as np

from gateway.frame import Frame
from gateway.tag import Quality, TagTable

__all__ = ["Condition"]


class Condition:
    """Scales, marks what is not a number as bad and what is implausible as uncertain.

    Plausible is `eu_low <= value <= eu_high`. A quality that is worse already stays as it is.
    Exact integers of scaled tags become floats like any other; strings pass.
    """

    def __init__(self, table: TagTable) -> None:
        self._table = table

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
        return Frame(frame.t_ns, ids, values, quality, exact)
