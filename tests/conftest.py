"""What all tests share: an empty tag table, a clock that stands still."""

from __future__ import annotations

import pytest

from gateway.clock import ManualClock
from gateway.tag import TagTable


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def table() -> TagTable:
    return TagTable()
