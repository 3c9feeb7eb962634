"""Damaged bundles of every kind: each is refused, or does what it did; the process goes on.

The damage is done before the sum is taken, so that it is not the sum that finds it. Each file is
opened in a process of its own, as a gateway opens a new bundle; a few hundred here, and as many as
`SLUICEGATE_MUTANTS` says: 10,000 is what the promise names.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from skl2onnx import to_onnx
from sklearn.ensemble import IsolationForest

from tests.inference.bundles import make_model, write_bundle

MUTANTS = int(os.environ.get("SLUICEGATE_MUTANTS", "300"))
ROOT = Path(__file__).parents[2]

# One process opens many, so that ten thousand are minutes; that it ends well is the point.
OPENER = """
import sys
from pathlib import Path
import numpy as np
from gateway.errors import BundleInvalid
from gateway.inference.bundle import load_bundle
taken = 0
for line in sys.stdin:
    folder = Path(line.strip())
    try:
        bundle = load_bundle(folder)
    except BundleInvalid as error:
        assert error.problems and all(p.found and p.mend for p in error.problems)
        continue
    taken += 1
    manifest = bundle.manifest
    bundle.runner.reserve(8, manifest.window, len(manifest.features))
    bundle.runner.windows[:] = np.array(manifest.golden[0].window, np.float32)
    score = bundle.runner.run()[0][0]
    assert abs(score - manifest.golden[0].score) <= 1e-3 * (1 + abs(score)), folder
print(taken)
"""


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, cut out, doubled or inserted."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, len(data)))
        kind = rng.integers(5)
        if kind == 0:
            data[at] = int(rng.integers(256))
        elif kind == 1:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            del data[at : at + int(rng.integers(1, 40))]
        elif kind == 3:
            data[at:at] = data[at : at + int(rng.integers(1, 40))]
        else:
            data[at:at] = rng.bytes(int(rng.integers(1, 9)))
        if not data:
            return b""
    return bytes(data)


def write_mutants(folder: Path, origin: Path, count: int, seed: int) -> list[Path]:
    """Copies of a bundle, one in four with a damaged manifest, the others with a damaged model."""
    rng = np.random.default_rng(seed)
    model, toml = (origin / "model.onnx").read_bytes(), (origin / "bundle.toml").read_text()
    digest = hashlib.sha256(model).hexdigest()
    made = []
    for number in range(count):
        path = folder / str(number)
        path.mkdir(parents=True)
        if number % 4 == 0:
            (path / "model.onnx").write_bytes(model)
            (path / "bundle.toml").write_bytes(damaged(toml.encode(), rng))
        else:
            spoilt = damaged(model, rng)
            (path / "model.onnx").write_bytes(spoilt)
            text = toml.replace(digest, hashlib.sha256(spoilt).hexdigest())
            (path / "bundle.toml").write_text(text)
        made.append(path)
    return made


def forest() -> onnx.ModelProto:
    rows = np.random.default_rng(1).normal(0, 1, (200, 2)).astype(np.float32)
    fitted = IsolationForest(n_estimators=3, max_samples=16, random_state=0).fit(rows)
    return to_onnx(fitted, rows[:1], target_opset={"": 18, "ai.onnx.ml": 3})


def forest_bundle(folder: Path) -> Path:
    from tests.inference.test_foreign import FOREST_TOML, write  # noqa: PLC0415 - its helpers

    model = forest()
    session = __import__("onnxruntime").InferenceSession(model.SerializeToString())
    row = np.zeros((1, 2), np.float32)
    score = float(session.run(["scores"], {"X": row})[0][0, 0])
    return write(folder, model, FOREST_TOML, row, score)


@pytest.mark.timeout(3600 if MUTANTS > 1000 else 120)
@pytest.mark.parametrize("kind", ["own", "forest"])
def test_a_damaged_bundle_is_refused_or_does_what_it_did(tmp_path: Path, kind: str) -> None:
    origin = tmp_path / "origin"
    if kind == "own":
        write_bundle(origin, make_model())
    else:
        forest_bundle(origin)
    mutants = write_mutants(tmp_path / "mutants", origin, MUTANTS // 2, seed=len(kind))
    done = subprocess.run(
        [sys.executable, "-c", OPENER],
        cwd=ROOT,
        input="".join(f"{path}\n" for path in mutants),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < len(mutants)
