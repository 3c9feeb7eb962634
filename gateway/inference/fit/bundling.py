"""Bundling: what was fitted, as a folder that the engine takes (docs/formats/bundle.md).

The folder appears under its name whole and signed, or not at all: it is written beside, synced,
loaded as the engine would, and only then renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gateway.errors import SluicegateError
from gateway.inference.bundle import load_bundle
from gateway.inference.fit.fit import CONTRIBUTIONS, INPUT, SCORE, Calibration, Fitted
from gateway.inference.fit.recording import Recording
from gateway.inference.keys import DeviceKey
from gateway.inference.manifest import MANIFEST, MODEL, Healthy
from gateway.inference.sensors import learn
from gateway.inference.signature import SIGNATURE

__all__ = ["REPORT", "Facts", "healthy_facts", "manifest_of", "write_bundle"]

REPORT = "report.html"
GOLDEN_MAX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a bundle says of itself beside what was fitted."""

    name: str
    version: str
    asset_class: str
    provenance: Mapping[str, str]
    healthy: Sequence[Healthy | None]


def write_bundle(
    folder: Path,
    fitted: Fitted,
    facts: Facts,
    *,
    report: str = "",
    key: DeviceKey | None = None,
    replace: bool = False,
) -> None:
    """Make the folder; with `replace` in place of one that is there. Raises SluicegateError."""
    if folder.exists() and not (replace and (folder / MANIFEST).is_file()):
        raise SluicegateError(
            f"{folder} is there already",
            hint="choose another --out, or replace the bundle with --replace"
            if (folder / MANIFEST).is_file()
            else "it is no bundle: choose another --out",
        )
    manifest = manifest_of(fitted, facts).encode()
    files = {MODEL: fitted.model, MANIFEST: manifest}
    if report:
        files[REPORT] = report.encode("utf-8", "replace")
    if key is not None:
        files[SIGNATURE] = key.signature_of(manifest)
    try:
        with _unfinished(folder) as unfinished:
            for name, content in files.items():
                _write(unfinished / name, content)
            _sync(unfinished)
            load_bundle(unfinished, [key.public] if key else ())
            _put_in_place(unfinished, folder)
    except OSError as error:
        raise SluicegateError(
            f"cannot write {folder}: {error.strerror}", hint="choose another place with --out"
        ) from error


def manifest_of(fitted: Fitted, facts: Facts) -> str:
    """The text of bundle.toml."""
    values: dict[str, object] = {
        "format": 2,
        "name": facts.name,
        "version": facts.version,
        "asset_class": facts.asset_class,
        "sample_period": f"{fitted.period_s:.9f}".rstrip("0").rstrip(".") + "s",
        "window": fitted.window,
        "hop": fitted.hop,
        "input": INPUT,
        "output": {"score": SCORE, "contributions": CONTRIBUTIONS},
        "threshold": fitted.threshold,
        "min_valid_fraction": fitted.min_valid_fraction,
        "sha256": hashlib.sha256(fitted.model).hexdigest(),
    }
    lines = ["# Written by `sluicegate models fit`; see docs/formats/bundle.md."]
    lines += _pairs(values)
    lines += ["", "[provenance]", *_pairs(facts.provenance)]
    lines += ["", "[false_alarms]", *_pairs(_false_alarms(fitted.calibration))]
    events = {
        "open_after": fitted.open_after,
        "close_after": fitted.close_after,
        "close_below": fitted.close_below,
    }
    lines += ["", "[events]", *_pairs(events)]
    for field, eng_unit, healthy in zip(
        fitted.fields, fitted.eng_units, facts.healthy, strict=True
    ):
        lines += ["", "[[feature]]", *_pairs({"field": field, "eng_unit": eng_unit})]
        if healthy is not None:
            lines += ["", "[feature.healthy]", *_pairs(healthy.model_dump())]
    for window, score in list(zip(fitted.golden_windows, fitted.golden_scores, strict=True))[
        :GOLDEN_MAX
    ]:
        lines += ["", "[[golden]]", f"score = {_toml(float(score))}", "window = ["]
        # Nine digits are a float32 and no other.
        lines += [f"    [{', '.join(f'{value:.9g}' for value in row)}]," for row in window]
        lines += ["]"]
    return "\n".join(lines) + "\n"


def healthy_facts(recordings: Sequence[Recording], fitted: Fitted) -> list[Healthy | None]:
    """What each feature looks like while all is well: in what was learned from, asset by asset."""
    values, usable = [], []
    width = len(fitted.fields)
    for recording in recordings:
        good = recording.usable.copy()
        for stretch in fitted.stretches:
            if stretch.asset != recording.asset:
                continue
            rows = (recording.t_ns >= stretch.start_ns) & (recording.t_ns <= stretch.end_ns)
            if stretch.field in recording.fields:
                good[rows, recording.fields.index(stretch.field)] = False
            elif not stretch.field:
                good[rows] = False
        breaks = np.flatnonzero(np.diff(recording.t_ns) > 1.5e9 * recording.period_s) + 1
        values += [np.insert(recording.values, breaks, 0.0, axis=0), np.zeros((1, width))]
        usable += [np.insert(good, breaks, False, axis=0), np.zeros((1, width), np.bool_)]
    return learn(np.concatenate(values), np.concatenate(usable), fitted.period_s)


def _false_alarms(calibration: Calibration) -> dict[str, object]:
    return {
        "per_week": 7 * calibration.wanted_per_day,
        "bound_per_week": 7 * calibration.high_per_day,
        "confidence": calibration.confidence,
        "hours": calibration.healthy_s / 3600,
    }


def _pairs(values: Mapping[str, object]) -> Iterator[str]:
    return (f"{key} = {_toml(value)}" for key, value in values.items())


def _toml(value: object) -> str:
    match value:
        case str():
            # JSON's escapes are a part of TOML's, which wants one more character escaped.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case bool():
            return str(value).lower()
        case dict():
            return "{ " + ", ".join(_pairs(value)) + " }"
        case list() | tuple():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case int():
            return repr(int(value))
        case float() | np.floating():
            return repr(float(value))
        case _:
            raise TypeError(type(value))


@contextmanager
def _unfinished(folder: Path) -> Iterator[Path]:
    """A folder beside the wanted one, gone afterwards unless it was renamed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.with_name(f".{folder.name}.unfinished-{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _put_in_place(unfinished: Path, folder: Path) -> None:
    """Rename; what was there before is out of the way for the moment between two renames."""
    former = folder.with_name(f".{folder.name}.former-{os.getpid()}")
    if folder.exists():
        folder.rename(former)
    try:
        unfinished.rename(folder)
    except OSError:
        if former.exists():
            former.rename(folder)
        raise
    _sync(folder.parent)
    shutil.rmtree(former, ignore_errors=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
