"""Bundle: a model on disk, and everything it must say of itself before it is believed.

A folder with `model.onnx` and `bundle.toml` (docs/formats/bundle.md). Loading it reads each file
once, within a bound, checks what the bytes are before ONNX Runtime sees them (`onnx_wire`), that
inputs and outputs are what the manifest promises, and that the golden windows score what they
scored where the model was made: alone, and among other rows. Whatever is wrong is a Problem with
its file and key; nothing of a wrong bundle is used.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, FiniteFloat, ValidationError, model_validator

from gateway.errors import BundleInvalid, ModelFailed, Problem
from gateway.frame import Lane
from gateway.inference.config import ModelSettings
from gateway.inference.onnx_wire import objections
from gateway.inference.runtime import Float32Array, Runner
from gateway.settings import Seconds, Settings, matches_any
from gateway.tag import Tag

__all__ = ["Bundle", "Manifest", "check_bundle", "load_bundle", "read_manifest", "unit_differs"]

MANIFEST = "bundle.toml"
MODEL = "model.onnx"

# A detector for an edge board is some hundred kB; beyond this a mistake is likelier than a model.
MODEL_BYTES_MAX = 64 * 2**20
MANIFEST_BYTES_MAX = 2**20
# Samples x features: one asset's ring is twice this in float32, half a MiB at most.
WINDOW_CELLS_MAX = 65_536
# Float kernels differ between processors in the last bits only; a wrong model differs at once.
GOLDEN_TOLERANCE = 1e-3


class Feature(Settings):
    """One column of the input window."""

    field: str = Field(min_length=1, description="field name of the asset's tag")
    eng_unit: str = Field(default="", description="engineering unit the model was fitted in")


class Output(Settings):
    """Names of the model's outputs."""

    score: str = "score"
    contributions: str = "contributions"


class Golden(Settings):
    """A window, and what it scored where the model was made."""

    score: FiniteFloat = Field(description="as the model gives it, before the threshold")
    window: tuple[tuple[FiniteFloat, ...], ...]


