"""The simulated roof: pymodbus serves it, the gateway reads it, both say the same."""

from __future__ import annotations

import json
import math
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.main import main
from gateway.config.load import load
from gateway.tag import Quality
from simulators.sunspec import UNITS, Roof, RoofSettings, run_roof
from tests.rig import sluicegate, wait_until
from tests.sources.modbus.sunspec_truth import DEFINITIONS, contents
from tests.sources.modbus.test_sunspec import Rig


def chain_of(words: list[int]) -> dict[int, list[int]]:
    """Model id -> its words, by hand."""
    assert words[:2] == [0x5375, 0x6E53]
    found, at = {}, 2
    while words[at] != 0xFFFF:
        found[words[at]] = words[at : at + 2 + words[at + 1]]
        at += 2 + words[at + 1]
    assert words[at:] == [0xFFFF, 0]
    return found


@pytest.mark.skipif(not DEFINITIONS.is_dir(), reason="no SunSpec definitions (SLUICEGATE_SHARED)")
def test_its_registers_are_what_the_definitions_make_of_its_values() -> None:
    roof = Roof(RoofSettings(seed=3))
    names = {103: "inverter", 160: "mppt", 203: "meter", 701: "DERMeasureAC"}
    texts = {"MPPT": 4, "AC_THREE_PHASE": 3}
    for _ in range(50):
        roof.step()
    compared = 0
    for unit_id, asset in UNITS.items():
        for model_id, words in chain_of(roof.registers(unit_id)).items():
            for name, value in contents(model_id, words).items():
                said = roof.values().get(f"{asset}.{names.get(model_id)}.{name}")
                if said is None or value is None:
                    continue
                if isinstance(value, str) and not isinstance(said, str):
                    assert texts.get(value, said) == said
                    continue
                assert value == said or math.isclose(value, said), name
                compared += 1
    assert compared > 60


def test_the_sun_rises_sets_and_moves_the_meter() -> None:
    roof = Roof(RoofSettings(step_s=60))
    seen = []
    for _ in range(1440):
        roof.step()
        seen.append(roof.values())
    power = [each["inverter-1.inverter.W"] for each in seen]
    assert max(power) > 5000
    assert min(power) == 0
    assert {each["inverter-1.inverter.W_SF"] for each in seen} == {0, -1}
    assert (
        min(each["meter-1.meter.W"] for each in seen)
        < 0
        < max(each["meter-1.meter.W"] for each in seen)
    )
    made = [each["inverter-1.inverter.WH"] for each in seen]
    assert made == sorted(made)


async def test_the_gateway_reads_what_it_says(tmp_path: Path) -> None:
    async with run_roof(RoofSettings(speed=0)) as roof:
        units = {str(unit_id): asset for unit_id, asset in UNITS.items()}
        found = await Rig(tmp_path, roof.port, sunspec={"units": units}).values(8)
        said = roof.values()
    numbers = {name: value for name, value in said.items() if isinstance(found[name], float)}
    assert len(numbers) > 90
    assert {
        name for name, value in numbers.items() if not math.isclose(found[name], value)
    } == set()
    assert found["inverter-1.inverter.St"] == "MPPT"
    assert found["inverter-1.common.SN"] == "INV-0001"
    assert found["inverter-1.nameplate.WRtg"] == 10_000
    assert found["meter-1.common.Md"] == "grid-3p"
    assert found["inverter-1.inverter.TmpSnk"] is Quality.BAD_SENSOR_FAILURE


def scans_at(url: str) -> float:
    with urllib.request.urlopen(url + "metrics", timeout=5) as answer:
        text = answer.read().decode()
    (said,) = re.findall(
        r'^sluicegate_source_scans_total\{source="roof"\} (\S+)$', text, re.MULTILINE
    )
    return float(said)


def test_it_runs_as_a_command_and_the_gateway_on_its_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["simulate", "sunspec", f"--write-config={tmp_path}"]
    with sluicegate("simulator", options, tmp_path) as roof:
        path = Path(json.loads(roof.wait_for('"ready"', 60))["config"])
        path.write_text(path.read_text().replace("127.0.0.1:8080", "127.0.0.1:0"))
        assert len(load(path).warnings) == len(UNITS)  # they have not been asked yet
        with sluicegate("gateway", ["run", str(path)], tmp_path) as gateway:
            url = gateway.wait_for("gateway.page url=", 60).split("url=")[1].strip()
            gateway.wait_for("source.connected source=roof", 60)
            wait_until(lambda: scans_at(url) >= 4)
            gateway.stop()
        roof.stop()
        truth: dict[str, Any] = json.loads(roof.output().splitlines()[-1])
    assert truth["requests_answered"] > 20
    config = load(path)
    assert config.warnings == ()
    assert "meter-1.meter.W" in {tag.name for tag in config.tags}
    assert main(["query", str(path), "*.W", "--format=json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    good = {row["tag"]: row for row in rows if row["quality"] == "good"}
    assert good.keys() == {
        "inverter-1.inverter.W",
        "inverter-1.DERMeasureAC.W",
        "meter-1.meter.W",
    }
    assert 0 < good["inverter-1.inverter.W"]["value"] < 10_000
    assert good["inverter-1.inverter.W"]["eng_unit"] == "W"
