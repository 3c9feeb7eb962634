"""Commands: what a running gateway may be told over its API, each in one place.

Whatever is told is kept: a record in the spool's event lane, which sinks get like any event.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from pydantic import Field

from gateway.config.schema import HttpSettings
from gateway.frame import Frame, Lane, Turn
from gateway.ops.api import Api
from gateway.ops.writes import writes_of
from gateway.pipeline import Gateway
from gateway.settings import Name, Seconds, Settings
from gateway.sources.modbus.source import ModbusSource
from gateway.sources.modbus.wirelog import ON_S_DEFAULT, ON_S_MAX, WireLog
from gateway.tag import DataType, Tag

__all__ = ["AUDIT_TAG", "AuditTrail", "api_of"]

AUDIT_TAG = "gateway.audit"


class WireLogBody(Settings):
    """Log what goes over a device's wire."""

    source: Name = Field(description="name of a Modbus [[source]]")
    on: bool = Field(default=True, description="false ends it")
    seconds: Seconds = Field(
        default=ON_S_DEFAULT, gt=0, le=ON_S_MAX, description="it ends by itself after so long"
    )


class WriteBody(Settings):
    """Set a tag."""

    tag: str = Field(min_length=1, max_length=256, description="name of a writable tag")
    value: bool | int | float | str = Field(description="in engineering units")


class WritesBody(Settings):
    """Set several tags."""

    values: dict[str, bool | int | float | str] = Field(
        min_length=1, max_length=100, description="tag -> value in engineering units"
    )


class WireLogLinesBody(Settings):
    """What the log of a device's wire holds."""

    source: Name = Field(description="name of a Modbus [[source]]")


def api_of(gateway: Gateway, settings: HttpSettings, trail: AuditTrail | None = None) -> Api | None:
    """The commands of a gateway; None where its configuration allows none."""
    if settings.token is None:
        return None
    api = Api(settings.token, gateway.clock, (trail or AuditTrail(gateway)).keep)
    wire_logs = {
        source.name: source.device.peer.wire_log
        for source in gateway.sources
        if isinstance(source, ModbusSource)
    }
    _add_wire_log(api, wire_logs)
    _add_writes(api, gateway)
    if gateway.engine is not None:
        from gateway.ops.event_commands import add_event_commands  # noqa: PLC0415 - as the engine

        add_event_commands(api, gateway.engine)
    return api


class AuditTrail:
    """Where records of what was told are kept; one for all who tell."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._tag_id = np.array(
            [
                gateway.table.add(
                    Tag(
                        name=AUDIT_TAG,
                        asset="gateway",
                        asset_class="gateway",
                        field="audit",
                        measurement="audit",
                        labels=(("gateway", gateway.config.settings.gateway.name),),
                        lane=Lane.EVENT,
                        data_type=DataType.STRING,
                    )
                )
            ],
            np.int32,
        )
        self._last_ns = 0

    def keep(self, record: dict[str, Any]) -> None:
        """Put a record into the event lane, which is committed at once."""
        # Two at one time would be one point in a database.
        self._last_ns = max(self._gateway.clock.utc_ns(), self._last_ns + 1)
        text = orjson.dumps(record).decode()
        frame = Frame.of(self._last_ns, self._tag_id, np.array([np.nan]), exact={0: text})
        self._gateway.spool.append(Turn(self._last_ns, {Lane.EVENT: frame}))


def _add_writes(api: Api, gateway: Gateway) -> None:
    """Setting tags, where a source allows it."""
    writes = writes_of(gateway)
    if writes is None:
        return

    async def write(body: WriteBody) -> dict[str, Any]:
        held = await writes.write({body.tag: body.value})
        return {"tag": body.tag, "value": held[body.tag]}

    async def write_several(body: WritesBody) -> dict[str, Any]:
        return {"values": await writes.write(body.values)}

    api.add("write", WriteBody, write)
    api.add("write/several", WritesBody, write_several)


def _add_wire_log(api: Api, logs: dict[str, WireLog]) -> None:
    def log_of(source: str) -> WireLog:
        if source not in logs:
            there = ", ".join(logs) or "none"
            raise LookupError(f"there is no Modbus source {source!r}; there is {there}")
        return logs[source]

    async def switch(body: WireLogBody) -> dict[str, Any]:
        wire_log = log_of(body.source)
        if body.on:
            wire_log.switch_on(body.seconds)
        else:
            wire_log.switch_off()
        return {"source": body.source, "on": wire_log.is_on}

    async def lines(body: WireLogLinesBody) -> dict[str, Any]:
        wire_log = log_of(body.source)
        return {"source": body.source, "on": wire_log.is_on, "lines": wire_log.lines()}

    api.add("modbus/wire-log", WireLogBody, switch)
    api.add("modbus/wire-log/lines", WireLogLinesBody, lines)
