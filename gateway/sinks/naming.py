"""Naming: what a sink calls things, and which type each of its fields has.

`Renamed` is the tag table as one sink sees it: measurements, fields and labels by the sink's own
rules. `FieldTypes` remembers the type that a field was first written with, because a database
keeps it: an integer or a bool that meets a field of floats is written as a float, and never leaves
as a conflict. What a field cannot hold is still offered: a database may keep its types a shard,
and take next week what it refuses today (`gateway.sinks.refusal`).
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from gateway.settings import RenameSettings
from gateway.tag import DataType, Tag, Tags

__all__ = ["FieldTypes", "Renamed"]

log = logging.getLogger(__name__)

# Fields of one measurement; beyond this somebody's names are numbers (a cardinality bomb).
FIELDS_MAX = 10_000
_FILE_BYTES_MAX = 64 * 2**20
# What a value can be written as without losing anything of it.
_HELD_BY = {
    DataType.FLOAT64: (DataType.FLOAT64,),
    DataType.INT64: (DataType.INT64, DataType.FLOAT64),
    DataType.BOOL: (DataType.BOOL, DataType.FLOAT64, DataType.INT64),
    DataType.STRING: (DataType.STRING,),
}
_WORDS = {
    DataType.FLOAT64: "float",
    DataType.INT64: "integer",
    DataType.BOOL: "boolean",
    DataType.STRING: "string",
}
_OF_WORDS = {word: data_type for data_type, word in _WORDS.items()}


class Renamed:
    """A tag table under a sink's own names. A name that would make two tags one is not given."""

    def __init__(self, tags: Tags, rules: RenameSettings, sink: str) -> None:
        self._tags = tags
        self._sink = sink
        self._measurements = _Rules(rules.measurements)
        self._fields = _Rules(rules.fields)
        self._labels = rules.labels
        self._known: list[Tag] = []
        self._taken: dict[tuple[object, ...], str] = {}  # what a sink tells apart -> tag

    def __len__(self) -> int:
        return len(self._tags)

    def __getitem__(self, tag_id: int) -> Tag:
        while len(self._known) <= tag_id:
            self._known.append(self._introduce(self._tags[len(self._known)]))
        return self._known[tag_id]

    def _introduce(self, tag: Tag) -> Tag:
        labels = tuple(sorted((self._labels.get(key, key), value) for key, value in tag.labels))
        renamed = replace(
            tag,
            measurement=self._measurements.apply(tag.measurement),
            field=self._fields.apply(tag.field),
            labels=tuple((key, value) for key, value in labels if key),
        )
        for candidate in (renamed, tag):
            key = (candidate.measurement, candidate.field, candidate.labels)
            other = self._taken.setdefault(key, tag.name)
            if other == tag.name:
                return candidate
            log.error(
                "sink.rename_refused sink=%s tag=%s error=it would be one with %s",
                *(self._sink, tag.name, other),
            )
        return tag


class _Rules:
    """Old names and new ones; one `*` in both stands for the same text."""

    def __init__(self, rules: Mapping[str, str]) -> None:
        self._exact = {old: new for old, new in rules.items() if "*" not in old}
        self._patterns = [
            (re.compile(re.escape(old).replace(r"\*", "(.*)", 1)), new)
            for old, new in rules.items()
            if "*" in old
        ]

    def apply(self, name: str) -> str:
        exact = self._exact.get(name)
        if exact is not None:
            return exact
        for pattern, new in self._patterns:
            match = pattern.fullmatch(name)
            if match:
                return new.replace("*", match[1], 1)
        return name


class FieldTypes:
    """The type of each (measurement, field) of one database, kept in a file over restarts."""

    def __init__(self, path: Path | None = None, sink: str = "") -> None:
        self._path = path
        self._sink = sink
        self._types: dict[tuple[str, str], DataType] = {}
        self._fields: dict[str, int] = {}  # how many each measurement has
        self.is_changed = False
        self._load()

    def settle(self, tags: Sequence[Tag]) -> None:
        """Give fields that are new a type that all of these tags can be written with."""
        wanted: dict[tuple[str, str], DataType] = {}
        for tag in tags:
            key = (tag.measurement, tag.field)
            known = wanted.setdefault(key, tag.value_type)
            if {known, tag.value_type} == {DataType.INT64, DataType.FLOAT64}:
                wanted[key] = DataType.FLOAT64
        for key, data_type in wanted.items():
            if key not in self._types and self._fields.get(key[0], 0) < FIELDS_MAX:
                self._set(key, data_type)

    def of(self, tag: Tag) -> DataType:
        """The type to write a tag's values with: what the field has, where that can hold them."""
        own = tag.value_type
        kept = self._types.get((tag.measurement, tag.field), own)
        return kept if kept in _HELD_BY[own] else own

    def learn(self, measurement: str, field: str, word: str) -> bool:
        """The server says what it keeps a field as; whether that is news."""
        key, data_type = (measurement, field), _OF_WORDS.get(word)
        if data_type is None or self._types.get(key) is data_type:
            return False
        self._set(key, data_type)
        where = (self._sink, measurement, field)
        log.warning("sink.field_type sink=%s field=%s.%s is=%s", *where, word)
        return True

    def save(self) -> None:
        """Write the file, whole; what cannot be written is learned anew by the next start."""
        self.is_changed = False
        if self._path is None:
            return
        rows = [[*key, _WORDS[data_type]] for key, data_type in list(self._types.items())]
        new = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with new.open("w", encoding="utf-8") as file:
                json.dump(rows, file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except OSError as error:
            log.warning("sink.field_types_not_saved path=%s error=%s", self._path, error)

    def _set(self, key: tuple[str, str], data_type: DataType) -> None:
        if key not in self._types:
            self._fields[key[0]] = self._fields.get(key[0], 0) + 1
        self._types[key] = data_type
        self.is_changed = True

    def _load(self) -> None:
        if self._path is None:
            return
        try:
            with self._path.open("rb") as file:
                rows = json.loads(file.read(_FILE_BYTES_MAX))
            for measurement, field, word in rows:
                self._set((str(measurement), str(field)), _OF_WORDS[word])
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            log.warning("sink.field_types_unusable path=%s error=%r", self._path, error)
        self.is_changed = False
