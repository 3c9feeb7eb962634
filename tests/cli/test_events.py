"""Events are listed from the spool, and what the operator says of them is kept beside it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest

from gateway.cli.main import main
from gateway.clock import SystemClock
from gateway.frame import Lane, Turn
from gateway.inference.events import AnomalyEvent
from gateway.inference.notes import NOTES_FILE, Notes
from gateway.inference.records import Records
from gateway.spool.log import Spool
from gateway.tag import TagTable
from tests.samples import make_tag
from tests.spool.worlds import small_settings

MINUTE = 60 * 10**9
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def begun_ns(plant: Path) -> int:
    """When the first of three events began: of pump-1, of pump-2, and of pump-1 again, open."""
    table = TagTable()
    records = Records(table)
    for asset in ("pump-1", "pump-2"):
        records.introduce("m", make_tag(f"{asset}.flow"))
    start_ns = time.time_ns() - 60 * MINUTE
    events = [
        AnomalyEvent(
            model="m",
            asset=asset,
            start_ns=start_ns + minute * MINUTE,
            end_ns=start_ns + (minute + 5) * MINUTE,
            is_open=is_open,
            peak=2.5,
            score_last=0.1,
            top="flow",
            deviation="flow 9 m3/h (healthy 1 to 2)",
        )
        for asset, minute, is_open in (
            ("pump-1", 0, True),
            ("pump-1", 0, False),
            ("pump-2", 10, False),
            ("pump-1", 20, True),
        )
    ]

    async def run() -> None:
        directory = plant.parent / "data" / "spool"
        async with Spool.open(directory, small_settings(raw=True), table, SystemClock()) as spool:
            for event in events:
                frame = records.frame([event])
                await spool.append(Turn(event.end_ns, {Lane.EVENT: frame}))

    asyncio.run(run())
    return start_ns


def notes_of(plant: Path) -> Notes:
    return Notes(plant.parent / "data" / "models" / NOTES_FILE)


def test_events_are_listed_once_each_as_they_were_last_told(
    plant: Path, begun_ns: int, capsys: Capture
) -> None:
    assert begun_ns
    assert main(["events", "list", str(plant)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["pump-1", "pump-2", "pump-1"]
    assert "major  peak 2.50  300 s  flow 9 m3/h (healthy 1 to 2)" in lines[0]
    assert main(["events", "list", str(plant), "--open", "--json"]) == 0
    [said] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (said["asset"], said["severity"], said["note"]) == ("pump-1", "major", None)


def test_an_event_that_was_normal_is_for_later_fits_to_know(
    plant: Path, begun_ns: int, capsys: Capture
) -> None:
    assert main(["events", "ack", str(plant), "pump-2", "--normal", "--note", "rinsing"]) == 0
    assert notes_of(plant).normal_spans("pump-2") == [
        (begun_ns + 10 * MINUTE, begun_ns + 15 * MINUTE)
    ]
    capsys.readouterr()
    assert main(["events", "list", str(plant)]) == 0
    assert "normal rinsing" in capsys.readouterr().out


def test_the_event_that_is_meant_can_be_named_by_its_time(plant: Path, begun_ns: int) -> None:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begun_ns // 10**9))
    assert main(["events", "ack", str(plant), "pump-1", "--at", at, "--fault"]) == 0
    [note] = notes_of(plant)
    assert (note.start_ns, note.verdict) == (begun_ns, "fault")


def test_an_event_that_there_is_not_is_said(plant: Path, begun_ns: int, capsys: Capture) -> None:
    assert begun_ns
    assert main(["events", "ack", str(plant), "pump-9"]) == 69
    assert "no such event of pump-9" in capsys.readouterr().err


def test_snooze_and_maintenance_begin_and_end(plant: Path, capsys: Capture) -> None:
    assert main(["events", "snooze", str(plant), "press-1", "--for", "2h"]) == 0
    assert main(["events", "maintenance", str(plant), "press-2", "--note", "new seal"]) == 0
    notes, now_ns = notes_of(plant), time.time_ns()
    assert notes.state_of("m", "press-1", now_ns) == "snoozed"
    assert notes.state_of("m", "press-1", now_ns + 121 * MINUTE) == ""
    assert notes.state_of("m", "press-2", now_ns + 9999 * MINUTE) == "maintenance"
    assert main(["events", "list", str(plant)]) == 0
    assert "press-2: maintenance since" in capsys.readouterr().out
    assert main(["events", "maintenance", str(plant), "press-2", "--end"]) == 0
    assert main(["events", "maintenance", str(plant), "press-2", "--end"]) == 69
    assert main(["events", "snooze", str(plant), "press-1", "--for", "a while"]) == 69


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
def test_what_root_says_stays_the_services_to_change(plant: Path) -> None:
    data = plant.parent / "data"
    data.mkdir()
    os.chown(data, 65534, 65534)
    assert main(["events", "maintenance", str(plant), "press-1"]) == 0
    assert main(["models", "key", str(plant)]) == 0
    made = list(data.rglob("*"))
    assert {path.name for path in made} >= {"models", "notes.json", "notes.lock", "model-key.pem"}
    assert {path.stat().st_uid for path in made} == {65534}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["snooze", "pres-1", "--for", "2h"], 'Did you mean "press-1"?'),
        (["maintenance", "press-1", "--model", "nomodel"], "there is no [[model]] 'nomodel'"),
        (["maintenance", "press-1", "--for", "999999999d"], "not up to ten years"),
        (["snooze", "press-1", "--for", "0s"], "not up to ten years"),
    ],
)
def test_what_cannot_be_silenced_is_said(
    plant: Path, capsys: Capture, arguments: list[str], said: str
) -> None:
    command, asset, *rest = arguments
    assert main(["events", command, str(plant), asset, *rest]) == 69
    assert said in capsys.readouterr().err
