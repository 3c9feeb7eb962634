"""Any bytes as bundle.toml, as model.onnx, or as a signature: taken or refused, never an exception.

ONNX Runtime itself is not fuzzed here: whatever the walk of the bytes lets through is given to it
in a process of its own first (tests/inference/test_mutants.py does that).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from gateway.errors import BundleInvalid, Problem
from gateway.inference.manifest import parse_manifest
from gateway.inference.onnx_wire import OBJECTIONS_MAX, objections, uses_ml_operators
from gateway.inference.signature import SIGNATURE, signed_by
from tests.inference.bundles import make_model, write_bundle

INSTRUMENT = ["gateway.inference"]

_FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))


def one(data: bytes) -> None:
    """The first byte chooses what the others are."""
    if not data:
        return
    content = data[1:]
    if data[0] % 3 == 0:
        _manifest(content)
    elif data[0] % 3 == 1:
        found = objections(content)
        assert len(found) <= OBJECTIONS_MAX
        if not found:
            uses_ml_operators(content)
    else:
        _signature(content)


def _manifest(content: bytes) -> None:
    problems: Sequence[Problem] = ()
    try:
        manifest = parse_manifest(Path("bundle.toml"), content)
    except BundleInvalid as error:
        problems = error.problems
    if problems:
        assert all(problem.found and problem.mend for problem in problems)
        return
    assert manifest.threshold != manifest.normal
    assert all(len(golden.window) == manifest.window for golden in manifest.golden)


def _signature(content: bytes) -> None:
    (_FOLDER / SIGNATURE).write_bytes(content)
    try:
        key = signed_by(_FOLDER, b"", ())
    except BundleInvalid:
        return
    raise AssertionError(f"a signature that nobody gave was believed: {key}")


def _seeds() -> list[bytes]:
    folder = write_bundle(_FOLDER / "seed")
    return [
        b"\x00" + (folder / "bundle.toml").read_bytes(),
        b"\x01" + make_model().SerializeToString(),
        b"\x02" + b'key = "%b"\nsignature = "%b"\n' % (b"ab" * 32, b"cd" * 64),
    ]


SEEDS = _seeds()
