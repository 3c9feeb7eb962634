"""Write: one tag's value to its device, within its limits, and read back.

Imported only where a source says `writes = true`. Only a tag that the map marks `writable` is
written, and a number only within the `low` and `high` of its row.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from gateway.errors import SourceError
from gateway.sources.modbus.config import RegisterRow, Table
from gateway.sources.modbus.decode import BlockDecoder
from gateway.sources.modbus.plan import Block, width_of
from gateway.sources.modbus.types import RegisterType
from gateway.sources.modbus.wire import Query, Request
from gateway.sources.modbus.write_wire import WriteRefused, query_of, words_of

__all__ = ["Asks", "NotTaken", "Writer", "check_limits", "read_row", "write_row"]

log = logging.getLogger(__name__)

T = TypeVar("T")


class Asks(Protocol):
    """A connection, or a source that has one."""

    async def ask(self, query: Query[T], timeout_s: float) -> T: ...


class NotTaken(SourceError):
    """The device said that it wrote the value, and holds another."""


def check_limits(row: RegisterRow, value: object) -> None:
    """Raise WriteRefused for a value that the map does not allow."""
    name = f"{row.asset}.{row.tag}"
    if not row.writable:
        raise WriteRefused(f"{name} is not marked writable", hint="in the register map")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return  # its type is looked at when it is encoded
    if row.data_type in (RegisterType.BOOL, RegisterType.STRING):
        return
    if row.low is None or row.high is None:
        raise WriteRefused(f"{name} has no limits", hint="write low and high in the register map")
    if not row.low <= value <= row.high:
        raise WriteRefused(f"{name}: {value!r:.60} is not from {row.low:g} to {row.high:g}")


async def write_row(row: RegisterRow, value: Any, asks: Asks, timeout_s: float) -> Any:
    """Write, read back, and give what the device holds then.

    Raises WriteRefused (nothing was sent), NotTaken, and what `Connection.ask` raises. After a
    time-out nobody knows whether the device did it: read the tag.
    """
    query = query_of(row, value)
    await asks.ask(query, timeout_s)
    block, held = await read_row(row, asks, timeout_s)
    is_taken = held == bool(value) if row.table is Table.COIL else block == words_of(row, value)
    if not is_taken:
        raise NotTaken(
            f"{row.asset}.{row.tag}: the device holds {held!r} after {value!r} was written",
            hint="it may limit the value itself, or be in local control",
        )
    return held


async def read_row(row: RegisterRow, asks: Asks, timeout_s: float) -> tuple[bytes, Any]:
    """The bytes of a row's registers, and the value in engineering units."""
    function = {"coil": 1, "discrete_input": 2, "holding_register": 3, "input_register": 4}
    request = Request(row.unit_id, function[row.table], row.address, width_of(row))
    block = await asks.ask(request, timeout_s)
    decoded = BlockDecoder(Block(request, (0,)), [row]).decode(block)
    value: Any = decoded.exact.get(0, float(decoded.values[0]))
    if row.data_type is RegisterType.BOOL:
        value = bool(value)
    elif not isinstance(value, str) and (row.scale != 1.0 or row.offset != 0.0):
        value = value * row.scale + row.offset
    elif row.tag_type.is_integer:
        value = int(value)
    return block, value


class Writer:
    """The tags of one source that may be written."""

    def __init__(
        self, rows: Mapping[str, RegisterRow], asks: Asks, timeout_s: float, source: str
    ) -> None:
        self._rows = {name: row for name, row in rows.items() if row.writable}
        self._asks = asks
        self._timeout_s = timeout_s
        self._source = source

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._rows)

    async def write(self, name: str, value: Any) -> Any:
        """What the device holds after it; raises what `write_row` does."""
        row = self._rows.get(name)
        if row is None:
            raise WriteRefused(f"{name[:64]!r} is not a tag that may be written")
        check_limits(row, value)
        held = await write_row(row, value, self._asks, self._timeout_s)
        log.info("modbus.written source=%s tag=%s value=%s", self._source, name, held)
        return held
