"""Other programs' Modbus configurations become ones that `check` takes; nothing is lost."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.main import main
from gateway.config.load import Config, load

REGISTER = """
[agent]
  interval = "5s"
[global_tags]
  plant = "north"
[[outputs.influxdb_v2]]
  urls = ["http://127.0.0.1:8086"]
[[inputs.modbus]]
  name = "boiler"
  slave_id = 3
  timeout = "800ms"
  controller = "tcp://10.1.2.3:1502"
  discrete_inputs = [ { name = "door", address = [4] } ]
  coils = [ { name = "pump", address = [0], data_type = "BOOL" } ]
  holding_registers = [
    { name = "power_factor", byte_order = "AB", data_type = "FIXED", scale=0.01, address = [8] },
    { name = "energy", byte_order = "CDAB", data_type = "FIXED", scale=0.001, address = [5,6] },
    { name = "flow", byte_order = "ABCD", data_type = "FLOAT32-IEEE", scale=1, address = [10,11] },
    { name = "old", byte_order = "ABCD", data_type = "FLOAT32", scale=0.1, address = [12,13] },
    { name = "torn", byte_order = "ABCD", data_type = "UINT32", scale=1.0, address = [20,22] },
    { name = "short", byte_order = "ABCD", data_type = "UINT32", scale=1.0, address = [24] },
    { name = "low", byte_order = "AB", data_type = "INT8L", scale=1.0, address = [30] },
    { name = "strange", byte_order = "ABDC", data_type = "UINT32", scale=1.0, address = [31,32] },
  ]
  input_registers = [
    { name = "total", byte_order = "GHEFCDAB", data_type = "UINT64", address = [0,1,2,3] },
  ]
  [inputs.modbus.workarounds]
    max_word_registers_per_request = 60
    one_request_per_field = false
    read_coils_starting_at_zero = true
"""
REQUEST = """
[[inputs.modbus]]
  name = "line"
  interval = "500ms"
  controller = "file:///dev/ttyUSB0"
  baud_rate = 19200
  parity = "N"
  stop_bits = 2
  transmission_mode = "RTU"
  configuration_type = "request"
  [[inputs.modbus.request]]
    slave_id = 1
    byte_order = "DCBA"
    register = "holding"
    measurement = "drive"
    fields = [
      { address=0, name="voltage", type="INT16", scale=0.1 },
      { address=1, name="current", type="INT32", scale=0.001 },
      { address=3, name="hole", type="UINT32", omit=true },
      { address=9, name="pressure", type="FLOAT64", measurement="hydraulics" },
    ]
    [inputs.modbus.request.tags]
      machine = "impresser"
      site = "taken"
  [[inputs.modbus.request]]
    slave_id = 2
    byte_order = "ABCD"
    register = "input"
    measurement = "drive"
    fields = [ { address=0, name="voltage", type="UINT16" } ]
[[inputs.modbus]]
  name = "second"
  controller = "file:///dev/ttyUSB0"
  baud_rate = 19200
  parity = "N"
  stop_bits = 2
  configuration_type = "metric"
  [[inputs.modbus.metric]]
    slave_id = 7
    byte_order = "ABCD"
    measurement = "meter"
    fields = [
      { register="coil", address=0, name="door_open" },
      { address=1, name="current", type="INT32", scale=0.001 },
      { address=9, name="firmware", type="STRING", length=8 },
      { address=20, name="ready", type="BIT", bit=3 },
    ]
[[inputs.modbus]]
  name = "windows"
  controller = "COM1"
  holding_registers = [ { name = "a", byte_order = "AB", data_type = "UINT16", address = [0] } ]
