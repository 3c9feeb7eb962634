"""Checkpoint: what was in memory after one raw record, so that a replay need not begin before it.

One file, replaced whole: magic, version, raw sequence, the length of the rest, the rest (deflated
NPZ: the arrays, and the tags that their columns mean), CRC-32 of all before. It only saves work:
whatever is wrong with it, the raw lane is replayed from farther back instead.

Everything derived up to its sequence is on disk before it is, so whoever starts from it lacks
nothing that came before.
"""

from __future__ import annotations

import io
import logging
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gateway.errors import SpoolDamaged
from gateway.spool.dictionary import decode_tags, encode_tags
from gateway.spool.disk import Disk
from gateway.tag import Tag

__all__ = [
    "Checkpoint",
    "decode_checkpoint",
    "encode_checkpoint",
    "load_checkpoint",
    "save_checkpoint",
]

log = logging.getLogger(__name__)

NAME = "checkpoint"
_HEAD = struct.Struct("<4sB3xQQ")  # magic, version, raw sequence, bytes of the payload
_CHECKSUM = struct.Struct("<I")
_MAGIC = b"SlgP"
_VERSION = 1
_TAGS = "tags"
# A million tags in ten windows each; it bounds what a damaged file can make us read.
_BYTES_MAX = 2**30


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """State after the turns of all raw records up to `sequence`.

    The last axis of each array in `state` runs over `tags`.
    """

    sequence: int
    tags: Sequence[Tag]
    state: Mapping[str, npt.NDArray[Any]]

    def after(self, sequence: int) -> Checkpoint:
        """The same, known to be that after a raw record."""
        return Checkpoint(sequence, self.tags, self.state)


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """The whole file."""
    buffer = io.BytesIO()
    tags = np.frombuffer(encode_tags(checkpoint.tags), np.uint8)
    np.savez_compressed(buffer, allow_pickle=False, **{_TAGS: tags, **checkpoint.state})
    payload = buffer.getvalue()
    data = _HEAD.pack(_MAGIC, _VERSION, checkpoint.sequence, len(payload)) + payload
    return data + _CHECKSUM.pack(zlib.crc32(data))


def decode_checkpoint(data: bytes) -> Checkpoint:
    """The inverse. Raises SpoolDamaged."""
    end = len(data) - _CHECKSUM.size
    if end < _HEAD.size:
        raise SpoolDamaged("the checkpoint is cut off")
    magic, version, sequence, size = _HEAD.unpack_from(data)
    if (magic, version) != (_MAGIC, _VERSION):
        raise SpoolDamaged(f"not a checkpoint of version {_VERSION}")
    if _HEAD.size + size != end or _CHECKSUM.unpack_from(data, end)[0] != zlib.crc32(data[:end]):
        raise SpoolDamaged("the checkpoint is not what was written")
    try:
        with np.load(io.BytesIO(data[_HEAD.size : end]), allow_pickle=False) as stored:
            state = {name: stored[name] for name in stored.files if name != _TAGS}
            tags = decode_tags(stored[_TAGS].tobytes())
    except (ValueError, KeyError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise SpoolDamaged(f"the checkpoint cannot be read: {error}") from error
    return Checkpoint(sequence, tags, state)


def load_checkpoint(disk: Disk, directory: Path) -> Checkpoint | None:
    """The directory's checkpoint; None without one, or if it cannot be believed."""
    path = directory / NAME
    try:
        return decode_checkpoint(disk.read(path, min(disk.size(path), _BYTES_MAX), 0))
    except FileNotFoundError:
        return None
    except (OSError, SpoolDamaged) as error:
        log.warning("spool.checkpoint_unusable error=%s consequence=a longer replay", error)
        return None


def save_checkpoint(disk: Disk, directory: Path, checkpoint: Checkpoint) -> int:
    """Replace the directory's checkpoint; the bytes it took. OSError leaves the old one."""
    data = encode_checkpoint(checkpoint)
    new = directory / f"{NAME}.new"
    file = disk.create(new, 0)
    try:
        file.write(data, 0)
        file.sync()
    finally:
        file.close()
    disk.rename(new, directory / NAME)
    disk.sync_directory(directory)
    return len(data)
