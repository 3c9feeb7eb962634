"""A good configuration, in a folder of its own, for tests to break."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.config.good import GOOD, PRESS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a good configuration."""
    (tmp_path / "plant.toml").write_text(GOOD, encoding="utf-8")
    (tmp_path / "press.csv").write_text(PRESS, encoding="utf-8")
    return tmp_path


Change = Callable[..., Path]


@pytest.fixture
def changed(folder: Path) -> Change:
    """Writes the good configuration with one piece of text replaced; its path."""

    def change(old: str = "", new: str = "", file: str = "plant.toml") -> Path:
        path = folder / file
        text = path.read_text(encoding="utf-8")
        assert old in text, "the good configuration has no such text"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        return folder / "plant.toml"

    return change
