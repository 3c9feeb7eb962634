"""Tables: a CSV or Parquet file as columns, some ten thousand rows at a time.

Nothing is guessed about what the columns mean; that is `layout`'s business. A file of any size
costs one chunk of memory. What cannot be read is a Problem with file and row.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from gateway.errors import Problem, RecordingInvalid, SluicegateError
from gateway.frame import BoolArray

__all__ = ["Chunk", "Column", "Numbers", "Table", "invalid", "open_table"]

CHUNK_ROWS = 16_384
# A row of a wide file with 1,000 tags; what is longer is not a table.
ROW_CHARACTERS_MAX = 256 * 1024
_SEPARATORS = (";", "\t", ",")
_SAVE_UTF8 = "save the file as UTF-8 (a spreadsheet offers 'CSV UTF-8')"


@dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """A column that the file itself says is of numbers, or of times."""

    values: npt.NDArray[Any]  # float64, int64, or datetime64[ns]
    present: BoolArray  # false where the file has nothing


Column: TypeAlias = Sequence[str] | Numbers


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Some rows; `rows[i]` is where the i-th one stands in the file, for messages."""

    rows: Sequence[int]
    columns: Sequence[Column]


class Table(Protocol):
    """A file with named columns."""

    path: Path
    header: tuple[str, ...]
    is_decimal_comma: bool

    def chunks(self) -> Iterator[Chunk]: ...


