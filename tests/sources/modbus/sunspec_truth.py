"""SunSpec by hand: registers made and read with `struct`, from the Alliance's own definitions.

None of the gateway's code: how a model is laid out is worked out here a second time.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

SHARED = Path(os.environ.get("SLUICEGATE_SHARED", Path(__file__).parents[4] / "shared"))
DEFINITIONS = SHARED / "data" / "sunspec" / "json"

FORMATS = {
    "int16": ">h", "sunssf": ">h", "uint16": ">H", "count": ">H", "acc16": ">H", "enum16": ">H",
    "bitfield16": ">H", "int32": ">i", "uint32": ">I", "acc32": ">I", "enum32": ">I",
    "bitfield32": ">I", "int64": ">q", "uint64": ">Q", "acc64": ">Q", "float32": ">f",
    "float64": ">d",
}  # fmt: skip
NOT_IMPLEMENTED = {
    "int16": -(2**15), "sunssf": -(2**15), "uint16": 0xFFFF, "count": 0xFFFF, "acc16": 0,
    "enum16": 0xFFFF, "bitfield16": 0xFFFF, "int32": -(2**31), "uint32": 2**32 - 1, "acc32": 0,
    "enum32": 2**32 - 1, "bitfield32": 2**32 - 1, "int64": -(2**63), "uint64": 2**64 - 1,
    "acc64": 0,
}  # fmt: skip


def definition(model_id: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DEFINITIONS / f"model_{model_id}.json").read_text())
    return found["group"]  # type: ignore[no-any-return] - JSON


def standard_ids() -> list[int]:
    """What is not a maker's own."""
    ids = [int(path.stem.removeprefix("model_")) for path in DEFINITIONS.glob("model_*.json")]
    return sorted(number for number in ids if number < 63000)


class _End(Exception):
    pass


Place = tuple[str, dict[str, Any], int, dict[str, int]]


def _place(
    group: dict[str, Any], path: str, around: dict[str, int], words: Sequence[int], at: int
) -> Iterator[Place]:
    """(name, point, offset, offsets of the names around it), in order; _End at the end."""
    scope, end = dict(around), 2 + words[1]
    for point in group["points"]:
        if at + point["size"] > end:
            raise _End
        scope[point["name"]] = at
        yield path + point["name"], point, at, scope
        at += point["size"]
    for inner in group.get("groups", []):
        times, name = inner.get("count"), inner["name"]
        if times == 0:
            times = (end - at) // sum(point["size"] for point in inner["points"])
        elif isinstance(times, str):
            times = words[scope[times]] % 0xFFFF
        for number in range(1, (1 if times is None else times) + 1):
            numbered = name if times is None else f"{name}_{number}"
            for each in _place(inner, f"{path}{numbered}.", scope, words, at):
                yield each
                at = each[2] + each[1]["size"]


def contents(model_id: int, words: Sequence[int]) -> dict[str, Any]:
    """What a model on a device says, by name of the point; `words` are id, length and the rest.

    Only points that are whole within the length, and whose scale factor is. None: not implemented.
    """
    placed: list[Place] = []
    with suppress(_End):
        placed.extend(_place(definition(model_id), "", {}, words, 0))
    found = {}
    for name, point, at, scope in placed:
        if at < 2 or point["type"] in ("pad", "eui48", "sunssf"):
            continue
        exponent = scale = point.get("sf")
        if isinstance(scale, str):
            if scale not in scope:
                continue
            exponent = struct.unpack(">h", struct.pack(">H", words[scope[scale]]))[0]
        data = struct.pack(f">{point['size']}H", *words[at : at + point["size"]])
        found[name] = meaning(point, value_of(point, data), exponent)
    return found


def value_of(point: dict[str, Any], data: bytes) -> Any:
    """A number or text as it is stored; None for what is not implemented, or no text."""
    if point["type"] == "string":
        try:
            return data.split(b"\0", 1)[0].decode().strip() or None
        except UnicodeDecodeError:
            return None
    (number,) = struct.unpack(FORMATS[point["type"]], data)
    if point["type"].startswith("float"):
        return None if number != number else number  # noqa: PLR0124 - what NaN is
    return None if number == NOT_IMPLEMENTED[point["type"]] else number


def meaning(point: Mapping[str, Any], number: Any, exponent: int | None) -> Any:
    """What a stored number is to a person."""
    kind, symbols = point["type"], {s["value"]: s["name"] for s in point.get("symbols", [])}
    if number is None:
        return None
    if symbols and kind.startswith("enum"):
        return symbols.get(number, str(number))
    if symbols and kind.startswith("bitfield"):
        bits = [i for i in range(32) if number >> i & 1]
        return ",".join(symbols.get(i, f"bit{i}") for i in bits)
    if "sf" not in point:
        return number
    if exponent is None or abs(exponent) > 10:
        return None
    return number / 10**-exponent if exponent < 0 else number * 10**exponent
