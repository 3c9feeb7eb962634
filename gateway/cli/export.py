"""Export: frames of the spool as a file of another format, as they come; memory stays flat.

    csv, jsonl     a row a sample, with what its tag says of it
    lineprotocol   the points that a sink would send (docs/formats/points.md)
    parquet        a row a sample, tags and labels as dictionaries; needs pyarrow

Values are what they were: the tag's type says whether `42` is a whole number, integers beyond
2**53 keep all their digits, and text stays text. A file appears under its name when it is whole.
"""

from __future__ import annotations

import csv
import io
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson

from gateway.errors import SluicegateError
from gateway.frame import Frame
from gateway.sinks.lineprotocol import LineEncoder
from gateway.sinks.rows import clean
from gateway.tag import DataType, Quality, TagTable

__all__ = ["COLUMNS", "Told", "export", "opened"]

COLUMNS = (
    "time", "tag", "value", "type", "eng_unit", "quality",
    "measurement", "field", "asset", "labels",
)  # fmt: skip
STANDARD_OUTPUT = "-"


@dataclass(slots=True)
class Told:
    """What became of the samples."""

    samples: int = 0
    refused: int = 0  # the format cannot carry them
    reason: str = ""  # of the last one


class Writer(ABC):
    """One format."""

    def __init__(self, file: IO[bytes], table: TagTable) -> None:
        self.file = file
        self.table = table
        self.told = Told()

    @abstractmethod
    def write(self, frame: Frame) -> None: ...

    def close(self) -> None:  # noqa: B027 - most formats end where their last row does
        """Write what belongs behind the last frame."""


def export(frames: Iterable[Frame], table: TagTable, form: str, out: str) -> Told:
    """Write all frames to the file `out`, "-" for standard output."""
    writer_class = _WRITERS[form]
    if form == "parquet" and out == STANDARD_OUTPUT:
        raise SluicegateError("Parquet is not for a terminal", hint="name a file with --out")
    with opened(out) as file:
        writer = writer_class(file, table)
        for frame in frames:
            writer.write(frame)
        writer.close()
    return writer.told


@contextmanager
def opened(out: str) -> Iterator[IO[bytes]]:
    """A file that appears under its name when it is whole; "-" is standard output.

    What is there and is no file - a pipe, a device - is written to as it is.
    """
    place = "standard output" if out == STANDARD_OUTPUT else out
    try:
        if out == STANDARD_OUTPUT:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
            return
        path = Path(out).resolve()  # through a link, not over it
        if not path.name or path.is_dir():
            raise SluicegateError(f"{out!r} is no file", hint="name one with --out")
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                yield file
            return
        with _whole(path) as file:
            yield file
    except BrokenPipeError:
        raise  # whoever read it has seen enough
    except OSError as error:
        raise SluicegateError(
            f"cannot write {place}: {error.strerror}", hint="choose another place with --out"
        ) from error


@contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


class _Columns:
    """The columns that a row has from its tag, prepared once a tag."""

    def __init__(self, table: TagTable) -> None:
        self._table = table
        self.tags: list[tuple[str, ...]] = []  # by id of the table: tag, eng_unit, ..., labels
        self.kinds: list[DataType] = []

    def prepare(self) -> None:
        for tag_id in range(len(self.tags), len(self._table)):
            tag = self._table[tag_id]
            labels = orjson.dumps(_clean(dict(tag.labels))).decode()
            names = (tag.name, tag.eng_unit, tag.measurement, tag.field, tag.asset, labels)
            self.tags.append(names)
            self.kinds.append(tag.value_type)

    def values(self, frame: Frame) -> list[Any]:
        """Each row's value as what it is: int, float, bool, str, or None for no value."""
        values: list[Any] = frame.values.tolist()
        kinds = np.array([kind is DataType.FLOAT64 for kind in self.kinds])
        other = np.flatnonzero(~kinds[frame.tag_ids] | ~np.isfinite(frame.values))
        for row in other.tolist():  # of whole numbers and truth only
            values[row] = _value_of(values[row], self.kinds[frame.tag_ids[row]])
        values_exact = frame.exact
        for row, value in values_exact.items():
            values[row] = value
        return values


def _value_of(value: float, kind: DataType) -> Any:
    if value != value:  # noqa: PLR0124 - NaN: there is no value
        return None
    if kind is DataType.INT64 and value.is_integer():
        return int(value)
    return bool(value) if kind is DataType.BOOL else value


def _type_name(value: Any) -> str:
    return _TYPE_NAMES[type(value)]


_TYPE_NAMES = {float: "float", int: "integer", bool: "bool", str: "string", type(None): ""}
_QUALITY_NAMES = [""] * 256
for _quality in Quality:
    _QUALITY_NAMES[_quality] = _quality.name.lower()


def _times(frame: Frame) -> list[str]:
    texts = np.datetime_as_string(frame.t_ns.view("datetime64[ns]"), unit="ns")
    times: list[str] = np.char.add(texts, "Z").tolist()
    return times


