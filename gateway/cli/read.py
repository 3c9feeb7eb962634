"""`sluicegate read ENDPOINT ADDRESS ...`: what a device holds, without a configuration.

The addresses are those of a register map, whose columns are the options; or `--map` names one, and
the addresses are its tags.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.errors import ConfigError, SluicegateError

if TYPE_CHECKING:
    from gateway.sources.modbus.config import RegisterRow

__all__ = ["add_columns", "add_parser", "rows_of", "value_text"]

# A person's question; a plant's worth is for the gateway.
VALUES_MAX = 2000
# The columns of a register map that are options, and how they are called.
_COLUMNS = {
    "unit_id": "--unit",
    "table": "--table",
    "data_type": "--type",
    "byte_order": "--order",
    "length": "--length",
    "scale": "--scale",
    "offset": "--offset",
}


def add_parser(subparsers: Any) -> None:
    """The `read` command."""
    parser = subparsers.add_parser(
        "read",
        help="read a Modbus device",
        description="Read values of a Modbus device and print one a line.",
    )
    add_columns(parser)
    parser.add_argument("addresses", nargs="+", help="40001, holding_register:0, or tags of --map")
    parser.add_argument("--count", type=int, default=1, help="so many values from each address")
    parser.add_argument("--every", default="", help='again and again, such as every "1s"')
    parser.add_argument("--wire", action="store_true", help="show what goes over the wire")
    parser.set_defaults(run=_run)


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Endpoint, and the columns of a register map as options."""
    parser.add_argument("endpoint", help="tcp://host:502, rtu:///dev/ttyUSB0?baud_rate=9600, ...")
    parser.add_argument("--unit", dest="unit_id", type=int, default=1, help="unit id (1)")
    parser.add_argument("--table", default="", help="of bare numbers; they are addresses then")
    parser.add_argument("--type", dest="data_type", default="uint16", help="int16, float32, ...")
    parser.add_argument("--order", dest="byte_order", default="ABCD", help="ABCD, CDAB, ...")
    parser.add_argument("--length", type=int, default=0, help="registers of a string")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--offset", type=float, default=0.0)
    parser.add_argument("--map", dest="register_map", type=Path, help="CSV file of tags")


def rows_of(options: argparse.Namespace, addresses: list[str], count: int) -> list[RegisterRow]:
    """The rows of a map that are named, or of addresses."""
    from gateway.sources.modbus.endpoint import row_at
    from gateway.sources.modbus.plan import width_of

    if options.register_map is not None:
        return _mapped(options.register_map, addresses)
    given = {column: value for column in _COLUMNS if (value := getattr(options, column)) != ""}
    rows = []
    for address in addresses:
        first = row_at(address, given, _COLUMNS)
        if first.data_type == "string" and not first.length:
            raise SluicegateError("a string has no length", hint="add --length 8")
        step = width_of(first)
        for i in range(count):
            place = first.address + i * step
            tag = address if count == 1 else f"{first.table}:{place}"
            if place + step > 65536:
                raise SluicegateError(f"{tag} ends beyond address 65535")
            rows.append(first.model_copy(update={"address": place, "tag": tag}))
    if not 1 <= len(rows) <= VALUES_MAX:
        raise SluicegateError(f"{len(rows)} values are not from 1 to {VALUES_MAX}")
    return rows


class _AnyClass(dict[str, float]):
    def __contains__(self, key: object) -> bool:
        return True


def _mapped(path: Path, names: list[str]) -> list[RegisterRow]:
    from gateway.settings import matches_any
    from gateway.sources.modbus.rows import load_register_map

    found = load_register_map(path, _AnyClass())
    if found.problems:
        raise ConfigError(found.problems)
    rows = [_named(row) for row in found.rows]
    wanted = [row for row in rows if matches_any(row.tag, tuple(names))]
    if not wanted:
        raise SluicegateError(f"no tag of {path} is called {', '.join(names)}")
    return wanted


def _named(row: RegisterRow) -> RegisterRow:
    """A row of a map under the whole name of its tag."""
    holder = f"{row.asset}.{row.scale_from}" if row.scale_from else ""
    named = {"asset": "", "tag": f"{row.asset}.{row.tag}", "scale_from": holder}
    return row.model_copy(update=named | {"scan_class": "default"})


