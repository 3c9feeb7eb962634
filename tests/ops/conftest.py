"""What the tests of the operator's side share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.ops.fake_view import FakeView


@pytest.fixture
def view() -> FakeView:
    return FakeView()


@pytest.fixture
def restore_logging() -> Iterator[None]:
    """The root logger as pytest set it up."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
