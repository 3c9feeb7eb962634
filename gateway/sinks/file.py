"""Files in a folder, one after another: line protocol, CSV or JSON lines.

    plant-000001.csv   finished when it is larger than file_bytes_max
    plant-000002.csv   the newest; appended to, also after a restart

A batch is synced before it counts as stored. What a power cut left of a last line is cut off at
the next start; the batch it was of is written again, so lines can come twice: (tag, time) tells.

Others may work on the files meanwhile, such as logrotate. Each write goes to the file that has the
name now, at the end it has now; one that was moved away, deleted or emptied is begun anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.errors import SinkError, SinkParked, SinkUnavailable
from gateway.frame import Frame
from gateway.sinks import Receipt, SinkStats
from gateway.sinks.config import FileSinkSettings
from gateway.sinks.lineprotocol import LineEncoder
from gateway.sinks.rows import CSV_HEADER, csv_rows, json_rows
from gateway.tag import Tags

__all__ = ["FileSink", "build"]

_SUFFIXES = {"lineprotocol": "lp", "csv": "csv", "jsonl": "jsonl"}
# The end of the last whole line of a file is looked for in pieces of this size.
_TAIL_BYTES = 256 * 1024
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def build(settings: FileSinkSettings, table: Tags) -> FileSink:
    """The sink for one [[sink]]."""
    return FileSink(settings, table)


class FileSink:
    """Appends frames to files. Disk calls are made in a thread, one at a time."""

    is_concurrent = False

    def __init__(self, settings: FileSinkSettings, table: Tags) -> None:
        self.name = settings.name
        self.stats = SinkStats()
        self._settings = settings
        self._folder = Path(settings.directory)
        self._suffix = _SUFFIXES[settings.format]
        self._header = CSV_HEADER if settings.format == "csv" else b""
        self._lines = LineEncoder(table)
        self._rows = csv_rows(table) if settings.format == "csv" else json_rows(table)
        self._descriptor = -1
        self._path = self._folder
        self._size = 0

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """The folder need not be there yet."""
        try:
            yield
        finally:
            await asyncio.to_thread(self._close)

    async def write(self, frame: Frame) -> Receipt:
        """Append a frame; see `Sink.write`."""
        data, rejected = self._encoded(frame)
        if data:
            await asyncio.to_thread(self._append, data)
            self.stats.bytes_total += len(data)
        return Receipt(accepted=range(len(frame)), rejected=rejected)

    def _encoded(self, frame: Frame) -> tuple[bytes, Mapping[int, str]]:
        match self._settings.format:
            case "lineprotocol":
                encoded = self._lines.encode(frame)
                return b"".join(encoded.points), encoded.refused
            case "jsonl":
                return b"".join(row + b"\n" for row in self._rows.encode(frame)), {}
            case _:
                return b"".join(self._rows.encode(frame)), {}

    def _append(self, data: bytes) -> None:
        """Write and sync; OSError is told as what it means, and nothing of `data` is left."""
        try:
            self._open_for(len(data))
            _write_all(self._descriptor, data)
            os.fdatasync(self._descriptor)
        except OSError as error:
            self._take_back()
            raise _told(error, self._path) from error
        self._size += len(data)

    def _open_for(self, size: int) -> None:
        """Have a file open that has room, and room in the folder."""
        if not self._is_in_place():
            self._close()
            self._folder.mkdir(exist_ok=True)  # its parent must be there: a stick may be missing
            newest = max(self._files(), default=None)
            self._begin(newest[1] if newest else self._file(1))
        elif os.fstat(self._descriptor).st_size != self._size:
            self._settle()  # somebody else has shortened it, or written to it
        if self._size + size > self._settings.file_bytes_max and self._size > len(self._header):
            number = max(self._files(), default=(0, self._folder))[0]
            self._close()
            self._begin(self._file(number + 1))
        self._make_room(size)

    def _is_in_place(self) -> bool:
        """Whether the file that is open still has its name."""
        if self._descriptor < 0:
            return False
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(self._descriptor))

    def _begin(self, path: Path) -> None:
        """Open a file to append to, without what is torn at its end."""
        self._path = path
        is_new = not path.exists()
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o640)
        self._settle()
        if is_new:
            descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _settle(self) -> None:
        """Have the file end with a whole line, the header at least."""
        self._size = _cut_torn_line(self._descriptor)
        if not self._size:
            _write_all(self._descriptor, self._header)
            self._size = len(self._header)

    def _make_room(self, size: int) -> None:
        files = sorted(self._files())
        sizes = {path: path.stat().st_size for _, path in files}
        while sum(sizes.values()) + size > self._settings.bytes_max and len(sizes) > 1:
            oldest = next(iter(sizes))
            oldest.unlink()
            del sizes[oldest]

    def _files(self) -> list[tuple[int, Path]]:
        """The sink's own files in the folder, with their numbers."""
        ours = re.compile(rf"{re.escape(self.name)}-(\d{{6,}})\.{self._suffix}")
        found = []
        with contextlib.suppress(FileNotFoundError):
            for path in self._folder.iterdir():
                match = ours.fullmatch(path.name)
                if match:
                    found.append((int(match[1]), path))
        return found

    def _file(self, number: int) -> Path:
        return self._folder / f"{self.name}-{number:06d}.{self._suffix}"

    def _take_back(self) -> None:
        """After a failure: the file ends where it did, and is opened anew."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
        self._close()

    def _close(self) -> None:
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
        self._descriptor = -1


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _cut_torn_line(descriptor: int) -> int:
    """Truncate behind the last line break; the size that is left."""
    size = end = os.fstat(descriptor).st_size
    whole = 0
    while end and not whole:  # what a power cut left of a batch may be megabytes of zeros
        begin = max(0, end - _TAIL_BYTES)
        whole = begin + os.pread(descriptor, end - begin, begin).rfind(b"\n") + 1
        whole, end = (0 if whole == begin else whole), begin
    if whole < size:
        os.ftruncate(descriptor, whole)
    return whole


def _told(error: OSError, path: Path) -> SinkError:
    told = f"cannot write {path}: {error.strerror or error}"
    if error.errno in _FORBIDDEN:
        hint = "let the service write there: its unit needs ReadWritePaths="
        return SinkParked(told, hint=hint)
    return SinkUnavailable(told)
