"""Draft: the entries that are right by themselves, and what the checks find about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ConfigDict, Field

from gateway.asset import AssetSettings
from gateway.config.explain import Document
from gateway.config.places import KeyPath
from gateway.config.schema import GatewaySettings, Sluicegate
from gateway.errors import Problem
from gateway.inference.config import ModelSettings
from gateway.settings import NamedPath, Seconds, Settings
from gateway.sources.modbus.config import (
    AddressRange,
    ModbusSettings,
    RegisterRow,
    SunSpecSettings,
)
from gateway.sources.mqtt.config import MqttSettings
from gateway.stages.config import AggregateSettings
from gateway.tag import Tag

__all__ = ["Draft", "Findings", "MapReference"]


class MapReference(Settings):
    """What of a [[source]] its register map is read with, whatever else the entry says."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["modbus-tcp", "modbus-rtu"]
    name: str = ""
    register_map: NamedPath | None = Field(default=None, alias="map")
    profile: str = ""
    sunspec: SunSpecSettings = SunSpecSettings()
    scan_classes: dict[str, Seconds] = Field(default={"default": 1.0})
    never_read: tuple[AddressRange, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What is right by itself; entries by their index in the file."""

    settings: Sluicegate | None  # the whole, where all of it is right
    gateway: GatewaySettings | None
    source: Mapping[int, ModbusSettings | MqttSettings]
    maps: Mapping[int, MapReference]  # also of sources in which something else is wrong
    asset: Mapping[int, AssetSettings]
    model: Mapping[int, ModelSettings]
    aggregate: Mapping[int, AggregateSettings]
    sink: Mapping[int, Any]


@dataclass(slots=True)
class Findings:
    """What the checks found, and what they learned on the way."""

    document: Document
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    register_maps: dict[str, Sequence[RegisterRow]] = field(default_factory=dict)
    tags: dict[str, Tag] = field(default_factory=dict)
    open_names: list[str] = field(default_factory=list)  # patterns of names messages may add

    def problem(self, path: KeyPath, found: str, mend: str) -> None:
        self.problems.append(self.document.problem(path, found, mend))

    def warn(self, path: KeyPath, found: str, mend: str) -> None:
        self.warnings.append(self.document.problem(path, found, mend))
