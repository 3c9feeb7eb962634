"""What a [[model]] may say."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from gateway.settings import Name, Settings

__all__ = ["ModelSettings"]


class ModelSettings(Settings):
    """A bundle and the assets it watches."""

    name: Name = Field(
        description="what logs, scores and the page call it", examples=["pump-health"]
    )
    bundle: Path = Field(
        description="folder with bundle.toml and model.onnx; looked for beside the configuration",
        examples=["models/pump-health"],
    )
    assets: tuple[str, ...] = Field(default=("*",), description="patterns of asset names")
    asset_class: str = Field(
        alias="class", default="", description="only assets of this class; empty = the bundle's"
    )
    open_after: int = Field(
        default=2, ge=1, le=1000, description="scores >= 1 in a row that open an event"
    )
    close_after: int = Field(
        default=3, ge=1, le=1000, description="scores < close_below in a row that close it"
    )
    close_below: float = Field(
        default=0.9, gt=0, le=1, description="an open event needs scores below this to close"
    )
