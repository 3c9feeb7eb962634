"""Planted bugs, each a patch in tests/mutants: the worlds and wrecks must find every one.

A patch that no longer applies is a failure too: the code it was made for has moved, and nobody
knows any more whether that bug would be found.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rig import ROOT

PATCHES = sorted((ROOT / "tests" / "mutants").glob("*.patch"))
# Of the worlds that must all be well in test_world.py; the rarest bug needs the most.
SEEDS = (100, 1000, 5000)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources, to be patched one way and back."""
    folder = tmp_path_factory.mktemp("mutants")
    for part in ("gateway", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "mutants")
        shutil.copytree(ROOT / part, folder / part, ignore=ignored)
    return folder


def patched(copy: Path, patch: Path, *options: str) -> None:
    done = subprocess.run(
        ["patch", "-p1", "--fuzz=0", "--batch", "--input", patch, *options],
        cwd=copy, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{patch.name} does not apply any more: {done.stdout}"


def is_found(copy: Path) -> bool:
    for seeds in SEEDS:
        for module in ("tests.faults.world", "tests.faults.wreck"):
            done = subprocess.run(
                [sys.executable, "-B", "-m", module, "--seeds", str(seeds)],
                cwd=copy, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode in (0, 1), done.stderr
            if done.returncode == 1:
                assert " failed" in done.stdout, done.stderr
                return True
    return False


@pytest.mark.timeout(180)
@pytest.mark.parametrize("patch", PATCHES, ids=lambda path: path.stem)
def test_a_planted_bug_is_found(copy: Path, patch: Path) -> None:
    patched(copy, patch)
    try:
        assert is_found(copy)
    finally:
        patched(copy, patch, "--reverse")


def test_there_are_ten_bugs_or_more() -> None:
    assert len(PATCHES) >= 10