def _clean(value: Any) -> Any:
    """Texts within, such that they can be encoded."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return value


class CsvWriter(Writer):
    """RFC 4180; the column `type` tells the text 5 from the number."""

    def __init__(self, file: IO[bytes], table: TagTable) -> None:
        super().__init__(file, table)
        self._columns = _Columns(table)
        self._write_rows([COLUMNS])

    def write(self, frame: Frame) -> None:
        self._columns.prepare()
        self._write_rows(_rows(frame, self._columns))
        self.told.samples += len(frame)

    def _write_rows(self, rows: Iterable[tuple[Any, ...]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\r\n").writerows(rows)
        self.file.write(text.getvalue().encode("utf-8", "replace"))


def _rows(frame: Frame, columns: _Columns) -> Iterator[tuple[Any, ...]]:
    values = columns.values(frame)
    texts = ["true" if v is True else "false" if v is False else v for v in values]
    of_tags = [columns.tags[tag_id] for tag_id in frame.tag_ids.tolist()]
    quality = [_QUALITY_NAMES[code] for code in frame.quality.tolist()]
    return (
        (time, tag[0], text, _type_name(value), tag[1], code, *tag[2:])
        for time, tag, text, value, code in zip(
            _times(frame), of_tags, texts, values, quality, strict=True
        )
    )


class JsonlWriter(Writer):
    """An object a line; integers with all their digits, no value as null."""

    def __init__(self, file: IO[bytes], table: TagTable) -> None:
        super().__init__(file, table)
        self._columns = _Columns(table)
        self._ends: list[bytes] = []  # by id of the table: all that its tag says

    def write(self, frame: Frame) -> None:
        self._columns.prepare()
        for tag_id in range(len(self._ends), len(self.table)):
            tag = self.table[tag_id]
            facts = {
                "tag": tag.name, "eng_unit": tag.eng_unit, "measurement": tag.measurement,
                "field": tag.field, "asset": tag.asset, "labels": dict(tag.labels),
            }  # fmt: skip
            self._ends.append(orjson.dumps(_clean(facts))[1:])
        lines = [
            b'{"time":"%b","value":%b,"quality":"%b",%b\n'
            % (time.encode(), _json(value), quality, end)
            for time, value, quality, end in zip(
                _times(frame),
                self._columns.values(frame),
                [_QUALITY_NAMES[code].encode() for code in frame.quality.tolist()],
                [self._ends[tag_id] for tag_id in frame.tag_ids.tolist()],
                strict=True,
            )
        ]
        self.file.write(b"".join(lines))
        self.told.samples += len(frame)


def _json(value: Any) -> bytes:
    if isinstance(value, int) and not isinstance(value, bool):
        return b"%d" % value  # orjson refuses what 64 bits do not hold
    return orjson.dumps(_clean(value))


class LineWriter(Writer):
    """Points as a sink writes them."""

    def __init__(self, file: IO[bytes], table: TagTable) -> None:
        super().__init__(file, table)
        self._encoder = LineEncoder(table)

    def write(self, frame: Frame) -> None:
        encoded = self._encoder.encode(frame)
        self.file.write(b"".join(encoded.points))
        self.told.samples += len(frame) - len(encoded.refused)
        self.told.refused += len(encoded.refused)
        for reason in encoded.refused.values():
            self.told.reason = reason


class ParquetWriter(Writer):
    """`value` for numbers, `exact` for text and for integers beyond 2**53, `type` says which."""

    def __init__(self, file: IO[bytes], table: TagTable) -> None:
        super().__init__(file, table)
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise SluicegateError(
                "Parquet needs a package that is not installed: pyarrow",
                hint="pip install 'sluicegate[parquet]', or export --format csv",
            ) from error
        self._pa = pa
        self._columns = _Columns(table)
        text = pa.dictionary(pa.int32(), pa.string())
        self._schema = pa.schema(
            [
                ("time", pa.timestamp("ns", tz="UTC")),
                ("tag", text),
                ("value", pa.float64()),
                ("exact", pa.string()),
                ("type", text),
                ("eng_unit", text),
                ("quality", text),
                ("quality_code", pa.uint8()),
                ("measurement", text),
                ("field", text),
                ("asset", text),
                ("labels", text),  # JSON
            ]
        )
        self._file = pq.ParquetWriter(file, self._schema, compression="zstd")

    def write(self, frame: Frame) -> None:
        self._columns.prepare()
        used, places = np.unique(frame.tag_ids, return_inverse=True)
        tags = [tuple(map(_clean, self._columns.tags[tag_id])) for tag_id in used.tolist()]
        name, eng_unit, measurement, field, asset, labels = zip(*tags, strict=True)
        exact: list[str | None] = [None] * len(frame)
        types = np.array([_PARQUET_TYPES[self._columns.kinds[i]] for i in used.tolist()])[places]
        values = np.array(frame.values)
        for row, value in frame.exact.items():
            exact[row], values[row] = _clean(str(value)), np.nan
            types[row] = _TYPES.index(_type_name(value))
        types[np.isnan(values) & np.array([text is None for text in exact])] = 0
        columns = [
            self._pa.array(frame.t_ns, self._schema.field("time").type),
            self._named(places, name),
            self._pa.array(values, mask=np.isnan(values)),
            self._pa.array(exact, self._pa.string()),
            self._named(types, _TYPES),
            self._named(places, eng_unit),
            self._named(frame.quality, _QUALITY_NAMES),
            self._pa.array(frame.quality),
            *(self._named(places, of) for of in (measurement, field, asset, labels)),
        ]
        self._file.write_table(self._pa.Table.from_arrays(columns, schema=self._schema))
        self.told.samples += len(frame)

    def close(self) -> None:
        self._file.close()

    def _named(self, places: Any, names: Iterable[str]) -> Any:
        indices = self._pa.array(np.asarray(places).astype(np.int32))
        return self._pa.DictionaryArray.from_arrays(indices, self._pa.array(list(names)))


_TYPES = ["", "float", "integer", "bool", "string"]
_PARQUET_TYPES = {
    DataType.FLOAT64: 1, DataType.INT64: 2, DataType.BOOL: 3, DataType.STRING: 4,
}  # fmt: skip

_WRITERS: dict[str, type[Writer]] = {
    "csv": CsvWriter,
    "jsonl": JsonlWriter,
    "lineprotocol": LineWriter,
    "parquet": ParquetWriter,
}
