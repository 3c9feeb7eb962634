"""Faults: what can be made to go wrong with an asset, when it begins, and how badly.

A fault grows: its level rises from 0 to `severity` over `ramp_s` seconds of plant time. What a
level does to a machine is the plant's physics; what it does to a sensor is the same everywhere
and is done here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "FAULTS",
    "Fault",
    "FaultBoard",
    "FaultError",
    "FaultKind",
    "FloatArray",
    "make_fault",
    "parse_fault",
    "seconds",
]

FloatArray: TypeAlias = npt.NDArray[np.float64]

# A fault may be ten times as bad as the demo's; beyond that the physics means nothing.
SEVERITY_MAX = 10.0
# Faults of one plant at once: more than anybody asks for, few enough to loop over each step.
ACTIVE_MAX = 256
# A drifting sensor is wrong by this share of its range at severity 1.
DRIFT_SHARE = 0.25


class FaultError(ValueError):
    """The fault cannot be: the message says what would be right."""


@dataclass(frozen=True, slots=True)
class FaultKind:
    """A fault by name; `ramp_s` is how fast it grows when nothing else is asked for."""

    ramp_s: float
    of_sensor: bool = False


# Ramps fit a demonstration. A real bearing wears for weeks: ask for ramp=14d and wait.
FAULTS: Mapping[str, FaultKind] = {
    "bearing_wear": FaultKind(ramp_s=30.0),
    "cavitation": FaultKind(ramp_s=5.0),
    "closing_valve": FaultKind(ramp_s=20.0),
    "stuck_sensor": FaultKind(ramp_s=0.0, of_sensor=True),
    "drifting_sensor": FaultKind(ramp_s=120.0, of_sensor=True),
    "device_offline": FaultKind(ramp_s=0.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault of one asset; times are plant time."""

    name: str
    asset: str
    tag: str = ""  # of a sensor fault; "" = the plant's choice
    severity: float = 1.0
    after_s: float = 0.0
    ramp_s: float | None = None  # None = as FAULTS says

    def level(self, age_s: float) -> float:
        """How bad it is `age_s` seconds after it was asked for; 0 before it begins."""
        ramp_s = FAULTS[self.name].ramp_s if self.ramp_s is None else self.ramp_s
        grown_s = age_s - self.after_s
        if grown_s < 0:
            return 0.0
        return self.severity * (min(1.0, grown_s / ramp_s) if ramp_s > 0 else 1.0)


_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}


