"""Any bytes as register map: rows or problems with their places, never an exception."""

from __future__ import annotations

import os
from pathlib import Path

from gateway.sources.modbus.rows import load_register_map

# Memory with a name: the file is written for each execution.
_FD = os.memfd_create("map")
_FILE = Path(f"/proc/self/fd/{_FD}")


def one(data: bytes) -> None:
    """The file as it is; what is taken is within what the standard allows."""
    os.ftruncate(_FD, 0)
    os.pwrite(_FD, data, 0)
    found = load_register_map(_FILE, {"default": 1.0, "fast": 0.1})
    for problem in found.problems:
        assert problem.place
        assert problem.found
    for row in found.rows:
        assert 0 <= row.address <= 65535
        assert 0 <= row.unit_id <= 255


SEEDS = [
    b"asset,tag,unit_id,table,address,data_type\npump,rpm,1,input_register,7,uint32\n",
    b"asset,tag,address,length,data_type,byte_order,scale\na,b,1,4,string,BADC,0.1\n",
    b"asset;tag;address\na;b;40001\n",
    b"\xef\xbb\xbfasset,tag,address,low,high,scan_class\r\na,b,0,1,2,fast\r\n",
]
