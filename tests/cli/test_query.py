"""`sluicegate query`: samples, or why there are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.cli.main import main
from gateway.cli.query import time_ns, time_text

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


@pytest.mark.parametrize("t_ns", [0, 1, -1, 1_767_225_600_123_456_789, 1_767_225_600_999_999_999])
def test_a_time_that_was_printed_is_a_border_to_the_nanosecond(t_ns: int) -> None:
    assert time_ns(time_text(t_ns)) == t_ns


def test_dates_are_read_with_their_zone_and_fraction() -> None:
    assert time_ns("2026-01-01") == 1_767_225_600 * 10**9
    assert time_ns("2026-01-01T01:00:00.5+01:00") == 1_767_225_600_500_000_000
