"""Syntax: what is wrong with a text that is not TOML, and how to write it.

tomllib stops at the first mistake and says what it expected there; what the writer meant is read
off the line itself. Only keys and headers are repeated, never values: one may be a secret.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from gateway.config.reference import printable
from gateway.errors import ConfigError, Problem

__all__ = ["parse_toml", "read_text"]

# A plant's configuration has a few hundred lines; what is larger is something else.
CONFIG_BYTES_MAX = 2**20
# [source.topic.fields.NAME] in an entry is six deep; whatever reads the data may recurse.
DEPTH_MAX = 16

_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_PAIR = re.compile(r"\s*([A-Za-z0-9_.\"'-]+)\s*=\s*(.*)")
_HEADER = re.compile(r"\s*\[{1,2}\s*([^\[\]#]*?)\s*\]{1,2}")


def read_text(file: Path) -> str:
    """The text of a configuration file; raises ConfigError."""
    try:
        if file.is_dir():
            inside = file / "sluicegate.toml"
            raise _error(file, "the path", "it is a folder", f"Name the file in it: {inside}.")
        if not file.exists():
            raise _error(file, "the path", "there is no such file", "Check its name and folder.")
        with file.open("rb") as opened:
            content = opened.read(CONFIG_BYTES_MAX + 1)
    except OSError as error:
        mend = "Make it readable for the user the gateway runs as."
        raise _error(file, "the path", f"it cannot be read ({error.strerror})", mend) from error
    if len(content) > CONFIG_BYTES_MAX:
        found = f"it is larger than {CONFIG_BYTES_MAX // 2**20} MiB"
        raise _error(file, "the whole file", found, "Is this the configuration?")
    try:
        # Editors on Windows put a byte order mark before UTF-8; it means nothing.
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"the byte 0x{content[error.start]:02x} is not UTF-8 text"
        mend = 'Save the file with the encoding "UTF-8".'
        raise _error(file, f"line {line}", found, mend) from error


def parse_toml(file: Path, text: str) -> dict[str, Any]:
    """The data of a text; raises ConfigError."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_explain(file, text, str(error))]) from error
    except RecursionError as error:
        raise _error(file, "the whole file", *_TOO_DEEP) from error
    except ValueError as error:  # of int(), for a number of thousands of digits
        raise _error(
            file, "the whole file", "a number has too many digits", "Write a shorter one."
        ) from error
    if not data:
        mend = 'Begin with [gateway] and name = "line-1"; see docs/configuration.md.'
        raise _error(file, "the whole file", "it has no settings in it", mend)
    if _is_too_deep(data):
        raise _error(file, "the whole file", *_TOO_DEEP)
    return data


_TOO_DEEP = ("brackets or dotted keys go too deep", "Close each bracket that is open.")


