"""Tags and frames in one line each."""

from __future__ import annotations

import numpy as np

from gateway.frame import Frame
from gateway.tag import Tag

__all__ = ["make_frame", "make_tag"]


def make_tag(name: str, **facts: object) -> Tag:
    """A raw tag of an asset, `asset.field`, of class "pump"."""
    asset, _, field = name.partition(".")
    defaults: dict[str, object] = {
        "name": name,
        "asset": asset,
        "asset_class": "pump",
        "field": field,
        "measurement": "pump",
        "labels": (("asset", asset),),
    }
    return Tag(**(defaults | facts))  # type: ignore[arg-type] - facts are checked by Tag's users


def make_frame(rows: list[tuple[float, int, float]], quality: int | list[int] = 0) -> Frame:
    """A frame of (time in seconds, tag id, value)."""
    t_ns = np.array([round(t * 1e9) for t, _, _ in rows], np.int64)
    ids = np.array([i for _, i, _ in rows], np.int32)
    values = np.array([v for _, _, v in rows], np.float64)
    codes = np.full(len(rows), quality, np.uint8) if isinstance(quality, int) else quality
    return Frame(t_ns, ids, values, np.asarray(codes, np.uint8))
