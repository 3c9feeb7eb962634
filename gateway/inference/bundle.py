"""Bundle: a model on disk, and everything it must say of itself before it is believed.

A folder with `model.onnx` and `bundle.toml` (docs/formats/bundle.md). Loading it reads each file
once, within a bound, checks what the bytes are before ONNX Runtime sees them (`onnx_wire`), that
inputs and outputs are what the manifest promises, and that the golden windows score what they
scored where the model was made: alone, and among other rows. Whatever is wrong is a Problem with
its file and key; nothing of a wrong bundle is used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from gateway.errors import BundleInvalid, ModelFailed, Problem
from gateway.inference.config import ModelSettings
from gateway.inference.manifest import (
    MANIFEST,
    MANIFEST_BYTES_MAX,
    MODEL,
    Manifest,
    invalid,
    parse_manifest,
    read_file,
    read_manifest,
    unit_differs,
)
from gateway.inference.onnx_wire import objections
from gateway.inference.runtime import Float32Array
from gateway.inference.signature import signed_by
from gateway.inference.trial import AnyRunner, Trial
from gateway.tag import Tag

__all__ = [
    "MANIFEST",
    "MANIFEST_BYTES_MAX",
    "MODEL",
    "MODEL_BYTES_MAX",
    "Bundle",
    "Manifest",
    "check_bundle",
    "load_bundle",
    "read_manifest",
]

# A detector for an edge board is some hundred kB; beyond this a mistake is likelier than a model.
MODEL_BYTES_MAX = 64 * 2**20
# Float kernels differ between processors in the last bits only; a wrong model differs at once.
GOLDEN_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A model that is what it says it is, ready to run."""

    path: Path
    manifest: Manifest
    runner: AnyRunner
    signed_by: str  # public key in hexadecimal digits; empty when nobody signed it


def load_bundle(path: Path, trusted_keys: Sequence[str] = (), trial: Trial | None = None) -> Bundle:
    """The bundle in a folder; raises BundleInvalid with everything found wrong.

    With `trusted_keys` it must be signed with one of them. With a `trial` it is run in a process
    of its own first, and stays there if it is heavy or strange.
    """
    content = read_file(path / MANIFEST, MANIFEST_BYTES_MAX)
    key = signed_by(path, content, trusted_keys)
    manifest = parse_manifest(path / MANIFEST, content)
    model = _read_model(path, manifest)
    checks = partial(_problems, path / MANIFEST, manifest)
    trial = trial or Trial(isolate="never")
    try:
        runner, problems = trial.open(model, manifest, is_trusted=bool(trusted_keys), checks=checks)
    except ModelFailed as error:
        raise invalid(path / MODEL, "", error.message, "export the model again") from error
    if problems:
        raise BundleInvalid(problems)
    return Bundle(path=path, manifest=manifest, runner=runner, signed_by=key)


def check_bundle(path: Path, settings: ModelSettings, tags: Iterable[Tag] = ()) -> list[Problem]:
    """Everything wrong with a bundle, and with the tags of the assets it would watch.

    Assets without any tag of the model are not judged: their tags may come with the first message.
    """
    try:
        bundle = load_bundle(path, settings.trusted_keys, Trial.of(settings))
        bundle.runner.close()
        manifest = bundle.manifest
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


def _read_model(path: Path, manifest: Manifest) -> bytes:
    """The bytes of the model that the manifest names, if there is no objection to them."""
    file = path / MODEL
    content = read_file(file, MODEL_BYTES_MAX)
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != manifest.sha256:
        found = f"is {manifest.sha256}, but {MODEL} has {sha256}"
        mend = "copy the whole folder again from where the model was made"
        raise invalid(path / MANIFEST, "sha256", found, mend)
    refused = objections(content)
    if refused:
        mend = "export one self-contained graph, see docs/formats/bundle.md"
        raise invalid(file, "", "; ".join(refused), mend)
    return content


def _problems(file: Path, manifest: Manifest, runner: AnyRunner) -> list[Problem]:
    """What an opened model does otherwise than its manifest says."""
    differing = runner.interface(manifest.window, len(manifest.features))
    problems = [
        Problem(file=str(file), place=key, found=found, mend=mend) for key, found, mend in differing
    ]
    return problems or _golden_problems(file, manifest, runner)


def _golden_problems(file: Path, manifest: Manifest, runner: AnyRunner) -> list[Problem]:
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


def _scores(manifest: Manifest, runner: AnyRunner, windows: Float32Array) -> Float32Array:
    runner.reserve(len(windows), manifest.window, len(manifest.features))
    runner.windows[: len(windows)] = windows
    scores, _ = runner.run()
    return scores[: len(windows)].copy()