"""
THINGSBOARD: dict[str, Any] = {
    "master": {
        "slaves": [
            {
                "host": "10.0.0.9", "port": 5021, "type": "tcp", "method": "rtu", "unitId": 4,
                "deviceName": "Chiller [roof]", "deviceType": "chiller", "timeout": 3,
                "byteOrder": "BIG", "wordOrder": "LITTLE", "pollPeriod": 1000,
                "attributes": [
                    {"tag": "serial", "type": "string", "functionCode": 3, "objectsCount": 4,
                     "address": 50},
                ],
                "timeseries": [
                    {"tag": "temperature", "type": "16int", "functionCode": 4, "objectsCount": 1,
                     "address": 0, "divider": 10},
                    {"tag": "power", "type": "32float", "functionCode": 3, "objectsCount": 2,
                     "address": 2},
                    {"tag": "relays", "type": "bits", "functionCode": 1, "objectsCount": 3,
                     "address": 8},
                    {"tag": "blob", "type": "bytes", "functionCode": 3, "objectsCount": 2,
                     "address": 9},
                    {"tag": "odd", "type": "32int", "functionCode": 3, "objectsCount": 1,
                     "address": 9},
                ],
                "rpc": [{"tag": "setRelay", "functionCode": 5, "address": 8, "type": "bits"}],
            },
            {
                "host": "10.0.0.9", "port": 5021, "type": "tcp", "method": "rtu", "unitId": 5,
                "deviceName": "Pump", "timeout": 3, "byteOrder": "BIG", "wordOrder": "BIG",
                "pollPeriod": 10000, "attributes": [],
                "timeseries": [
                    {"tag": "hours", "type": "uint", "functionCode": 3, "registerCount": 2,
                     "address": 7},
                ],
            },
        ]
    },
    "slave": {"type": "tcp", "port": 5026},
}  # fmt: skip


def imported(folder: Path, text: str, capsys: pytest.CaptureFixture[str]) -> tuple[Config, str]:
    file = folder / "given"
    file.write_text(text, encoding="utf-8")
    assert main(["import", str(file), "--to", str(folder / "to")]) == 0
    said = capsys.readouterr().out
    path = folder / "to" / "sluicegate.toml"
    assert main(["check", str(path)]) == 0
    capsys.readouterr()
    return load(path), said


def rows(config: Config, source: str) -> dict[str, tuple[Any, ...]]:
    return {
        f"{row.asset}.{row.tag}": (
            row.unit_id, row.table.value, row.address, row.data_type.value, row.byte_order.value,
            row.scale,
        )
        for row in config.register_maps[source]
    }  # fmt: skip


def test_telegrafs_register_style_is_carried_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, said = imported(tmp_path, REGISTER, capsys)
    (source,) = config.settings.sources
    settings: Any = source
    assert (settings.host, settings.port, settings.response_timeout) == ("10.1.2.3", 1502, 0.8)
    assert (settings.registers_max, settings.scan_classes) == (60, {"default": 5.0})
    assert rows(config, "boiler") == {
        "boiler.door": (3, "discrete_input", 4, "bool", "ABCD", 1),
        "boiler.pump": (3, "coil", 0, "bool", "ABCD", 1),
        "boiler.power_factor": (3, "holding_register", 8, "int16", "ABCD", 0.01),
        "boiler.energy": (3, "holding_register", 5, "int32", "CDAB", 0.001),
        "boiler.flow": (3, "holding_register", 10, "float32", "ABCD", 1),
        "boiler.old": (3, "holding_register", 12, "uint32", "ABCD", 0.1),
        "boiler.low": (3, "holding_register", 30, "int8_low", "ABCD", 1),
        "boiler.total": (3, "input_register", 0, "uint64", "CDAB", 1),
    }
    assert config.settings.assets[0].labels == {"plant": "north"}
    left_out = [line for line in said.splitlines() if line.startswith("not carried over")]
    for name in ("torn", "short", "strange", "read_coils_starting_at_zero", "outputs"):
        assert sum(name in line for line in left_out) == 1, name
    assert len(left_out) == 5


def test_telegrafs_request_and_metric_styles_share_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, said = imported(tmp_path, REQUEST, capsys)
    (source,) = config.settings.sources
    settings: Any = source
    assert (settings.device, settings.parity, settings.stop_bits) == ("/dev/ttyUSB0", "none", 2)
    assert sorted(settings.scan_classes.values()) == [0.5, 10.0]
    assert rows(config, "line") == {
        "line-1.voltage": (1, "holding_register", 0, "int16", "DCBA", 0.1),
        "line-1.current": (1, "holding_register", 1, "int32", "DCBA", 0.001),
        "line-1-2.pressure": (1, "holding_register", 9, "float64", "DCBA", 1),
        "line-2.voltage": (2, "input_register", 0, "uint16", "ABCD", 1),
        "second.door_open": (7, "coil", 0, "bool", "ABCD", 1),
        "second.current": (7, "holding_register", 1, "int32", "ABCD", 0.001),
        "second.firmware": (7, "holding_register", 9, "string", "ABCD", 1),
        "second.ready": (7, "holding_register", 20, "uint16", "ABCD", 1),
    }
    classes = {asset.name: (asset.asset_class, asset.labels) for asset in config.settings.assets}
    assert classes["line-1"] == ("drive", {"machine": "impresser"})
    assert classes["line-1-2"] == ("hydraulics", {"machine": "impresser"})
    assert classes["second"] == ("meter", {})
    bits = {row.tag: row.bits for row in config.register_maps["line"]}
    assert bits["ready"] == "3"
    assert "COM1" in said
    assert "label site" in said
    assert "hole" not in said


def test_thingsboards_connector_is_carried_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, said = imported(tmp_path, json.dumps(THINGSBOARD), capsys)
    (source,) = config.settings.sources
    settings: Any = source
    assert (settings.framing, settings.port, settings.response_timeout) == ("rtu", 5021, 3.0)
    assert sorted(settings.scan_classes.values()) == [1.0, 10.0]
    (name,) = config.register_maps
    assert rows(config, name) == {
        "Chiller-roof.temperature": (4, "input_register", 0, "int16", "CDAB", 0.1),
        "Chiller-roof.power": (4, "holding_register", 2, "float32", "CDAB", 1),
        "Chiller-roof.relays_0": (4, "coil", 8, "bool", "ABCD", 1),
        "Chiller-roof.relays_1": (4, "coil", 9, "bool", "ABCD", 1),
        "Chiller-roof.relays_2": (4, "coil", 10, "bool", "ABCD", 1),
        "Chiller-roof.serial": (4, "holding_register", 50, "string", "ABCD", 1),
        "Pump.hours": (5, "holding_register", 7, "uint32", "ABCD", 1),
    }
    for what in ("blob", "odd", "setRelay", "slave"):
        assert sum(what in line for line in said.splitlines()) == 1, what


def test_what_telegraf_knows_of_a_difficult_device_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = """
[[inputs.modbus]]
  name = "drive"
  interval = "1m30s"
  controller = "tcp://10.0.0.1"
  slave_id = 1
  holding_registers = [
    { name = "ready", byte_order = "BA", data_type = "BIT", bit = 3, address = [7] },
  ]
  [inputs.modbus.workarounds]
    pause_after_connect = "1s"
    pause_between_requests = "20ms"
    one_request_per_field = true
