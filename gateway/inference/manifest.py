"""Manifest: what bundle.toml says a model is, wants and was made from (docs/formats/bundle.md).

Format 1 is a model that takes windows and gives a score and contributions. Format 2 says more of
the same: what each feature looked like while all was well, how often it alarms falsely, and how
the inputs and outputs of a model that somebody else exported are to be read.
"""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import (
    Field,
    FiniteFloat,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from gateway.errors import BundleInvalid, Problem
from gateway.frame import Lane
from gateway.inference.config import ModelSettings
from gateway.settings import Seconds, Settings, matches_any
from gateway.tag import Tag

__all__ = [
    "MANIFEST",
    "MANIFEST_BYTES_MAX",
    "MODEL",
    "Events",
    "FalseAlarms",
    "Feature",
    "Golden",
    "Healthy",
    "Layout",
    "Manifest",
    "Output",
    "invalid",
    "parse_manifest",
    "read_file",
    "read_manifest",
    "unit_differs",
]

MANIFEST = "bundle.toml"
MODEL = "model.onnx"
MANIFEST_BYTES_MAX = 2**20
# Samples x features: one asset's ring is twice this in float32, half a MiB at most.
WINDOW_CELLS_MAX = 65_536


class Healthy(Settings):
    """What a feature looked like, tick by tick, in the healthy data a model was fitted to.

    In its engineering unit. `sensors.learn` makes it; sensor verdicts and drift are judged by it.
    """

    low: FiniteFloat = Field(description="smallest value")
    high: FiniteFloat = Field(description="largest value")
    noise: FiniteFloat = Field(ge=0, description="median change from a tick to the next")
    step_max: FiniteFloat = Field(ge=0, description="largest change from a tick to the next")
    flat_max: int = Field(ge=0, description="most ticks in a row in which it did not move")
    deciles: tuple[FiniteFloat, ...] = Field(
        min_length=9, max_length=9, description="values below which 10 %, 20 %, ... 90 % lie"
    )

    @model_validator(mode="after")
    def _in_order(self) -> Healthy:
        ascending = (self.low, *self.deciles, self.high)
        if list(ascending) != sorted(ascending):
            raise ValueError("low, deciles and high must not fall")
        return self


class Feature(Settings):
    """One column of the input window."""

    field: str = Field(min_length=1, description="field name of the asset's tag")
    eng_unit: str = Field(default="", description="engineering unit the model was fitted in")
    healthy: Healthy | None = Field(default=None, description="unknown: no verdict on its sensor")


class Layout(StrEnum):
    """How a model wants a window."""

    WINDOW = "window"  # (rows, window, features), oldest sample first
    FLAT = "flat"  # (rows, window x features), the oldest sample's features first
    LAST = "last"  # (rows, features), the newest sample only


class Output(Settings):
    """Which of the model's outputs say what."""

    score: str = Field(default="score", min_length=1)
    column: int = Field(default=0, ge=0, description="of a score of shape (rows, columns)")
    contributions: str = Field(default="contributions", description="empty = it gives none")


class FalseAlarms(Settings):
    """How often an asset in good health alarms, as far as the healthy data can tell."""

    per_week: float = Field(gt=0, description="asked for when it was fitted, an asset")
    bound_per_week: float = Field(gt=0, description="no more than this, with the confidence below")
    confidence: float = Field(gt=0, lt=1)
    hours: float = Field(gt=0, description="of held-back healthy data that this rests on")


class Events(Settings):
    """What opens and closes an event, unless the [[model]] says otherwise."""

    open_after: int = Field(default=2, ge=1, le=1000, description="scores >= 1 in a row")
    close_after: int = Field(default=3, ge=1, le=1000, description="scores < close_below in a row")
    close_below: float = Field(default=0.9, gt=0, le=1)


class Golden(Settings):
    """A window, and what it scored where the model was made."""

    score: FiniteFloat = Field(description="as the model gives it, before the threshold")
    window: tuple[tuple[FiniteFloat, ...], ...]


class Manifest(Settings):
    """What bundle.toml says."""

    format: Literal[1, 2]
    name: str = Field(min_length=1, max_length=64)
    version: str = Field(min_length=1, max_length=64)
    asset_class: str = Field(min_length=1)
    sample_period: Seconds = Field(ge=0.01, le=3600)
    window: int = Field(ge=1, description="samples")
    hop: int = Field(ge=1, le=100_000, description="samples between two scores")
    input: str = "window"
    layout: Layout = Layout.WINDOW
    output: Output = Output()
    normal: FiniteFloat = Field(default=0.0, description="what the model gives that scores 0")
    threshold: FiniteFloat = Field(description="what the model gives that scores 1, an alarm")
    min_valid_fraction: float = Field(gt=0, le=1, description="of a window's samples")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of model.onnx")
    provenance: dict[str, str] = Field(min_length=1, description="how, when and on what it was fit")
    false_alarms: FalseAlarms | None = Field(default=None, description="unknown when left out")
    events: Events = Events()
    features: tuple[Feature, ...] = Field(alias="feature", min_length=1)
    golden: tuple[Golden, ...] = Field(min_length=1, max_length=8)

    @field_validator("threshold")
    @classmethod
    def _above_0(cls, threshold: float, info: ValidationInfo) -> float:
        if info.data.get("format") == 1 and threshold <= 0:
            raise ValueError("must be greater than 0 in format 1")
        return threshold

    @model_validator(mode="after")
    def _fits_together(self) -> Manifest:
        if self.window * len(self.features) > WINDOW_CELLS_MAX:
            raise ValueError(f"window x features is more than {WINDOW_CELLS_MAX}")
        if self.threshold == self.normal:
            raise ValueError("threshold is what normal is: no score lies between them")
        if len(set(self.fields)) < len(self.features):
            raise ValueError("a feature is listed twice")
        for number, golden in enumerate(self.golden):
            shape = {len(row) for row in golden.window}
            if len(golden.window) != self.window or shape != {len(self.features)}:
                raise ValueError(
                    f"golden[{number}].window must have {self.window} rows"
                    f" of {len(self.features)} numbers"
                )
        return self

    @model_validator(mode="after")
    def _says_what_its_format_has(self) -> Manifest:
        if self.format == 1:
            new = {"layout", "normal", "false_alarms", "events"} & self.model_fields_set
            new |= {"output.column"} if "column" in self.output.model_fields_set else set()
            new |= {"feature.healthy"} if any(f.healthy for f in self.features) else set()
            if new:
                raise ValueError(f"{', '.join(sorted(new))} came with format 2: write format = 2")
        return self

    @property
    def fields(self) -> tuple[str, ...]:
        """Field names of the features, in the order of the input's columns."""
        return tuple(feature.field for feature in self.features)

    @property
    def period_ns(self) -> int:
        return round(self.sample_period * 1e9)

    def feature_of(self, tag: Tag, settings: ModelSettings) -> int | None:
        """The column a tag feeds, or None when this [[model]] does not watch it."""
        watched = (
            tag.lane is Lane.RAW
            and tag.asset_class == (settings.asset_class or self.asset_class)
            and tag.field in self.fields
            and matches_any(tag.asset, settings.assets)
        )
        return self.fields.index(tag.field) if watched else None


def unit_differs(feature: Feature, tag: Tag) -> bool:
    """Whether both say an engineering unit, and not the same."""
    return bool(feature.eng_unit and tag.eng_unit) and feature.eng_unit != tag.eng_unit


def read_manifest(path: Path) -> Manifest:
    """What the bundle.toml in a folder says, without a look at the model; raises BundleInvalid."""
    return parse_manifest(path / MANIFEST, read_file(path / MANIFEST, MANIFEST_BYTES_MAX))


def parse_manifest(file: Path, content: bytes) -> Manifest:
    """What these bytes of a bundle.toml say; raises BundleInvalid."""
    try:
        # Deep nesting ends in a RecursionError, which is the parser's way to refuse it.
        return Manifest.model_validate(tomllib.loads(content.decode("utf-8")))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        found = f"it is not TOML: {str(error)[:200]}"
        raise invalid(file, "", found, "write it anew with the model") from error
    except ValidationError as error:
        raise BundleInvalid(
            [
                Problem(
                    file=str(file),
                    place=_place(problem["loc"]) or "the file",
                    found=problem["msg"].removeprefix("Value error, "),
                    mend="see docs/formats/bundle.md",
                )
                for problem in error.errors(include_url=False)
            ]
        ) from error


def read_file(file: Path, bytes_max: int) -> bytes:
    """A bundle's file; raises BundleInvalid unless it is regular, inside the bundle, and small."""
    mend = "copy the whole folder again from where the model was made"
    try:
        if not file.resolve().is_relative_to(file.parent.resolve()):
            found = f"it is a link to {file.resolve()}, outside of the bundle"
            raise invalid(file, "", found, "put the file itself into the folder")
        if not file.is_file():  # a pipe or a device would block, or never end
            raise invalid(file, "", "there is no such file", mend)
        with file.open("rb") as opened:
            content = opened.read(bytes_max + 1)
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL in its name
        reason = getattr(error, "strerror", None) or error
        raise invalid(file, "", f"it cannot be read: {reason}", mend) from error
    if len(content) > bytes_max:
        raise invalid(file, "", f"it is larger than {bytes_max} bytes", "is this a detector?")
    return content


def invalid(file: Path, place: str, found: str, mend: str) -> BundleInvalid:
    """The one problem that ends a reading."""
    place = place or "the file"
    return BundleInvalid([Problem(file=str(file), place=place, found=found, mend=mend)])


def _place(location: tuple[int | str, ...]) -> str:
    """`("golden", 0, "score")` as `golden[0].score`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")