def _holders(path: Path, rows: list[RegisterRow]) -> list[RegisterRow]:
    """Rows of a map that hold the powers of ten of these, and are not among them."""
    from gateway.sources.modbus.rows import load_register_map

    missing = {row.scale_from for row in rows} - {row.tag for row in rows} - {""}
    found = map(_named, load_register_map(path, _AnyClass()).rows) if missing else ()
    return [row for row in found if row.tag in missing]


def _run(options: argparse.Namespace) -> int:
    from gateway.settings import parse_duration
    from gateway.sources.modbus.endpoint import settings_at

    settings = settings_at(options.endpoint)
    rows = rows_of(options, options.addresses, options.count)
    shown = len(rows)
    if options.register_map is not None:
        rows += _holders(options.register_map, rows)
    try:
        period_s = parse_duration(options.every) if options.every else 0.0
    except ValueError as error:
        raise SluicegateError(f"--every: {error}") from error
    return asyncio.run(_read(settings, rows, shown, period_s, wire=options.wire))


async def _read(
    settings: Any, rows: list[RegisterRow], shown: int, period_s: float, *, wire: bool
) -> int:
    """Read all rows, now or again and again, and print the first of them."""
    from gateway.sources.modbus.client import Peer, connect
    from gateway.sources.modbus.plan import plan

    peer = Peer("read")
    if wire:
        peer.wire_log.switch_on()
    classes = dict.fromkeys([row.scan_class for row in rows], 1.0)
    plans = plan(rows, settings.model_copy(update={"scan_classes": classes}))
    blocks = [block for each in plans for block in each.blocks]
    width = max(len(row.tag) for row in rows[:shown])
    failed = 0
    try:
        async with connect(settings, peer) as connection:
            while True:
                began_s = time.monotonic()
                said, failed = await _read_once(connection, blocks, rows, settings)
                for row, text in zip(rows[:shown], said, strict=False):
                    print(f"{row.tag:{width}}  {text}", flush=True)
                if not period_s:
                    break
                await asyncio.sleep(max(0.0, began_s + period_s - time.monotonic()))
    finally:
        for line in peer.wire_log.lines():
            print(line)
    return 1 if failed else 0


async def _read_once(
    connection: Any, blocks: Any, rows: list[RegisterRow], settings: Any
) -> tuple[list[str], int]:
    """What each row holds, in their order, and how many could not be read.

    Of a block that is refused the halves are asked: one of its addresses may be what is not there,
    or a gap between them, or they are too many.
    """
    from gateway.errors import DeviceRefused
    from gateway.sources.modbus.decode import BlockDecoder, new_exponents
    from gateway.tag import Quality

    said: dict[int, str] = {}
    failed, exponents = 0, new_exponents(rows)
    left = list(reversed(blocks))
    while left:
        block = left.pop()
        try:
            data = await connection.read(block.request, settings.response_timeout)
        except DeviceRefused as refused:
            if len(block.rows) > 1:
                left += reversed(block.halves(rows))
            else:
                failed += 1
                said[block.rows[0]] = f"refused: {refused}"
            continue
        decoded = BlockDecoder(block, rows, exponents).decode(data)
        for place, index in enumerate(block.rows):
            row, quality = rows[index], int(decoded.quality[place])
            value: Any = decoded.exact.get(place, float(decoded.values[place]))
            if not isinstance(value, str) and (row.scale != 1.0 or row.offset != 0.0):
                value = value * row.scale + row.offset
            name = Quality(quality).name.lower()
            said[index] = (
                f"{value_text(row, value)} {row.eng_unit}".rstrip() if quality == 0 else name
            )
    return [said[index] for index in range(len(rows))], failed


def value_text(row: RegisterRow, value: Any) -> str:
    """A value in engineering units with all the digits that the device gave, and no others."""
    import numpy as np

    if not isinstance(value, float):
        return str(value)
    if row.scale != 1.0 or row.offset != 0.0 or row.scale_from:
        return f"{value:.15g}"  # the last digits are of the multiplication
    if not row.data_type.is_float:
        return str(int(value))
    widths: dict[str, Any] = {"float16": np.float16, "float32": np.float32}
    number = widths.get(row.data_type, np.float64)(value)
    if value and not 1e-4 <= abs(value) < 1e16:
        return np.format_float_scientific(number, trim="-")
    return np.format_float_positional(number, trim="-")
