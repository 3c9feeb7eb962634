"""What every part's settings are made of: a frozen, strict base and the units users write.

Each part declares its own settings class beside its code; `gateway.config.schema` composes them.
"""

from __future__ import annotations

import os
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import PydanticKnownError

from gateway.errors import SluicegateError

__all__ = [
    "Bytes",
    "Name",
    "NamedPath",
    "RenameSettings",
    "Seconds",
    "Secret",
    "SecretReference",
    "Settings",
    "matches_any",
    "parse_duration",
]


class Settings(BaseModel):
    """Frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB)")
_BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def parse_duration(text: str) -> float:
    """Seconds of a duration as users write it; ValueError says what would be right."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError('write a number and a unit, such as "500ms", "1s", "5m", "2h" or "7d"')
    return float(match[1]) * _SECONDS[match[2]]


def _seconds(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, str):
        return parse_duration(value)
    # In a file a bare number would leave open whether it means seconds or milliseconds.
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if info.mode == "json" or not is_number:
        raise ValueError('write a number and a unit in quotes, such as "500ms", "1s" or "5m"')
    return float(value)


def _bytes(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise ValueError('write a whole number and a unit, such as "64KiB", "512MiB" or "2GiB"')
        return int(match[1]) * _BYTES[match[2]]
    if info.mode == "json":
        raise ValueError('write a whole number and a unit in quotes, such as "64KiB" or "512MiB"')
    return value


def _named(value: Any) -> Any:
    if isinstance(value, str) and not value.strip():
        raise PydanticKnownError("string_too_short", {"min_length": 1})
    return value


def _secret(value: Any) -> Any:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str) or not value.startswith(("env:", "file:")):
        # The value itself is never repeated: it may be the secret.
        raise ValueError('secrets are not kept in this file; write "env:NAME" or "file:/path"')
    kind, _, where = value.partition(":")
    if not where.strip():
        name, example = _REFERRED[kind]
        raise ValueError(f'nothing stands behind "{kind}:"; write {name}, such as "{example}"')
    return Secret(value)


_REFERRED = {
    "env": ("the name of an environment variable", "env:INFLUX_TOKEN"),
    "file": ("the path of a file", "file:influx-token"),
}


class _Written:
    """JSON Schema of a number that users write as text; its bounds stand under "x-bounds"."""

    def __init__(self, pattern: re.Pattern[str], example: str) -> None:
        self._schema = {"type": "string", "pattern": f"^{pattern.pattern}$", "examples": [example]}

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        bounds = {key: value for key, value in handler(core).items() if key != "type"}
        return {**self._schema, "x-bounds": bounds} if bounds else self._schema


class Secret:
    """A reference to a secret, read anew each time it is used, so that it can be rotated."""

    def __init__(self, reference: str) -> None:
        self.reference = reference

    def __repr__(self) -> str:
        return f"Secret({self.reference!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.reference == self.reference

    def __hash__(self) -> int:
        return hash(self.reference)

    def stamp(self) -> tuple[int, int] | None:
        """What changes when the file of the secret does; None without one. Touches the disk."""
        kind, _, where = self.reference.partition(":")
        try:
            facts = self._path(where).stat()
        except OSError:
            return None
        return (facts.st_mtime_ns, facts.st_size) if kind == "file" else None

    @staticmethod
    def _path(where: str) -> Path:
        return Path(os.environ.get("CREDENTIALS_DIRECTORY", ".")) / where

    def read(self) -> str:
        """The secret; SluicegateError, naming the reference, when it is not there.

        A relative `file:` is looked up in systemd's $CREDENTIALS_DIRECTORY.
        """
        kind, _, where = self.reference.partition(":")
        if kind == "env":
            if where not in os.environ:
                raise SluicegateError(
                    f"environment variable {where} is not set",
                    hint=f"set it, or change {self.reference!r} in the configuration",
                )
            return os.environ[where]
        path = self._path(where)
        try:
            # Some editors begin a file with a byte order mark.
            return path.read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise SluicegateError(
                f"cannot read the secret file {path.absolute()}: {reason}",
                hint="create it, readable by the service's user, or change the configuration",
            ) from error


class RenameSettings(Settings):
    """What a destination calls things; one `*` on both sides stands for the same text."""

    measurements: dict[str, str] = Field(
        default={}, description="old name or pattern = new", examples=[{"pump*": "pumpe*"}]
    )
    fields: dict[str, str] = Field(
        default={}, description="old name or pattern = new", examples=[{"flow*": "durchfluss*"}]
    )
    labels: dict[str, str] = Field(
        default={},
        description="old name = new; empty leaves the label out",
        examples=[{"site": ""}],
    )

    @property
    def is_empty(self) -> bool:
        return not (self.measurements or self.fields or self.labels)


Seconds = Annotated[float, BeforeValidator(_seconds), _Written(_DURATION, "1s")]
"""A duration: "500ms", "1s", "5m", "2h", "7d" in the file, seconds in the program."""

Bytes = Annotated[int, BeforeValidator(_bytes), _Written(_SIZE, "512MiB")]
"""A size: "64KiB", "512MiB", "2GiB" in the file, bytes in the program."""


def _secret_schema() -> dict[str, Any]:
    return {"type": "string", "pattern": "^(env|file):.+$", "examples": ["env:INFLUX_TOKEN"]}


Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
"""What the user calls a source, sink or model. It becomes a part of file names."""

NamedPath = Annotated[
    Path,
    BeforeValidator(_named),
    WithJsonSchema({"type": "string", "format": "path", "minLength": 1}),
]
"""A file or folder; an empty text is none, though a `Path` takes it for the folder one is in."""

SecretReference = Annotated[
    Any,
    BeforeValidator(_secret),
    WithJsonSchema(_secret_schema()),
]


def matches_any(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a name matches one of some shell-style patterns (`*`, `?`, `[ab]`), case and all."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
