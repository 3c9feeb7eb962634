"""What a [[model]] may say."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from gateway.settings import Settings

__all__ = ["ModelSettings"]


class ModelSettings(Settings):
    """A bundle and the assets it watches."""

    name: str = Field(min_length=1)
    bundle: Path = Field(
        description="folder with bundle.toml and model.onnx, relative to this file"
    )
    assets: tuple[str, ...] = Field(default=("*",), description="patterns of asset names")
    asset_class: str = Field(alias="class", default="", description="only assets of this class")
    open_after: int = Field(
        default=2, ge=1, le=1000, description="scores >= 1 in a row that open an event"
    )
    close_after: int = Field(
        default=3, ge=1, le=1000, description="scores < close_below in a row that close it"
    )
    close_below: float = Field(default=0.9, gt=0, le=1)
