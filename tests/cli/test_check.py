"""`sluicegate check` says what is wrong, or what will be, on a terminal and to programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli.main import main
from tests.config.good import GOOD, PRESS

EX_CONFIG = 78
COLUMNS_MAX = 100


def test_the_plan_fits_a_terminal_and_says_what_is_read(
    plant: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(plant)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert max(map(len, printed.out.splitlines())) <= COLUMNS_MAX + len(str(plant.parent))
    lines = [" ".join(line.split()) for line in printed.out.splitlines()]
    assert "press modbus-tcp 192.168.1.10:502 3 11.0" in lines
    assert "fast, every 200ms: 2 requests 2 10.0" in lines
    assert "unit 1 holding_register 2-3 2 registers, 1 tags" in lines
    assert "greenhouse/+/climate QoS 1, json" in lines
    assert "every 10s: mean, min, max, last, count, std 3+ 1.8+" in lines
    assert "In all 3+ 12.8+" in lines
    assert "plant influxdb2 http://127.0.0.1:8086 bucket plant" in lines
    assert any("512MiB in" in line for line in lines)


def test_many_requests_are_cut_short_on_a_terminal_but_not_for_programs(
    plant: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(
        f"press-1,t{n},1,holding_register,{n * 100},uint16,ABCD,1,,default\n" for n in range(10, 40)
    )
    (plant.parent / "press.csv").write_text(PRESS + rows, encoding="utf-8")
    assert main(["check", str(plant)]) == 0
    assert "      and 19 more" in capsys.readouterr().out
    assert main(["check", "--json", str(plant)]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert len(plan["sources"][0]["scans"][1]["requests"]) == 31


def test_programs_get_the_plan_as_json(plant: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json", str(plant)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["problems"] == said["warnings"] == []
    assert said["plan"]["raw_samples_per_s"] == pytest.approx(11)
    assert said["plan"]["aggregates"][0]["tags"] == 3


def test_programs_get_problems_as_json(plant: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant.write_text(GOOD.replace("port = 502", "port = 0"), encoding="utf-8")
    assert main(["check", "--json", str(plant)]) == EX_CONFIG
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["file"] == str(plant)
    assert problem["place"] == 'line 16, [[source]] "press"'
    assert problem["found"] == "port = 0 is too small"
    assert problem["mend"].startswith("Write a whole number, 1 to 65535")


def test_warnings_are_said_and_the_plan_follows(
    plant: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant.write_text(GOOD.replace('"150ms"', '"1s"'), encoding="utf-8")
    assert main(["check", str(plant)]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("warning: ")
    assert "Gateway line-1 at north" in printed.out


def test_a_model_that_is_not_good_is_refused(
    plant: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant.write_text(GOOD + '\n[[model]]\nname = "m"\nbundle = "m"\n', encoding="utf-8")
    assert main(["check", str(plant)]) == EX_CONFIG
    assert "bundle.toml" in capsys.readouterr().err


def test_without_a_file_it_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["check"])
    assert "sluicegate check sluicegate.toml" in capsys.readouterr().err


def test_credentials_that_are_not_there_are_said(
    plant: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sink = 'name = "bus"\ntype = "nats"\nurl = "tls://bus:4222"\ncredentials = "user.creds"'
    plant.write_text(GOOD + f"\n[[sink]]\n{sink}\n", encoding="utf-8")
    assert main(["check", str(plant)]) == 0
    printed = capsys.readouterr()
    assert "there is no such file" in printed.err + printed.out
    (plant.parent / "user.creds").write_text("secret")
    assert main(["check", str(plant)]) == 0
    printed = capsys.readouterr()
    assert "there is no such file" not in printed.err + printed.out


@pytest.mark.parametrize(
    ("sink", "where"),
    [
        ('type = "influxdb1"\nurl = "http://db:1"\ndatabase = "a"', "http://db:1 database a"),
        ('type = "influxdb3"\nurl = "http://db:1"\ndatabase = "a"', "http://db:1 database a"),
        ('type = "http_json"\nurl = "http://office/samples"', "http://office/samples"),
        ('type = "prometheus"\nurl = "http://vm:1/api/v1/write"', "http://vm:1/api/v1/write"),
        ('type = "nats"\nurl = "nats://bus:4222"', "nats://bus:4222 subject "),
        ('type = "kafka"\nbrokers = "bus:9092"\ntopic = "plant"', "bus:9092 topic plant"),
        ('type = "file"\ndirectory = "out"', "out as "),
    ],
)
def test_each_sink_says_where_it_delivers_to(
    plant: Path, sink: str, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plant.write_text(GOOD + f'\n[[sink]]\nname = "office"\n{sink}\n', encoding="utf-8")
    assert main(["check", str(plant)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert any(line.startswith("office ") and where in line for line in lines)
