"""`sluicegate query`: samples, or why there are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.cli.main import main

EX_UNAVAILABLE = 69
Capture = pytest.CaptureFixture[str]
Fill = Callable[..., Path]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["press-1.pressur"],
            "no tag is called 'press-1.pressur'. Did you mean \"press-1.pressure\"?",
        ),
        (["pres-1.*"], "no tag is called 'pres-1.*'"),
        (["press-1.pressure"], "the lane raw has no samples between"),
        (["--lane", "event"], "the lane event has no samples between"),
    ],
)
def test_that_there_is_nothing_is_said_with_the_reason(
    plant: Path, spool_of: Fill, capsys: Capture, arguments: list[str], said: str
) -> None:
    spool_of()
    assert main(["query", str(plant), *arguments]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["time,tag,value,eng_unit,quality"]
    assert said in printed.err


def test_a_span_that_ends_before_it_begins_is_refused(
    plant: Path, spool_of: Fill, capsys: Capture
) -> None:
    spool_of()
    assert main(["query", str(plant), "--from", "1h", "--to", "2h"]) == EX_UNAVAILABLE
    assert "--from 1h is not before --to 2h" in capsys.readouterr().err


def test_what_is_there_is_printed(plant: Path, spool_of: Fill, capsys: Capture) -> None:
    spool_of()
    assert main(["query", str(plant), "p.flow", "--from", "2000d"]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 201
    assert printed.err == ""