def _is_too_deep(data: dict[str, Any]) -> bool:
    level: list[Any] = [data]
    for _ in range(DEPTH_MAX):
        containers = (value for value in level if isinstance(value, (dict, list)))
        level = [
            inner
            for value in containers
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    return any(isinstance(value, (dict, list)) for value in level)


def _error(file: Path, place: str, found: str, mend: str) -> ConfigError:
    return ConfigError([Problem(file=str(file), place=place, found=found, mend=mend)])


def _explain(file: Path, text: str, message: str) -> Problem:
    at = _AT.search(message)
    lines = text.split("\n")
    number = int(at[1]) if at and at[1] else len(lines)
    column = int(at[2]) if at and at[2] else 0
    said = _AT.sub("", message)
    # A missing newline or quote is noticed where the next line begins.
    while number > 1 and not lines[number - 1][: column - 1 if column else None].strip():
        number, column = number - 1, 0
    line = lines[number - 1]
    found, mend = _twice(lines, number, said) or _meant(line, said)
    place = f"line {number}, column {column}" if column else f"line {number}"
    return Problem(file=str(file), place=place, found=printable(found), mend=printable(mend))


def _twice(lines: list[str], number: int, said: str) -> tuple[str, str] | None:
    """A table or key that was there before."""
    line = lines[number - 1]
    header = _HEADER.match(line)
    if header and ("twice" in said or "immutable" in said or "overwrite" in said):
        name = header[1]
        first = _line_of(rf"\s*\[{{1,2}}\s*{re.escape(name)}\s*\]", lines[: number - 1])
        found = f"[{name}] is there already" + (f", at line {first}" if first else "")
        if name.startswith("gateway"):
            return found, "Keep one, with all its settings in it."
        return found, f"Keep one, or head each of several with [[{name}]]."
    pair = _PAIR.match(line)
    if pair and ("overwrite" in said or "Duplicate" in said or "immutable" in said):
        key = pair[1]
        start = number - 1
        while start > 0 and not lines[start - 1].lstrip().startswith("["):
            start -= 1
        first = _line_of(rf"\s*{re.escape(key)}\s*=", lines[start : number - 1])
        found = f"{key} is there already" + (f", at line {first + start}" if first else "")
        return found, "Keep one of them."
    return None


def _line_of(pattern: str, lines: list[str]) -> int:
    return next((n for n, line in enumerate(lines, 1) if re.match(pattern, line)), 0)


def _meant(line: str, said: str) -> tuple[str, str]:
    """What a line that is not TOML seems to mean."""
    for parser_said, pattern, found, mend in _MISTAKES:
        match = re.match(pattern, line.strip(), re.IGNORECASE)
        if match and re.search(parser_said, said):
            key = match.groupdict().get("key") or ""
            return found.replace("KEY", key[:60]), mend.replace("KEY", key[:60])
    return "this is not a setting", "Write key = value, or begin a comment with #."


_KEY = r"(?P<key>[A-Za-z0-9_.-]+)\s*"
_VALUE = _KEY + r"=\s*"
# What tomllib said, what the line looks like, what is found, what would be right. First come,
# first served; "KEY" stands for the line's key or the header's name.
_MISTAKES = (
    (
        'Unterminated|Expected \'("""|\'{3})',
        r"(?!.*=).*",
        "text in triple quotes is not closed before here",
        "End it with the three quotes it began with.",
    ),
    (
        "",
        r".*[\u201c\u201d\u201e\u00ab\u00bb\u2018\u2019]",
        "these are a word processor's quotes",
        'Write straight ones: "text".',
    ),
    (
        "",
        r"\[{1,2}[^\[\]]*(#.*)?$|\[\[[^\[\]]*\]\s*(#.*)?$|\[[^\[\]]*\]\]",
        "the brackets of a table's header do not match",
        "Write [gateway], or [[source]] for what there may be several of.",
    ),
    (
        "",
        r"\[",
        "this is not a table's header",
        'Write [gateway], [[source]] or [source.topic.fields."a b"] on a line of its own.',
    ),
    (
        "",
        r".*[\x00-\x08\x0b-\x1f\x7f]",
        "there is a character in it that cannot be seen",
        "Write the line anew.",
    ),
    (
        "",
        _KEY + ":",
        "KEY is followed by a colon",
        "Write an equals sign: KEY = ...",
    ),
    (
        "",
        _VALUE + r"\[[^\]]*$",
        "the list of KEY is not closed",
        'Write KEY = ["one", "two"], with commas and both brackets.',
    ),
    (
        "Unclosed inline table|inline",
        _VALUE,
        "the table of KEY is not closed on its line",
        'Write KEY = { one = "1s", two = "2s" }, with commas, on one line.',
    ),
    ("", _VALUE + r"(#.*)?$", "KEY has no value", "Write one after the equals sign: KEY = ..."),
    (
        "",
        _VALUE + r'"[^"]*\\',
        "KEY has a backslash in double quotes",
        r"Put text with backslashes in single quotes: KEY = 'C:\plant'.",
    ),
    (
        "",
        _VALUE + r"""("[^"]*|'[^']*)$""",
        "the text of KEY is not closed",
        "End it with the quote it began with, on the same line.",
    ),
    (
        "",
        _VALUE + r"""["']""",
        "KEY is followed by more than its value",
        "Write one value a line; what follows must be a comment, begun with #.",
    ),
    (
        "",
        _VALUE + r"(true|false|yes|no|on|off)\b",
        "the value of KEY cannot be read",
        "Write true or false, in small letters.",
    ),
    (
        "",
        _VALUE + r"\d+(\.\d+)?\s*(ms|s|m|h|d|B|KiB|MiB|GiB)\b",
        "the value of KEY cannot be read",
        'Put a number and its unit in quotes, such as "10s" or "64KiB".',
    ),
    (
        "",
        _VALUE + r"[+-]?0\d+\s*(#.*)?$",
        "the value of KEY begins with a zero",
        "Write the number without zeros before it, such as 502.",
    ),
    (
        "",
        _VALUE + r"[+-]?\d+,\d+\s*(#.*)?$",
        "the value of KEY has a comma",
        "Write a decimal point, such as 0.5.",
    ),
    (
        "",
        _VALUE + r"[+-]?\d+(\.\d+)?\s",
        "KEY is followed by more than its value",
        "Write one value a line; what follows must be a comment, begun with #.",
    ),
    ("", _VALUE, "the value of KEY cannot be read", 'Put text in quotes: KEY = "...".'),
)
