"""Found: what an import has gathered, whoever it came from, and how it is written down."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from gateway.config.reference import toml_text
from gateway.sources.modbus.config import RegisterRow
from gateway.stages.windows import duration_text

__all__ = ["Found", "FoundSource", "Unfit", "as_list", "as_table", "number", "word"]

_RESERVED = ("asset", "gateway", "site", "time", "window")
_COLUMNS = (
    "asset", "tag", "unit_id", "table", "address", "data_type", "length", "byte_order", "scale",
    "bits", "eng_unit", "scan_class",
)  # fmt: skip


class Unfit(ValueError):
    """Something that cannot be carried over; the message says why."""


@dataclass
class FoundSource:
    """One connection: the keys of its [[source]], and the rows of its map."""

    name: str
    keys: dict[str, Any]
    periods: dict[str, float] = field(default_factory=dict)  # scan class -> seconds
    rows: list[dict[str, Any]] = field(default_factory=list)

    def scan_class(self, period_s: float) -> str:
        """The scan class of a period, new or known."""
        name = "default" if not self.periods else f"every-{duration_text(period_s)}"
        for known, seconds in self.periods.items():
            if seconds == period_s:
                return known
        self.periods[name] = period_s
        return name

    def table(self) -> Iterator[list[Any]]:
        """The register map, its header first."""
        used = [c for c in _COLUMNS if any(row.get(c) not in (None, "", 0) for row in self.rows)]
        columns = [c for c in _COLUMNS if c in used or c in ("unit_id", "address")]
        yield list(columns)
        for row in self.rows:
            yield [row.get(column, "") for column in columns]


class Found:
    """All sources and assets, what is worth knowing, and what was left out."""

    def __init__(self) -> None:
        self.sources: list[FoundSource] = []
        self.notes: list[str] = []
        self.left_out: list[str] = []
        # Class, labels and, where that tells assets apart, connection and unit id.
        self._assets: dict[str, tuple[str, dict[str, str], tuple[str, int] | None]] = {}
        self._tags: set[str] = set()

    def leave_out(self, where: str, reason: str) -> None:
        """Say once what was left out, and why."""
        self._say(self.left_out, f"{where}: {reason}")

    def note(self, text: str) -> None:
        """Say once what is different now."""
        self._say(self.notes, text)

    @contextmanager
    def attempt(self, where: str) -> Iterator[None]:
        """Leave out what turns out to be Unfit within the block."""
        try:
            yield
        except Unfit as unfit:
            self.leave_out(where, str(unfit))

    @staticmethod
    def _say(kept: list[str], text: str) -> None:
        shown = "".join(c if c.isprintable() else "?" for c in text)[:400]
        if shown not in kept:
            kept.append(shown)

    def source(self, name: str, keys: Mapping[str, Any]) -> FoundSource:
        """The source of a connection; two devices at one address or line share it."""
        place = ("type", "host", "port", "device", "framing", "transport")
        key = [keys.get(each) for each in place]
        for source in self.sources:
            if [source.keys.get(each) for each in place] == key:
                self._merge(source, name, keys)
                return source
        plain = word(name)[:60] or "modbus"
        taken = {source.name for source in self.sources}
        unique = next(
            each
            for each in (plain, *(f"{plain}-{i}" for i in range(2, 10_000)))
            if each not in taken
        )
        source = FoundSource(unique, dict(keys))
        self.sources.append(source)
        return source

    def _merge(self, source: FoundSource, name: str, keys: Mapping[str, Any]) -> None:
        self.note(f"{name} is read over the connection of source {source.name}")
        for key, value in keys.items():
            before = source.keys.setdefault(key, value)
            if before != value:
                self.leave_out(
                    f"{name}: {key} = {value}", f"its connection has {key} = {before} already"
                )

    def asset(
        self,
        name: str,
        asset_class: str,
        labels: Mapping[str, Any],
        device: tuple[str, int] | None = None,
    ) -> str:
        """The name under which an asset of that class and these labels is declared.

        With a `device`, connection and unit id, those of one name on two devices are two.
        """
        name, asset_class = _asset_word(name), asset_class.strip() or "modbus"
        kept = {}
        for label, value in labels.items():
            if label in _RESERVED:
                self.leave_out(f"label {label} = {value!r}", "the gateway writes that label itself")
            else:
                kept[str(label)] = str(value)
        wanted = (asset_class, kept, device)
        for i in range(1, 10_000):
            unique = name if i == 1 else f"{name}-{i}"
            if self._assets.setdefault(unique, wanted) == wanted:
                return unique
        raise Unfit("ten thousand devices of one name")

    def add(self, source: FoundSource, where: str, **row: Any) -> None:
        """Add a row; what a register map does not take is left out with its reason."""
        row["tag"] = " ".join(str(row["tag"]).split())
        name = f"{row['asset']}.{row['tag']}"
        if name in self._tags:
            self.leave_out(where, f"there is a tag {name} already")
            return
        try:
            valid = RegisterRow.model_validate({k: v for k, v in row.items() if v is not None})
        except ValidationError as error:
            said = error.errors(include_url=False)[0]
            self.leave_out(where, f"{'.'.join(map(str, said['loc']))}: {said['msg']}")
            return
        self._tags.add(name)
        source.rows.append(valid.model_dump(mode="json", exclude_unset=True))

    def toml(self) -> str:
        """The configuration file."""
        lines = ["[gateway]", 'name = "imported"', 'data_dir = "data"']
        for source in self.sources:
            lines += ["", "[[source]]", f"type = {toml_text(source.keys['type'])}"]
            lines += [
                f"name = {toml_text(source.name)}",
                f"map = {toml_text(source.name + '.csv')}",
            ]
            periods = {name: duration_text(s) for name, s in source.periods.items()}
            lines.append(f"scan_classes = {toml_text(periods)}")
            for key, value in source.keys.items():
                if key != "type":
                    lines.append(f"{key} = {toml_text(value)}")
        used = {row["asset"] for source in self.sources for row in source.rows}
        for name, (asset_class, labels, _) in self._assets.items():
            if name in used:
                lines += ["", "[[asset]]", f"name = {toml_text(name)}"]
                lines.append(f"class = {toml_text(asset_class)}")
                if labels:
                    lines.append(f"labels = {toml_text(labels)}")
        return "\n".join(lines) + "\n"


def word(text: object) -> str:
    """A text as what may be called a name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", str(text)).strip("-.")


def _asset_word(text: str) -> str:
    """An asset's name is a pattern too: without what a pattern means by more than itself."""
    return re.sub(r"[*?\[\]\s]+", "-", text).strip("-") or "device"


def number(value: object, what: str) -> float:
    """A number, or Unfit."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Unfit(f"{what} {json.dumps(value, default=str)[:60]} is not a number")
    return value


def as_list(value: object) -> list[Any]:
    """The tables in what should be a list of tables; [] for anything else."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def as_table(value: object) -> dict[str, Any]:
    """A table; {} for anything else."""
    return value if isinstance(value, dict) else {}
