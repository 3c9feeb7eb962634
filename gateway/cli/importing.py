"""`sluicegate import FILE`: another program's Modbus configuration as one of ours.

Telegraf's `inputs.modbus` (TOML, all three styles) and the ThingsBoard Gateway's Modbus connector
(JSON). What could not be carried over is listed, each with its reason.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tomllib
from pathlib import Path
from typing import Any

from gateway.errors import ConfigError, SluicegateError

__all__ = ["add_parser"]

BYTES_MAX = 16 * 2**20


def add_parser(subparsers: Any) -> None:
    """The `import` command."""
    parser = subparsers.add_parser(
        "import",
        help="take over a Telegraf or ThingsBoard Modbus configuration",
        description="Write sluicegate.toml and a register map a source from another's file.",
    )
    parser.add_argument("file", type=Path, help="telegraf.conf, or modbus.json of ThingsBoard")
    parser.add_argument("--to", type=Path, default=Path("imported"), help="folder (imported)")
    parser.add_argument("--force", action="store_true", help="write over what is there")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from gateway.cli.imports import telegraf, thingsboard
    from gateway.cli.imports.found import Found
    from gateway.config.load import load

    found = Found()
    data = _parse(options.file)
    (telegraf if "inputs" in data else thingsboard).collect(data, found)
    found.sources = [source for source in found.sources if source.rows]
    if not found.sources:
        for note in found.left_out:
            print(f"not carried over: {note}")
        raise SluicegateError(f"{options.file} has no Modbus device that can be carried over")
    folder: Path = options.to
    written = [folder / "sluicegate.toml", *(folder / f"{s.name}.csv" for s in found.sources)]
    there = [path for path in written if path.exists()]
    if there and not options.force:
        raise SluicegateError(f"{there[0]} is there already", hint="name another --to, or --force")
    folder.mkdir(parents=True, exist_ok=True)
    written[0].write_text(found.toml(), encoding="utf-8")
    for source, path in zip(found.sources, written[1:], strict=True):
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows(source.table())
    rows = sum(len(source.rows) for source in found.sources)
    print(f"{folder / 'sluicegate.toml'}: {len(found.sources)} sources, {rows} tags")
    for note in found.notes:
        print(f"note: {note}")
    for note in found.left_out:
        print(f"not carried over: {note}")
    try:
        warnings = load(written[0]).warnings
    except ConfigError as error:
        print("To mend before it can run:")
        raise ConfigError(error.problems) from None
    for warning in warnings:
        print(f"warning: {warning}")
    return 0


def _parse(path: Path) -> dict[str, Any]:
    from gateway.cli.imports.telegraf import with_variables

    try:
        if path.stat().st_size > BYTES_MAX:
            raise SluicegateError(f"{path} is larger than 16 MiB")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise SluicegateError(f"{path} cannot be read: {reason}") from error
    unknown: list[str] = []
    try:
        if text.lstrip().startswith("{"):
            data = json.loads(text)
        else:
            text, unknown = with_variables(text, os.environ)
            data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        hint = "name the connector's own file"
        if unknown:
            hint = f"it uses variables: set {', '.join(unknown)} in the environment"
        raise SluicegateError(f"{path} is neither TOML nor JSON: {error}", hint=hint) from error
    if not isinstance(data, dict) or not ("inputs" in data or "master" in data or "slaves" in data):
        raise SluicegateError(
            f"{path} is neither a Telegraf configuration nor a ThingsBoard Modbus connector",
            hint='the first has [[inputs.modbus]], the second "master"',
        )
    return data
