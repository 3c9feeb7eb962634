"""Reference: the settings as JSON Schema for editors, and as tables for docs/configuration.md.

Both are made from the settings classes, durations and sizes written as users write them. The
messages about wrong values (explain.py) look their advice up in the same schema.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from gateway.config.places import KeyPath
from gateway.config.schema import Sluicegate
from gateway.settings import Bytes, Name, Seconds
from gateway.sources.modbus.config import RegisterRow
from gateway.stages.windows import duration_text

__all__ = [
    "Node",
    "json_schema",
    "keys_of",
    "name_pattern",
    "node_at",
    "printable",
    "size_text",
    "tables",
    "takes",
    "toml_text",
]

Node = Mapping[str, Any]
"""A part of the schema: what may stand at one place."""

_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


@cache
def json_schema() -> dict[str, Any]:
    """What sluicegate.toml may say, as JSON Schema 2020-12."""
    schema = _readable(Sluicegate.model_json_schema())
    for definition in schema["$defs"].values():
        definition.get("properties", {}).pop("$schema", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "sluicegate.toml",
        "description": "Configuration of Sluicegate.",
    } | {key: value for key, value in schema.items() if key not in ("title", "description")}


def node_at(path: KeyPath, data: Any) -> Node | None:
    """What the schema says of the place a path leads to; None for what it does not know.

    `data` is the whole configuration; it tells which of several kinds an entry is, by its type.
    """
    node: Node | None = json_schema()
    for step in path:
        node = _resolve(node, data)
        if node is None:
            return None
        data = data[step] if _holds(data, step) else None
        if isinstance(step, int):
            node = node.get("items")
        elif step in node.get("properties", {}):
            node = node["properties"][step]
        else:
            more = node.get("additionalProperties")
            node = more if isinstance(more, dict) else None
    return _resolve(node, data)


def keys_of(node: Node | None) -> Mapping[str, Node]:
    """The keys a table may have."""
    keys: Mapping[str, Node] = (node or {}).get("properties", {})
    return keys


def toml_text(value: Any) -> str:
    """A value as it is written in TOML."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            plain = value.translate({ord("\\"): "\\\\", ord('"'): '\\"'})
            return f'"{printable(plain)}"'
        case list() | tuple():
            return "[" + ", ".join(toml_text(item) for item in value) + "]"
        case dict():
            pairs = (f"{key} = {toml_text(item)}" for key, item in value.items())
            return "{ " + ", ".join(pairs) + " }" if value else "{}"
        case float():
            return f"{value:.15g}" if value % 1 else f"{value:.1f}"
    return str(value)


def printable(text: str) -> str:
    """A text with escapes for what cannot be seen, so that a message stays one honest line."""
    escaped = (ascii(letter)[1:-1] if not letter.isprintable() else letter for letter in text)
    return text if text.isprintable() else "".join(escaped)


def size_text(size: float) -> str:
    """A size as users write it: "64KiB", "512MiB"."""
    for unit, length in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= length and size % length == 0:
            return f"{int(size // length)}{unit}"
    return f"{int(size)}B"


def tables() -> dict[str, str]:
    """Markdown tables by section: "gateway", "source modbus-tcp", ..., "register map"."""
    schema = json_schema()
    found = {name: _table(node, schema) for name, node in _sections(schema)}
    row = _readable(RegisterRow.model_json_schema())
    found["register map"] = _table(row, row, column="column")
    return found


def _sections(schema: Node) -> Iterator[tuple[str, Node]]:
    for key in schema["properties"]:
        node = schema["properties"][key]
        inner = node.get("items", node)
        for kind in inner.get("oneOf", [inner]):
            yield from _section(_resolve(kind, None) or {}, key)


def _section(node: Node, name: str) -> Iterator[tuple[str, Node]]:
    kind = node["properties"].get("type", {}).get("const")
    yield f"{name} {kind}" if kind else name, node
    for key, value in node["properties"].items():
        inner = value.get("items", value.get("additionalProperties", value))
        table = _resolve(inner, None) if isinstance(inner, dict) else None
        if table is not None and "properties" in table:
            name_inner = (
                f"{name}.{key}.NAME" if "additionalProperties" in value else f"{name}.{key}"
            )
            yield from _section(table, name_inner)


