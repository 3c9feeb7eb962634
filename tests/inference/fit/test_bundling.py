"""A bundle appears whole, signed and as the engine wants it, or not at all."""

from __future__ import annotations

import os
import tomllib
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from gateway.errors import BundleInvalid, SluicegateError
from gateway.inference.bundle import load_bundle
from gateway.inference.fit import FitSettings, Fitted, Recording, fit
from gateway.inference.fit.bundling import Facts, healthy_facts, write_bundle
from gateway.inference.fit.fit import Stretch
from gateway.inference.keys import DeviceKey

SECOND = 10**9


@cache
def recording(n: int = 1200) -> Recording:
    random = np.random.default_rng(3)
    phase = np.arange(n) / 40
    values = np.stack([np.sin(phase), 5 + np.cos(phase)], axis=1)
    return Recording(
        asset="p", fields=("flow", 'häd "x"'), eng_units=("m³/h", ""), period_s=1.0,
        t_ns=np.arange(n, dtype=np.int64) * SECOND,
        values=values + random.normal(size=(n, 2)) / 20, usable=np.ones((n, 2), np.bool_),
    )  # fmt: skip


@cache
def fitted() -> Fitted:
    return fit([recording()], FitSettings())


def facts(**more: object) -> Facts:
    made = Facts(
        name="p", version="1", asset_class="pump", provenance={"data": 'a "b"\n\x7f\\ ü'},
        healthy=healthy_facts([recording()], fitted()),
    )  # fmt: skip
    return replace(made, **more)  # type: ignore[arg-type] - what a test changes


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_engine_takes_what_is_written(tmp_path: Path) -> None:
    key = DeviceKey.open(tmp_path / "key")
    out = tmp_path / "deep" / "pump-7"
    write_bundle(out, fitted(), facts(), report="<html>", key=key)
    bundle = load_bundle(out, [key.public])
    manifest = bundle.manifest
    assert manifest.fields == ("flow", 'häd "x"')
    assert manifest.provenance["data"] == 'a "b"\n\x7f\\ ü'
    assert manifest.sample_period == 1.0
    assert manifest.events.close_after == fitted().close_after
    assert manifest.features[0].healthy is not None
    assert manifest.false_alarms is not None
    assert manifest.false_alarms.per_week == pytest.approx(1)
    golden = np.array([golden.window for golden in manifest.golden], np.float32)
    assert np.array_equal(golden, fitted().golden_windows)  # to the bit
    assert names_in(out) == [
        "bundle.toml", "model.onnx", "report.html", "signature.toml",
    ]  # fmt: skip
    assert names_in(out.parent) == ["pump-7"]


def test_what_is_there_is_replaced_only_when_asked_and_only_a_bundle(tmp_path: Path) -> None:
    out = tmp_path / "b"
    write_bundle(out, fitted(), facts())
    with pytest.raises(SluicegateError, match="--replace"):
        write_bundle(out, fitted(), facts(version="2"))
    assert load_bundle(out).manifest.version == "1"
    write_bundle(out, fitted(), facts(version="2"), replace=True)
    assert load_bundle(out).manifest.version == "2"
    assert names_in(tmp_path) == ["b"]
    (tmp_path / "mine").mkdir()
    with pytest.raises(SluicegateError, match="no bundle"):
        write_bundle(tmp_path / "mine", fitted(), facts(), replace=True)


def test_what_the_engine_would_refuse_is_not_written(tmp_path: Path) -> None:
    out = tmp_path / "b"
    write_bundle(out, fitted(), facts())
    wrong = replace(fitted(), golden_scores=fitted().golden_scores + 1)
    with pytest.raises(BundleInvalid, match="golden"):
        write_bundle(out, wrong, facts(version="2"), replace=True)
    assert load_bundle(out).manifest.version == "1"
    assert names_in(tmp_path) == ["b"]


def test_a_disk_that_refuses_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(SluicegateError, match="No space left on device"):
        write_bundle(tmp_path / "b", fitted(), facts())
    assert names_in(tmp_path) == []


def test_healthy_facts_are_of_what_was_learned_from() -> None:
    original = recording()
    values = original.values.copy()
    values[100:110, 0] = 1e6
    values[300, 1] = -1e6
    spoiled = replace(original, values=values)
    stretches = (
        Stretch(asset="p", field="flow", start_ns=100 * SECOND, end_ns=109 * SECOND, reason="x"),
        Stretch(asset="p", field="", start_ns=300 * SECOND, end_ns=300 * SECOND, reason="x"),
        Stretch(asset="q", field="", start_ns=0, end_ns=9**18, reason="another asset's"),
    )
    found = healthy_facts([spoiled], replace(fitted(), stretches=stretches))
    assert found[0] is not None
    assert found[0].high < 2
    assert found[0].step_max < 1
    assert found[1] is not None
    assert found[1].low > 0


def test_the_manifest_is_plain_toml(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", fitted(), facts())
    said = tomllib.loads((tmp_path / "b" / "bundle.toml").read_text(encoding="utf-8"))
    assert said["format"] == 2
    assert said["feature"][0]["eng_unit"] == "m³/h"
