"""Write: values of tags to their device, within their limits, and read back.

Imported only where a source says `writes = true`. Only a tag that the map marks `writable` is
written, and a number only within the `low` and `high` of its row.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from gateway.errors import DeviceRefused, SourceError
from gateway.sources.modbus.config import RegisterRow, Table
from gateway.sources.modbus.decode import BlockDecoder
from gateway.sources.modbus.plan import Block, width_of
from gateway.sources.modbus.wire import Query, Request
from gateway.sources.modbus.write_wire import (
    MaskWrite,
    WriteQuery,
    WriteRefused,
    name_of,
    query_of,
    together,
    words_of,
)
from gateway.tag import DataType

__all__ = ["Asks", "NotTaken", "Writer", "check_limits", "read_row", "write_row", "write_rows"]

log = logging.getLogger(__name__)

T = TypeVar("T")


class Asks(Protocol):
    """A connection, or a source that has one."""

    async def ask(self, query: Query[T], timeout_s: float) -> T: ...


class NotTaken(SourceError):
    """The device said that it wrote the value, and holds another."""


def check_limits(row: RegisterRow, value: object) -> None:
    """Raise WriteRefused for a value that the map does not allow."""
    name = name_of(row)
    if not row.writable:
        raise WriteRefused(f"{name} is not marked writable", hint="in the register map")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return  # its type is looked at when it is encoded
    if row.tag_type in (DataType.BOOL, DataType.STRING):
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
    (held,) = await write_rows([(row, value)], asks, timeout_s)
    return held


async def write_rows(
    pairs: Sequence[tuple[RegisterRow, Any]], asks: Asks, timeout_s: float
) -> list[Any]:
    """Write several values, neighbours at once, and give what the device holds then.

    Raises what `write_row` does. Nothing is sent unless all values can be written; when the device
    refuses one, those before it are written and those behind it are not: the message says so.
    """
    queries = together([query_of(row, value) for row, value in pairs])
    done: list[int] = []
    for query, places in queries:
        try:
            await asks.ask(query, timeout_s)
        except DeviceRefused as refused:
            raise _refusal(refused, query, [name_of(pairs[i][0]) for i in done]) from refused
        done += places
    held = []
    for row, value in pairs:
        block, now = await read_row(row, asks, timeout_s)
        if not _is_taken(row, value, block):
            raise NotTaken(
                f"{name_of(row)}: the device holds {now!r} after {value!r} was written",
                hint="it may limit the value itself, or be in local control",
            )
        held.append(now)
    return held


def _is_taken(row: RegisterRow, value: Any, block: bytes) -> bool:
    """Whether what was read is what was to be written."""
    if row.table is Table.COIL:
        return bool(block[0] & 1) == bool(value)
    query = query_of(row, value)
    if isinstance(query, MaskWrite):
        return query.is_in(int.from_bytes(block))
    return block == words_of(row, value)


def _refusal(refused: DeviceRefused, query: WriteQuery, done: Sequence[str]) -> DeviceRefused:
    """A refusal that says what was written before it, and why bits are not."""
    hint = refused.hint
    if query.function == 22 and refused.code == 1:
        hint = "it cannot set single bits (function 22): let the map have the whole register"
    if done:
        hint = f"written before: {', '.join(done)}; {hint}"
    return DeviceRefused(
        unit_id=query.unit_id,
        function=query.function,
        address=query.address,
        code=refused.code,
        hint=hint,
    )


async def read_row(row: RegisterRow, asks: Asks, timeout_s: float) -> tuple[bytes, Any]:
    """The bytes of a row's registers, and the value in engineering units.

    A number is a number here, also one that the map calls missing: it may just have been written.
    """
    row = row.model_copy(update={"missing": ""})
    function = {"coil": 1, "discrete_input": 2, "holding_register": 3, "input_register": 4}
    request = Request(row.unit_id, function[row.table], row.address, width_of(row))
    block = await asks.ask(request, timeout_s)
    decoded = BlockDecoder(Block(request, (0,)), [row]).decode(block)
    value: Any = decoded.exact.get(0, float(decoded.values[0]))
    if row.tag_type is DataType.BOOL:
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
        (held,) = await self.write_all([(name, value)])
        return held

    def check(self, name: str, value: Any) -> RegisterRow:
        """The row of a tag that may be set to this; raises WriteRefused."""
        row = self._rows.get(name)
        if row is None:
            raise WriteRefused(f"{name[:64]!r} is not a tag that may be written")
        check_limits(row, value)
        query_of(row, value)
        return row

    async def write_all(self, values: Sequence[tuple[str, Any]]) -> list[Any]:
        """What the device holds after them; raises what `write_rows` does."""
        pairs = [(self.check(name, value), value) for name, value in values]
        held = await write_rows(pairs, self._asks, self._timeout_s)
        for (name, _), now in zip(values, held, strict=True):
            log.info("modbus.written source=%s tag=%s value=%s", self._source, name, now)
        return held
