"""Writes what a gateway needs to read these plants: sluicegate.toml and a register map a PLC.

<folder>/sluicegate.toml
<folder>/plc-1.csv ...
<folder>/data/            made by the gateway, unless `data_dir` says otherwise
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from simulators.climate import BAY_RANGES
from simulators.greenhouse import TOPICS, GreenhouseSettings
from simulators.line import Line
from simulators.registers import write_map
from simulators.sunspec import UNITS, Roof

__all__ = ["GatewayOptions", "write_config"]

_BAY_UNITS = {
    "air_temperature": "degC",
    "humidity": "%",
    "co2": "ppm",
    "par": "umol/m2s",
    "soil_moisture": "%",
    "soil_temperature": "degC",
    "water_flow": "l/min",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """What the plants do not say about the gateway that reads them; `tail` is TOML to append."""

    name: str = "demo"
    site: str = "simulated"
    data_dir: Path | None = None
    listen: str = "127.0.0.1:8080"
    bundle: Path | None = None  # of a model for the pumps
    aggregate: str = "10s"  # "" = none
    scan_period: str = "1s"
    slow_period: str = "10s"
    tail: str = ""


def write_config(
    folder: Path,
    *,
    line: Line | None = None,
    greenhouse: GreenhouseSettings | None = None,
    roof: Roof | None = None,
    options: GatewayOptions | None = None,
) -> Path:
    """Write the files for one plant or several; the path of sluicegate.toml."""
    assert line is not None or greenhouse is not None or roof is not None
    options = options or GatewayOptions()
    folder.mkdir(parents=True, exist_ok=True)
    data_dir = options.data_dir or folder.resolve() / "data"
    text = [
        "[gateway]",
        f"name = {_quoted(options.name)}",
        f"site = {_quoted(options.site)}",
        f"data_dir = {_quoted(data_dir)}",
        f"http = {{ listen = {_quoted(options.listen)} }}",
    ]
    if line is not None:
        text += _line_sources(folder, line, options)
    if greenhouse is not None:
        text += _greenhouse_source(greenhouse)
    if roof is not None:
        text += _roof_source(roof, options)
    if options.aggregate:
        text += ["", "[[aggregate]]", f"every = {_quoted(options.aggregate)}"]
    if options.bundle is not None and line is not None:
        text += ["", "[[model]]", 'name = "pump"', f"bundle = {_quoted(options.bundle.resolve())}"]
    if options.tail:
        text += ["", options.tail.strip()]
    path = folder / "sluicegate.toml"
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


def _line_sources(folder: Path, line: Line, options: GatewayOptions) -> Iterator[str]:
    periods = {"default": options.scan_period, "slow": options.slow_period}
    for index, plc in enumerate(line.plcs):
        rows = line.rows(index)
        write_map(folder / f"{plc.name}.csv", rows)
        used = {row.scan_class for row in rows}
        classes = [f"{name} = {_quoted(periods[name])}" for name in periods if name in used]
        where = (
            'type = "modbus-tcp"',
            f"host = {_quoted(plc.host)}",
            f"port = {plc.port}",
        )
        if plc.device:
            where = (
                'type = "modbus-rtu"',
                f"device = {_quoted(plc.device)}",
                f'baud_rate = 115200\nparity = "none"\nframing = "{line.settings.framing}"',
            )
        yield from (
            "",
            "[[source]]",
            f"name = {_quoted(plc.name)}",
            *where,
            f"map = {_quoted(plc.name + '.csv')}",
            f"scan_classes = {{ {', '.join(classes)} }}",
        )
    yield from ("", "[[asset]]", 'name = "pump-*"', 'class = "pump"')
    yield from ("", "[[asset]]", 'name = "plc-*"', 'class = "plc"')


def _greenhouse_source(settings: GreenhouseSettings) -> Iterator[str]:
    yield from (
        "",
        "[[source]]",
        'name = "greenhouse"',
        'type = "mqtt"',
        f"host = {_quoted(settings.host)}",
        f"port = {settings.port}",
    )
    for kind, tags in TOPICS.items():
        yield from (
            "",
            "[[source.topic]]",
            f"pattern = {_quoted(f'{settings.prefix}/{{asset}}/{kind}')}",
            f"qos = {settings.qos}",
            'time = "ts"',
            "[source.topic.fields]",
        )
        for tag in tags:
            if tag in BAY_RANGES:
                low, high = BAY_RANGES[tag]
                unit = _quoted(_BAY_UNITS[tag])
                yield f"{tag} = {{ eng_unit = {unit}, low = {low}, high = {high} }}"
            else:
                yield f'{tag} = {{ data_type = "bool" }}'
        yield f'{kind}_seq = {{ data_type = "uint64" }}'
    yield from ("", "[[asset]]", 'name = "bay-*"', 'class = "bay"')


def _roof_source(roof: Roof, options: GatewayOptions) -> Iterator[str]:
    units = ", ".join(f"{unit_id} = {_quoted(asset)}" for unit_id, asset in UNITS.items())
    periods = f"default = {_quoted(options.scan_period)}, slow = {_quoted(options.slow_period)}"
    yield from (
        "",
        "[[source]]",
        'name = "roof"',
        'type = "modbus-tcp"',
        f"host = {_quoted(roof.settings.host)}",
        f"port = {roof.port}",
        'profile = "sunspec"',
        f"sunspec = {{ units = {{ {units} }} }}",
        f"scan_classes = {{ {periods} }}",
    )
    for asset in UNITS.values():
        kind = asset.rpartition("-")[0]
        yield from ("", "[[asset]]", f"name = {_quoted(asset)}", f"class = {_quoted(kind)}")


def _quoted(text: object) -> str:
    """A TOML basic string; JSON's escapes are a part of TOML's."""
    return json.dumps(str(text), ensure_ascii=False)
