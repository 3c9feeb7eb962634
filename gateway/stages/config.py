"""What an [[aggregate]] may say."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from gateway.settings import Seconds, Settings

__all__ = ["AggregateSettings", "Statistic"]


class Statistic(StrEnum):
    """What an aggregate says of the samples of one window."""

    MEAN = "mean"
    MIN = "min"
    MAX = "max"
    LAST = "last"
    COUNT = "count"
    STD = "std"


class AggregateSettings(Settings):
    """Tumbling windows of one length over some tags."""

    every: Seconds = Field(
        ge=1, description="window length; windows start at multiples of it", examples=["10s"]
    )
    tags: tuple[str, ...] = Field(default=("*",), min_length=1, description="patterns of tag names")
    statistics: tuple[Statistic, ...] = Field(
        default=tuple(Statistic), min_length=1, description="what to say of each window"
    )
    lateness: Seconds = Field(
        default=2.0, ge=0, description="how long after its end a window waits for samples"
    )
    windows_kept: int = Field(
        default=8, ge=2, le=1000, description="windows a late sample can still correct"
    )
