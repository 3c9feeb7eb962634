"""Load: sluicegate.toml and its register maps -> Config, or everything that is wrong with them.

    text -> tomllib -> pydantic, strict -> checks within and between entries -> Config

Nothing is connected to or created here. What makes the gateway useless or its data wrong is a
problem and refused; what a running gateway copes with (a secret not there yet parks its sink) is
a warning. Entries that are right are checked further even when others are not, so that one round
of mending is enough.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from gateway.asset import AssetSettings
from gateway.config.checks import review
from gateway.config.draft import Draft, MapReference
from gateway.config.explain import Document
from gateway.config.schema import AnySink, GatewaySettings, Sluicegate, SourceSettings
from gateway.config.syntax import parse_toml, read_text
from gateway.errors import ConfigError, Problem
from gateway.inference.config import ModelSettings
from gateway.sources.modbus.config import RegisterRow
from gateway.stages.config import AggregateSettings
from gateway.tag import Tag

__all__ = ["Config", "load"]

_ENTRIES: dict[str, TypeAdapter[Any]] = {
    "source": TypeAdapter(SourceSettings),
    "asset": TypeAdapter(AssetSettings),
    "model": TypeAdapter(ModelSettings),
    "aggregate": TypeAdapter(AggregateSettings),
    "sink": TypeAdapter(AnySink),
}
_GATEWAY: TypeAdapter[Any] = TypeAdapter(GatewaySettings)
_MAP: TypeAdapter[Any] = TypeAdapter(MapReference)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A configuration that can be run. Every path in `settings` is absolute."""

    settings: Sluicegate
    path: Path
    register_maps: Mapping[str, Sequence[RegisterRow]]  # by source name
    tags: tuple[Tag, ...]  # raw tags known before the first message
    open_names: tuple[str, ...]  # patterns of the tag names that messages may add
    warnings: tuple[Problem, ...] = field(default=())

    @property
    def directory(self) -> Path:
        """What relative paths in the file are relative to."""
        return self.path.parent


def load(path: Path) -> Config:
    """The configuration in a file; raises ConfigError with every problem found."""
    text = read_text(path)
    document = Document(path, text, parse_toml(path, text))
    draft, problems = _validate(document)
    found = review(draft, document, path.parent)
    problems += found.problems
    if problems or draft.settings is None:
        raise ConfigError(sorted(problems, key=_order(path)))
    return Config(
        settings=_with_absolute_paths(draft.settings, path.absolute().parent),
        path=path.absolute(),
        register_maps=found.register_maps,
        tags=tuple(found.tags.values()),
        open_names=tuple(found.open_names),
        warnings=tuple(sorted(found.warnings, key=_order(path))),
    )


def _validate(document: Document) -> tuple[Draft, list[Problem]]:
    """The settings, or of each table that is right its settings, and what is wrong elsewhere."""
    data, unusable = document.plain()
    problems = list(unusable.values())
    settings = None
    try:
        # As JSON: pydantic then reads lists as tuples and text as paths, yet takes no "5" for 5.
        settings = Sluicegate.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        said = [found for found in errors if document.path(found["loc"]) not in unusable]
        problems += document.explain(said)
    entries: dict[str, dict[int, Any]] = {key: {} for key in _ENTRIES}
    maps: dict[int, MapReference] = {}
    for key, adapter in _ENTRIES.items():
        listed = data.get(key)
        for index, entry in enumerate(listed if isinstance(listed, list) else ()):
            valid = _valid(adapter, entry)
            if valid is not None:
                entries[key][index] = valid
            reference = _valid(_MAP, entry) if key == "source" else None
            if reference is not None:
                maps[index] = reference
    gateway: GatewaySettings | None = _valid(_GATEWAY, data.get("gateway"))
    return Draft(settings=settings, gateway=gateway, maps=maps, **entries), problems


def _valid(adapter: TypeAdapter[Any], data: Any) -> Any:
    """The settings in one table, or None; what is wrong has been said for the whole file."""
    try:
        return adapter.validate_json(json.dumps(data), strict=True)
    except ValidationError:
        return None


_PATHS = (
    "register_map", "bundle", "shadow", "tls_ca", "tls_certificate", "data_dir", "directory",
    "credentials",
)  # fmt: skip


def _with_absolute_paths(settings: Sluicegate, base: Path) -> Sluicegate:
    """The settings with paths that do not depend on where the process was started."""

    def absolute(entry: Any) -> Any:
        paths = {
            key: type(value)(base / value) for key in _PATHS if (value := getattr(entry, key, None))
        }
        return entry.model_copy(update=paths)

    return settings.model_copy(
        update={
            "gateway": absolute(settings.gateway),
            "sources": tuple(map(absolute, settings.sources)),
            "models": tuple(map(absolute, settings.models)),
            "sinks": tuple(map(absolute, settings.sinks)),
        }
    )


def _order(main: Path) -> Any:
    """By place: the main file first, then by file; lines and rows by number."""

    def key(problem: Problem) -> tuple[bool, str, int]:
        number = re.search(r"\d+", problem.place)
        return problem.file != str(main), problem.file, int(number[0]) if number else 0

    return key
