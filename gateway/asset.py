"""Assets: the machines and plots that tags belong to, declared by name or by pattern."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from pydantic import Field

from gateway.errors import SluicegateError
from gateway.settings import Settings
from gateway.tag import Tag

__all__ = ["AssetSettings", "Assets", "UnknownAsset", "tag_facts"]


class UnknownAsset(SluicegateError):
    """A name that no [[asset]] entry covers."""


class AssetSettings(Settings):
    """One [[asset]]: a machine, or every machine whose name matches a pattern."""

    name: str = Field(
        min_length=1, description="name, or pattern for several", examples=["pump-7", "pump-*"]
    )
    asset_class: str = Field(
        alias="class",
        min_length=1,
        description="what it is; names the measurement",
        examples=["pump"],
    )
    labels: dict[str, str] = Field(
        default_factory=dict,
        description="further labels of its points",
        examples=[{"area": "hall-2"}],
    )


class Assets:
    """Which class and labels an asset has; the first entry that matches its name decides."""

    def __init__(self, entries: Sequence[AssetSettings], *, gateway: str, site: str) -> None:
        self.entries = tuple(entries)
        self._common = {"gateway": gateway} | ({"site": site} if site else {})
        self._found: dict[str, AssetSettings] = {}

    def find(self, name: str) -> AssetSettings:
        """The entry that covers an asset; raises UnknownAsset."""
        found = self._found.get(name)
        if found is not None:
            return found
        for entry in self.entries:
            if fnmatchcase(name, entry.name):
                self._found[name] = entry
                return entry
        raise UnknownAsset(
            f"asset {name!r} is not declared",
            hint=f'add [[asset]] with name = "{name}" and a class',
        )

    def tag(self, asset: str, field: str, **facts: Any) -> Tag:
        """A raw tag `<asset>.<field>` with the class and labels of its asset; raises UnknownAsset.

        `facts` are the other attributes of `Tag`: source, data_type, scale, eng_unit, ...
        """
        entry = self.find(asset)
        labels = self._common | entry.labels | {"asset": asset}
        return Tag(
            name=f"{asset}.{field}",
            asset=asset,
            asset_class=entry.asset_class,
            field=field,
            measurement=entry.asset_class,
            labels=tuple(sorted(labels.items())),
            **facts,
        )


def tag_facts(given: Any) -> dict[str, Any]:
    """What a row of a register map, or a field of a topic, says of the tag it makes."""
    names = ("scale", "offset", "eng_unit", "deadband")
    return {name: getattr(given, name) for name in names} | {
        "data_type": given.tag_type,
        "rate_max": np.inf if given.rate_max is None else given.rate_max,
        "eu_low": -np.inf if given.low is None else given.low,
        "eu_high": np.inf if given.high is None else given.high,
    }