"""
    config, said = imported(tmp_path, text, capsys)
    settings: Any = config.settings.sources[0]
    assert (settings.connect_pause, settings.request_pause) == (1.0, 0.02)
    assert settings.one_request_a_tag
    assert settings.scan_classes == {"default": 90.0}
    # Telegraf looks for the bit behind the swap of the bytes.
    (row,) = config.register_maps["drive"]
    assert (row.bits, row.byte_order.value) == ("3", "DCBA")
    assert "not carried over" not in said


def test_two_devices_that_telegraf_calls_the_same_are_two_assets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    section = """
[[inputs.modbus]]
  name = "meter"
  controller = "tcp://10.0.0.1"
  slave_id = {unit_id}
  holding_registers = [ {{ name = "a", byte_order = "AB", data_type = "UINT16", address = [0] }} ]
"""
    text = section.format(unit_id=1) + section.format(unit_id=2)
    config, said = imported(tmp_path, text, capsys)
    found = {name: row[0] for name, row in rows(config, "meter").items()}
    assert found == {"meter.a": 1, "meter-2.a": 2}
    assert "not carried over" not in said


def test_telegrafs_variables_are_those_of_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
[[outputs.influxdb_v2]]
  token = "${NOT_SET}"
[[inputs.modbus]]
  name = "plc"
  controller = "tcp://${PLC_HOST}:${PLC_PORT:-1502}"
  slave_id = $UNIT
  holding_registers = [ { name = "a", byte_order = "AB", data_type = "UINT16", address = [0] } ]
"""
    file = tmp_path / "given"
    file.write_text(text, encoding="utf-8")
    command = ["import", str(file), "--to", str(tmp_path / "to")]
    assert main(command) == 69
    assert "set NOT_SET, PLC_HOST, UNIT in the environment" in capsys.readouterr().err
    monkeypatch.setenv("UNIT", "9")
    assert main(command) == 69
    assert "set PLC_HOST in the environment" in capsys.readouterr().out
    monkeypatch.setenv("PLC_HOST", "PLC.example")
    config, _ = imported(tmp_path, text, capsys)
    settings: Any = config.settings.sources[0]
    assert (settings.host, settings.port) == ("plc.example", 1502)
    assert rows(config, "plc")["plc.a"][0] == 9


@pytest.mark.parametrize(
    "text",
    ["", "[[inputs.cpu]]\n", "{", "[]", '{"a": 1}', "x = ", '{"master": {"slaves": [5, null]}}',
     '{"master": 7}', "[inputs]\nmodbus = 5\n", "[[inputs.modbus]]\n",
     '[[inputs.modbus]]\ncontroller = "tcp://h"\nrequest = [{slave_id = "x"}]\n', "[" * 5000,
     '[[inputs.modbus]]\ncontroller = "tcp://h:x"\n'],
)  # fmt: skip
def test_what_cannot_be_imported_is_said_to(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "given"
    file.write_text(text, encoding="utf-8")
    assert main(["import", str(file), "--to", str(tmp_path / "to")]) == 69
    assert "sluicegate: " in capsys.readouterr().err
    assert not (tmp_path / "to").exists()


def test_nothing_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imported(tmp_path, REGISTER, capsys)
    again = ["import", str(tmp_path / "given"), "--to", str(tmp_path / "to")]
    assert main(again) == 69
    assert main([*again, "--force"]) == 0
    with (tmp_path / "to" / "boiler.csv").open(encoding="utf-8") as file:
        assert len(list(csv.reader(file))) == 9
