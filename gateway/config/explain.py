"""Explain: what the TOML parser and pydantic object to, in words that say what to do about it.

Each objection becomes a Problem: the line, the table it is in, what was found there, and what
would be right, with the key's own example, bounds and description from the schema. Values of
secrets, and of keys that may be meant as one, are never repeated.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from gateway.config.places import KeyPath, Places
from gateway.config.reference import (
    Node,
    keys_of,
    name_pattern,
    node_at,
    printable,
    takes,
    toml_text,
)
from gateway.errors import Problem

__all__ = ["Document", "did_you_mean", "legible", "nearest", "shown"]

KEYS_NAMED_MAX = 16  # of a table, in one message; the page has them all
SHOWN_MAX = 60  # characters of a value in a message; enough to find it by
_SECRET_KEY = re.compile(r"pass|token|secret|credential|api_?key", re.IGNORECASE)
_INT64 = range(-(2**63), 2**63)


class Document:
    """One parsed file: its data, where everything stands in it, and how to speak of a place."""

    def __init__(self, file: Path, text: str, data: dict[str, Any]) -> None:
        self.file = file
        self.data = data
        self._places = Places(text)

    def problem(self, path: KeyPath, found: str, mend: str) -> Problem:
        """A Problem at the line of a path."""
        table = self._table(path)
        place = f"line {self._places.line(path)}"
        if table:
            place += f", {self._name(table)}"
        return legible(Problem(file=str(self.file), place=place, found=found, mend=mend))

    def at(self, path: KeyPath) -> Any:
        """The value a path leads to; None where there is none."""
        value: Any = self.data
        for step in path:
            if isinstance(value, str):  # its letters are not what a path means
                return None
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def key(self, path: KeyPath) -> str:
        """A path as it is written inside its table: "port", "scan_classes.fast"."""
        rest = path[len(self._table(path[:-1])) :]
        return ".".join(str(step) for step in rest if isinstance(step, str))

    def line(self, path: KeyPath) -> int:
        """The line of a path, to point at from another place."""
        return self._places.line(path)

    def plain(self) -> tuple[dict[str, Any], dict[KeyPath, Problem]]:
        """The data without what no key takes (dates, endless numbers, NUL), and what that was."""
        problems: dict[KeyPath, Problem] = {}

        def walk(value: Any, path: KeyPath) -> Any:
            if isinstance(value, dict):
                return {key: walk(item, (*path, key)) for key, item in value.items()}
            if isinstance(value, list):
                return [walk(item, (*path, index)) for index, item in enumerate(value)]
            if isinstance(value, (dt.date, dt.time)):
                what = "is a date or time, which no key takes"
            elif isinstance(value, float) and not math.isfinite(value):
                what = "is not a finite number"
            elif isinstance(value, int) and value not in _INT64:
                what = "is too large a number"
            elif isinstance(value, str) and "\0" in value:
                what = "has a NUL character, which no key takes"
            else:
                return value
            written = f"{self.key(path)} = {self._shown(path, value)}"
            problems[path] = self.problem(path, f"{written} {what}", self._advice(path))
            return None

        data = walk(self.data, ())
        return data, problems

    def explain(self, errors: Iterable[Mapping[str, Any]]) -> list[Problem]:
        """Pydantic's objections to `plain` data as Problems."""
        found = []
        for error in errors:
            path = self.path(error["loc"])
            kind = error["type"]
            # Pydantic counts only the entries that were right; those that were not are reported.
            if kind == "too_short" and self.at(path):
                continue
            if path and path[-1] == "[key]":
                found.append(self._wrong_key(path[:-1], error))
            elif kind == "missing":
                found.append(self._missing(path))
            elif kind == "extra_forbidden":
                found.append(self._unknown(path))
            elif kind.startswith("union_tag"):
                found.append(self._unknown_type(path))
            else:
                found.append(self._wrong(path, error))
        return found

    def path(self, location: tuple[str | int, ...]) -> KeyPath:
        """Pydantic's location without what it adds: the type of an entry that is one of several."""
        return location[:2] + location[3:] if _kinds(location[:1]) else location

    def _table(self, path: KeyPath) -> KeyPath:
        """The innermost table around a path that has a header of its own in the schema."""
        while path:
            if keys_of(node_at(path, self.data)) and isinstance(self.at(path), dict):
                return path
            if isinstance(path[-1], int) and isinstance(self.at(path), dict):
                return path  # an entry of no known type
            path = path[:-1]
        return ()

    def _name(self, table: KeyPath) -> str:
        """A table as its header is written, with what tells it from its like."""
        said = []
        for length, step in enumerate(table, 1):
            if not isinstance(step, int):
                continue
            entry = self.at(table[:length])
            name = entry.get("name", entry.get("pattern")) if isinstance(entry, dict) else None
            which = shown(name) if isinstance(name, str) and name else f"number {step + 1}"
            said.append(f"[[{_dotted(table[:length])}]] {which}")
        if isinstance(table[-1], str):
            said.append(f"[{_dotted(table)}]")
        return ", ".join(said)

    def _missing(self, path: KeyPath) -> Problem:
        key = str(path[-1])
        node = node_at(path, self.data) or {}
        entry = node_at((*path, 0), self.data) if node.get("type") == "array" else node
        first = self._first(entry) if path[1:] else _type_choices(path) or self._first(entry)
        if first:
            header = _header((*path, 0) if node.get("type") == "array" else path)
            where = self._table(path)
            found = f"there is no {header}" + (" below it" if where else "")
            return self.problem(path, found, f"Add {header} with {first}.")
        return self.problem(path, f"{key} is missing", self._advice(path, verb="Add"))

    def _first(self, table: Node | None) -> str:
        """The first key that a table must have, with an example."""
        required = (table or {}).get("required", ())
        known = keys_of(table)
        return next((f"{key} = {_example(known[key])}" for key in required if key in known), "")

    def _unknown(self, path: KeyPath) -> Problem:
        """A key that is not known where it stands. Its value is not shown: who knows what it is."""
        key, table = str(path[-1]), path[:-1]
        known = keys_of(node_at(table, self.data))
        is_table = not table and isinstance(self.at(path), (dict, list))
        what = f"unknown table [{key}]" if is_table else f"unknown key {toml_text(key)}"
        near, home = nearest(key, known), self._home(key, table)
        if near and is_table:
            entry = known[near].get("type") == "array"
            mend = f"Did you mean {_header((near, 0) if entry else (near,))}?"
        elif near:
            mend = f"Did you mean {toml_text(near)}?"
        elif home:
            mend = f"It belongs in {home}."
        else:
            where = _header(table) if table else "the top of the file"
            keys = list(known)
            more = " and more, see docs/configuration.md" if len(keys) > KEYS_NAMED_MAX else ""
            mend = f"Remove it; {where} takes {', '.join(keys[:KEYS_NAMED_MAX])}{more}."
        return self.problem(path, what, mend)

    def _home(self, key: str, table: KeyPath) -> str:
        """The tables that know a key: those it was moved away from by a header in between."""
        homes = [
            up for up in (table[:-1], table[:-2], ("gateway",), ("gateway", "http"),
                          ("gateway", "spool"))
            if up != table and key in keys_of(node_at(up, self.data))
        ]  # fmt: skip
        if not homes:
            return ""
        home = homes[0]
        if not home:
            return f"[[{key}]], a table of its own"
        above = f", above {_header(table)}" if table[: len(home)] == home else ""
        return _header(home) + above

    def _unknown_type(self, path: KeyPath) -> Problem:
        """An entry whose `type` is missing or unknown."""
        kinds, choices = _kinds(path), _type_choices(path)
        kind = (self.at(path) or {}).get("type")
        if kind is None:
            return self.problem(path, "type is missing", f"Add {choices}.")
        found = f"type = {shown(kind)} is not known"
        mend = did_you_mean(kind, kinds) if isinstance(kind, str) else ""
        return self.problem((*path, "type"), found, mend or f"Write {choices}.")

    def _wrong_key(self, path: KeyPath, error: Mapping[str, Any]) -> Problem:
        """A key in a table whose keys are some words, such as lanes."""
        words = re.findall(r"'([^']+)'", str(error.get("ctx", {}).get("expected", "")))
        found = f"{self.key(path[:-1])} has no key {toml_text(str(path[-1]))}"
        listed = f"Its keys are {', '.join(words)}." if words else "Remove it."
        return self.problem(path, found, did_you_mean(str(path[-1]), words) or listed)

    def _wrong(self, path: KeyPath, error: Mapping[str, Any]) -> Problem:
        """A value that its key does not take."""
        value, node = self.at(path), node_at(path, self.data) or {}
        kind = error["type"]
        brackets = self._brackets(path, value)
        if brackets:
            return self.problem(path, *brackets)
        key = self.key(path)
        found = f"{key} = {self._shown(path, value)}"
        if isinstance(path[-1], int):
            found = f"{self._shown(path, value)} in {key}"
        mend = self._advice(path)
        if kind == "value_error":
            said = str(error["ctx"]["error"])
            if isinstance(path[-1], int) and isinstance(value, Mapping):  # keys that do not fit
                return self.problem(path, said, "Change one of them.")
            return self.problem(path, f"{found} is not accepted", f"{said[:1].upper()}{said[1:]}.")
        if kind == "string_pattern_mismatch":
            mend = self._pattern_advice(path, node, str(value))
        elif "enum" in node and isinstance(value, str):
            kind = "enum"
            mend = (
                did_you_mean(value, [word for word in node["enum"] if isinstance(word, str)])
                or mend
            )
        elif kind == "too_short":
            found = key
        return self.problem(path, f"{found} {_IS_WRONG.get(kind, 'is of the wrong kind')}", mend)

    def _brackets(self, path: KeyPath, value: Any) -> tuple[str, str] | None:
        """[table] where there may be several, or [[table]] where there is one."""
        node = node_at(path, self.data) or {}
        name = _dotted(path)
        if node.get("type") == "array" and not isinstance(value, list):
            entry = node_at((*path, 0), self.data) or {}
            if "oneOf" in entry or keys_of(entry):
                found = f"[{name}] stands in single brackets"
                if not isinstance(value, dict):
                    found = f"{name} = {shown(value)} is not a table"
                return found, f"Write [[{name}]]: there may be several."
        if keys_of(node) and isinstance(value, list):
            return f"[[{name}]] stands in double brackets", f"Write [{name}]: there is only one."
        return None

    def _pattern_advice(self, path: KeyPath, node: Node, value: str) -> str:
        example = f"such as {path[-1]} = {_example(node)}"
        if node["pattern"] == name_pattern():
            return f'Write letters, digits, "-", "_" and "." only, {example}.'
        if "//" in value and "@" in value:
            mend = "Write it without the login, which goes into username and password, or token"
            return f"{mend}, {example}."
        return self._advice(path)

    def _shown(self, path: KeyPath, value: Any) -> str:
        """A value for a message; dots for what is or may be a secret."""
        node = node_at(path, self.data) or {}
        is_secret = str(node.get("pattern", "")).startswith("^(env|file)")
        if is_secret or any(_SECRET_KEY.search(str(step)) for step in path):
            return "..."
        if isinstance(value, str) and "@" in value and "//" in value:
            return "..."  # a URL with a login
        if isinstance(value, str) and "://" in value and "?" in value:
            return shown(value.partition("?")[0] + "?...")  # there may be a login, too
        return shown(value)

    def _advice(self, path: KeyPath, verb: str = "Write") -> str:
        """What would be right at a path: what the key takes, an example, what it is for."""
        node = node_at(path, self.data)
        if node is None:
            return "Remove it."
        key, example = path[-1], _example(node)
        if verb == "Add":
            what = f"Add {key} = {example}"
        elif isinstance(key, int) or "..." in example or "enum" in node:
            what = f"Write {_right(node)}"
        else:
            what = f"Write {_right(node)}, such as {key} = {example}"
        meaning = node.get("description")
        return f"{what} ({meaning})." if meaning and "enum" not in node else f"{what}."


