"""Offers: the map of the tags that the gateway offers as a Modbus server."""

from __future__ import annotations

import csv
import math
import struct
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import ConfigError, Problem, SluicegateError

__all__ = ["ALARM", "Offer", "load_offers"]

# `<asset>.<model>.alarm`: not a tag, but whether the model has an event open of the asset.
ALARM = ".alarm"
BYTES_MAX = 4 * 2**20
_FORMATS = {
    "int16": ">h", "uint16": ">H", "int32": ">i", "uint32": ">I", "int64": ">q", "uint64": ">Q",
    "float32": ">f", "float64": ">d",
}  # fmt: skip
_COLUMNS = ("tag", "address", "data_type", "byte_order", "scale")


@dataclass(frozen=True, slots=True)
class Offer:
    """One tag at its address; `bool` is a bit, everything else registers."""

    tag: str
    address: int
    data_type: str
    byte_order: str = "ABCD"
    scale: float = 1.0  # what is offered = value / scale

    @property
    def size(self) -> int:
        """Registers, or one bit."""
        return 1 if self.data_type == "bool" else struct.calcsize(_FORMATS[self.data_type]) // 2

    def encode(self, value: float | None) -> bytes | None:
        """The registers of a value, or of the sentinel for None; None: they cannot hold it."""
        form = _FORMATS[self.data_type]
        if self.data_type.startswith("float"):
            stored = math.nan if value is None else value / self.scale
            try:
                return self._ordered(struct.pack(form, stored))
            except OverflowError:
                return None
        bits = 8 * struct.calcsize(form)
        low, high = (
            (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if self.is_signed else (0, 2**bits - 1)
        )
        if value is None:
            return self._ordered(struct.pack(form, low if self.is_signed else high))
        if not math.isfinite(value):
            return None
        number = round(value if self.scale == 1.0 else value / self.scale)
        return self._ordered(struct.pack(form, number)) if low <= number <= high else None

    @property
    def is_signed(self) -> bool:
        """Whether it may be below zero."""
        return not self.data_type.startswith("uint")

    def _ordered(self, data: bytes) -> bytes:
        words = [data[i : i + 2] for i in range(0, len(data), 2)]
        if self.byte_order in ("CDAB", "DCBA"):
            words.reverse()
        if self.byte_order in ("BADC", "DCBA"):
            words = [word[::-1] for word in words]
        return b"".join(words)


def load_offers(path: Path) -> list[Offer]:
    """The map of what is offered; raises ConfigError with every row that is wrong."""
    try:
        if path.stat().st_size > BYTES_MAX:
            raise SluicegateError(f"{path} is larger than 4 MiB")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SluicegateError(
            f"{path} cannot be read: {error}", hint="see [gateway.modbus_server]"
        ) from error
    problems: list[Problem] = []
    offers: list[Offer] = []
    taken: dict[tuple[bool, int], str] = {}
    for number, cells in enumerate(csv.DictReader(lines), start=2):
        given = {k: (v or "").strip() for k, v in cells.items() if isinstance(v, str) and k}
        try:
            offer = Offer(
                given.get("tag", ""), int(given.get("address", "")),
                given.get("data_type") or "float32", given.get("byte_order") or "ABCD",
                float(given.get("scale") or 1),
            )  # fmt: skip
            said = _mistake(offer, taken)
        except ValueError as error:
            said = str(error)
        if said:
            mend = f"The columns are {', '.join(_COLUMNS)}."
            problems.append(Problem(file=str(path), place=f"row {number}", found=said, mend=mend))
        else:
            offers.append(offer)
    if problems:
        raise ConfigError(problems)
    return offers


def _mistake(offer: Offer, taken: dict[tuple[bool, int], str]) -> str:
    if not offer.tag:
        return "it has no tag"
    if offer.data_type != "bool" and offer.data_type not in _FORMATS:
        return f"data_type {offer.data_type} is unknown"
    if offer.tag.endswith(ALARM) and (offer.data_type != "bool" or offer.tag.count(".") < 2):
        return "an alarm is <asset>.<model>.alarm, of data_type bool"
    if offer.byte_order not in ("ABCD", "CDAB", "BADC", "DCBA"):
        return f"byte_order {offer.byte_order} is unknown"
    if not 0 <= offer.address <= 65536 - offer.size:
        return f"address {offer.address} is not one"
    if not math.isfinite(offer.scale) or offer.scale == 0:
        return f"scale {offer.scale} is none"
    for place in range(offer.address, offer.address + offer.size):
        other = taken.setdefault((offer.data_type == "bool", place), offer.tag)
        if other != offer.tag:
            return f"address {place} is that of {other} too"
    return ""
