"""Make the Grafana dashboard: `python deploy/grafana/build.py` writes dashboards/sluicegate.json.

One dashboard for every class of asset: which measurement, which fields and which assets there
are, Grafana asks the database. Queries are InfluxQL against the point schema of
docs/formats/points.md:

    <class>             labels gateway, site, asset           a field per tag, and quality
    <class>_aggregate   and window                            <field>_<statistic>
    anomaly_score       and model                             score
    anomaly_event       and model                             state, peak, duration_s, end, top

The JSON is committed, and a test holds it to be what this file makes.
"""

# ruff: noqa: S608 - a query is made of constants of this file; Grafana fills in the rest

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["OUTPUT", "dashboard", "render"]

OUTPUT = Path(__file__).parent / "dashboards" / "sluicegate.json"

DATASOURCE = {"type": "influxdb", "uid": "${datasource}"}
# An asset of the chosen class, wherever it is. Regular expressions, so that "All" is ".*", which
# also matches where a label is missing: a gateway without a site writes none.
WHERE_PLACE = '"site" =~ /^${site:regex}$/ AND "gateway" =~ /^${gateway:regex}$/'
WHERE = f'{WHERE_PLACE} AND "asset" =~ /^${{asset:regex}}$/ AND $timeFilter'
# Grafana's grid is 24 wide.
WIDTH = 24

Json = dict[str, Any]