def _table(node: Node, root: Node, column: str = "key") -> str:
    lines = [f"| {column} | what it takes | default | meaning |", "|---|---|---|---|"]
    # What every entry begins with stands first, wherever the class declares it.
    first = sorted(node["properties"], key=lambda key: {"type": 0, "name": 1}.get(key, 2))
    for key in first:
        unresolved = node["properties"][key]
        value = _resolve(unresolved, None, root) or {}
        default = "required" if key in node.get("required", ()) else _default(unresolved)
        meaning = unresolved.get("description", "")
        cells = (f"`{key}`", takes(value), default, meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _default(node: Node) -> str:
    value = node.get("default")
    return "" if value in (None, "", [], {}) else f"`{toml_text(value)}`"


def takes(node: Node) -> str:
    """What a key takes, in a few words."""
    if "anyOf" in node:
        return takes(next(kind for kind in node["anyOf"] if kind.get("type") != "null"))
    words = {
        "boolean": "true or false",
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "array": "list",
        "object": "table",
    }
    pattern = node.get("pattern")
    if "const" in node:
        text = f"`{toml_text(node['const'])}`"
    elif "enum" in node:
        text = ", ".join(f"`{toml_text(choice)}`" for choice in node["enum"])
    elif pattern == _pattern(Seconds):
        text = "duration"
    elif pattern == _pattern(Bytes):
        text = "size"
    elif pattern and pattern.startswith("^(env|file)"):
        text = "secret"
    else:
        text = words[node.get("type", "object")]
    inner = node.get("items") or node.get("additionalProperties")
    if isinstance(inner, dict):
        inner = _resolve(inner, None) or {}
        if node["type"] == "array" and "properties" not in inner:
            text = f"list of {takes(inner)}"
        elif node["type"] == "object" and "properties" not in inner:
            text = f"table of {takes(inner)}"
        else:
            text = "tables"
    return text + _range(node)


def _range(node: Node) -> str:
    bounds = node.get("x-bounds", node)
    low, high, above, below = (bounds.get(bound) for bound in _BOUNDS)
    if low is not None and high is not None:
        return f", {_bound(node, low)} to {_bound(node, high)}"
    parts = (
        ("at least", low),
        ("more than", above),
        ("at most", high),
        ("less than", below),
    )
    said = [f"{word} {_bound(node, value)}" for word, value in parts if value is not None]
    return ", " + ", ".join(said) if said else ""


def _bound(node: Node, value: float) -> str:
    if node.get("pattern") == _pattern(Seconds):
        return duration_text(value) if value else "0s"
    if node.get("pattern") == _pattern(Bytes):
        return size_text(value)
    return f"{value:,}" if value >= 100_000 else f"{value:g}"


def name_pattern() -> str:
    """What a `Name` must look like."""
    return _pattern(Name)


@cache
def _pattern(kind: Any) -> str:
    return str(TypeAdapter(kind).json_schema()["pattern"])


def _readable(schema: dict[str, Any]) -> dict[str, Any]:
    """Without made-up titles; defaults of durations and sizes as text."""

    def walk(node: Any, parent: str) -> Any:
        if isinstance(node, list):
            return [walk(item, "") for item in node]
        if not isinstance(node, dict):
            return node
        made = {key: walk(value, key) for key, value in node.items()}
        if parent != "properties":
            made.pop("title", None)
        if "$ref" in made and isinstance(made.get("default"), dict):
            del made["default"]
        if "default" in made:
            made["default"] = _default_text(made)
        return made

    found: dict[str, Any] = walk(schema, "")
    return found


def _default_text(node: Node) -> Any:
    default, pattern = node["default"], node.get("pattern")
    inner = node.get("additionalProperties")
    if pattern == _pattern(Seconds):
        return duration_text(default)
    if pattern == _pattern(Bytes):
        return size_text(default)
    if isinstance(inner, dict) and isinstance(default, dict):
        return {key: _default_text(inner | {"default": value}) for key, value in default.items()}
    return default


def _holds(data: Any, step: str | int) -> bool:
    if isinstance(step, int):
        return isinstance(data, list) and step < len(data)
    return isinstance(data, dict) and step in data


def _resolve(node: Node | None, data: Any, root: Node | None = None) -> Node | None:
    """Follow references, and choose the kind of an entry by its type."""
    if node is None:
        return None
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        target = (root or json_schema())["$defs"][name]
        return {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    if "oneOf" in node:
        mapping = node["discriminator"]["mapping"]
        kind = data.get("type") if isinstance(data, dict) else None
        chosen = mapping.get(kind) if isinstance(kind, str) else None
        return _resolve({"$ref": chosen}, data, root) if chosen else node
    if "anyOf" in node:
        kinds = [kind for kind in node["anyOf"] if kind.get("type") != "null"]
        return _resolve({**kinds[0], **{k: v for k, v in node.items() if k != "anyOf"}}, data, root)
    return node
