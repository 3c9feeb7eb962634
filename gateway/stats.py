"""Stats: what a part counts and measures, each number with what it tells the operator.

A part's statistics are a dataclass made by `stats`, its numbers are made by `stat`. /metrics gives
the words out beside the number, so a number without words is refused where the class is written,
at import: there is no list elsewhere that could be forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, dataclass_transform, overload

__all__ = ["stat", "stats", "words_of"]

T = TypeVar("T")


@overload
def stat(words: str) -> int: ...
@overload
def stat(words: str, *, default: T) -> T: ...
@overload
def stat(words: str, *, factory: Callable[[], T]) -> T: ...
def stat(words: str, *, default: Any = 0, factory: Callable[[], Any] | None = None) -> Any:
    """One number, or `state`, of a class of `stats`. `words` is a line and names the unit.

    Of a field in milliseconds or seconds (`scan_ms_last`, `lag_s`) whoever shows it says the unit.
    """
    metadata = {"words": words}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass_transform()
def stats(cls: type[T]) -> type[T]:
    """A dataclass with slots; TypeError for a number of it that has no words."""
    made = dataclass(slots=True)(cls)
    values: Any = made()
    for declared in fields(values):
        value = getattr(values, declared.name)
        if not words_of(declared) and not _is_text(declared.name, value) and not _is_nested(value):
            raise TypeError(f"{cls.__name__}.{declared.name} needs its words: write stat(...)")
    return made


def words_of(declared: Any) -> str:
    """What a field of a class of `stats` tells the operator."""
    return str(declared.metadata.get("words", ""))


def _is_text(name: str, value: object) -> bool:
    """Whether no number comes of it; a `state` is one of some words, which can be counted."""
    return isinstance(value, str) and name != "state"


def _is_nested(value: object) -> bool:
    """Whether it is other stats, alone or by key, which have words of their own."""
    if isinstance(value, Mapping):
        return bool(value) and all(map(_is_nested, value.values()))
    return is_dataclass(value)
