"""Boots: by how much the provisional times of each boot of the machine are to be corrected.

A board without a clock chip stamps what it reads with times that are right to each other only
(`gateway.clock`). They are stored as they are, and marked with their boot. Once the time is known,
the difference is written down here, once and for good, and everybody who reads such a record adds
it: a sample has the same time however often it is read.

A boot whose difference can never be known - the power failed before anybody had told the time -
gets one that has its last sample just before the next boot began (`estimated`), and one that a
patient operator gave up waiting for keeps its own times (`unsynchronised`). Samples of both are
marked `UNCERTAIN_CLOCK`.

The file is replaced as a whole: `"SlgB"`, u8 version, 3 zeros, u32 bytes of the payload, the
payload (JSON), u32 CRC of all before.
"""

from __future__ import annotations

import contextlib
import json
import logging
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from gateway.errors import SpoolDamaged
from gateway.frame import Frame, TimeArray
from gateway.spool.disk import Disk
from gateway.tag import Quality

__all__ = ["Boot", "Boots", "Verdict", "decode_boots", "encode_boots"]

log = logging.getLogger(__name__)

NAME = "boots"
# A board that is switched on twice a day for a year; older ones have no records left.
BOOTS_MAX = 1024
_BYTES_MAX = 1024 * 1024
_HEAD = struct.Struct("<4sB3xI")
_CHECKSUM = struct.Struct("<I")
_MAGIC, _VERSION = b"SlgB", 1

Verdict: TypeAlias = Literal["waiting", "exact", "estimated", "unsynchronised"]


class Boot(NamedTuple):
    """One boot that had provisional times."""

    offset_ns: int  # provisional UTC less monotonic time
    missing_ns: int = 0  # what is to be added to provisional times
    verdict: Verdict = "waiting"

    @property
    def is_known(self) -> bool:
        """Whether its times may be shown to anybody who remembers them."""
        return self.verdict != "waiting"


class Boots:
    """By boot id. Replaced as one, so that other threads may look at any moment."""

    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk = disk
        self._path = directory / NAME
        self._boots: Mapping[int, Boot] = {}
        self._is_loaded = False
        self._is_unsaved = False  # there is less on disk

    def __getitem__(self, boot_id: int) -> Boot:
        """A boot that nothing is on record of waits like any other."""
        return self._boots.get(boot_id) or Boot(0)

    def __contains__(self, boot_id: int) -> bool:
        return boot_id in self._boots

    def load(self, *, in_memory: bool = False) -> None:
        """Take what is on disk; what cannot be believed counts as not there.

        Raises OSError, except in memory: it is tried again then, before anything is saved over it.
        """
        try:
            self._load()
        except OSError as error:
            if not in_memory:
                raise
            log.warning("spool.boots_unreadable error=%s", error)

    def _load(self) -> None:
        try:
            data = self._disk.read(self._path, min(self._disk.size(self._path), _BYTES_MAX), 0)
            on_disk = decode_boots(data)
        except FileNotFoundError:
            on_disk = {}
        except SpoolDamaged as error:
            _log_damaged(error)
            on_disk = {}
        self._boots = _joined(on_disk, self._boots)
        self._is_loaded = True

    def save(self, boots: Mapping[int, Boot], *, in_memory: bool) -> None:
        """Have these from now on. With OSError, still those of before."""
        if in_memory:
            self._boots, self._is_unsaved = _newest(boots), True
            return
        unreadable: OSError | None = None
        if not self._is_loaded:
            try:
                self._load()
            except OSError as error:
                unreadable = error
            boots = _joined(self._boots, boots)
        newest = _newest(boots)
        new = self._path.with_suffix(".new")
        file = self._disk.create(new, 0)
        try:
            file.write(encode_boots(newest), 0)
            file.sync()
        finally:
            file.close()
        self._disk.rename(new, self._path)
        self._disk.sync_directory(self._path.parent)
        if unreadable is not None:  # by a disk that takes what is written
            _log_damaged(unreadable)
        self._boots, self._is_loaded, self._is_unsaved = newest, True, False

    def leave_memory(self) -> None:
        """Save what was only remembered, beside what could not be read. Raises OSError."""
        if not self._is_loaded:
            with contextlib.suppress(OSError):
                self._load()
        if self._is_unsaved or not self._is_loaded:
            self.save(self.all(), in_memory=False)

    @property
    def known(self) -> object:
        """Another one whenever something else is known."""
        return self._boots

    def all(self) -> dict[int, Boot]:
        """A copy, oldest first."""
        return dict(self._boots)

    def missing_ns(self, boot_ids: npt.NDArray[np.uint64]) -> TimeArray:
        """What to add to the times of records by their boots; 0 for boot 0 and while it waits."""
        if len(boot_ids) and (boot_ids == boot_ids[0]).all():  # as most segments are of one boot
            boot_id = int(boot_ids[0])
            return np.full(len(boot_ids), self[boot_id].missing_ns if boot_id else 0)
        out = np.zeros(len(boot_ids), np.int64)
        for boot_id in np.unique(boot_ids[boot_ids != 0]).tolist():
            out[boot_ids == boot_id] = self[boot_id].missing_ns
        return out

    def extremes_ns(self) -> tuple[int, int]:
        """The least and the greatest that is added to any time, 0 included."""
        missing = [0, *(boot.missing_ns for boot in self._boots.values())]
        return min(missing), max(missing)

    def correct(self, frame: Frame, boot_id: int) -> Frame:
        """A record's frame with the times, and the quality, that are known by now."""
        boot = self[boot_id]
        quality = frame.quality
        if boot.verdict in ("estimated", "unsynchronised"):
            is_good = quality < Quality.UNCERTAIN
            quality = np.where(is_good, np.uint8(Quality.UNCERTAIN_CLOCK), quality)
        t_ns = frame.t_ns + boot.missing_ns
        return Frame(t_ns, frame.tag_ids, frame.values, quality, frame.exact)


