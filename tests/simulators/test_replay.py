"""A recording is played as a device: what a gateway reads is what was recorded, at its pace."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from simulators.replay import ReplayError, read_recording
from tests.rig import SLUICEGATE, sluicegate, wait_until

MAP = """asset,tag,unit_id,table,address,data_type,byte_order,scale,offset
press-1,pressure,1,input_register,8,float32,CDAB,,
press-1,strokes,1,holding_register,0,uint32,ABCD,,
press-1,oil,2,holding_register,3,int16,ABCD,0.1,-20
press-1,running,1,coil,17,bool,,,
"""
RECORDING = """time,press-1.pressure,press-1.strokes,press-1.oil,press-1.running,other.tag
2026-11-26T10:00:00Z,4.25,70000,61.5,true,1
2026-11-26T10:00:10Z,4.5,70001,,false,2
2026-11-26T10:00:20Z,5.75,70002,-12.3,true,3
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    recording, register_map = tmp_path / "recording.csv", tmp_path / "map.csv"
    recording.write_text(RECORDING)
    register_map.write_text(MAP)
    return recording, register_map


def values(port: int, register_map: Path) -> list[str]:
    tags = ["press-1.pressure", "press-1.strokes", "press-1.oil", "press-1.running"]
    read = [*SLUICEGATE, "read", f"tcp://127.0.0.1:{port}", *tags, "--map", str(register_map)]
    done = subprocess.run(read, check=True, capture_output=True, text=True)
    return [line.split()[1] for line in done.stdout.splitlines()]


@pytest.mark.system
def test_the_gateway_reads_what_was_recorded(files: tuple[Path, Path], tmp_path: Path) -> None:
    recording, register_map = files
    arguments = ["simulate", "replay", str(recording), "--map", str(register_map)]
    with sluicegate("slow", [*arguments, "--speed", "0.01"], tmp_path) as played:
        port = json.loads(played.wait_for('"ready"'))["port"]
        assert values(port, register_map) == ["4.25", "70000", "61.5", "1"]
    with sluicegate("fast", [*arguments, "--speed", "100", "--once"], tmp_path) as played:
        port = json.loads(played.wait_for('"ready"'))["port"]
        wait_until(lambda: values(port, register_map) == ["5.75", "70002", "-12.3", "1"])
        played.stop()
        truth = json.loads(played.output().splitlines()[-1])
        assert (truth["row"], truth["laps"]) == (2, 1)


def test_a_cell_that_is_empty_leaves_what_was_there(files: tuple[Path, Path]) -> None:
    recorded = read_recording(*files)
    assert recorded.times_s == [0, 10, 20]
    assert recorded.lasts_s == 30
    assert (2, "holding_register") not in recorded.rows[1]


@pytest.mark.parametrize(
    ("of_recording", "of_map", "says"),
    [
        (("time,", "when,"), ("", ""), "needs a column time"),
        (("70001", "many"), ("", ""), "row 3"),
        (("10:00:20", "10:00:10"), ("", ""), "row 4: time does not rise"),
        (("4.5", "4.5e99"), ("", ""), "row 3"),
        (("", ""), ("float32", "string"), "row 2"),
        (("", ""), ("CDAB", "ABDC"), "row 2"),
        (("", ""), ("unit_id,table,address", "unit_id,table,where"), "row 2"),
    ],
)
def test_what_cannot_be_played_is_named_with_its_place(
    files: tuple[Path, Path],
    of_recording: tuple[str, str],
    of_map: tuple[str, str],
    says: str,
) -> None:
    recording, register_map = files
    recording.write_text(RECORDING.replace(*of_recording))
    register_map.write_text(MAP.replace(*of_map))
    with pytest.raises(ReplayError, match=says):
        read_recording(recording, register_map)
