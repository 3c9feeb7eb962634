"""A disk in memory that forgets, tears and refuses, by seed.

What is written is visible at once and durable after a sync. `power_cut` decides for every sector
that was not synced whether it is the new one, the old one, or torn within; names that were not
synced are undone from some point on, as an ordered journal does. `fail` makes coming calls fail.
After a sync that failed the kernel calls its pages clean: no later sync makes them durable. `lie`
has the coming sync say that all is well and leave a sector out, or put it somewhere else.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gateway.errors import SpoolLocked
from gateway.spool.disk import Disk, File

SECTOR = 512


class PowerCut(BaseException):
    """Whatever the process was about to do, it does not."""


@dataclass(eq=False)
class Inode:
    now: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    dirty: list[tuple[int, int]] = field(default_factory=list)  # begin and end of each write
    dropped: list[tuple[int, int]] = field(default_factory=list)  # the same, of failed syncs
    links: int = 1
    unreadable: list[range] = field(default_factory=list)


class SimulatedFile(File):
    def __init__(self, disk: SimulatedDisk, inode: Inode, *, holds_lock: bool = False) -> None:
        super().__init__(-1)
        self._disk = disk
        self._inode = inode
        self._boots = disk.boots
        self._holds_lock = holds_lock
        self._is_closed = False
        self._has_failed = False

    def sync(self) -> None:
        self._check()
        inode = self._inode
        try:
            self._step("sync")
        except OSError:
            inode.dropped += inode.dirty
            inode.dirty.clear()
            raise
        if len(inode.durable) < len(inode.now):
            inode.durable.extend(bytes(len(inode.now) - len(inode.durable)))
        if self._disk.liar is not None:
            self._disk.lie_about(inode)
        for begin, end in inode.dirty:
            inode.durable[begin:end] = inode.now[begin:end]
        inode.dirty.clear()
        self._disk.syncs += 1
        names = self._disk._names.items()
        self._disk.synced += [path.name for path, known in names if known is inode]

    def forget_cache(self) -> None:
        self._disk.step("forget_cache")
        inode = self._inode
        if not inode.dirty and inode.dropped:
            inode.now[: len(inode.durable)] = inode.durable
            inode.dropped.clear()

    def is_linked(self) -> bool:
        return self._inode.links > 0

    def close(self) -> None:
        assert not self._is_closed, "closed twice"
        self._is_closed = True
        self._disk.files_open -= 1
        if self._holds_lock:
            self._disk.is_locked = False

    def append(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        rest = -(offset + len(data)) % SECTOR if self._disk.fills_sectors else 0
        self.write(bytes(data) + bytes(rest), offset)

    def _pwrite(self, data: memoryview, offset: int) -> int:
        self._check()
        self._step("write")
        size = len(data)
        if self._disk.short_writes is not None:
            size = self._disk.short_writes.randint(1, size)
        inode = self._inode
        end = offset + size
        if len(inode.now) < end:
            self._disk.use(end - len(inode.now))
            inode.now.extend(bytes(end - len(inode.now)))
        inode.now[offset:end] = data[:size]
        inode.dirty.append((offset, end))
        return size

    def _pread(self, size: int, offset: int) -> bytes:
        assert not self._is_closed
        self._disk.step("read")
        if any(offset < bad.stop and bad.start < offset + size for bad in self._inode.unreadable):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        data = bytes(self._inode.now[offset : offset + size])
        self._disk.bytes_read += len(data)
        return data

    def _step(self, call: str) -> None:
        try:
            self._disk.step(call)
        except OSError:
            self._has_failed = True
            raise

    def _check(self) -> None:
        assert not self._is_closed, "used after it was closed"
        assert self._boots == self._disk.boots, "used after the power cut"
        assert not self._has_failed, "used after it failed"


class SimulatedDisk(Disk):
    """Directories are not modelled: a name is a whole path."""

    def __init__(self, size: int = 2**40) -> None:
        self.size_total = size
        self.bytes_used = 0
        self.files_open = 0
        self.syncs = 0
        self.synced: list[str] = []  # names of files, in the order they were synced
        self.bytes_read = 0
        self.steps = 0
        self.boots = 0
        self.cut_at: int | None = None  # step from which on there is no power
        self.is_locked = False
        self.short_writes: random.Random | None = None
        self.fills_sectors = False  # with zeros, behind what is appended
        self.liar: random.Random | None = None  # for one sync
        self._names: dict[Path, Inode] = {}
        self._names_durable: dict[Path, Inode] = {}
        self._journal: list[Callable[[dict[Path, Inode]], None]] = []  # not synced
        self._failures: Callable[[str], int] = lambda _: 0

    # What tests do to it.

    def fail(self, when: Callable[[str], int]) -> None:
        """`when` gives the errno for a call ("sync", "write", "create", ...), 0 for none."""
        self._failures = when

    def heal(self) -> None:
        self._failures = lambda _: 0

    def power_cut(self, rng: random.Random) -> None:
        """All that was not synced is as chance will have it; open files are gone."""
        self.boots += 1
        self.cut_at = None
        self.is_locked = False
        self.files_open = 0
        self.heal()
        for operation in self._journal[: rng.randint(0, len(self._journal))]:
            operation(self._names_durable)
        self._journal.clear()
        self._names = dict(self._names_durable)
        for inode in {id(inode): inode for inode in self._names.values()}.values():
            inode.links = 1
            self._decide_all(inode, rng)
            inode.now = inode.durable.copy()
        self.bytes_used = sum(len(inode.now) for inode in self._names.values())

    def killed(self) -> None:
        """The process is gone, and what it wrote is in the cache of a kernel that lives on."""
        self.boots += 1
        self.cut_at = None
        self.is_locked = False
        self.files_open = 0

    def flip_bit(self, rng: random.Random, path: Path, start: int, end: int) -> None:
        """One bit rots, on disk as in the cache."""
        inode = self._names[path]
        at, bit = rng.randrange(start, end), 1 << rng.randrange(8)
        for data in (inode.now, inode.durable):
            data[at] ^= bit

    def make_unreadable(self, path: Path, begin: int = 0, end: int = 2**63) -> None:
        """Part of a file, or all of it, is refused from now on."""
        self._names[path].unreadable.append(range(begin, end))

    def make_readable(self, path: Path) -> None:
        self._names[path].unreadable.clear()

    def lie_about(self, inode: Inode) -> None:
        """One sector of those to be synced is lost, or written to some other place on the disk."""
        rng, self.liar = self.liar, None
        if rng is None or not inode.dirty:
            return
        begin, end = inode.dirty.pop(rng.randrange(len(inode.dirty)))
        sector = rng.randrange(begin // SECTOR, -(-end // SECTOR)) * SECTOR
        lost, behind = max(begin, sector), min(end, sector + SECTOR)
        inode.dirty += [part for part in ((begin, lost), (behind, end)) if part[0] < part[1]]
        if rng.random() < 0.5:
            other = self._names[rng.choice(sorted(self._names))]
            place = rng.randrange(0, max(1, len(other.durable)), SECTOR)
            size = len(other.durable[place : place + SECTOR])
            other.durable[place : place + size] = inode.now[sector : sector + size].ljust(
                size, b"\0"
            )

    def content(self, path: Path) -> bytearray:
        return self._names[path].now

    def paths(self) -> list[Path]:
        return sorted(self._names)

    def put(self, path: Path, data: bytes) -> None:
        """A file that somebody else left there."""
        inode = Inode(bytearray(data), bytearray(data))
        self._names[path] = self._names_durable[path] = inode

    def step(self, call: str) -> None:
        self.steps += 1
        if self.cut_at is not None and self.steps >= self.cut_at:
            raise PowerCut
        code = self._failures(call)
        if code:
            raise OSError(code, os.strerror(code))

    def use(self, size: int) -> None:
        if self.bytes_used + size > self.size_total:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.bytes_used += size

    # What the spool does with it.

    def open(self, path: Path, *, write: bool = False) -> File:  # noqa: ARG002 - as Disk has it
        self.step("open")
        return self._opened(self._inode(path))

    def create(self, path: Path, size: int) -> File:
        self.step("create")
        self._change(lambda names: names.pop(path, None))
        inode = Inode()
        self._change(lambda names: names.__setitem__(path, inode))
        file = self._opened(inode)
        try:
            file.write(bytes(size), 0)
            file.sync()
        except OSError:
            file.close()
            self._change(lambda names: names.pop(path, None))
            self._free(inode)
            raise
        return file

    def size(self, path: Path) -> int:
        self.step("size")
        return len(self._inode(path).now)

    def names(self, directory: Path) -> list[str]:
        self.step("names")
        return sorted(path.name for path in self._names if path.parent == directory)

    def rename(self, old: Path, new: Path) -> None:
        self.step("rename")
        inode = self._inode(old)
        if new in self._names:
            # What is copied from memory may have been there already, its name not synced.
            may_be = ("spare.seg", "checkpoint", "boots")
            assert new.name in may_be or old.name == "settling.seg", "renamed over a segment"
            self._free(self._names[new])

        def operation(names: dict[Path, Inode]) -> None:
            names.pop(old, None)
            names[new] = inode

        self._change(operation)

    def unlink(self, path: Path) -> None:
        self.step("unlink")
        self._free(self._inode(path))
        self._change(lambda names: names.pop(path, None))

    def make_directory(self, path: Path) -> None:  # noqa: ARG002 - likewise
        self.step("make_directory")

    def sync_directory(self, path: Path) -> None:  # noqa: ARG002 - there is one
        self.step("sync_directory")
        self._names_durable = dict(self._names)
        self._journal.clear()

    def bytes_free(self, directory: Path) -> int:  # noqa: ARG002 - there is one
        return self.size_total - self.bytes_used

    def lock(self, path: Path) -> File:  # noqa: ARG002 - there is one
        self.step("lock")
        if self.is_locked:
            raise SpoolLocked("another process writes to this spool")
        self.is_locked = True
        return self._opened(Inode(), holds_lock=True)

    def _opened(self, inode: Inode, *, holds_lock: bool = False) -> SimulatedFile:
        self.files_open += 1
        return SimulatedFile(self, inode, holds_lock=holds_lock)

    def _inode(self, path: Path) -> Inode:
        inode = self._names.get(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return inode

    def _change(self, operation: Callable[[dict[Path, Inode]], object]) -> None:
        operation(self._names)
        self._journal.append(operation)  # type: ignore[arg-type] - what it returns is not used

    def _free(self, inode: Inode) -> None:
        inode.links = 0
        self.bytes_used -= len(inode.now)

    def _decide_all(self, inode: Inode, rng: random.Random) -> None:
        if not (inode.dirty or inode.dropped):
            return
        if len(inode.durable) < len(inode.now):  # its length was not synced: holes are zeros
            inode.durable.extend(bytes(len(inode.now) - len(inode.durable)))
        sectors = {
            sector
            for begin, end in (*inode.dirty, *inode.dropped)
            for sector in range(begin // SECTOR, -(-end // SECTOR))
        }
        for sector in sorted(sectors):
            self._decide(inode, sector * SECTOR, rng)
        inode.dirty.clear()
        inode.dropped.clear()

    @staticmethod
    def _decide(inode: Inode, start: int, rng: random.Random) -> None:
        chance = rng.random()
        if chance < 1 / 3:
            keep = SECTOR
        elif chance < 2 / 3:
            return
        else:
            # Torn where old and new differ, or nothing would be torn for most sectors.
            old, new = (
                int.from_bytes(data[start : start + SECTOR].ljust(SECTOR, b"\0"))
                for data in (inode.durable, inode.now)
            )
            change = old ^ new
            first = SECTOR - (change.bit_length() + 7) // 8
            behind = SECTOR - ((change & -change).bit_length() - 1) // 8 if change else first
            keep = rng.randint(first, behind)
        inode.durable[start : start + keep] = inode.now[start : start + keep]
