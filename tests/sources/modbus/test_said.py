"""Said: what the log is told of a device is told once, until it changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gateway.errors import DeviceRefused, SourceLost
from gateway.sources import SourceStats
from gateway.sources.modbus.config import ModbusTcpSettings, RegisterRow
from gateway.sources.modbus.device import Device
from gateway.sources.modbus.said import Said
from gateway.sources.modbus.wire import Request

ERROR = SourceLost("no answer within 1 s")


@pytest.fixture
def stats() -> SourceStats:
    return SourceStats()


@pytest.fixture
def said(stats: SourceStats, caplog: pytest.LogCaptureFixture) -> Said:
    caplog.set_level("INFO")
    settings = ModbusTcpSettings(
        type="modbus-tcp", name="plc", host="127.0.0.1", map=Path("map.csv")
    )
    rows = [RegisterRow(asset="a", tag=f"t{i}", address=i) for i in range(5)]
    return Said("plc", Device(settings, rows, np.arange(5, dtype=np.uint32)), stats)


def test_a_silent_unit_is_said_once_and_so_is_its_return(
    said: Said, stats: SourceStats, caplog: pytest.LogCaptureFixture
) -> None:
    for silent in ({1}, {1}, {1, 2}, {2}, set[int](), set[int]()):
        said.silent(frozenset(silent), ERROR)
        assert stats.units_unwell == len(silent)
    assert [line.split(" error=")[0] for line in caplog.messages] == [
        "modbus.unit_silent source=plc unit_id=1",
        "modbus.unit_silent source=plc unit_id=2",
        "modbus.unit_answers source=plc unit_id=1",
        "modbus.unit_answers source=plc unit_id=2",
    ]


def test_a_failing_unit_is_well_when_what_failed_is_answered(
    said: Said, stats: SourceStats, caplog: pytest.LogCaptureFixture
) -> None:
    failing, other = Request(1, 3, 0, 2), Request(1, 3, 10, 2)
    said.failing(failing, ERROR)
    said.failing(other, ERROR)
    said.answered(other)
    assert (len(caplog.messages), stats.units_unwell) == (1, 1)
    said.silent(frozenset({1}), ERROR)
    assert stats.units_unwell == 1  # a unit id is counted once
    said.silent(frozenset(), ERROR)
    said.answered(failing)
    said.answered(failing)
    assert caplog.messages[-1] == "modbus.unit_well source=plc unit_id=1"
    assert (len(caplog.messages), stats.units_unwell) == (4, 0)


def test_another_device_is_said_once(said: Said, caplog: pytest.LogCaptureFixture) -> None:
    said.strange(Request(1, 3, 0, 2))
    said.strange(Request(1, 3, 10, 2))
    assert caplog.messages == ["modbus.unexpected source=plc unit_id=1 address=0"]


def test_of_many_refused_tags_some_are_named(said: Said, caplog: pytest.LogCaptureFixture) -> None:
    refused = DeviceRefused(unit_id=1, function=3, address=0, code=2, hint="")
    said.refused([(row, refused) for row in range(4)])
    said.refused([(4, refused)])
    assert "count=4 tags=a.t0,a.t1,a.t2... error=" in caplog.messages[0]
    assert "count=1 tags=a.t4 error=" in caplog.messages[1]
