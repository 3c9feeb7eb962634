"""Faults are asked for in one line, grow as asked, and refuse what cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from simulators.faults import Fault, FaultBoard, FaultError, parse_fault


@pytest.fixture
def board() -> FaultBoard:
    return FaultBoard(
        assets=("pump-1", "pump-2"),
        tags=("flow", "speed"),
        spans=np.array([60.0, 3000.0]),
        kinds=("bearing_wear", "stuck_sensor", "drifting_sensor", "device_offline"),
        default_tags={"stuck_sensor": "flow", "drifting_sensor": "speed"},
        devices=("plc-1",),
    )


def test_a_fault_is_one_line() -> None:
    assert parse_fault("stuck_sensor@pump-1.speed:after=1.5m:severity=0.5:ramp=6h") == Fault(
        name="stuck_sensor", asset="pump-1", tag="speed", severity=0.5, after_s=90, ramp_s=21600
    )
    assert parse_fault("cavitation@pump-2") == Fault(name="cavitation", asset="pump-2")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("bearing_wear", "NAME@ASSET"),
        ("rust@pump-1", "there are bearing_wear, cavitation"),
        ("bearing_wear@", "needs an asset"),
        ("bearing_wear@pump-1:after", "NAME@ASSET"),
        ("bearing_wear@pump-1:since=3s", "there are after, severity, ramp"),
        ("bearing_wear@pump-1:after=soon", "not a duration"),
        ("bearing_wear@pump-1:severity=much", "not a number"),
        ("bearing_wear@pump-1:severity=nan", "above 0"),
        ("bearing_wear@pump-1:severity=0", "above 0"),
    ],
)
def test_what_is_not_a_fault_says_what_would_be(text: str, says: str) -> None:
    with pytest.raises(FaultError, match=says):
        parse_fault(text)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault(name="bearing_wear", asset="pump-3"), "there are pump-1, pump-2"),
        (Fault(name="cavitation", asset="pump-1"), "cannot happen here"),
        (Fault(name="stuck_sensor", asset="pump-1", tag="colour"), "there are flow, speed"),
        (Fault(name="bearing_wear", asset="pump-1", tag="flow"), "whole asset"),
        (Fault(name="bearing_wear", asset="plc-1"), "can only be device_offline"),
    ],
)
def test_a_plant_refuses_what_cannot_happen_in_it(
    board: FaultBoard, fault: Fault, says: str
) -> None:
    with pytest.raises(FaultError, match=says):
        board.start(fault, 0.0)
    assert not board.active()


def test_a_fault_waits_then_grows_to_its_severity(board: FaultBoard) -> None:
    board.start(parse_fault("bearing_wear@pump-2:after=10s:ramp=20s:severity=2"), 100.0)
    levels = []
    for now_s in (100, 109, 115, 120, 130, 500):
        board.advance(now_s)
        levels.append(board.levels["bearing_wear"].tolist())
    assert levels == [[0, 0], [0, 0], [0, 0.5], [0, 1.0], [0, 2.0], [0, 2.0]]


def test_the_same_fault_again_takes_its_own_place(board: FaultBoard) -> None:
    board.start(parse_fault("bearing_wear@pump-1:ramp=0s:severity=3"), 0.0)
    board.start(parse_fault("bearing_wear@pump-1:ramp=0s"), 5.0)
    assert len(board.active()) == 1
    assert board.levels["bearing_wear"][0] == 1.0


def test_faults_end_by_asset_by_name_or_all(board: FaultBoard) -> None:
    for text in ("bearing_wear@pump-1", "bearing_wear@pump-2", "device_offline@plc-1"):
        board.start(parse_fault(f"{text}:ramp=0s"), 0.0)
    assert board.is_offline("plc-1")
    assert not board.is_offline("pump-1")
    assert board.stop(asset="pump-1") == 1
    assert board.levels["bearing_wear"].tolist() == [0, 1]
    assert board.stop(name="bearing_wear") == 1
    assert board.stop() == 1
    assert not board.is_offline("plc-1")


def test_a_stuck_sensor_repeats_and_a_drifting_one_leaves(board: FaultBoard) -> None:
    board.start(parse_fault("stuck_sensor@pump-1"), 0.0)
    board.start(parse_fault("drifting_sensor@pump-2:ramp=100s"), 0.0)
    seen = []
    for now_s in (0.0, 50.0, 100.0):
        values = np.array([[now_s, 1000.0], [now_s, 1000.0]])
        board.advance(now_s)
        board.bend(values)
        seen.append(values.tolist())
    # Only the flow of pump-1 and the speed of pump-2: a quarter of its range at severity 1.
    assert [rows[0] for rows in seen] == [[0, 1000], [0, 1000], [0, 1000]]
    assert [rows[1] for rows in seen] == [[0, 1000], [50, 1375], [100, 1750]]
