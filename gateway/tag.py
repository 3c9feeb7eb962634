"""Tag, its type and quality, and TagTable: names to dense ids, and vectors for conditioning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Protocol

import numpy as np

from gateway.errors import SluicegateError
from gateway.frame import ByteArray, FloatArray, IdArray, Lane

__all__ = ["ByteOrder", "DataType", "Quality", "Tag", "TagTable", "Tags", "is_bad", "is_good"]


class DataType(StrEnum):
    """What a device stores. After conditioning, a scaled integer is a float64 like any other."""

    BOOL = "bool"
    INT16 = "int16"
    UINT16 = "uint16"
    INT32 = "int32"
    UINT32 = "uint32"
    INT64 = "int64"
    UINT64 = "uint64"
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    STRING = "string"

    @property
    def is_integer(self) -> bool:
        return "int" in self.value

    @property
    def is_64_bit_integer(self) -> bool:
        return self in (DataType.INT64, DataType.UINT64)


class ByteOrder(StrEnum):
    """Order of the bytes of a value on the wire; A is the most significant byte.

    ABCD is big-endian; CDAB swaps 16-bit words; BADC swaps bytes in words; DCBA is little-endian.
    """

    ABCD = "ABCD"
    CDAB = "CDAB"
    BADC = "BADC"
    DCBA = "DCBA"


class Quality(IntEnum):
    """OPC UA Part 8 status in one byte: severity in the top two bits, the reason in the low six.

    Greater is worse, so the worst of several is their maximum.
    """

    GOOD = 0x00
    UNCERTAIN = 0x40
    UNCERTAIN_LAST_USABLE = 0x41  # a value held over from before
    UNCERTAIN_RANGE = 0x42  # outside the tag's plausible range, or faster than is plausible
    UNCERTAIN_SUBNORMAL = 0x43  # made from fewer good samples than there should be
    UNCERTAIN_CLOCK = 0x44  # its time is not to be trusted
    BAD = 0x80
    BAD_NO_COMMUNICATION = 0x81  # the device or broker is away
    BAD_TIMEOUT = 0x82  # connected, but this request got no answer
    BAD_DEVICE_FAILURE = 0x83  # the device says it failed (Modbus exception 4, 6, 10, 11)
    BAD_CONFIGURATION = 0x84  # the device refuses the address or the function
    BAD_SENSOR_FAILURE = 0x85  # not a number, or the device's "not implemented" value
    BAD_DECODING = 0x86  # the bytes or the payload do not hold this tag
    BAD_WAITING = 0x87  # nothing received yet

    @property
    def severity(self) -> str:
        return ("good", "uncertain", "bad", "bad")[self >> 6]


def is_bad(quality: ByteArray) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Rows whose value must not be used."""
    bad: np.ndarray[tuple[int], np.dtype[np.bool_]] = quality >= Quality.BAD
    return bad


