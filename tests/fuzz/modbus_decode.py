"""Any bytes as a block's registers: a value or a bad quality for each tag, never an exception."""

from __future__ import annotations

import numpy as np

from gateway.sources.modbus.config import ModbusTcpSettings, RegisterRow, Table
from gateway.sources.modbus.decode import BlockDecoder
from gateway.sources.modbus.plan import plan, width_of
from gateway.tag import ByteOrder, DataType


def _decoders() -> list[BlockDecoder]:
    """One for each byte order, with a tag of each type there is."""
    facts = {"type": "modbus-tcp", "name": "a", "host": "h", "map": "m.csv", "gap_max": 0}
    settings = ModbusTcpSettings.model_validate(facts)
    decoders = []
    for order in ByteOrder:
        rows, address = [], 0
        for data_type in DataType:
            more = {"length": 8} if data_type is DataType.STRING else {}
            row = {"asset": "a", "tag": data_type.value, "address": address, "byte_order": order}
            rows.append(RegisterRow.model_validate(row | {"data_type": data_type} | more))
            address += width_of(rows[-1])
        decoders += [BlockDecoder(block, rows) for block in plan(rows, settings)[0].blocks]
    bits = [
        RegisterRow(asset="a", tag=f"b{i}", address=i, table=Table.COIL, data_type=DataType.BOOL)
        for i in range(40)
    ]
    return [*decoders, BlockDecoder(plan(bits, settings)[0].blocks[0], bits)]


DECODERS = _decoders()
_BYTES = 2 * 125


def one(data: bytes) -> None:
    """The first byte chooses; the others are the block, as long as the request made it."""
    if not data:
        return
    decoder = DECODERS[data[0] % len(DECODERS)]
    block = (data[1:] + bytes(_BYTES))[:_BYTES]
    with np.errstate(all="ignore"):
        found = decoder.decode(block)
    assert len(found.values) == len(found.quality)
    # What is good is a number, or a text beside it.
    for place in np.flatnonzero((found.quality == 0) & np.isnan(found.values)).tolist():
        assert place in found.exact


SEEDS = [bytes([number]) + bytes(range(200)) for number in range(5)]
