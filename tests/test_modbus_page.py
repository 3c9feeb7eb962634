"""docs/modbus.md names tests that exist, and its example is a good configuration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.cli.main import main
from gateway.config.load import load
from tests.test_reliability import ROOT, TEST

PAGE = (ROOT / "docs" / "modbus.md").read_text(encoding="utf-8")


def test_every_test_that_shows_a_behaviour_exists() -> None:
    named = TEST.findall(PAGE)
    assert len(named) > 30
    for path, name in named:
        text = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"^(?:async )?def {name}\(", text, re.MULTILINE), f"{path}::{name}"
    table = PAGE.partition("## What it does")[2].splitlines()
    for row in [line for line in table if line.startswith("| ")][1:]:
        assert TEST.search(row), row


def test_the_example_is_checked_and_has_no_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("API_TOKEN", "a-token-of-22-letters!")
    for name, text in re.findall(r"```\w+ (\S+)\n(.*?)```", PAGE, re.DOTALL):
        (tmp_path / name).write_text(text, encoding="utf-8")
    path = tmp_path / "sluicegate.toml"
    assert load(path).warnings == ()
    assert [row.writable for row in load(path).register_maps["press"]] == [False, False, True]
    assert main(["check", str(path)]) == 0
    capsys.readouterr()
