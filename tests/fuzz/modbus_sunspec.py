"""Any registers as a SunSpec device: rows within it, or none; never another exception."""

from __future__ import annotations

import struct

from gateway.errors import DeviceRefused
from gateway.sources.modbus.config import ModbusTcpSettings
from gateway.sources.modbus.decode import BlockDecoder, new_exponents
from gateway.sources.modbus.plan import plan, width_of
from gateway.sources.modbus.sunspec.discover import NoMarker, discover
from gateway.sources.modbus.sunspec.models import models

_BASE = 40000
_SETTINGS = ModbusTcpSettings.model_validate(
    {"type": "modbus-tcp", "name": "s", "host": "h", "profile": "sunspec"}
)
_MODELS = tuple(models())


def one(data: bytes) -> None:
    """The marker, then the bytes as they are."""
    words = b"SunS" + data[: len(data) // 2 * 2]
    end = _BASE + len(words) // 2

    async def read(address: int, quantity: int) -> bytes:
        if not _BASE <= address <= end - quantity:
            raise DeviceRefused(unit_id=1, function=3, address=address, code=2, hint="")
        at = 2 * (address - _BASE)
        return words[at : at + 2 * quantity]

    try:
        discover(read, models=_MODELS).send(None)
    except StopIteration as done:
        found = done.value
    except NoMarker:
        return
    rows = found.rows("a", 1)
    assert len({row.tag for row in rows}) == len(rows)
    exponents = new_exponents(rows)
    for scan in plan(rows, _SETTINGS):
        for block in scan.blocks:
            request = block.request
            assert request.quantity <= 125
            for index in block.rows:
                row = rows[index]
                assert request.address <= row.address
                assert row.address + width_of(row) <= request.address + request.quantity
            at = 2 * (request.address - _BASE)
            answer = words[at : at + 2 * request.quantity].ljust(2 * request.quantity, b"\xff")
            decoder = BlockDecoder(block, rows, exponents)
            if not decoder.is_of_another(answer):
                decoder.decode(answer)


def _chain(*models_: tuple[int, int]) -> bytes:
    parts = [
        struct.pack(f">HH{length}H", model, length, *[1] * length) for model, length in models_
    ]
    return b"".join(parts) + b"\xff\xff\0\0"


SEEDS = [
    _chain((1, 66), (103, 50)),
    _chain((1, 65), (160, 48), (64110, 5)),
    _chain((705, 60), (707, 80)),
    _chain((803, 40), (213, 124)),
]
