"""Salvage: what can still be read of a file with bad sectors.

A card that begins to die refuses single blocks. What stands around them is whole, and one block
must not cost a segment. The kernel tries each bad block for seconds before it gives up, and bad
blocks come in rows (flash fails by the erase block): ever longer steps are taken across a row,
and from where it ends it is gone back to its last block.
"""

from __future__ import annotations

import errno
import logging
from pathlib import Path

from gateway.spool.disk import Disk

__all__ = ["BLOCK_BYTES", "read_around"]

log = logging.getLogger(__name__)

# What the page cache reads by, and the least that most cards call bad.
BLOCK_BYTES = 4096
# Beyond these the rest of a file is left: a start that waits minutes for nothing is none.
REFUSALS_MAX = 24


def read_around(disk: Disk, path: Path, size: int, bad: set[int]) -> bytes:
    """The first `size` bytes of a file; zeros where the device cannot read them.

    `bad` are the numbers of blocks that are known for that: they are not tried again, and those
    found now are added. Raises OSError for whatever is wrong but that, and where not one block
    can be read.
    """
    if not bad:
        try:
            return disk.read(path, size, 0)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
    reading = _Reading(disk, path, size, bad)
    known = len(bad)
    reading.read_all()
    if len(bad) > known:
        hint = "copy the data to a new card soon"
        log.error("spool.unreadable file=%s blocks=%d hint=%s", path.name, len(bad), hint)
    return bytes(reading.data)


class _Reading:
    """A file, block by block."""

    def __init__(self, disk: Disk, path: Path, size: int, bad: set[int]) -> None:
        self.data = bytearray(size)
        self._disk = disk
        self._path = path
        self._bad = bad
        self._end = -(-size // BLOCK_BYTES)
        self._refusal: OSError | None = None
        self._refusals = 0

    def read_all(self) -> None:
        """Read what can be read. Raises OSError where that is nothing."""
        block = 0
        while block < self._end:
            block = block + 1 if self._try(block) else self._cross(block)
        if self._refusal is not None and self._bad.issuperset(range(self._end)):
            raise self._refusal

    def _cross(self, last_bad: int) -> int:
        """Get over a row of bad blocks that begins here; which block to go on with."""
        step, end = 1, self._end
        while last_bad + 1 < end and self._refusals < REFUSALS_MAX:
            block = min(last_bad + step, end - 1)
            if self._try(block):
                for missed in range(block - 1, last_bad, -1):
                    if not self._try(missed):
                        self._bad.update(range(last_bad, missed))
                        break
                return block + 1
            self._bad.update(range(last_bad, block))
            last_bad, step = block, step * 2
        self._bad.update(range(last_bad, end))
        return end

    def _try(self, block: int) -> bool:
        if block in self._bad:
            return False
        start = block * BLOCK_BYTES
        size = min(BLOCK_BYTES, len(self.data) - start)
        try:
            self.data[start : start + size] = self._disk.read(self._path, size, start)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self._bad.add(block)
            self._refusal = error
            self._refusals += 1
            return False
        return True