def dashboard() -> Json:
    """The dashboard, as Grafana's JSON model."""
    panels = [
        *_overview(y=0),
        _row("Anomalies", y=5),
        _scores(y=6),
        _events(y=6),
        _row("$class: every tag, as read", y=16),
        _raw(y=17),
        _quality(y=25),
        _row("$class: aggregates of $window", y=32),
        _aggregates(y=33),
    ]
    for number, panel in enumerate(panels, start=1):
        panel["id"] = number
    return {
        "uid": "sluicegate",
        "title": "Sluicegate",
        "description": "Assets, their anomaly scores and events",
        "tags": ["sluicegate"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,  # the crosshair is shared
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "annotations": {"list": [_annotation()]},
        "panels": panels,
    }


def render() -> str:
    """The JSON file's text."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


def _variables() -> list[Json]:
    return [
        {"name": "datasource", "label": "Database", "type": "datasource", "query": "influxdb"},
        _variable("site", "Site", 'SHOW TAG VALUES WITH KEY = "site"'),
        _variable(
            "gateway",
            "Gateway",
            'SHOW TAG VALUES WITH KEY = "gateway" WHERE "site" =~ /^${site:regex}$/',
        ),
        _variable(
            "class",
            "Class",
            "SHOW MEASUREMENTS",
            regex="/^(?!anomaly_(?:score|event)$)(?!.*_aggregate$).+$/",
            multiple=False,
        ),
        _variable(
            "asset",
            "Asset",
            f'SHOW TAG VALUES FROM "$class" WITH KEY = "asset" WHERE {WHERE_PLACE}',
        ),
        _variable("field", "Tag", 'SHOW FIELD KEYS FROM "$class"', regex="/^(?!quality$).+$/"),
        _variable(
            "window",
            "Window",
            'SHOW TAG VALUES FROM "${class}_aggregate" WITH KEY = "window"',
            multiple=False,
        ),
    ]


def _variable(name: str, label: str, query: str, regex: str = "", *, multiple: bool = True) -> Json:
    variable: Json = {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": query,
        "definition": query,
        "regex": regex,
        "refresh": 2,  # whenever the time range changes: assets come and go
        "sort": 7,  # natural, case-insensitive
        "multi": multiple,
        "includeAll": multiple,
    }
    if multiple:
        all_chosen = {"selected": True, "text": ["All"], "value": ["$__all"]}
        variable |= {"allValue": ".*", "current": all_chosen}
    if name == "field":
        # Panels repeat over the fields, so "All" must be the list of them.
        del variable["allValue"]
    return variable


def _annotation() -> Json:
    return {
        "name": "Anomaly events",
        "enable": True,
        "datasource": DATASOURCE,
        "iconColor": "red",
        "target": {
            "query": f'SELECT "top" FROM "anomaly_event" WHERE {WHERE}',
            "rawQuery": True,
            "textColumn": "top",
            "fromAnnotations": True,
        },
    }


def _overview(y: int) -> list[Json]:
    open_events = f'SELECT count("peak") FROM "anomaly_event" WHERE "state" = \'open\' AND {WHERE}'
    highest = f'SELECT max("score") FROM "anomaly_score" WHERE {WHERE}'
    events = f'SELECT count("peak") FROM "anomaly_event" WHERE {WHERE}'
    worst = f'SELECT max("quality") FROM "$class" WHERE {WHERE}'
    samples = f'SELECT count("quality") FROM "$class" WHERE {WHERE}'
    return [
        _stat("Open events", open_events, x=0, y=y, steps=[(None, "green"), (1, "red")], empty="0"),
        _stat("Events in this time", events, x=5, y=y, steps=[(None, "blue")], empty="0"),
        _stat(
            "Highest score", highest, x=10, y=y,
            steps=[(None, "green"), (0.9, "orange"), (1, "red")], decimals=2,
        ),
        _stat("Worst quality of $class", worst, x=15, y=y, quality=True, width=5),
        _stat("Points of $class", samples, x=20, y=y, steps=[(None, "blue")], width=4),
    ]  # fmt: skip


def _stat(  # noqa: PLR0913 - what differs between five panels
    title: str,
    query: str,
    *,
    x: int,
    y: int,
    steps: list[tuple[float | None, str]] | None = None,
    width: int = 5,
    decimals: int | None = None,
    empty: str = "none",
    quality: bool = False,
) -> Json:
    defaults: Json = {
        "color": {"mode": "thresholds"},
        "noValue": empty,
        "thresholds": _thresholds(steps or [(None, "green"), (64, "orange"), (128, "red")]),
    }
    if decimals is not None:
        defaults["decimals"] = decimals
    if quality:
        defaults["mappings"] = _quality_words()
    return _panel(
        "stat", title, [_target(query, "")], x=x, y=y, width=width, height=5, defaults=defaults,
        options={"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"},
    )  # fmt: skip


def _scores(y: int) -> Json:
    query = (
        f'SELECT max("score") FROM "anomaly_score" WHERE {WHERE}'
        ' GROUP BY time($__interval), "asset", "model" fill(null)'
    )
    defaults = {
        "min": 0,
        "decimals": 2,
        "thresholds": _thresholds([(None, "transparent"), (1, "red")]),
        "custom": {**_LINES, "thresholdsStyle": {"mode": "line+area"}},
    }
    return _panel(
        "timeseries", "Anomaly score (1 and more alarms)",
        [_target(query, "$tag_asset ($tag_model)")],
        x=0, y=y, width=14, height=10, defaults=defaults, options=_LEGEND,
    )  # fmt: skip


def _events(y: int) -> Json:
    query = (
        'SELECT "state", "peak", "duration_s", "top" FROM "anomaly_event"'
        f' WHERE {WHERE} GROUP BY "asset", "model" ORDER BY time DESC LIMIT 100'
    )
    states = {
        "open": {"text": "open", "color": "red", "index": 0},
        "closed": {"text": "closed", "color": "green", "index": 1},
    }
    overrides = [
        _override("state", mappings=[{"type": "value", "options": states}]),
        _override("duration_s", unit="s", displayName="duration"),
        _override("peak", decimals=2),
    ]
    panel = _panel(
        "table", "Events", [_target(query, "", result_format="table")],
        x=14, y=y, width=10, height=10, defaults={}, options={"showHeader": True},
    )  # fmt: skip
    panel["fieldConfig"]["overrides"] = overrides
    return panel


def _raw(y: int) -> Json:
    # A regular expression takes numbers only; a string field gives an empty panel, not an error.
    query = (
        f'SELECT mean(/^${{field:regex}}$/) FROM "$class" WHERE {WHERE}'
        ' GROUP BY time($__interval), "asset" fill(null)'
    )
    panel = _panel(
        "timeseries", "$field", [_target(query, "$tag_asset")],
        x=0, y=y, width=8, height=8, defaults={"custom": _LINES}, options=_LEGEND,
    )  # fmt: skip
    return panel | {"repeat": "field", "repeatDirection": "h", "maxPerRow": 3}


def _quality(y: int) -> Json:
    query = (
        f'SELECT max("quality") FROM "$class" WHERE {WHERE}'
        ' GROUP BY time($__interval), "asset" fill(null)'
    )
    defaults = {
        "color": {"mode": "thresholds"},
        "thresholds": _thresholds([(None, "green"), (64, "orange"), (128, "red")]),
        "mappings": _quality_words(),
    }
    return _panel(
        "state-timeline", "Worst quality of each asset", [_target(query, "$tag_asset")],
        x=0, y=y, width=WIDTH, height=7, defaults=defaults,
        options={"mergeValues": True, "showValue": "never", "rowHeight": 0.8},
    )  # fmt: skip


def _aggregates(y: int) -> Json:
    where = f'"window" =~ /^${{window:regex}}$/ AND {WHERE}'
    source = f'FROM "${{class}}_aggregate" WHERE {where}'
    grouping = 'GROUP BY time($__interval), "asset" fill(null)'
    targets = [
        _target(f'SELECT mean("${{field}}_mean") {source} {grouping}', "$tag_asset mean", "A"),
        _target(f'SELECT min("${{field}}_min") {source} {grouping}', "$tag_asset min", "B"),
        _target(f'SELECT max("${{field}}_max") {source} {grouping}', "$tag_asset max", "C"),
    ]
    panel = _panel(
        "timeseries", "$field, $window", targets,
        x=0, y=y, width=8, height=8, defaults={"custom": _LINES}, options=_LEGEND,
    )  # fmt: skip
    panel["fieldConfig"]["overrides"] = [
        {
            "matcher": {"id": "byRegexp", "options": "/ (min|max)$/"},
            "properties": [
                {"id": "custom.lineWidth", "value": 0},
                {"id": "custom.fillOpacity", "value": 12},
                {"id": "custom.hideFrom", "value": {"legend": True, "tooltip": False}},
            ],
        }
    ]
    return panel | {"repeat": "field", "repeatDirection": "h", "maxPerRow": 3}


_LINES: Json = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 6, "spanNulls": False}
_LEGEND: Json = {
    "legend": {"displayMode": "list", "placement": "bottom"},
    "tooltip": {"mode": "multi", "sort": "desc"},
}


def _panel(  # noqa: PLR0913 - a panel's own parts
    kind: str,
    title: str,
    targets: list[Json],
    *,
    x: int,
    y: int,
    width: int,
    height: int,
    defaults: Json,
    options: Json,
) -> Json:
    return {
        "type": kind,
        "title": title,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": width, "h": height},
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
    }


def _row(title: str, y: int) -> Json:
    position = {"x": 0, "y": y, "w": WIDTH, "h": 1}
    return {"type": "row", "title": title, "collapsed": False, "gridPos": position, "panels": []}


def _target(query: str, alias: str, ref: str = "A", result_format: str = "time_series") -> Json:
    return {
        "refId": ref,
        "datasource": DATASOURCE,
        "rawQuery": True,
        "query": query,
        "alias": alias,
        "resultFormat": result_format,
    }


def _thresholds(steps: list[tuple[float | None, str]]) -> Json:
    return {
        "mode": "absolute",
        "steps": [{"value": value, "color": color} for value, color in steps],
    }


def _override(field: str, **properties: Any) -> Json:
    return {
        "matcher": {"id": "byName", "options": field},
        "properties": [{"id": name, "value": value} for name, value in properties.items()],
    }


def _quality_words() -> list[Json]:
    """OPC UA's severities: the top two bits of a code."""
    ranges = [(0, 63, "good", "green"), (64, 127, "uncertain", "orange"), (128, 255, "bad", "red")]
    return [
        {
            "type": "range",
            "options": {
                "from": low,
                "to": high,
                "result": {"text": text, "color": color, "index": index},
            },
        }
        for index, (low, high, text, color) in enumerate(ranges)
    ]


if __name__ == "__main__":
    OUTPUT.write_text(render(), encoding="utf-8")
    print(OUTPUT)