class Manifest(Settings):
    """What bundle.toml says."""

    format: Literal[1]
    name: str = Field(min_length=1, max_length=64)
    version: str = Field(min_length=1, max_length=64)
    asset_class: str = Field(min_length=1)
    sample_period: Seconds = Field(ge=0.01, le=3600)
    window: int = Field(ge=1, description="samples")
    hop: int = Field(ge=1, le=100_000, description="samples between two scores")
    input: str = "window"
    output: Output = Output()
    threshold: FiniteFloat = Field(gt=0, description="a score of this size alarms")
    min_valid_fraction: float = Field(gt=0, le=1, description="of a window's samples")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of model.onnx")
    provenance: dict[str, str] = Field(min_length=1, description="how, when and on what it was fit")
    features: tuple[Feature, ...] = Field(alias="feature", min_length=1)
    golden: tuple[Golden, ...] = Field(min_length=1, max_length=8)

    @model_validator(mode="after")
    def _fits_together(self) -> Manifest:
        if self.window * len(self.features) > WINDOW_CELLS_MAX:
            raise ValueError(f"window x features is more than {WINDOW_CELLS_MAX}")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A model that is what it says it is, ready to run."""

    path: Path
    manifest: Manifest
    runner: Runner


def load_bundle(path: Path) -> Bundle:
    """The bundle in a folder; raises BundleInvalid with everything found wrong."""
    manifest = read_manifest(path)
    runner, problems = _open_model(path, manifest)
    if runner is None or problems:
        raise BundleInvalid(problems)
    return Bundle(path=path, manifest=manifest, runner=runner)


def check_bundle(path: Path, settings: ModelSettings, tags: Iterable[Tag] = ()) -> list[Problem]:
    """Everything wrong with a bundle, and with the tags of the assets it would watch.

    Assets without any tag of the model are not judged: their tags may come with the first message.
    """
    try:
        manifest = load_bundle(path).manifest
    except BundleInvalid as error:
        return list(error.problems)
    found: dict[str, dict[int, Tag]] = {}
    for tag in tags:
        column = manifest.feature_of(tag, settings)
        if column is not None:
            found.setdefault(tag.asset, {})[column] = tag
    problems = []
    for asset, fed in found.items():
        for column, feature in enumerate(manifest.features):
            tag_there = fed.get(column)
            if tag_there is None:
                what = f"asset {asset!r} has no tag {asset}.{feature.field}"
                mend = "add the tag, or leave the asset out of the model's assets"
            elif unit_differs(feature, tag_there):
                what = f"{tag_there.name} is in {tag_there.eng_unit!r}, not {feature.eng_unit!r}"
                mend = f"scale the tag to {feature.eng_unit!r}, or fit the model to its unit"
            else:
                continue
            place = f"feature[{column}].field"
            problems.append(Problem(file=str(path / MANIFEST), place=place, found=what, mend=mend))
    return problems


def unit_differs(feature: Feature, tag: Tag) -> bool:
    """Whether both say an engineering unit, and not the same."""
    return bool(feature.eng_unit and tag.eng_unit) and feature.eng_unit != tag.eng_unit


def read_manifest(path: Path) -> Manifest:
    """What bundle.toml says, without a look at the model; raises BundleInvalid."""
    file = path / MANIFEST
    content = _read(file, MANIFEST_BYTES_MAX)
    try:
        # Deep nesting ends in a RecursionError, which is the parser's way to refuse it.
        return Manifest.model_validate(tomllib.loads(content.decode("utf-8")))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        found = f"it is not TOML: {str(error)[:200]}"
        raise _invalid(file, "", found, "write it anew with the model") from error
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


def _open_model(path: Path, manifest: Manifest) -> tuple[Runner | None, list[Problem]]:
    """The model as the manifest describes it, or what is wrong."""
    file = path / MODEL
    content = _read(file, MODEL_BYTES_MAX)
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != manifest.sha256:
        found = f"is {manifest.sha256}, but {MODEL} has {sha256}"
        mend = "copy the whole folder again from where the model was made"
        raise _invalid(path / MANIFEST, "sha256", found, mend)
    refused = objections(content)
    if refused:
        mend = "export one self-contained graph, see docs/formats/bundle.md"
        raise _invalid(file, "", "; ".join(refused), mend)
    try:
        runner = Runner(
            content,
            input_name=manifest.input,
            score=manifest.output.score,
            contributions=manifest.output.contributions,
        )
        differing = runner.interface(manifest.window, len(manifest.features))
        problems = [
            Problem(file=str(path / MANIFEST), place=key, found=found, mend=mend)
            for key, found, mend in differing
        ]
        return runner, problems or _golden_problems(path / MANIFEST, manifest, runner)
    except ModelFailed as error:
        raise _invalid(file, "", error.message, "export the model again") from error


def _golden_problems(file: Path, manifest: Manifest, runner: Runner) -> list[Problem]:
    """Whether the golden windows score what they should, first alone, then among other rows."""
    problems = []
    windows = np.array([golden.window for golden in manifest.golden], np.float32)
    wanted = np.array([golden.score for golden in manifest.golden], np.float32)
    crowd = np.arange(3 * len(windows)) % len(windows)
    for rows, where in ((crowd[: len(windows)], ""), (crowd[::-1], " among other rows")):
        scores = _scores(manifest, runner, windows[rows])
        for row, score in zip(rows, scores, strict=True):
            if np.isclose(score, wanted[row], rtol=GOLDEN_TOLERANCE, atol=GOLDEN_TOLERANCE):
                continue
            problems.append(
                Problem(
                    file=str(file),
                    place=f"golden[{row}].score",
                    found=f"the model scores {score:.6g}{where}, not {wanted[row]:.6g}",
                    mend="the model is not the one that was fitted, or mixes its rows",
                )
            )
        if problems:
            break
    return problems


def _scores(manifest: Manifest, runner: Runner, windows: Float32Array) -> Float32Array:
    runner.reserve(len(windows), manifest.window, len(manifest.features))
    runner.windows[: len(windows)] = windows
    scores, _ = runner.run()
    return scores[: len(windows)].copy()


def _read(file: Path, bytes_max: int) -> bytes:
    """A regular file's content; raises BundleInvalid when it is not there, or too large."""
    mend = "copy the whole folder again from where the model was made"
    try:
        if not file.is_file():  # a pipe or a device would block, or never end
            raise _invalid(file, "", "there is no such file", mend)
        with file.open("rb") as opened:
            content = opened.read(bytes_max + 1)
    except OSError as error:
        raise _invalid(file, "", f"it cannot be read: {error.strerror}", mend) from error
    if len(content) > bytes_max:
        raise _invalid(file, "", f"it is larger than {bytes_max} bytes", "is this a detector?")
    return content


def _invalid(file: Path, place: str, found: str, mend: str) -> BundleInvalid:
    place = place or "the file"
    return BundleInvalid([Problem(file=str(file), place=place, found=found, mend=mend)])


def _place(location: tuple[int | str, ...]) -> str:
    """`("golden", 0, "score")` as `golden[0].score`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")
