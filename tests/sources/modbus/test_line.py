"""How busy a serial line is: by arithmetic that can be done on paper."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.load import load
from gateway.errors import ConfigError
from gateway.sources.modbus.config import ModbusRtuSettings, ModbusTcpSettings, RegisterRow
from gateway.sources.modbus.line import exchange_s, loads, quiet_s, request_s
from gateway.sources.modbus.wire import Request


def settings_of(**more: object) -> ModbusRtuSettings:
    facts = {"type": "modbus-rtu", "name": "line", "device": "/dev/null", "map": "x.csv"}
    return ModbusRtuSettings.model_validate(facts | more)


def test_an_exchange_is_its_characters_and_two_silences() -> None:
    settings = settings_of(baud_rate=9600)  # even parity: 11 bits a character
    character_s = 11 / 9600
    request = Request(unit_id=1, function=3, address=0, quantity=10)
    assert exchange_s(request, settings) == pytest.approx((8 + 25 + 7) * character_s)
    assert quiet_s(settings_of(baud_rate=115200)) == 0.00175


def test_each_class_has_its_share() -> None:
    rows = [
        RegisterRow(asset="m", tag=f"t{unit}", unit_id=unit, address=0, scan_class=name)
        for unit, name in ((1, "fast"), (2, "slow"))
    ]
    settings = settings_of(scan_classes={"fast": "100ms", "slow": "1s"})
    shares = {scan.scan_class: share for scan, share in loads(rows, settings)}
    assert shares["fast"] == pytest.approx(10 * shares["slow"])


@pytest.mark.parametrize(("baud", "refused"), [(1200, True), (2400, False), (19200, None)])
def test_a_line_that_cannot_carry_its_map_is_refused_with_what_to_slow_down(
    tmp_path: Path, baud: int, refused: bool | None
) -> None:
    rows = ["asset,tag,unit_id,address", *(f"meter-{unit},power,{unit},0" for unit in range(1, 9))]
    (tmp_path / "map.csv").write_text("\n".join(rows))
    path = tmp_path / "s.toml"
    path.write_text(
        f'[gateway]\nname = "g"\ndata_dir = "{tmp_path}/data"\n'
        '[[source]]\ntype = "modbus-rtu"\nname = "meters"\ndevice = "/dev/null"\n'
        f'map = "map.csv"\nbaud_rate = {baud}\nresponse_timeout = "100ms"\n'
        '[[asset]]\nname = "*"\nclass = "meter"\n'
    )
    if refused:
        with pytest.raises(ConfigError) as wrong:
            load(path)
        said = str(wrong.value.problems[0])
        assert "/dev/null would be busy for" in said
        assert "meter-1.power" in said
        assert "raise baud_rate" in said
        return
    warnings = [str(problem) for problem in load(path).warnings]
    assert any("would be busy" in warning for warning in warnings) == (refused is False)


def tcp_of(**more: object) -> ModbusTcpSettings:
    facts = {"type": "modbus-tcp", "name": "plc", "host": "127.0.0.1", "map": "x.csv"}
    return ModbusTcpSettings.model_validate(facts | more)


def test_over_tcp_answers_and_pauses_take_the_time_and_overlap_in_flight() -> None:
    request = Request(unit_id=1, function=3, address=0, quantity=10)
    assert request_s(request, tcp_of()) == pytest.approx(0.001)
    slow = tcp_of(answer_time="20ms", request_pause="5ms")
    assert request_s(request, slow) == pytest.approx(0.025)
    assert request_s(request, tcp_of(answer_time="20ms", in_flight=4)) == pytest.approx(0.005)
    line = settings_of(answer_time="20ms", request_pause="5ms")
    assert request_s(request, line) == pytest.approx(exchange_s(request, line) + 0.025)


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ('answer_time = "50ms"', "refused"),
        ('request_pause = "30ms"', "refused"),
        ('answer_time = "50ms"\nin_flight = 16', ""),
        ('answer_time = "10ms"', "warned"),
        ("", ""),
    ],
)
def test_a_device_that_cannot_be_read_so_often_is_refused_if_somebody_said_how_slow_it_is(
    tmp_path: Path, told: str, says: str
) -> None:
    rows = ["asset,tag,unit_id,address", *(f"meter-{unit},power,{unit},0" for unit in range(1, 9))]
    (tmp_path / "map.csv").write_text("\n".join(rows))
    path = tmp_path / "s.toml"
    path.write_text(
        f'[gateway]\nname = "g"\ndata_dir = "{tmp_path}/data"\n'
        '[[source]]\ntype = "modbus-tcp"\nname = "meters"\nhost = "10.1.2.3"\nmap = "map.csv"\n'
        f'scan_classes = {{ default = "100ms" }}\nresponse_timeout = "100ms"\n{told}\n'
        '[[asset]]\nname = "*"\nclass = "meter"\n'
    )
    if says == "refused":
        with pytest.raises(ConfigError) as wrong:
            load(path)
        said = str(wrong.value.problems[0])
        assert "10.1.2.3:502 would be busy for" in said
        assert "meter-1.power" in said
        assert "raise in_flight" in said
        return
    warnings = [str(problem) for problem in load(path).warnings if "would be busy" in str(problem)]
    assert len(warnings) == (says == "warned")
