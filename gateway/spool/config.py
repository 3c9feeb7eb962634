"""What [gateway.spool] may say."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.settings import Bytes, Seconds, Settings

__all__ = ["LaneName", "SpoolSettings", "WearSettings"]

LaneName = Literal["event", "score", "aggregate", "raw"]

MiB = 2**20


class WearSettings(Settings):
    """What the card bears, and when to warn. Sizes and numbers of 0 are not set."""

    card_bytes: Bytes = Field(
        default=0, description="size of the whole card; 0B = that of the file system"
    )
    rewrites_max: int = Field(
        default=1000, ge=1, description="times that it can be written over; consumer SD: 1000"
    )
    bytes_day_max: Bytes = Field(
        default=0, description="warn when more is written a day; 0B = never"
    )
    flushes_day_max: int = Field(
        default=0, ge=0, description="warn when there are more flushes a day; 0 = never"
    )


class SpoolSettings(Settings):
    """How much is kept on disk, and how often it is made durable."""

    bytes_max: Bytes = Field(default=512 * MiB, ge=16 * MiB, description="of all lanes together")
    segment_bytes: Bytes = Field(
        default=4 * MiB, ge=64 * 1024, description="size of one file of the spool"
    )
    raw: bool = Field(default=True, description="keep raw frames; off spares the card, see check")
    commit_period: Seconds = Field(
        # With the turn before and the flush behind it a second passes: a flush a second, no more,
        # and no more than a second is lost.
        default=0.98,
        gt=0,
        le=10,
        description="the most a crash can take",
    )
    commit_bytes: Bytes = Field(
        default=1024 * 1024, ge=4096, description="commit at once when this much waits"
    )
    pending_bytes_max: Bytes = Field(
        default=16 * MiB, ge=MiB, description="waiting for the disk; above it sources are held back"
    )
    age_max: dict[LaneName, Seconds] = Field(
        default={}, description="older samples of a lane are deleted, whole files at a time"
    )
    lane_bytes_max: dict[LaneName, Bytes] = Field(
        default={}, description="of single lanes, within `bytes_max`"
    )
    wear: WearSettings = Field(
        default=WearSettings(), description="what the card bears, and when to warn"
    )