def seconds(text: str) -> float:
    """Seconds of "90", "90s", "500ms" or "6h"; raises FaultError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise FaultError(f'{text!r} is not a duration; write one such as "30s", "5m" or "6h"')
    return float(match[1]) * _SECONDS[match[2]]


def make_fault(target: str, name: str, options: Mapping[str, str]) -> Fault:
    """A fault from texts; `target` is an asset, or asset.tag for a sensor; raises FaultError."""
    if name not in FAULTS:
        raise FaultError(f"{name!r} is not a fault; there are {', '.join(FAULTS)}")
    unknown = options.keys() - {"after", "severity", "ramp"}
    if unknown:
        raise FaultError(f"{min(unknown)!r} is not an option; there are after, severity, ramp")
    asset, _, tag = target.partition(".")
    if not asset:
        raise FaultError(f"{name} needs an asset: {name}@pump-1")
    try:
        severity = float(options.get("severity", "1"))
    except ValueError as error:
        raise FaultError(f"severity {options['severity']!r} is not a number") from error
    if not 0 < severity <= SEVERITY_MAX:
        raise FaultError(f"severity is above 0 and at most {SEVERITY_MAX:g}, not {severity:g}")
    return Fault(
        name=name,
        asset=asset,
        tag=tag,
        severity=severity,
        after_s=seconds(options.get("after", "0")),
        ramp_s=seconds(options["ramp"]) if "ramp" in options else None,
    )


def parse_fault(text: str) -> Fault:
    """NAME@ASSET[.TAG][:after=30s][:severity=0.5][:ramp=6h]; raises FaultError."""
    what, *pairs = text.split(":")
    name, at, target = what.partition("@")
    if not at or not all("=" in pair for pair in pairs):
        raise FaultError(f"{text!r} is not NAME@ASSET[.TAG][:after=30s][:severity=1][:ramp=6h]")
    return make_fault(target, name, dict(pair.split("=", 1) for pair in pairs))


@dataclass(slots=True)
class _Active:
    fault: Fault
    asked_s: float
    row: int  # of the asset, -1 for a device
    column: int  # of the tag, -1 where there is none
    level: float = 0.0
    frozen: float | None = None  # what a stuck sensor says


@dataclass(slots=True)
class FaultBoard:
    """The faults of one plant.

    `assets` and `tags` name the rows and columns of the plant's values, `spans` the tags' ranges.
    `kinds` are the faults that its physics knows; `devices` can only be offline.
    """

    assets: Sequence[str]
    tags: Sequence[str]
    spans: FloatArray
    kinds: Collection[str]
    default_tags: Mapping[str, str]
    devices: Sequence[str] = ()
    levels: dict[str, FloatArray] = field(init=False)  # fault -> level by asset
    _active: list[_Active] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.levels = {name: np.zeros(len(self.assets)) for name in self.kinds}

    def start(self, fault: Fault, now_s: float) -> None:
        """Begin a fault, in place of the same one where there is one; raises FaultError."""
        found = self._place(fault, now_s)
        self.stop(fault.asset, fault.name)
        if len(self._active) >= ACTIVE_MAX:
            raise FaultError(f"{ACTIVE_MAX} faults at once are enough; end some first")
        self._active.append(found)
        self.advance(now_s)

    def stop(self, asset: str = "", name: str = "") -> int:
        """End the faults of an asset, or of a name, or all; how many there were."""
        kept = [
            active
            for active in self._active
            if (asset and active.fault.asset != asset) or (name and active.fault.name != name)
        ]
        ended = len(self._active) - len(kept)
        self._active = kept
        self._set_levels()
        return ended

    def advance(self, now_s: float) -> None:
        """Let the faults grow up to `now_s`."""
        if not self._active:
            return
        for active in self._active:
            active.level = active.fault.level(now_s - active.asked_s)
        self._set_levels()

    def bend(self, values: FloatArray) -> None:
        """What broken sensors make of (assets, tags) values, in place."""
        for active in self._active:
            if active.level <= 0 or active.column < 0:
                continue
            cell = (active.row, active.column)
            if active.fault.name == "drifting_sensor":
                values[cell] += active.level * DRIFT_SHARE * self.spans[active.column]
            else:
                if active.frozen is None:
                    active.frozen = float(values[cell])
                values[cell] = active.frozen

    def is_offline(self, name: str) -> bool:
        """Whether an asset or device does not answer."""
        return any(
            active.fault.asset == name and active.fault.name == "device_offline" and active.level
            for active in self._active
        )

    def active(self) -> list[dict[str, object]]:
        """What was asked for and how far it has grown, for people."""
        return [
            {**asdict(active.fault), "asked_s": active.asked_s, "level": active.level}
            for active in self._active
        ]

    def _place(self, fault: Fault, now_s: float) -> _Active:
        if fault.name not in self.kinds:
            raise FaultError(
                f"{fault.name!r} cannot happen here; there are {', '.join(sorted(self.kinds))}"
            )
        if fault.asset in self.devices:
            if fault.name != "device_offline":
                raise FaultError(f"{fault.asset} is no machine; it can only be device_offline")
            return _Active(fault, now_s, row=-1, column=-1)
        if fault.asset not in self.assets:
            names = [*self.assets[:3], "..."] if len(self.assets) > 3 else self.assets
            raise FaultError(f"there is no asset {fault.asset!r}; there are {', '.join(names)}")
        column = -1
        if FAULTS[fault.name].of_sensor:
            tag = fault.tag or self.default_tags[fault.name]
            if tag not in self.tags:
                raise FaultError(f"there is no tag {tag!r}; there are {', '.join(self.tags)}")
            column = self.tags.index(tag)
        elif fault.tag:
            raise FaultError(f"{fault.name} is of the whole asset; write it without .{fault.tag}")
        return _Active(fault, now_s, row=self.assets.index(fault.asset), column=column)

    def _set_levels(self) -> None:
        for levels in self.levels.values():
            levels.fill(0.0)
        for active in self._active:
            if active.row >= 0:
                levels = self.levels[active.fault.name]
                levels[active.row] = max(levels[active.row], active.level)
