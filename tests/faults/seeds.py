"""Seeds: one function run for very many, in several processes; a failure says how to see it."""

from __future__ import annotations

import argparse
import logging
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

from gateway.tag import TagTable
from tests.faults.plain import plain_codecs

__all__ = ["main", "run"]

FAILURES_SHOWN = 10


def run(
    one: Callable[[int], None],
    module: str,
    table: TagTable,
    first: int,
    count: int,
    processes: int,
) -> list[str]:
    """`one` of first..first + count; of each that raised, the command and the traceback.

    `module` is the one to be run for a single seed.
    """
    seeds = range(first, first + count)
    if processes == 1:
        return list(_failures(one, module, table, seeds))
    step = -(-count // (processes * 16))
    ranges = [seeds[begin : begin + step] for begin in range(0, count, step)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        found = pool.map(partial(_failed, one, module, table), ranges)
        return [failure for failures in found for failure in failures]


def _failed(one: Callable[[int], None], module: str, table: TagTable, seeds: range) -> list[str]:
    return list(_failures(one, module, table, seeds))


def _failures(
    one: Callable[[int], None], module: str, table: TagTable, seeds: range
) -> Iterator[str]:
    logging.disable(logging.CRITICAL)
    try:
        with plain_codecs(table):
            for seed in seeds:
                try:
                    one(seed)
                except Exception:  # noqa: BLE001 - whatever it is, the others are run as well
                    command = f"python -m {module} --first {seed} --seeds 1"
                    yield f"{command}\n{traceback.format_exc()}"
    finally:
        logging.disable(logging.NOTSET)


def main(run_them: Callable[[int, int, int], list[str]], what: str) -> int:
    """The command line of one of them; its exit code."""
    parser = argparse.ArgumentParser(description=f"Run {what} by seed.")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    failures = run_them(given.first, given.seeds, given.processes)
    for failure in failures[:FAILURES_SHOWN]:
        print(failure)  # noqa: T201 - for whoever looks into it
    print(f"{given.seeds} {what}, {len(failures)} failed")  # noqa: T201
    return min(len(failures), 1)
