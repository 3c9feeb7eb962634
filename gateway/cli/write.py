"""`sluicegate write ENDPOINT ADDRESS VALUE`: set what a device holds, and read it back.

With `--map` only a tag that the map marks writable is set, from its low to its high; without one
whatever the address is: who gives this command knows the device.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from gateway.cli.read import add_columns, rows_of, value_text
from gateway.errors import SluicegateError

__all__ = ["add_parser"]


def add_parser(subparsers: Any) -> None:
    """The `write` command."""
    parser = subparsers.add_parser(
        "write",
        help="set a value of a Modbus device",
        description="Set one value of a Modbus device, read it back and print it.",
    )
    add_columns(parser)
    parser.add_argument("address", help="40001, holding_register:0, coil:3, or a tag of --map")
    parser.add_argument("value", help="in engineering units; true or false for a bit")
    parser.add_argument(
        "--bit", type=int, help="set or clear this bit of the register alone (function 22)"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from gateway.sources.modbus.endpoint import settings_at

    settings = settings_at(options.endpoint)
    if options.bit is not None and options.register_map is not None:
        hint = "with a map a bit is set as the row that is that bit"
        raise SluicegateError("--bit does not go with --map", hint=hint)
    (row, *more) = rows_of(options, [options.address], 1)
    if more:
        raise SluicegateError(f"{options.address} names {len(more) + 1} tags", hint="name one")
    return asyncio.run(_write(settings, row, options))


async def _write(settings: Any, row: Any, options: argparse.Namespace) -> int:
    from gateway.sources.modbus.client import Peer, connect
    from gateway.sources.modbus.types import RegisterType
    from gateway.sources.modbus.write import check_limits, read_row, write_row
    from gateway.sources.modbus.write_wire import MaskWrite

    value = _value(row, options.value, is_bit=options.bit is not None)
    if options.register_map is not None:
        check_limits(row, value)
    timeout_s = settings.response_timeout
    async with connect(settings, Peer("write")) as connection:
        if options.bit is None:
            held = await write_row(row, value, connection, timeout_s)
        else:
            try:
                query = MaskWrite.of_bit(row.unit_id, row.address, options.bit, on=bool(value))
            except ValueError as error:
                raise SluicegateError(str(error)) from error
            await connection.ask(query, timeout_s)
            word = row.model_copy(
                update={"data_type": RegisterType.UINT16, "scale": 1.0, "offset": 0.0}
            )
            block, held = await read_row(word, connection, timeout_s)
            if bool(int.from_bytes(block) >> options.bit & 1) is not bool(value):
                raise SluicegateError(f"the register holds {held} after bit {options.bit} was set")
    print(f"{row.tag}  {value_text(row, held)}")
    return 0


def _value(row: Any, text: str, *, is_bit: bool) -> Any:
    """What was typed, as the row's type has it."""
    from gateway.sources.modbus.types import RegisterType
    from gateway.tag import DataType

    if is_bit or row.tag_type is DataType.BOOL:
        known = {"1": True, "true": True, "on": True, "0": False, "false": False, "off": False}
        if text.lower() not in known:
            raise SluicegateError(f"{text!r} is neither true nor false")
        return known[text.lower()]
    if row.data_type is RegisterType.STRING:
        return text
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            raise SluicegateError(f"{text!r} is not a number") from None
