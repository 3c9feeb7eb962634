"""A configuration is changed between two runs, and the data go on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import get_json, sluicegate, wait_until
from tests.servers import Mosquitto, running
from tests.sources.mqtt.test_source import publish
from tests.system.conftest import page_of

pytestmark = pytest.mark.system

CONFIG = """
[gateway]
name = "barn"
data_dir = "{folder}/data"

[gateway.http]
listen = "127.0.0.1:0"

[gateway.spool]
commit_period = "50ms"

[[source]]
name = "field"
type = "mqtt"
host = "127.0.0.1"
port = {port}
client_id = "barn"

[[source.topic]]
pattern = "farm/{{asset}}"

[[asset]]
name = "*"
class = "bay"

[[aggregate]]
every = "1s"
lateness = "100ms"

[[sink]]
name = "out"
type = "file"
directory = "{folder}/out"
format = "jsonl"
lanes = ["raw", "aggregate"]
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with running(Mosquitto(tmp_path / "broker")) as server:
        yield server


def delivered(folder: Path) -> list[dict[str, object]]:
    lines = [line for file in (folder / "out").glob("*") for line in file.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def raw(folder: Path) -> set[object]:
    return {row["value"] for row in delivered(folder) if row["tag"] == "bay-1.v"}


def means(folder: Path) -> set[object]:
    """The windows that there are aggregates of."""
    return {row["time"] for row in delivered(folder) if row["tag"] == "bay-1.v@1s.mean"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('name = "barn"', 'name = "barn"\nsite = "hill"'),
        ('class = "bay"', 'class = "stall"'),
        ('name = "field"', 'name = "meadow"'),
        (
            'pattern = "farm/{asset}"',
            'pattern = "farm/{asset}"\n[source.topic.fields.v]\nhigh = 9e9',
        ),
    ],
    ids=["site", "class", "source", "range"],
)
def test_whatever_is_changed_about_known_tags_all_is_delivered(
    broker: Mosquitto, tmp_path: Path, before: str, after: str
) -> None:
    config = tmp_path / "sluicegate.toml"
    config.write_text(CONFIG.format(folder=tmp_path, port=broker.port))
    for run in range(3):
        wanted = set(range(100 * run, 100 * run + 5))
        with sluicegate("gateway", ["run", str(config)], tmp_path) as gateway:
            page = page_of(gateway)
            wait_until(lambda page=page: get_json(f"{page}/healthz")["status"] == "ok")
            publish(broker.port, sorted(wanted))
            wait_until(lambda wanted=wanted: wanted <= raw(tmp_path))
            wait_until(lambda run=run: len(means(tmp_path)) > run)  # aggregates go on as well
            gateway.stop()
            assert "defined twice" not in gateway.output()
        if run == 0:
            text = config.read_text()
            assert before in text
            config.write_text(text.replace(before, after, 1))
