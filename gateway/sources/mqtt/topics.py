"""Topic patterns: which topics are subscribed, and what asset and field a topic names. Pure."""

from __future__ import annotations

import re

__all__ = ["TopicPattern"]

_PLACE = re.compile(r"\{([^{}]*)\}")
# Topics seen are remembered with what they mean; a broker may invent new ones without end.
CACHE_MAX = 20_000


class TopicPattern:
    """`greenhouse/{asset}/climate`: levels are literal, `{asset}`, `{field}`, `+`, or a last `#`.

    Raises ValueError, with what would be right, for anything else.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        levels = pattern.split("/")
        self._asset_level = self._field_level = -1
        self._literals: list[tuple[int, str]] = []
        filters: list[str] = []
        if not pattern or len(pattern.encode()) > 65_535:
            raise ValueError('a topic pattern has 1 to 65535 bytes, such as "plant/{asset}/state"')
        for level, text in enumerate(levels):
            if text in ("{asset}", "{field}"):
                name = "_asset_level" if text == "{asset}" else "_field_level"
                if getattr(self, name) >= 0:
                    raise ValueError(f"{text} is there twice; once is enough")
                setattr(self, name, level)
                filters.append("+")
            elif text in ("+", "#"):
                if text == "#" and level != len(levels) - 1:
                    raise ValueError('"#" can only be the last level')
                filters.append(text)
            elif _PLACE.search(text):
                raise ValueError(
                    f'the level "{text}" may only be {{asset}}, {{field}} or plain text'
                )
            elif "+" in text or "#" in text or "{" in text or "}" in text or "\0" in text:
                raise ValueError(f'the level "{text}" mixes plain text with + # {{ or }}')
            else:
                self._literals.append((level, text))
                filters.append(text)
        self.filter = "/".join(filters)
        self._is_open = levels[-1] == "#"
        self._depth = len(levels) - self._is_open

    @property
    def names_asset(self) -> bool:
        return self._asset_level >= 0

    @property
    def names_field(self) -> bool:
        return self._field_level >= 0

    def match(self, topic: str) -> tuple[str, str] | None:
        """The asset and the field that a topic names, "" for what it does not; None: no match."""
        levels = topic.split("/")
        if len(levels) < self._depth or (len(levels) > self._depth and not self._is_open):
            return None
        if any(levels[level] != text for level, text in self._literals):
            return None
        if topic.startswith("$") and (not self._literals or self._literals[0][0] != 0):
            return None  # wildcards do not match topics of the server's own (5.0, 4.7.2)
        asset = levels[self._asset_level] if self._asset_level >= 0 else ""
        field = levels[self._field_level] if self._field_level >= 0 else ""
        return asset, field
