"""Salvage: what can still be read of a file with bad sectors.

A card that begins to die refuses single blocks. What stands around them is whole, and one block
must not cost a segment. The kernel tries each bad block for seconds before it gives up, and bad
blocks come in rows (flash fails by the erase block), so ever longer steps are taken across a row.
"""

from __future__ import annotations

import errno
import logging
from pathlib import Path

from gateway.spool.disk import Disk

__all__ = ["read_around"]

log = logging.getLogger(__name__)

# What the page cache reads by, and the least that most cards call bad.
_BLOCK_BYTES = 4096
# Beyond these the rest of a file is left: a start that waits minutes for nothing is none.
_REFUSALS_MAX = 24


def read_around(disk: Disk, path: Path, size: int) -> bytes:
    """The first `size` bytes of a file; zeros where the device cannot read them.

    Raises OSError for whatever is wrong but that, and where not one block can be read.
    """
    try:
        return disk.read(path, size, 0)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        unreadable = error
    data, offset, step, refusals, blocks = bytearray(size), 0, 1, 0, 0
    while offset < size and refusals < _REFUSALS_MAX:
        block = min(_BLOCK_BYTES, size - offset)
        try:
            data[offset : offset + block] = disk.read(path, block, offset)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            refusals += 1
            offset += step * _BLOCK_BYTES
            step *= 2
        else:
            blocks += 1
            offset += _BLOCK_BYTES
            step = 1
    if not blocks:
        raise unreadable
    unread = -(-size // _BLOCK_BYTES) - blocks
    if unread:  # else it was out of sorts the first time only
        hint = "copy the data to a new card soon"
        message = "spool.unreadable file=%s blocks=%d error=%s hint=%s"
        log.error(message, path.name, unread, unreadable, hint)
    return bytes(data)
