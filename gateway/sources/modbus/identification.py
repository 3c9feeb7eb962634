"""Identification: function 43/14, what a device says that it is.

Sans-IO but for `identify`, which asks as often as the device says that more follows. Source:
Modbus Application Protocol 1.1b3, section 6.21.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, TypeVar

from gateway.errors import WireError
from gateway.sources.modbus.wire import PDU_BYTES_MAX, Mismatch, Query, check_unit_id

__all__ = [
    "OBJECT_NAMES",
    "Identification",
    "IdentificationPart",
    "IdentificationRequest",
    "ReadCode",
    "identify",
]

FUNCTION = 43  # encapsulated interface transport
MEI_TYPE = 14  # of read device identification
OBJECT_NAMES: Mapping[int, str] = {
    0: "vendor_name",
    1: "product_code",
    2: "revision",
    3: "vendor_url",
    4: "product_name",
    5: "model_name",
    6: "application_name",
}
# A device has 256 objects at most; few have ten. Each answer brings one at least, or none ends it.
PARTS_MAX = 64
_HEAD_BYTES = (
    7  # function, MEI type, code, conformity, more follows, next object, number of objects
)
_MORE = 0xFF

T = TypeVar("T")


class ReadCode(IntEnum):
    """How much is asked for: a category, or one object by its id."""

    BASIC = 1
    REGULAR = 2
    EXTENDED = 3
    SPECIFIC = 4


@dataclass(frozen=True, slots=True)
class IdentificationPart:
    """One answer: some objects, and where the next answer begins if there is more."""

    conformity: int
    objects: tuple[tuple[int, bytes], ...]
    next_object_id: int | None  # None: this was all


@dataclass(frozen=True, slots=True)
class IdentificationRequest:
    """Read device identification from an object on; ValueError for what the standard forbids."""

    unit_id: int
    code: ReadCode = ReadCode.BASIC
    object_id: int = 0

    def __post_init__(self) -> None:
        check_unit_id(self.unit_id)
        if not 0 <= self.object_id <= 255:
            raise ValueError(f"{self.object_id} is not an object id")
        if not 1 <= self.code <= 4:
            raise ValueError(f"{self.code} is not a way to read the identification")

    @property
    def function(self) -> int:
        return FUNCTION

    @property
    def address(self) -> int:
        """The object, which is what an address is here."""
        return self.object_id

    def encode(self) -> bytes:
        """The request's PDU."""
        return bytes([FUNCTION, MEI_TYPE, self.code, self.object_id])

    def answer_bytes(self, pdu: bytes) -> int:
        """Head and objects, whose lengths stand before each of them."""
        if len(pdu) > 1 and pdu[1] != MEI_TYPE:
            raise Mismatch("mei_type", f"MEI type {pdu[1]} instead of {MEI_TYPE}")
        if len(pdu) > 2 and pdu[2] != self.code:
            raise Mismatch("identification", f"read code {pdu[2]} instead of {self.code}")
        if len(pdu) < _HEAD_BYTES:
            return _HEAD_BYTES
        end = _HEAD_BYTES
        for left in range(pdu[6], 0, -1):
            if end + 2 * left > PDU_BYTES_MAX:
                raise Mismatch("identification", "objects that are longer than an answer")
            if len(pdu) < end + 2:
                return end + 2 * left
            end += 2 + pdu[end + 1]
        if end > PDU_BYTES_MAX:
            raise Mismatch("identification", "objects that are longer than an answer")
        return end

    def decode(self, pdu: bytes) -> IdentificationPart:
        """The objects; raises Mismatch where they contradict the request or themselves."""
        if pdu[4] not in {0, _MORE}:
            raise Mismatch("identification", f"{pdu[4]} for whether more follows")
        objects = []
        at = _HEAD_BYTES
        for _ in range(pdu[6]):
            objects.append((pdu[at], pdu[at + 2 : at + 2 + pdu[at + 1]]))
            at += 2 + pdu[at + 1]
        ids = [object_id for object_id, _ in objects]
        if ids != sorted(set(ids)):
            raise Mismatch("identification", "objects twice or out of order")
        has_more = pdu[4] == _MORE and self.code is not ReadCode.SPECIFIC
        if has_more and (not ids or pdu[5] <= ids[-1]):
            raise Mismatch("identification", "more objects that do not follow")
        return IdentificationPart(pdu[3], tuple(objects), pdu[5] if has_more else None)


@dataclass(frozen=True, slots=True)
class Identification:
    """All that a device said of itself."""

    conformity: int  # section 6.21: 1-3 by category, 0x80 more where single objects can be read
    objects: Mapping[int, bytes]

    def texts(self) -> dict[str, str]:
        """The objects by name, what is no ASCII left out of them; without those that are empty."""
        named = {
            OBJECT_NAMES.get(object_id, f"object_{object_id}"): _text(value)
            for object_id, value in self.objects.items()
        }
        return {name: text for name, text in named.items() if text}


def _text(value: bytes) -> str:
    text = value.decode("ascii", "replace")
    return "".join(each for each in text if each.isprintable() and each != "\ufffd").strip()


class Asks(Protocol):
    """A connection, as far as it is needed here."""

    async def ask(self, query: Query[T], timeout_s: float) -> T: ...


async def identify(
    connection: Asks, unit_id: int, timeout_s: float, code: ReadCode = ReadCode.REGULAR
) -> Identification:
    """What the device says that it is; `timeout_s` is for each answer.

    Raises DeviceRefused where it does not know the function or the category, and what
    `Connection.ask` raises.
    """
    objects: dict[int, bytes] = {}
    request = IdentificationRequest(unit_id, code)
    for _ in range(PARTS_MAX):
        part = await connection.ask(request, timeout_s)
        objects.update(part.objects)
        if part.next_object_id is None:
            return Identification(part.conformity, objects)
        if part.next_object_id <= request.object_id:
            break
        request = IdentificationRequest(unit_id, code, part.next_object_id)
    raise WireError(
        f"unit {unit_id} says without end that more of its identification follows",
        kind="identification",
        hint="read single objects of it",
    )
