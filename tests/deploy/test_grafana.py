"""The dashboard is what its code makes, and each of its queries finds something in a real database.

The points written here follow the gateway's point schema: see deploy/grafana/build.py.
"""

from __future__ import annotations

import json
import re
import runpy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.conftest import Influx

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"
NS = 10**9


def load() -> dict[str, Any]:
    dashboard: dict[str, Any] = json.loads((FOLDER / "dashboards" / "sluicegate.json").read_text())
    return dashboard


def panels() -> Iterator[dict[str, Any]]:
    yield from (panel for panel in load()["panels"] if panel["type"] != "row")


def queries() -> Iterator[tuple[str, str]]:
    """Every query of every panel and annotation, with its panel's title."""
    for panel in panels():
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["query"]
    for annotation in load()["annotations"]["list"]:
        yield annotation["name"], annotation["target"]["query"]


def points(now_s: int) -> Iterator[str]:
    """Two pumps with a site, one without, ten minutes; scores, and two events of one of them."""
    places = {
        "pump-1": "gateway=line-1,site=brewery,area=hall\\ 2",
        "pump-2": "gateway=line-1,site=brewery",
        "pump-3": "gateway=yard",
    }
    for asset, labels in places.items():
        series = f"{labels},asset={asset}"
        for second in range(0, 600, 10):
            t_ns = (now_s - second) * NS
            fields = 'pressure=4.2,flow=18.1,running=true,program="rinse",cycles=5i,quality=0i'
            yield f"pump,{series} {fields} {t_ns}"
            aggregate = ",".join(
                f"{field}_{statistic}=4.2"
                for field in ("pressure", "flow")
                for statistic in ("mean", "min", "max", "last", "std")
            )
            yield f"pump_aggregate,{series},window=10s {aggregate},pressure_count=10i {t_ns}"
            yield f"anomaly_score,{series},model=m score=0.4 {t_ns}"
        for back_s, state in ((500, "closed"), (60, "open")):
            fields = f'state="{state}",peak=1.5,duration_s=20,end={now_s * NS}i,top="flow,pressure"'
            yield f"anomaly_event,{series},model=m {fields} {(now_s - back_s) * NS}"


@pytest.fixture(scope="module")
def filled(influx: Influx) -> Influx:
    influx.write(list(points(int(time.time()))))
    return influx


def fill_in(query: str, chosen: dict[str, str]) -> str:
    """What Grafana sends: variables and macros replaced."""
    macros = {"timeFilter": "time >= now() - 30m", "__interval": "10s"}

    def value(match: re.Match[str]) -> str:
        name = match["plain"] or match["braced"]
        return macros[name] if name in macros else chosen[name]

    return re.sub(r"\$(?:(?P<plain>\w+)|\{(?P<braced>\w+)(?::regex)?\})", value, query)


ONE = {
    "site": "brewery",
    "gateway": "line\\-1",
    "class": "pump",
    "asset": "(pump\\-1|pump\\-2)",
    "field": "pressure",
    "window": "10s",
}
ALL = ONE | {"site": ".*", "gateway": ".*", "asset": ".*"}


def test_the_committed_dashboard_is_what_the_code_makes() -> None:
    made = runpy.run_path(str(FOLDER / "build.py"))["render"]()
    assert (FOLDER / "dashboards" / "sluicegate.json").read_text(encoding="utf-8") == made


@pytest.mark.parametrize("chosen", [ONE, ALL], ids=["chosen", "all"])
@pytest.mark.parametrize(("title", "query"), list(queries()), ids=lambda text: text[:24])
def test_each_query_finds_something(
    filled: Influx, title: str, query: str, chosen: dict[str, str]
) -> None:
    series = filled.query(fill_in(query, chosen))
    values = [row[1:] for found in series for row in found["values"]]
    assert any(value is not None for row in values for value in row), title
    by_asset = "GROUP BY" in query
    if by_asset:
        assets = {found["tags"]["asset"] for found in series}
        everything = {"pump-1", "pump-2", "pump-3"}
        assert assets == (everything if chosen is ALL else {"pump-1", "pump-2"})


def test_only_open_events_are_counted_as_open(filled: Influx) -> None:
    query = dict(queries())["Open events A"]
    (series,) = filled.query(fill_in(query, ALL))
    assert series["values"][0][1] == 3
    (series,) = filled.query(fill_in(dict(queries())["Events in this time A"], ALL))
    assert series["values"][0][1] == 6


@pytest.mark.parametrize("field", ["program", "running"])
def test_a_tag_that_is_no_number_gives_no_error(filled: Influx, field: str) -> None:
    for _, query in queries():
        filled.query(fill_in(query, ONE | {"field": field}))


def offered(influx: Influx, name: str) -> set[str]:
    """What Grafana would offer for a variable: the column it takes, through the regex."""
    (variable,) = (v for v in load()["templating"]["list"] if v["name"] == name)
    column = 1 if variable["query"].startswith("SHOW TAG VALUES") else 0
    found = {
        row[column]
        for series in influx.query(fill_in(variable["query"], ALL))
        for row in series["values"]
    }
    wanted = re.compile(variable["regex"].strip("/") or ".*")
    return {value for value in found if wanted.search(value)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("site", {"brewery"}),
        ("gateway", {"line-1", "yard"}),
        ("class", {"pump"}),
        ("asset", {"pump-1", "pump-2", "pump-3"}),
        ("field", {"pressure", "flow", "running", "program", "cycles"}),
        ("window", {"10s"}),
    ],
)
def test_each_variable_offers_what_there_is(filled: Influx, name: str, expected: set[str]) -> None:
    assert offered(filled, name) == expected


def test_every_variable_a_query_uses_is_defined() -> None:
    defined = {variable["name"] for variable in load()["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(load())))
    assert used - {"timeFilter", "__interval", "__all", "tag_asset", "tag_model"} == defined


def test_panels_do_not_overlap() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in load()["panels"]:
        place = panel["gridPos"]
        covered = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & covered, panel["title"]
        assert max(x for x, _ in covered) < 24
        cells |= covered