def _joined(old: Mapping[int, Boot], new: Mapping[int, Boot]) -> dict[int, Boot]:
    """Of a boot that is in both, what is new; but a verdict is once and for all."""
    known = {boot_id for boot_id, boot in old.items() if boot.is_known}
    return dict(old) | {boot_id: boot for boot_id, boot in new.items() if boot_id not in known}


def _newest(boots: Mapping[int, Boot]) -> dict[int, Boot]:
    return dict(list(boots.items())[-BOOTS_MAX:])


def _log_damaged(error: Exception) -> None:
    log.error(
        "spool.boots_damaged error=%s consequence=times from before the clock was set are"
        " estimated",
        error,
    )


def encode_boots(boots: Mapping[int, Boot]) -> bytes:
    """The whole file."""
    payload = json.dumps([[boot_id, *boot] for boot_id, boot in boots.items()]).encode()
    data = _HEAD.pack(_MAGIC, _VERSION, len(payload)) + payload
    return data + _CHECKSUM.pack(zlib.crc32(data))


def decode_boots(data: bytes) -> dict[int, Boot]:
    """The inverse. Raises SpoolDamaged."""
    end = len(data) - _CHECKSUM.size
    if end < _HEAD.size:
        raise SpoolDamaged("the record of boots is cut off")
    magic, version, size = _HEAD.unpack_from(data)
    whole = (magic, version, _HEAD.size + size) == (_MAGIC, _VERSION, end)
    if not whole or _CHECKSUM.unpack_from(data, end)[0] != zlib.crc32(data[:end]):
        raise SpoolDamaged("the record of boots is not what was written")
    try:
        rows = json.loads(data[_HEAD.size : end])
        return {int(row[0]): Boot(int(row[1]), int(row[2]), row[3]) for row in rows}
    except (ValueError, TypeError, IndexError) as error:
        raise SpoolDamaged(f"the record of boots cannot be read: {error}") from error
