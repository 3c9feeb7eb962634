"""docs/reliability.md names tests that exist, for every fault it lists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| ([A-Z]\d+) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
NOT_SHOWN = "*not shown yet*"


def test_every_test_that_shows_a_promise_exists() -> None:
    named = TEST.findall(PAGE)
    assert len(named) > 30
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).is_file()
        or not re.search(
            rf"^ *(?:async )?def {name}\(", (ROOT / path).read_text("utf-8"), re.MULTILINE
        )
    ]
    assert missing == []


def test_every_fault_has_a_promise_and_tests_or_says_that_it_has_none() -> None:
    rows = ROW.findall(PAGE)
    keys = [key for key, *_ in rows]
    assert len(keys) == len(set(keys)) == len(re.findall(r"^\| [A-Z]\d", PAGE, re.MULTILINE))
    for key, _, _, shown in rows:
        assert shown == NOT_SHOWN or TEST.search(shown), key
