"""Cursor: how far a sink has got in each lane, in a small file of its own.

A place in a lane is a number of samples, counted since the lane began: it says record and row,
and the difference of two places is what lies between them. The file has two slots in sectors of
their own, written in turn; whichever of the two a power cut tears, the other is whole, and an
older cursor only means that some samples are sent twice.

Not every save is worth a flush. One without is over the slot that was not synced last, so a killed
process has lost nothing, and a power cut takes back what was done since the last sync.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from gateway.frame import Lane
from gateway.spool.disk import Disk

__all__ = ["Cursor", "decode_slot", "encode_slot"]

SUFFIX = ".cursor"
BAD_SUFFIX = ".bad"  # what was in the place of one, and is none
SLOT_BYTES = 512
_SLOT = struct.Struct("<4sB3xQQQQQ")  # magic, version, generation, a place for each lane
_CHECKSUM = struct.Struct("<I")
_MAGIC = b"SlgC"
_VERSION = 1
# A lane that this sink has never read: it begins with the oldest sample there is.
NOWHERE = 2**64 - 1


def encode_slot(generation: int, places: Mapping[Lane, int]) -> bytes:
    ordered = [places.get(lane, NOWHERE) for lane in Lane]
    data = _SLOT.pack(_MAGIC, _VERSION, generation, *ordered)
    return data + _CHECKSUM.pack(zlib.crc32(data))


def decode_slot(data: bytes) -> tuple[int, dict[Lane, int]] | None:
    """Generation and places; None if the bytes are not what was written."""
    if len(data) < _SLOT.size + _CHECKSUM.size:
        return None
    (checksum,) = _CHECKSUM.unpack_from(data, _SLOT.size)
    magic, version, generation, *ordered = _SLOT.unpack_from(data)
    if (magic, version) != (_MAGIC, _VERSION) or zlib.crc32(data[: _SLOT.size]) != checksum:
        return None
    places = zip(Lane, ordered, strict=True)
    return generation, {lane: place for lane, place in places if place != NOWHERE}


class Cursor:
    """One sink's places. Moved by the event loop, saved by the writer's thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_dirty = False
        self.is_unsynced = False  # saved, but a power cut may take it back
        self._places: dict[Lane, int] = {}
        self._generation = 0
        self._is_named = False  # the file's name is on disk for certain
        self._is_unreadable = False

    def load(
        self, disk: Disk, *, to_write: bool = False, ends: Mapping[Lane, int] = MappingProxyType({})
    ) -> bool:
        """Take the newer of the two slots; False if neither is whole.

        Of a lane that was read before this could be loaded, the place further on is right; but
        none on disk is beyond where the lanes ended (`ends`) when they had not grown again.
        `to_write`: for who will save it again, and must not build on what is in the cache only.
        """
        size = 2 * SLOT_BYTES
        if to_write:
            disk.make_durable(self.path)
        data = disk.read(self.path, size, 0)
        slots = [decode_slot(data[:SLOT_BYTES]), decode_slot(data[SLOT_BYTES:])]
        whole = [slot for slot in slots if slot is not None]
        if whole:
            self._generation, saved = max(whole, key=lambda slot: slot[0])
            for lane, place in saved.items():
                least = min(place, ends.get(lane, place))
                self.is_dirty = self.is_dirty or least < place
                self._places[lane] = max(least, self._places.get(lane, 0))
        return bool(whole)

    def forsake_file(self) -> None:
        """It cannot be read: the next save is to a new one, on other blocks."""
        self._is_unreadable = True

    def save(self, disk: Disk, *, sync: bool = True) -> int:
        """Write the places, durably with `sync`; the flushes it took.

        OSError leaves it dirty, and the slot that was synced last untouched.
        """
        self.is_dirty = False  # before the places are taken: a later move sets it again
        generation = self._generation + 1
        slot = encode_slot(generation, dict(self._places))
        flushes = 0
        try:
            if self._is_unreadable:
                with contextlib.suppress(FileNotFoundError):
                    disk.rename(self.path, self.path.with_suffix(BAD_SUFFIX))
                self._is_unreadable = False
            is_new = self.path.name not in disk.names(self.path.parent)
            create = disk.create(self.path, 2 * SLOT_BYTES) if is_new else None
            file = create or disk.open(self.path, write=True)
            try:
                file.write(slot, generation % 2 * SLOT_BYTES)
                self.is_unsynced = True
                if sync or is_new:
                    file.sync()
                    flushes += 2 if is_new else 1
            finally:
                file.close()
            if not self._is_named:  # also where this failed after the file was made
                disk.sync_directory(self.path.parent)
                self._is_named = True
                flushes += 1
        except OSError:
            self.is_dirty = True
            raise
        if sync or is_new:
            self._generation = generation
            self.is_unsynced = False
        return flushes

    def place(self, lane: Lane) -> int | None:
        """Samples of the lane that are done with; None if it was never read."""
        return self._places.get(lane)

    def move(self, lane: Lane, place: int) -> None:
        if self._places.get(lane) != place:
            self._places[lane] = place
            self.is_dirty = True
