"""A short run of each target of the fuzzer finds nothing; `make fuzz` is the long one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import load, targets

ROOT = Path(__file__).parents[2]
# Seconds of two cores in all: enough to notice what is plainly wrong.
RUNS = int(os.environ.get("SLUICEGATE_FUZZ", "3000"))

needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is there for x86-64 Linux alone"
)


@needs_atheris
@pytest.mark.parametrize("target", targets())
@pytest.mark.timeout(3600 if RUNS > 100_000 else 120)
def test_a_run_of_the_fuzzer_finds_nothing(target: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", target, "--runs", str(RUNS)]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "no finding" in done.stdout


@pytest.mark.parametrize("target", targets())
def test_every_seed_of_a_target_passes(target: str) -> None:
    module = load(target)
    for seed in module.SEEDS:
        module.one(seed)


@needs_atheris
def test_what_a_target_raises_is_a_finding(tmp_path: Path) -> None:
    """A fuzzer that cannot fail shows nothing."""
    (tmp_path / "broken.py").write_text(
        "def one(data):\n    assert data != b'no'\nSEEDS = [b'no']\n"
    )
    script = (
        "import sys, tests.fuzz.__main__ as fuzz, importlib.util\n"
        "def load(name):\n"
        f"    path = {str(tmp_path / 'broken.py')!r}\n"
        "    spec = importlib.util.spec_from_file_location(name, path)\n"
        "    module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "    return module\n"
        "fuzz.load = load\n"
        f"fuzz.fuzz('broken', 1000, fuzz.Path({str(tmp_path)!r}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode != 0
    assert b"AssertionError" in done.stdout + done.stderr
