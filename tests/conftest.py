"""What all tests share: an empty tag table, a clock that stands still."""

from __future__ import annotations

import os

# As every command has it, and before numpy is imported: two workers with a pool each stand in
# each other's way.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest

from gateway.clock import ManualClock
from gateway.tag import TagTable

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# The worlds have both cores to themselves but for tests that do not mind; then come those that wait
# for processes and servers, and what is short in the end, so that both workers end together.
_FIRST = ("tests/faults/test_world.py",)
_AMID = ("tests/faults/", "tests/system/", "tests/simulators/")
_LAST = ("tests/sources/", "tests/ops/", "tests/test_")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the files an order in which two workers do not wait for each other."""

    def rank(item: pytest.Item) -> int:
        path = item.nodeid
        if path.startswith(_FIRST):
            return 0
        return 2 if path.startswith(_AMID) else 3 if path.startswith(_LAST) else 1

    items.sort(key=rank)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def table() -> TagTable:
    return TagTable()
