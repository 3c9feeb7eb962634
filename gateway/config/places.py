"""Places: on which line of a TOML text each key stands. tomllib gives values, but no places.

The text is taken to be valid (tomllib has read it); so the scanner only has to tell keys, strings
and brackets apart. A path is what leads to a value in tomllib's result: keys, and indexes of
array elements, such as ("source", 0, "scan_classes", "fast").
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from typing import TypeAlias

__all__ = ["KeyPath", "Places"]

KeyPath: TypeAlias = tuple[str | int, ...]

_BLANK = re.compile(r"(?:\s|#[^\n]*)*")
_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'""")
_DOT = re.compile(r"[ \t]*\.[ \t]*")
# A string that spans lines may end in up to two quotes of its own before the closing three.
_STRING = re.compile(
    r'''"""(?:[^\\]|\\.)*?"{3,5}|\'{3}.*?\'{3,5}|"(?:[^"\\]|\\.)*"|'[^']*\'''', re.DOTALL
)
# A date and its time may be parted by a space.
_BARE = re.compile(r"[^\s,\]}#]+(?: \d\d:[^\s,\]}#]+)?")


class Places:
    """Lines of the keys of one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._newlines = [match.start() for match in re.finditer("\n", text)]
        self._lines: dict[KeyPath, int] = {}
        self._entries: dict[KeyPath, int] = {}  # array of tables -> how many so far
        self._scan()

    def line(self, path: KeyPath) -> int:
        """The line, from 1, of a key or array element, else of the nearest thing that holds it."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    @property
    def paths(self) -> frozenset[KeyPath]:
        """Every path of the text."""
        return frozenset(self._lines)

    def _note(self, path: KeyPath, at: int) -> None:
        """Remember where a path is first spoken of, and with it the tables it implies."""
        line = bisect_right(self._newlines, at - 1) + 1
        for length in range(1, len(path) + 1):
            self._lines.setdefault(path[:length], line)

    def _after(self, pattern: re.Pattern[str], at: int) -> int:
        match = pattern.match(self._text, at)
        return match.end() if match else at

    def _scan(self) -> None:
        table: KeyPath = ()
        at = self._after(_BLANK, 0)
        while at < len(self._text):
            if self._text[at] == "[":
                at, table = self._header(at)
            else:
                at = self._pair(at, table)
            at = self._after(_BLANK, at)

    def _header(self, start: int) -> tuple[int, KeyPath]:
        is_array = self._text.startswith("[[", start)
        keys, at = self._keys(self._after(_BLANK, start + 1 + is_array))
        table: KeyPath = ()
        for key in keys:
            table = self._newest((*table, key))
        if is_array:
            name = (*self._newest_of(keys[:-1]), keys[-1])
            count = self._entries.get(name, 0)
            self._entries[name] = count + 1
            table = (*name, count)
        self._note(table, start)
        return self._after(_BLANK, at) + 1 + is_array, table

    def _newest(self, path: KeyPath) -> KeyPath:
        """A path into an array of tables means its newest entry."""
        return (*path, self._entries[path] - 1) if path in self._entries else path

    def _newest_of(self, keys: list[str]) -> KeyPath:
        path: KeyPath = ()
        for key in keys:
            path = self._newest((*path, key))
        return path

    def _keys(self, at: int) -> tuple[list[str], int]:
        """A dotted key, and where it ends."""
        keys: list[str] = []
        while match := _KEY.match(self._text, at):
            key = match[0]
            keys.append(tomllib.loads(f"key = {key}")["key"] if key[0] in "\"'" else key)
            at = match.end()
            dot = _DOT.match(self._text, at)
            if dot is None:
                break
            at = dot.end()
        return keys, at

    def _pair(self, start: int, table: KeyPath) -> int:
        """`key = value`; the end of it."""
        keys, at = self._keys(start)
        path = (*table, *keys)
        self._note(path, start)
        at = self._after(_BLANK, self._after(_BLANK, at) + 1)  # past the equals sign
        return self._value(at, path)

    def _value(self, at: int, path: KeyPath) -> int:
        """The end of a value; what it holds is noted under `path`."""
        opening = self._text[at : at + 1]
        if opening == "[":
            index = 0
            at = self._after(_BLANK, at + 1)
            while self._text[at : at + 1] not in ("]", ""):
                self._note((*path, index), at)
                at = self._separator(self._value(at, (*path, index)))
                index += 1
            return at + 1
        if opening == "{":
            at = self._after(_BLANK, at + 1)
            while self._text[at : at + 1] not in ("}", ""):
                at = self._separator(self._pair(at, path))
            return at + 1
        return self._after(_STRING if opening in ('"', "'") else _BARE, at)

    def _separator(self, at: int) -> int:
        at = self._after(_BLANK, at)
        return self._after(_BLANK, at + 1) if self._text[at : at + 1] == "," else at