def open_table(path: Path) -> Table:
    """The table in a file, by what it begins with; raises RecordingInvalid."""
    try:
        if not path.is_file():
            raise invalid(path, "the file", "there is no such file", "see where it was written to")
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise invalid(
            path, "the file", f"it cannot be read: {error.strerror}", "see who may read it"
        ) from error
    if magic == b"PAR1":
        return _ParquetTable(path)
    if magic[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise invalid(path, "the file", "it is UTF-16", _SAVE_UTF8)
    if magic in (b"PK\x03\x04", b"\x1f\x8b\x08\x00", b"\x1f\x8b\x08\x08"):
        raise invalid(
            path, "the file", "it is a spreadsheet or packed", "save it as CSV or Parquet, unpacked"
        )
    return _CsvTable(path)


def invalid(path: Path, place: str, found: str, mend: str) -> RecordingInvalid:
    """The error about one place of a recording."""
    return RecordingInvalid([Problem(file=str(path), place=place, found=found, mend=mend)])


class _CsvTable:
    """Comma, semicolon or tab, whichever the first line has most of; quotes as RFC 4180 has them.

    With semicolons a comma may be the decimal point.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._opened() as lines:
            first = next(lines, "")
            said = first.strip().lower().removeprefix("sep=")
            self._skip = 0
            if first.lower().startswith("sep=") and said in _SEPARATORS:
                self._skip, first = 1, next(lines, "")  # a spreadsheet's own remark
        outside_quotes = "".join(first.split('"')[::2])
        self._separator = max(_SEPARATORS, key=outside_quotes.count)
        if not outside_quotes.count(self._separator):
            self._separator = ","
        self.is_decimal_comma = self._separator == ";"
        names = next(csv.reader([first], delimiter=self._separator), [])
        self.header = tuple(name.strip() for name in names)
        if not any(self.header):
            raise invalid(path, "row 1", "there is no header", "name the columns in the first row")

    def chunks(self) -> Iterator[Chunk]:
        width = len(self.header)
        with self._opened() as lines:
            reader = csv.reader(lines, delimiter=self._separator, strict=True)
            try:
                for _ in range(self._skip + 1):
                    next(reader, None)
                while True:
                    rows, cells = self._take(reader, width)
                    if not rows:
                        return
                    yield Chunk(rows, list(zip(*cells, strict=True)))
            except csv.Error as error:
                raise invalid(
                    self.path,
                    f"row {reader.line_num}",
                    f"it is not CSV: {error}",
                    "a quote may be missing or too many",
                ) from error

    def _take(self, reader: Any, width: int) -> tuple[list[int], list[list[str]]]:
        rows: list[int] = []
        cells: list[list[str]] = []
        for row in reader:
            if not any(row):
                continue  # an empty line
            if len(row) != width:
                raise invalid(
                    self.path,
                    f"row {reader.line_num}",
                    f"it has {len(row)} columns, the header {width}",
                    f"see whether a value holds the separator {self._separator!r},"
                    " or the line was cut off",
                )
            rows.append(reader.line_num)
            cells.append(row)
            if len(rows) == CHUNK_ROWS:
                break
        return rows, cells

    def _opened(self) -> _Lines:
        return _Lines(self.path)


class _ParquetTable:
    """Columns as the file has them; numbers and times need no reading."""

    is_decimal_comma = False

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            import pyarrow as pa  # noqa: PLC0415 - an extra that few need
            import pyarrow.parquet as pq  # noqa: PLC0415
        except ImportError as error:
            raise SluicegateError(
                f"{path} is Parquet, which needs a package that is not installed: pyarrow",
                hint="pip install 'sluicegate[parquet]', or save the recording as CSV",
            ) from error
        self._pa = pa
        try:
            self._file = pq.ParquetFile(path)
            self.header = tuple(str(name) for name in self._file.schema_arrow.names)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(error) from error

    def chunks(self) -> Iterator[Chunk]:
        row = 1
        try:
            for batch in self._file.iter_batches(CHUNK_ROWS):
                columns = [self._column(column) for column in batch.columns]
                yield Chunk(range(row, row + batch.num_rows), columns)
                row += batch.num_rows
        except (OSError, self._pa.ArrowException) as error:
            raise self._damaged(error) from error

    def _column(self, column: Any) -> Column:
        types, kind = self._pa.types, column.type
        if types.is_dictionary(kind):
            column = column.dictionary_decode()
            kind = column.type
        if types.is_null(kind):
            return Numbers(np.zeros(len(column)), np.zeros(len(column), np.bool_))
        if types.is_string(kind) or types.is_large_string(kind):
            return [text or "" for text in column.to_pylist()]
        present = np.array(column.is_valid(), np.bool_)
        if types.is_timestamp(kind) or types.is_date(kind):
            column = column.cast(self._pa.timestamp("ns", tz=getattr(kind, "tz", None)))
            return Numbers(
                column.fill_null(0)
                .cast(self._pa.int64())
                .to_numpy(zero_copy_only=False)
                .view("datetime64[ns]"),
                present,
            )
        if types.is_integer(kind) and kind != self._pa.uint64():
            filled = column.cast(self._pa.int64()).fill_null(0)
            return Numbers(filled.to_numpy(zero_copy_only=False), present)
        if types.is_boolean(kind):
            column = column.cast(self._pa.uint8())
        elif not (types.is_floating(kind) or types.is_decimal(kind) or types.is_integer(kind)):
            return [""] * len(column)  # lists, structures, bytes: nothing that is watched
        filled = column.cast(self._pa.float64()).fill_null(np.nan)
        return Numbers(filled.to_numpy(zero_copy_only=False), present)

    def _damaged(self, error: Exception) -> RecordingInvalid:
        found = f"it cannot be read as Parquet: {' '.join(str(error).split())[:200]}"
        return invalid(self.path, "the file", found, "copy the file again, or save it anew")


class _Lines:
    """Text lines of a file, each within bounds; RecordingInvalid says which is not."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number = 0

    def __enter__(self) -> Self:
        try:
            self._file = self._path.open(encoding="utf-8-sig", newline="", errors="strict")
        except OSError as error:
            raise invalid(
                self._path,
                "the file",
                f"it cannot be read: {error.strerror}",
                "see who may read it",
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        self._number += 1
        place = f"row {self._number}"
        try:
            line = self._file.readline(ROW_CHARACTERS_MAX + 1)
        except UnicodeDecodeError as error:
            # The decoder reads ahead; the line is the first it could not give.
            raise invalid(
                self._path, f"{place} or after", f"it is not UTF-8: {error.reason}", _SAVE_UTF8
            ) from error
        except OSError as error:
            raise invalid(
                self._path, place, f"it cannot be read: {error.strerror}", "copy the file again"
            ) from error
        if len(line) > ROW_CHARACTERS_MAX:
            raise invalid(self._path, place, "it has no end", "is this a CSV file?")
        if "\0" in line:
            raise invalid(self._path, place, "it holds a NUL byte", "is this a CSV file?")
        if not line:
            raise StopIteration
        return line
