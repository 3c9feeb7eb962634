"""Line: how busy a serial line is with its scans, before anything is read.

What the wire takes follows from the requests (Serial Line 1.02, 2.5.1): in RTU a request of eight
characters, an answer of five and its data, and three and a half of silence before each; in ASCII
two characters a byte, one for the colon and two for the end. What the
devices take to answer is not known and comes on top.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.sources.modbus.config import ModbusRtuSettings, RegisterRow
from gateway.sources.modbus.plan import ScanPlan, plan
from gateway.sources.modbus.serial import character_s
from gateway.sources.modbus.wire import Request

__all__ = ["QUIET_MIN_S", "exchange_s", "loads", "quiet_s"]

# Above 19,200 baud the silence gets no shorter.
QUIET_MIN_S = 0.00175
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


def loads(rows: Sequence[RegisterRow], settings: ModbusRtuSettings) -> list[tuple[ScanPlan, float]]:
    """Each scan class with its share of the line's time; 1.0 in all is a line that is full."""
    return [
        (
            scan,
            sum(exchange_s(block.request, settings) for block in scan.blocks) / scan.period_s,
        )
        for scan in plan(rows, settings)
    ]
