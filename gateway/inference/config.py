"""What a [[model]] may say."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.settings import Bytes, Name, NamedPath, Seconds, Settings

__all__ = ["ModelSettings"]


class ModelSettings(Settings):
    """A bundle and the assets it watches."""

    name: Name = Field(
        description="what logs, scores and the page call it", examples=["pump-health"]
    )
    bundle: NamedPath = Field(
        description="folder with bundle.toml and model.onnx; looked for beside the configuration",
        examples=["models/pump-health"],
    )
    trusted_keys: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...] = Field(
        default=(),
        max_length=16,
        description="Ed25519 public keys, 64 hexadecimal digits each; the bundle must be signed"
        " with one of them. None = unsigned bundles are taken, too",
        examples=[["3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29"]],
    )
    shadow: NamedPath | None = Field(
        default=None,
        description="folder of a second bundle that is run beside it and only compared",
    )
    drift_memory: Seconds = Field(
        default=43_200.0,
        ge=3600,
        description="how fast it forgets when it watches for drift: half of it in this time",
    )
    drift_limit: float = Field(
        default=0.5,
        gt=0,
        description="population stability index above which an input has drifted",
    )
    promote: Literal["manual", "auto"] = Field(
        default="manual", description="whether a shadow takes over by the rule, or by command only"
    )
    shadow_for: Seconds = Field(
        default=86400.0, gt=0, description="by the rule: how long a shadow is tried at least"
    )
    agreement_min: float = Field(
        default=0.99, ge=0, le=1, description="by the rule: share of windows where both agree"
    )
    isolate: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="run it in a process of its own; auto = when it is heavy, or has operators"
        " of ai.onnx.ml and is not signed by a trusted key",
    )
    run_max: Seconds = Field(
        default=1.0, gt=0, le=60, description="a run that works for longer fails; three make an end"
    )
    memory_max: Bytes = Field(
        default=256 * 2**20,
        ge=16 * 2**20,
        description="what a process of its own may take beyond ONNX Runtime itself",
    )
    assets: tuple[str, ...] = Field(default=("*",), description="patterns of asset names")
    asset_class: str = Field(
        alias="class", default="", description="only assets of this class; empty = the bundle's"
    )
    open_after: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="scores >= 1 in a row that open an event; left out = as the bundle says, or 2",
    )
    close_after: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="scores < close_below in a row that close it; left out = as the bundle says,"
        " or 3",
    )
    close_below: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="an open event needs scores below this to close; left out = as the bundle"
        " says, or 0.9",
    )
