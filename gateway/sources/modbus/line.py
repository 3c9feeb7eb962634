"""Line: how busy a connection is with its scans, before anything is read.

What a serial line takes follows from the requests (Serial Line 1.02, 2.5.1): in RTU a request of
eight characters, an answer of five and its data, and three and a half of silence before each; in
ASCII two characters a byte, one for the colon and two for the end. What the device takes to answer
and the pauses that it wants come on top. Over TCP these are all there is; with several requests in
flight they overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from gateway.sources.modbus.config import (
    ModbusRtuSettings,
    ModbusSettings,
    ModbusTcpSettings,
    RegisterRow,
)
from gateway.sources.modbus.plan import Learned, ScanPlan, plan
from gateway.sources.modbus.serial import character_s
from gateway.sources.modbus.wire import Request

__all__ = ["QUIET_MIN_S", "exchange_s", "loads", "quiet_s", "request_s", "wire_s"]

# Above 19,200 baud the silence gets no shorter.
QUIET_MIN_S = 0.00175
# Where nobody has told: a device on the same network that is in no hurry.
_TCP_ANSWER_S = 0.001
_NOTHING: Mapping[int, float] = MappingProxyType({})
_REQUEST_BYTES = 6  # unit id, function, address, quantity
_ANSWER_BYTES = 3  # unit id, function, byte count, and the block


def quiet_s(settings: ModbusRtuSettings) -> float:
    """How long the line must be silent between two frames."""
    return max(3.5 * character_s(settings), QUIET_MIN_S)


def exchange_s(request: Request, settings: ModbusRtuSettings) -> float:
    """What one request and its answer take on the wire."""
    sizes = (_REQUEST_BYTES, _ANSWER_BYTES + request.block_bytes)
    characters = sum(2 * size + 5 if settings.framing == "ascii" else size + 2 for size in sizes)
    return characters * character_s(settings) + 2 * quiet_s(settings)


def wire_s(request: Request, settings: ModbusSettings) -> float:
    """What the bytes of a request and its answer take; nothing where it is no serial line."""
    return exchange_s(request, settings) if isinstance(settings, ModbusRtuSettings) else 0.0


def request_s(
    request: Request, settings: ModbusSettings, measured_s: Mapping[int, float] = _NOTHING
) -> float:
    """For how long one request keeps the connection from others, at least.

    `measured_s` is what unit ids took to answer, for those of which the settings do not tell.
    """
    answer_s = settings.answer_time
    if answer_s is None:
        otherwise_s = 0.0 if isinstance(settings, ModbusRtuSettings) else _TCP_ANSWER_S
        answer_s = measured_s.get(request.unit_id, otherwise_s)
    in_flight = settings.in_flight if isinstance(settings, ModbusTcpSettings) else 1
    return (wire_s(request, settings) + answer_s + settings.request_pause) / in_flight


def loads(
    rows: Sequence[RegisterRow], settings: ModbusSettings, learned: Learned | None = None
) -> list[tuple[ScanPlan, float]]:
    """Each scan class with its share of the connection's time; 1.0 in all is one that is full."""
    measured_s = learned.answer_s if learned is not None else {}
    return [
        (
            scan,
            sum(request_s(block.request, settings, measured_s) for block in scan.blocks)
            / scan.period_s,
        )
        for scan in plan(rows, settings, learned)
    ]
