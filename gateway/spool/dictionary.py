"""Dictionary: which tag a segment's local ids mean. Every segment has its own and needs no other.

Frames on disk name tags by local ids, given in order of first use in the segment. Before the
first frames that use them stands a record with the new tags, all their attributes as JSON. So a
later run, with another configuration, can still say what the samples are: a tag that exists now
under that name keeps its present definition, any other is remembered as it was.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from gateway.errors import SluicegateError, SpoolDamaged
from gateway.frame import IdArray, Lane
from gateway.tag import DataType, Tag, TagTable

__all__ = ["Dictionary", "decode_tags", "encode_tags"]

# Tags of one record: gateway.tags_max and six aggregates of each stay below it; it bounds what a
# damaged record can make us inflate.
_JSON_BYTES_MAX = 512 * 2**20
_RAW_DEFLATE = -15

_DEFAULTS = {
    field.name: None if field.default is dataclasses.MISSING else field.default
    for field in dataclasses.fields(Tag)
}


class Dictionary:
    """Tags by local id."""

    def __init__(self) -> None:
        self._tags: list[Tag | None] = []  # None: its record was damaged
        self._has_holes = False
        self._table_ids = np.array([-1], np.int32)

    @staticmethod
    def of(tags: Sequence[Tag]) -> Dictionary:
        """A dictionary of these tags, ids as in the sequence."""
        made = Dictionary()
        made.add(0, tags)
        return made

    def __len__(self) -> int:
        return len(self._tags)

    def __getitem__(self, local_id: int) -> Tag | None:
        return self._tags[local_id] if local_id < len(self._tags) else None

    def reserve(self, count: int) -> None:
        """Local ids below `count` have been given; what they are may not be known any more."""
        if count > len(self._tags):
            self._tags += [None] * (count - len(self._tags))
            self._has_holes = True

    def add(self, first: int, tags: Sequence[Tag]) -> None:
        """Tags with local ids from `first` on; ids before it that nothing is known of stay so."""
        self.reserve(first)
        self._tags[first : first + len(tags)] = tags

    def table_ids(self, table: TagTable) -> IdArray:
        """Ids of the table by local id, and a last -1 for all others. Only in the table's thread.

        Adds to the table what it does not have; -1 where a tag is not known or the table is full.
        """
        known = len(self._table_ids) - 1
        if known < len(self._tags):
            more = [_id_in(table, tag) for tag in self._tags[known:]]
            self._table_ids = np.array([*self._table_ids[:-1], *more, -1], np.int32)
        return self._table_ids

    def unknown(self, local_ids: IdArray) -> int:
        """How many of these are ids of tags whose record was damaged."""
        if not self._has_holes and (not len(local_ids) or local_ids.max() < len(self._tags)):
            return 0
        return sum(i >= len(self._tags) or self._tags[i] is None for i in local_ids.tolist())

    def local_ids(self, table: TagTable) -> dict[int, int]:
        """Local ids by id of the table, of tags that are today as they were."""
        return {
            tag_id: local_id
            for local_id, tag in enumerate(self._tags)
            if tag is not None
            and (tag_id := table.id_of(tag.name)) is not None
            and table[tag_id] == tag
        }


def _id_in(table: TagTable, tag: Tag | None) -> int:
    if tag is None:
        return -1
    try:
        return table.remember(tag)
    except SluicegateError:
        return -1


def encode_tags(tags: Sequence[Tag]) -> bytes:
    """The payload of a tags record: deflated JSON, a list of objects without their defaults."""
    text = orjson.dumps([_as_json(tag) for tag in tags])
    return zlib.compress(text, 6, wbits=_RAW_DEFLATE)


def decode_tags(payload: bytes) -> list[Tag]:
    """The inverse; attributes of a later version are passed over. Raises SpoolDamaged."""
    try:
        text = zlib.decompressobj(_RAW_DEFLATE).decompress(payload, _JSON_BYTES_MAX)
        return [_from_json(facts) for facts in orjson.loads(text)]
    except (zlib.error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SpoolDamaged(f"a tags record cannot be read: {error}") from error


def _as_json(tag: Tag) -> dict[str, Any]:
    return {
        name: _plain(value)
        for name, default in _DEFAULTS.items()
        if (value := getattr(tag, name)) != default
    }


def _plain(value: Any) -> Any:
    # JSON has no infinity and no NaN; float() reads them back from these words.
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _from_json(facts: dict[str, Any]) -> Tag:
    known = {name: value for name, value in facts.items() if name in _DEFAULTS}
    for name in ("scale", "offset", "eu_low", "eu_high", "deadband"):
        if name in known:
            known[name] = float(known[name])
    if "labels" in known:
        known["labels"] = tuple((str(label), str(value)) for label, value in known["labels"])
    if "lane" in known:
        known["lane"] = Lane(known["lane"])
    if "data_type" in known:
        known["data_type"] = DataType(known["data_type"])
    return Tag(**known)