_IS_WRONG = {
    "too_short": "is empty",
    "string_too_short": "is empty",
    "string_too_long": "is too long",
    "string_pattern_mismatch": "is not accepted",
    "greater_than_equal": "is too small",
    "greater_than": "is too small",
    "less_than_equal": "is too large",
    "less_than": "is too large",
    "enum": "is not known",
}


def legible(problem: Problem) -> Problem:
    """The same on one line, whatever letters the file had, with a whole sentence of advice."""
    found, mend = printable(problem.found), printable(problem.mend)
    mend = mend[:1].upper() + mend[1:] + "." * (not mend.endswith((".", "?", "!")))
    return replace(problem, place=printable(problem.place), found=found, mend=mend)


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that a misspelt one most likely means; "" when none is near."""
    alike = {name.lower().replace("-", "_"): name for name in known}
    plain = word.lower().replace("-", "_")
    near = get_close_matches(plain, alike, n=1, cutoff=0.6)
    begins = [name for name in alike if len(plain) > 2 and name.startswith(plain)]
    return alike[(near or begins)[0]] if near or begins else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'Did you mean "host"?', or nothing when no known word is near."""
    near = nearest(word, known)
    return f"Did you mean {toml_text(near)}?" if near else ""


def shown(value: Any) -> str:
    """A value as it stands in the file, cut short."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, int) and not isinstance(value, bool) and value not in _INT64:
        return "a very large number"
    text = toml_text(value)
    return text if len(text) <= SHOWN_MAX else text[: SHOWN_MAX - 4] + '..."'


def _dotted(path: KeyPath) -> str:
    return ".".join(str(step) for step in path if isinstance(step, str))


def _header(table: KeyPath) -> str:
    is_entry = isinstance(table[-1], int)
    return f"[[{_dotted(table)}]]" if is_entry else f"[{_dotted(table)}]"


def _kinds(path: KeyPath) -> list[str]:
    """The types an entry may have."""
    node = node_at(path[:1], {}) or {}
    return list(node.get("items", {}).get("discriminator", {}).get("mapping", {}))


def _type_choices(path: KeyPath) -> str:
    return " or ".join(f"type = {toml_text(kind)}" for kind in _kinds(path))


def _example(node: Node) -> str:
    """A value as it could stand in the file."""
    default = node.get("default")
    examples = node.get("examples") or [default] * (default not in (None, "", [], {}))
    return toml_text(examples[0]) if examples else '"..."'


def _right(node: Node) -> str:
    """What a key takes, as the end of a sentence that begins with "Write"."""
    said = takes(node).replace("`", "")
    if "enum" in node:
        return f"one of {said}"
    begin = next((begin for begin in _ARTICLES if said.startswith(begin)), "")
    return _ARTICLES.get(begin, "") + said[len(begin) :]


_ARTICLES = {
    "text": "text in quotes",
    "whole number": "a whole number",
    "number": "a number",
    "duration": "a duration in quotes",
    "size": "a size in quotes",
    "list": "a list",
    "table": "a table",
    "true or false": "true or false, without quotes",
}
