"""What all tests share: an empty tag table, a clock that stands still."""

from __future__ import annotations

import os

# As every command has it, and before numpy is imported: two workers with a pool each stand in
# each other's way.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from gateway.clock import ManualClock
from gateway.tag import TagTable


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def table() -> TagTable:
    return TagTable()
