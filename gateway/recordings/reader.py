"""Reader: a recording as frames in the order of time, as a source would have given them.

A file that fits into memory may be in any order; a longer one must be in the order of time. A
cell that is no number is an error with its row and column: a silent gap would be learned from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from gateway.errors import RecordingInvalid, SluicegateError
from gateway.frame import BoolArray, ByteArray, Frame, IdArray, TimeArray
from gateway.recordings.cells import NotANumber, numbers_of, qualities_of, truths_of
from gateway.recordings.layout import LongLayout, RecordingOptions, WideLayout, layout_of
from gateway.recordings.tables import Chunk, Column, Numbers, invalid, open_table
from gateway.recordings.times import NotATime, times_of_numbers, times_of_texts
from gateway.tag import Quality, Tag, TagTable

__all__ = ["Naming", "Reader", "Told"]

Naming = Callable[[str, str, str], Tag | None]
"""The tag of an asset, a field and an engineering unit ("" when not said); None: not wanted."""

# 21 bytes each, and as much again while they are sorted.
SORT_SAMPLES_MAX = 2_000_000
FRAME_SAMPLES = 65_536
_UNUSABLE = np.uint8(Quality.BAD_SENSOR_FAILURE)
_TEXT_TYPES = ("string",)


@dataclass(slots=True)
class Told:
    """What was in a recording."""

    rows: int = 0
    samples: int = 0
    samples_bad: int = 0
    rows_of_text: int = 0  # a long file's samples that are no numbers
    left_out: list[tuple[str, str]] = field(default_factory=list)  # column, why
    label_column: str = ""


class Reader:
    """One file. Raises RecordingInvalid when it is opened, or while its frames are taken."""

    def __init__(
        self, path: Path, table: TagTable, naming: Naming, options: RecordingOptions | None = None
    ) -> None:
        self._options = options or RecordingOptions()
        self.table = table
        self._naming = naming
        self._file = open_table(path)
        self._chunks = self._file.chunks()
        self._first = next(self._chunks, None)
        self._layout = layout_of(self._file, self._first, self._options)
        self._ids: dict[tuple[str, str, str], int] = {}  # -1: not wanted
        self._labels: list[tuple[TimeArray, BoolArray]] = []
        self.path = path
        self.told = Told(left_out=list(self._layout.left_out))
        if self._layout.label is not None:
            self.told.label_column = self._file.header[self._layout.label]

    def frames(self) -> Iterator[Frame]:
        """All samples, oldest first; to be called once."""
        if self._first is None:
            raise invalid(self.path, "the file", "it has no rows", "see where it was written to")
        read = self._wide if isinstance(self._layout, WideLayout) else self._long
        yield from self._in_order(map(read, chain([self._first], self._chunks)))
        if not self.told.samples:
            raise invalid(
                self.path, "the file", "it has no samples", "see whether its cells are empty"
            )

    def labels(self) -> tuple[TimeArray, BoolArray]:
        """Times and whether the label was set, as far as frames have been taken; oldest first."""
        if not self._labels:
            return np.empty(0, np.int64), np.empty(0, np.bool_)
        t_ns = np.concatenate([times for times, _ in self._labels])
        truths = np.concatenate([truths for _, truths in self._labels])
        order = np.argsort(t_ns, kind="stable")
        return t_ns[order], truths[order]

    def _wide(self, chunk: Chunk) -> Frame:
        layout = self._layout
        assert isinstance(layout, WideLayout)
        t_ns = self._times(chunk, layout.time)
        self._take_label(chunk, layout.label, t_ns)
        ids: list[int] = []
        values, present = [], []
        for signal in layout.signals:
            tag_id = self._id(signal.asset, signal.field, signal.eng_unit, chunk.rows[0])
            if tag_id < 0:
                continue
            ids.append(tag_id)
            found, there = self._numbers(chunk, signal.index)
            values.append(found)
            present.append(there)
        if not ids:
            names = ", ".join(f"{s.asset}.{s.field}" for s in layout.signals)[:200]
            raise invalid(
                self.path,
                "header",
                f"none of its tags is wanted here: {names}",
                "say with --asset whose they are, or declare the asset in the configuration",
            )
        n = len(t_ns)
        frame = Frame(
            np.repeat(t_ns, len(ids)),
            np.tile(np.array(ids, np.int32), n),
            np.stack(values, axis=1).ravel(),
            np.zeros(n * len(ids), np.uint8),
        )
        return self._judged(frame.where(np.stack(present, axis=1).ravel()))

    def _long(self, chunk: Chunk) -> Frame:
        layout = self._layout
        assert isinstance(layout, LongLayout)
        t_ns = self._times(chunk, layout.time)
        self._take_label(chunk, layout.label, t_ns)
        ids = self._ids_of(chunk, layout)
        keep = ids >= 0
        if layout.kind is not None:
            kinds = _texts(chunk.columns[layout.kind])
            is_text = np.array([kind in _TEXT_TYPES for kind in kinds], np.bool_)
            self.told.rows_of_text += int(is_text.sum())
            keep &= ~is_text
        quality: ByteArray = np.zeros(len(t_ns), np.uint8)
        if layout.quality is not None:
            quality = self._qualities(chunk, layout.quality)
        rows = np.flatnonzero(keep)
        column = chunk.columns[layout.value]
        if not isinstance(column, Numbers):  # what is left out need not be a number
            column = [column[row] if keep[row] else "" for row in range(len(keep))]
        values, present = self._numbers(chunk, layout.value, column)
        quality[~present & (quality < Quality.BAD)] = Quality.BAD
        values[~present] = np.nan
        return self._judged(Frame(t_ns[rows], ids[rows], values[rows], quality[rows]))

    def _judged(self, frame: Frame) -> Frame:
        """What is no number is bad, and counted."""
        no_number = ~np.isfinite(frame.values) & (frame.quality < Quality.BAD)
        frame.quality[no_number] = _UNUSABLE
        self.told.samples += len(frame)
        self.told.samples_bad += int((frame.quality >= Quality.BAD).sum())
        return frame

    def _times(self, chunk: Chunk, index: int | None) -> TimeArray:
        first_row, self.told.rows = self.told.rows, self.told.rows + len(chunk.rows)
        if index is None:
            period_ns = round((self._options.row_period_s or 1.0) * 1e9)
            return (np.arange(len(chunk.rows), dtype=np.int64) + first_row) * period_ns
        try:
            return _times_of(chunk.columns[index])
        except NotATime as error:
            place = self._place(chunk, error.index, index)
            raise invalid(self.path, place, error.found, error.mend) from None

    def _numbers(
        self, chunk: Chunk, index: int, column: Column | None = None
    ) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], BoolArray]:
        column = chunk.columns[index] if column is None else column
        try:
            return numbers_of(column, is_decimal_comma=self._file.is_decimal_comma)
        except NotANumber as error:
            raise invalid(
                self.path,
                self._place(chunk, error.index, index),
                f"{error.text[:40]!r} is not a number",
                "leave the cell empty where there is no value, or the column out with --exclude",
            ) from None

    def _qualities(self, chunk: Chunk, index: int) -> ByteArray:
        try:
            return qualities_of(chunk.columns[index])
        except NotANumber as error:
            raise invalid(
                self.path,
                self._place(chunk, error.index, index),
                f"{error.text[:40]!r} is not a quality",
                "write good, uncertain or bad, or leave the column out",
            ) from None

    def _take_label(self, chunk: Chunk, index: int | None, t_ns: TimeArray) -> None:
        if index is None:
            return
        try:
            truths = truths_of(chunk.columns[index], is_decimal_comma=self._file.is_decimal_comma)
        except NotANumber as error:
            raise invalid(
                self.path,
                self._place(chunk, error.index, index),
                f"{error.text[:40]!r} does not say whether there was a fault",
                "write 1 or 0, or name the column of labels with --label",
            ) from None
        self._labels.append((t_ns, truths))

    def _ids_of(self, chunk: Chunk, layout: LongLayout) -> IdArray:
        """Each row's tag."""
        blank = [""] * len(chunk.rows)
        units = blank if layout.eng_unit is None else _texts(chunk.columns[layout.eng_unit])
        if layout.asset is not None and layout.field is not None:
            assets = _texts(chunk.columns[layout.asset])
            fields = _texts(chunk.columns[layout.field])
            keys = list(zip(assets, fields, units, strict=True))
        else:
            assert layout.tag is not None
            tags = _texts(chunk.columns[layout.tag])
            keys = [(*_parts(tag), unit) for tag, unit in zip(tags, units, strict=True)]
        rows = {key: i for i, key in reversed(list(enumerate(keys)))}
        ids = {key: self._id(*key, chunk.rows[i]) for key, i in rows.items()}
        return np.array([ids[key] for key in keys], np.int32)

    def _id(self, asset: str, name: str, eng_unit: str, row: int) -> int:
        key = (asset, name, eng_unit)
        known = self._ids.get(key)
        if known is None:
            if not asset or not name:
                mend = "name tags as asset.field, such as pump-1.flow"
                raise invalid(self.path, f"row {row}", "a tag has no asset or no field", mend)
            try:
                tag = self._naming(asset, name, eng_unit)
                known = -1 if tag is None else self.table.add(tag)
            except SluicegateError as error:
                if isinstance(error, RecordingInvalid):
                    raise
                raise invalid(self.path, f"row {row}", error.message, error.hint) from error
            self._ids[key] = known
        return known

    def _place(self, chunk: Chunk, row: int, column: int) -> str:
        return f"row {chunk.rows[row]}, column {self._file.header[column]!r}"

    def _in_order(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """Oldest first: all at once while they fit, and one by one where there are more."""
        held: list[Frame] = []
        samples = 0
        for frame in frames:
            held.append(frame)
            samples += len(frame)
            if samples > SORT_SAMPLES_MAX:
                break
        else:
            yield from _slices(_sorted(Frame.concatenate(held)))
            return
        newest = None
        for frame in chain(held, frames):
            if not len(frame):
                continue
            ordered = _sorted(frame)
            if newest is not None and int(ordered.t_ns[0]) < newest:
                raise invalid(
                    self.path,
                    f"row {self.told.rows} or before",
                    "it goes back in time, and the file is too long to be sorted here",
                    "sort it by time, or cut it into several files",
                )
            newest = int(ordered.t_ns[-1])
            yield ordered


def _sorted(frame: Frame) -> Frame:
    if len(frame) < 2 or bool((np.diff(frame.t_ns) >= 0).all()):
        return frame
    order = np.argsort(frame.t_ns, kind="stable")
    return Frame(frame.t_ns[order], frame.tag_ids[order], frame.values[order], frame.quality[order])


def _slices(frame: Frame) -> Iterator[Frame]:
    for start in range(0, len(frame), FRAME_SAMPLES):
        yield frame.rows(start, min(start + FRAME_SAMPLES, len(frame)))


def _times_of(column: Column) -> TimeArray:
    if not isinstance(column, Numbers):
        return times_of_texts(column)
    is_time = column.values.dtype.kind == "M"
    absent = ~column.present | (np.isnat(column.values) if is_time else False)
    if absent.any():
        raise NotATime(int(absent.argmax()), "there is no time")
    return column.values.view(np.int64) if is_time else times_of_numbers(column.values)


def _parts(tag: str) -> tuple[str, str]:
    asset, _, name = tag.rpartition(".")
    return asset, name


def _texts(column: Column) -> Sequence[str]:
    if isinstance(column, Numbers):
        return [
            "" if not there else f"{value:g}"
            for value, there in zip(column.values.tolist(), column.present.tolist(), strict=True)
        ]
    return column
