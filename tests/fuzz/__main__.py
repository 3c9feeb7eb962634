"""Coverage-guided fuzzing: `make fuzz`, or `python -m tests.fuzz [target ...] [--runs N]`.

A target is a file beside this one. It has a function `one(data: bytes) -> None`, which raises on a
finding, and may have `SEEDS`, bytes to begin with, and `INSTRUMENT`, the packages whose branches
guide the fuzzer (`gateway` by default). N executions are shared out equally among the targets.
What a target finds is written to `.fuzz/<target>/`, as is the corpus, which the next run goes on
from; `python -m tests.fuzz <target> --again <file>` runs one finding anew.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
FOLDER = Path(".fuzz")
# Ten million in all: what the promise names. In tests it is a few thousand.
RUNS = int(os.environ.get("SLUICEGATE_FUZZ", "10000000"))
_BYTES_MAX = 1024
# A process for so many: atheris keeps some two kilobytes an execution for itself, and a process
# that grew to the limit below would be taken for a finding.
_PIECE = 200_000


def targets() -> list[str]:
    """Every target there is."""
    names = (path.stem for path in HERE.glob("*.py"))
    return sorted(name for name in names if not name.startswith(("_", "test_")))


def load(name: str) -> ModuleType:
    return importlib.import_module(f"tests.fuzz.{name}")


def fuzz(name: str, runs: int, folder: Path) -> None:
    """Fuzz one target in this process, which does not come back from it."""
    import atheris  # noqa: PLC0415 - only where it is used: it is there for x86-64 alone

    with atheris.instrument_imports(include=["gateway.sources", "gateway.recordings"]):
        target = load(name)
    corpus = folder / name / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(getattr(target, "SEEDS", ())):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [
        f"-runs={runs}",
        f"-max_len={_BYTES_MAX}",
        f"-artifact_prefix={folder / name}/",
        "-timeout=10",
        "-rss_limit_mb=1024",
        "-verbosity=0",
        "-print_final_stats=1",
    ]
    atheris.Setup([name, *options, str(corpus)], target.one)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", nargs="*", help=", ".join(targets()))
    parser.add_argument("--runs", type=int, default=RUNS, help="executions, of all targets")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for corpus and findings")
    parser.add_argument("--again", type=Path, help="run one finding of a target")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    names = args.target or targets()
    if unknown := set(names) - set(targets()):
        parser.error(f"no target {', '.join(sorted(unknown))}: there is {', '.join(targets())}")
    if args.again:
        load(names[0]).one(args.again.read_bytes())
        print("no finding")
        return
    share = -(-args.runs // len(names))
    if args.here:
        fuzz(names[0], share, args.folder)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        told = list(pool.map(lambda name: fuzz_aside(name, share, args.folder), names))
    failed = [name for name, finding in zip(names, told, strict=True) if finding]
    for finding in filter(None, told):
        print(finding)
    if failed:
        sys.exit(f"findings: {', '.join(failed)}")
    print("no finding")


def fuzz_aside(name: str, runs: int, folder: Path) -> str:
    """Fuzz one target in processes of its own; what they found, in their words."""
    began_s = time.monotonic()
    command = [sys.executable, "-m", "tests.fuzz", name, "--here", "--folder", str(folder)]
    for done_before in range(0, runs, _PIECE):
        piece = str(min(_PIECE, runs - done_before))
        done = subprocess.run(
            [*command, "--runs", piece], capture_output=True, text=True, check=False
        )
        if done.returncode:
            return f"{name}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    print(f"{name:24s} {runs} executions in {time.monotonic() - began_s:.0f} s", flush=True)
    return ""


if __name__ == "__main__":
    main()
