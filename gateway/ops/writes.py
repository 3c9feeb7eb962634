"""Writes: which tags of a running gateway may be set, and setting them; whoever asks for it.

Without a source that says `writes = true` there is none, and the code for it is not even loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gateway.errors import SluicegateError
from gateway.pipeline import Gateway
from gateway.sources.modbus.source import ModbusSource

if TYPE_CHECKING:
    from gateway.sources.modbus.write import Writer

__all__ = ["Writes", "writes_of"]


def writes_of(gateway: Gateway) -> Writes | None:
    """What may be set; None where no source allows it."""
    enabled = [
        source for source in gateway.sources if isinstance(source, ModbusSource) and source.writes
    ]
    if not enabled:
        return None
    from gateway.sources.modbus.write import Writer  # noqa: PLC0415 - only where enabled

    writers: dict[str, Writer] = {}
    for source in enabled:
        rows = {f"{row.asset}.{row.tag}": row for row in source.device.rows}
        writer = Writer(rows, source, source.device.settings.response_timeout, source.name)
        writers |= dict.fromkeys(writer.names, writer)
    return Writes(writers)


class Writes:
    """The tags that may be set, by name."""

    def __init__(self, writers: Mapping[str, Writer]) -> None:
        self._writers = writers

    async def write(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Set them, and give what the devices hold then.

        All are looked at before anything is sent: LookupError and WriteRefused mean that nothing
        was. Other errors are the devices', and say what was written before.
        """
        by_writer: dict[Writer, list[tuple[str, Any]]] = {}
        for tag, value in values.items():
            writer = self._writers.get(tag)
            if writer is None:
                raise LookupError(f"{tag[:64]!r} is not a tag that may be written")
            writer.check(tag, value)
            by_writer.setdefault(writer, []).append((tag, value))
        held: dict[str, Any] = {}
        for writer, listed in by_writer.items():
            try:
                now = await writer.write_all(listed)
            except SluicegateError as error:
                if not held:
                    raise
                said = f"{error.message}; written before: {', '.join(held)}"
                raise SluicegateError(said, hint=error.hint) from error
            held |= dict(zip([tag for tag, _ in listed], now, strict=True))
        return {tag: held[tag] for tag in values}