def is_good(quality: ByteArray) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Rows whose value may be used without reserve."""
    good: np.ndarray[tuple[int], np.dtype[np.bool_]] = quality < Quality.UNCERTAIN
    return good


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """A named, typed signal of an asset, with its engineering unit.

    `name` is unique in the gateway: `<asset>.<field>`, with a suffix for what is derived from it
    (`filler.pressure@10s.mean`). `measurement`, `field` and `labels` are where a sink puts it.
    """

    name: str
    asset: str
    asset_class: str
    field: str
    measurement: str
    labels: tuple[tuple[str, str], ...] = ()
    lane: Lane = Lane.RAW
    source: str = ""
    data_type: DataType = DataType.FLOAT64
    scale: float = 1.0
    offset: float = 0.0
    eng_unit: str = ""
    eu_low: float = -np.inf  # plausible range, engineering units
    eu_high: float = np.inf
    rate_max: float = np.inf  # fastest plausible change a second, engineering units
    deadband: float = 0.0  # absolute, engineering units; 0 reports every sample

    @property
    def is_scaled(self) -> bool:
        return self.scale != 1.0 or self.offset != 0.0

    @property
    def is_exact_integer(self) -> bool:
        """Whether sinks write its values as integers."""
        return self.data_type.is_integer and not self.is_scaled

    @property
    def value_type(self) -> DataType:
        """What its values are after scaling: STRING, BOOL, INT64 for any integer, else FLOAT64."""
        match self.data_type:
            case DataType.STRING:
                return DataType.STRING
            case DataType.BOOL if not self.is_scaled:
                return DataType.BOOL
            case _:
                return DataType.INT64 if self.is_exact_integer else DataType.FLOAT64


class Tags(Protocol):
    """Tags by dense id, for those who only look them up: a `TagTable`, or a view of one."""

    def __len__(self) -> int: ...

    def __getitem__(self, tag_id: int, /) -> Tag: ...


# Vectors double when they are full: adding n tags costs O(n), however they arrive.
_CAPACITY_FIRST = 256


class TagTable:
    """Tags by dense id. Ids are given in order of adding and never change while the process runs.

    Samples of earlier runs bring their tags as these were then (`remember`). They stay so, under
    ids of their own, when today's configuration has another tag of that name: what it says holds
    for what is measured today.

    The vectors (`scale`, `offset`, ...) are views of length `len(table)`; a later `add` may
    replace them, so index them afresh each turn and never keep one.
    """

    def __init__(self, tags_max: int = 100_000) -> None:
        self._tags: list[Tag] = []
        self._ids: dict[str, int] = {}  # of today's tag, else of the last that was remembered
        self._past: dict[Tag, int] = {}  # remembered, and not of today
        self._tags_max = tags_max
        self._vectors = np.zeros((6, _CAPACITY_FIRST))

    def __len__(self) -> int:
        return len(self._tags)

    def __getitem__(self, tag_id: int) -> Tag:
        return self._tags[tag_id]

    def __iter__(self) -> Iterator[Tag]:
        return iter(self._tags)

    def __contains__(self, name: str) -> bool:
        return name in self._ids

    def add(self, tag: Tag) -> int:
        """The tag's id, new or - when an equal tag is there already - the one it has."""
        known = self._ids.get(tag.name)
        if known is not None and self._tags[known] not in self._past:
            if self._tags[known] != tag:
                raise SluicegateError(
                    f"tag {tag.name!r} is defined twice, differently",
                    hint="give one of them another asset or field name",
                )
            return known
        tag_id = self._past.pop(tag, None)
        if tag_id is None:
            tag_id = self._append(tag)
        self._ids[tag.name] = tag_id
        return tag_id

    def remember(self, tag: Tag) -> int:
        """The id of a tag as it was when its samples were taken; today's, if there is one."""
        known = self._ids.get(tag.name)
        if known is not None and self._tags[known] not in self._past:
            return known
        tag_id = self._past.get(tag)
        if tag_id is None:
            tag_id = self._past[tag] = self._append(tag)
        self._ids[tag.name] = tag_id
        return tag_id

    def is_past(self, tag: Tag) -> bool:
        """Whether it is remembered only: nothing of today is this tag, or not yet."""
        return tag in self._past

    def put_beside(self, tag: Tag, derived: Tag) -> int:
        """The id of what is derived from a tag of this table: of the past, if that is."""
        return self.remember(derived) if self.is_past(tag) else self.add(derived)

    def _append(self, tag: Tag) -> int:
        if len(self._tags) >= self._tags_max:
            raise SluicegateError(
                f"more than {self._tags_max} tags; {tag.name!r} is one too many",
                hint="narrow the topic filters, or raise gateway.tags_max",
            )
        tag_id = len(self._tags)
        if tag_id == self._vectors.shape[1]:
            self._vectors = np.concatenate([self._vectors, np.zeros_like(self._vectors)], axis=1)
        self._vectors[:, tag_id] = (
            *(tag.scale, tag.offset, tag.eu_low, tag.eu_high, tag.deadband, tag.rate_max),
        )
        self._tags.append(tag)
        return tag_id

    def id_of(self, name: str) -> int | None:
        return self._ids.get(name)

    def ids_of_source(self, source: str) -> IdArray:
        """Ids of the raw tags a source feeds, ascending; those that were replaced are left out."""
        fed = (
            i
            for i, tag in enumerate(self._tags)
            if tag.source == source and self._ids[tag.name] == i
        )
        return np.fromiter((i for i in fed if self._tags[i].lane is Lane.RAW), np.int32)

    @property
    def scale(self) -> FloatArray:
        return self._vectors[0, : len(self._tags)]

    @property
    def offset(self) -> FloatArray:
        return self._vectors[1, : len(self._tags)]

    @property
    def eu_low(self) -> FloatArray:
        return self._vectors[2, : len(self._tags)]

    @property
    def eu_high(self) -> FloatArray:
        return self._vectors[3, : len(self._tags)]

    @property
    def deadband(self) -> FloatArray:
        return self._vectors[4, : len(self._tags)]

    @property
    def rate_max(self) -> FloatArray:
        return self._vectors[5, : len(self._tags)]
