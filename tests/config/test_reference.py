"""What is written for people and editors is what the gateway takes."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gateway.cli.main import main
from gateway.config.load import load
from gateway.config.reference import json_schema, node_at, size_text, tables, toml_text
from gateway.config.schema import Sluicegate
from gateway.settings import parse_duration
from tests.config.good import GOOD, PRESS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "configuration.md").read_text(encoding="utf-8")
README = (DOCS.parent / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nodes(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, list):
        return [found for item in node for found in nodes(item)]
    if not isinstance(node, dict):
        return []
    return [node, *(found for item in node.values() for found in nodes(item))]


def test_the_schema_in_docs_is_current(script: ModuleType) -> None:
    text = (DOCS / "sluicegate.schema.json").read_text(encoding="utf-8")
    assert text == script.schema_text(), "run: python docs/reference.py"


def test_the_tables_in_docs_are_current_and_complete(script: ModuleType) -> None:
    assert script.with_tables(PAGE) == PAGE, "run: python docs/reference.py"
    assert set(re.findall(r"<!-- table: (.+?) -->", PAGE)) == set(tables())


def test_check_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()


def test_every_key_of_every_setting_says_what_it_is_for() -> None:
    for name, definition in json_schema()["$defs"].items():
        for key, node in definition.get("properties", {}).items():
            if key in ("type", "offset"):
                continue
            assert node.get("description"), f"{name}.{key}"


def test_examples_and_defaults_of_the_schema_fit_its_own_patterns() -> None:
    seen = 0
    for node in nodes(json_schema()):
        if "pattern" not in node or not isinstance(node["pattern"], str):
            continue
        for text in [*node.get("examples", []), node.get("default")]:
            if text:
                assert re.search(node["pattern"], text), node
                seen += 1
    assert seen > 20


def test_defaults_of_the_schema_are_those_of_the_settings() -> None:
    least = {
        "gateway": {"name": "a"},
        "source": [{"type": "modbus-tcp", "name": "a", "host": "h", "map": "m"}],
        "sink": [{"type": "influxdb2", "name": "a", "url": "http://h", "bucket": "b"}],
        "aggregate": [{"every": "1s"}],
    }
    implied = Sluicegate.model_validate_json(json.dumps(least), strict=True)
    full: dict[str, Any] = json.loads(json.dumps(least))
    for path in (("gateway",), ("source", 0), ("sink", 0), ("aggregate", 0)):
        entry: Any = full
        for step in path:
            entry = entry[step]
        node = node_at(path, least)
        assert node is not None
        for key, known in node["properties"].items():
            if known.get("default") is not None:
                entry.setdefault(key, known["default"])
    assert len(full["gateway"]) > 4
    assert Sluicegate.model_validate_json(json.dumps(full), strict=True) == implied


def test_sizes_and_durations_are_written_as_they_are_read() -> None:
    assert [size_text(size) for size in (1, 1024, 1536, 2**31)] == ["1B", "1KiB", "1536B", "2GiB"]
    assert parse_duration("1.5h") == 5400
    assert toml_text({"a": [True, 1, 0.5, 'x"\\']}) == r'{ a = [true, 1, 0.5, "x\"\\"] }'


def blocks(page: str) -> dict[str, str]:
    """The code blocks that name a file."""
    found = re.findall(r"```\w+ (\S+)\n(.*?)```", page, re.DOTALL)
    return dict(found)


def test_the_example_in_docs_is_a_good_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFLUX_TOKEN", "x")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    files = blocks(PAGE) | {
        "mqtt-password": "x",
        "models/press/bundle.toml": "",
        "models/press/model.onnx": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    config = load(tmp_path / "sluicegate.toml")
    assert [problem.found for problem in config.warnings] == [
        'device = "/dev/ttyUSB0" is not there now',
        "unit id 1 has not been asked yet: its tags are not known",
        "unit id 2 has not been asked yet: its tags are not known",
    ]
    assert len(config.tags) == 8
    assert {"press", "bay", "inverter"} == {asset.asset_class for asset in config.settings.assets}


def test_the_example_in_the_readme_is_a_good_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFLUX_TOKEN", "x")
    (text,) = re.findall(r"```toml\n(\[gateway\].*?)```", README, re.DOTALL)
    (map_name,) = re.findall(r'map = "(.+?)"', text)
    path = tmp_path / "sluicegate.toml"
    path.write_text(text, encoding="utf-8")
    rows = PRESS.replace("press-", "pump-")
    (tmp_path / map_name).write_text(rows, encoding="utf-8")
    assert len(load(path).tags) == 3


def test_the_example_in_docs_uses_every_table_there_is() -> None:
    text = blocks(PAGE)["sluicegate.toml"]
    for name in tables():
        table, _, kind = name.replace("NAME", "").strip(".").partition(" ")
        if name != "register map":
            assert re.search(rf"^\[+{re.escape(table)}\b", text, re.MULTILINE), name
            assert not kind or f'type = "{kind}"' in text


def test_a_schema_validator_agrees_about_the_good_configuration() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    import tomllib  # noqa: PLC0415 - only where the validator is

    jsonschema.Draft202012Validator(json_schema()).validate(tomllib.loads(GOOD))
