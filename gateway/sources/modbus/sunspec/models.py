"""Models: what the SunSpec Alliance defines, as facts; read from models.json when first asked for.

`bench/sunspec_models.py` makes the file of the Alliance's own definitions (Apache-2.0, (c) SunSpec
Alliance): names, types, sizes, scale factors, units and symbols, not its texts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["VENDORS_FROM", "Group", "Point", "model_of", "models"]

_FILE = Path(__file__).with_name("models.json")
VENDORS_FROM = 63000
"""Model ids from here on are makers' own; they mean nothing to us."""


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a group."""

    name: str
    type: str  # as SunSpec calls it
    size: int  # registers
    scale: str | int  # the point that holds the power of ten, or the power itself
    eng_unit: str
    is_slow: bool  # nameplate or setting: nothing that the device changes by itself
    symbols: tuple[tuple[int, str], ...]  # of numbers, or of bits


@dataclass(frozen=True, slots=True)
class Group:
    """Points one after the other, then groups; a model is one, behind its id and length."""

    name: str
    count: str | int | None  # None: once; 0: as often as there is room; a point that says how often
    points: tuple[Point, ...]
    groups: tuple[Group, ...]

    @property
    def points_size(self) -> int:
        """Registers of its own points."""
        return sum(point.size for point in self.points)


def model_of(model_id: int) -> Group | None:
    """The definition of a model; None for one that the Alliance does not define."""
    return models().get(model_id)


@cache
def models() -> dict[int, Group]:
    """All definitions, by model id."""
    listed = json.loads(_FILE.read_text(encoding="utf-8"))
    return {int(model_id): _group(group) for model_id, group in listed.items()}


def _group(said: list[Any]) -> Group:
    name, count, points, groups = said
    return Group(name, count, tuple(map(_point, points)), tuple(map(_group, groups)))


def _point(said: list[Any]) -> Point:
    left_out: list[Any] = [0, "", 0, ()]
    name, kind, size, scale, unit, slow, symbols = said + left_out[len(said) - 3 :]
    named = tuple((number, symbol) for number, symbol in symbols)
    return Point(name, kind, size, scale, unit, bool(slow), named)
