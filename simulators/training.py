"""Records of pumps and of bays as arrays: the physics of the plants, as fast as it computes.

A hundred pumps cost little more than one, so ask for many at once.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gateway.frame import IdArray
from gateway.tag import Tag, TagTable
from simulators.climate import BAY_FAULTS, BAY_TAGS, Bays
from simulators.faults import Fault, FloatArray
from simulators.physics import FEATURES, PUMP_FAULTS, Pumps
from simulators.registers import PUMP_TAGS

__all__ = [
    "BAY_FAULTS",
    "BAY_FEATURES",
    "BAY_STEP_S",
    "CONFIG",
    "FEATURES",
    "PUMP_FAULTS",
    "STEP_S",
    "bays",
    "healthy",
    "pump_table",
    "record",
    "with_fault",
    "write_recording",
]

# The least configuration under which a recording of pumps or bays is fitted and replayed.
CONFIG = """\
[gateway]
name = "recordings"
data_dir = "data"
[[source]]
name = "broker"
type = "mqtt"
host = "127.0.0.1"
[[source.topic]]
pattern = "plant/{asset}/state"
[[asset]]
name = "pump-*"
class = "pump"
[[asset]]
name = "bay-*"
class = "bay"
"""
STEP_S = 1.0  # the sample period of every record of pumps
BAY_STEP_S = 10.0  # and of bays: a greenhouse is slow
BAY_FEATURES = (*BAY_TAGS, "valve_open")


def healthy(seed: int, seconds: float, assets: int = 1) -> FloatArray:
    """(time, asset, feature) of healthy pumps, a row a second; features as FEATURES."""
    return Pumps(assets, seed, step_s=STEP_S).run(round(seconds / STEP_S))


def with_fault(
    seed: int,
    seconds: float,
    assets: int = 1,
    *,
    fault: str,
    start_s: float = 0.0,
    severity: float = 1.0,
    ramp_s: float | None = None,
    tag: str = "",
) -> FloatArray:
    """The pumps of `healthy`, all with one fault from `start_s` on; the same before it."""
    pumps = Pumps(assets, seed, step_s=STEP_S)
    for asset in pumps.names:
        wanted = Fault(
            name=fault, asset=asset, tag=tag, severity=severity, after_s=start_s, ramp_s=ramp_s
        )
        pumps.board.start(wanted, 0.0)
    return pumps.run(round(seconds / STEP_S))


def record(
    seed: int,
    hours: float,
    *,
    fault: str = "",
    start_s: float = 0.0,
    severity: float = 1.0,
    ramp_s: float | None = None,
) -> FloatArray:
    """(time, feature) of one pump at 1 Hz, healthy or with a fault from `start_s` on."""
    seconds = hours * 3600
    if not fault:
        return healthy(seed, seconds)[:, 0]
    found = with_fault(
        seed, seconds, fault=fault, start_s=start_s, severity=severity, ramp_s=ramp_s
    )
    return found[:, 0]


def bays(
    seed: int, seconds: float, assets: int = 1, *, fault: str = "", start_s: float = 0.0
) -> FloatArray:
    """(time, bay, feature) of greenhouse bays, healthy or all with a fault from `start_s` on.

    A row every BAY_STEP_S; features as BAY_FEATURES.
    """
    house = Bays(assets, seed, step_s=BAY_STEP_S)
    for bay in house.names if fault else ():
        house.board.start(Fault(name=fault, asset=bay, after_s=start_s), 0.0)
    rows = []
    for _ in range(round(seconds / BAY_STEP_S)):
        values = house.step()
        rows.append(np.column_stack([values, house.is_watered]))
    return np.array(rows)


def write_recording(
    path: Path,
    assets: dict[str, FloatArray],
    features: tuple[str, ...],
    *,
    start_s: int,
    step_s: float = STEP_S,
) -> None:
    """A wide CSV: `time` in seconds, then `<asset>.<feature>` for each; rows as of `healthy`."""
    names = [f"{asset}.{feature}" for asset in assets for feature in features]
    with path.open("w") as file:
        file.write(",".join(["time", *names]) + "\n")
        for i, row in enumerate(np.concatenate(list(assets.values()), axis=1)):
            file.write(f"{start_s + i * step_s:.0f},{','.join(f'{v:.6g}' for v in row)}\n")


def pump_table(pumps: int) -> tuple[TagTable, IdArray]:
    """The tags of some pumps, `pump-0.speed` and so on, and their ids (pump, feature)."""
    table = TagTable()
    units = {tag.tag: tag.eng_unit for tag in PUMP_TAGS}
    ids = [
        table.add(
            Tag(
                name=f"pump-{pump}.{name}",
                asset=f"pump-{pump}",
                asset_class="pump",
                field=name,
                measurement="pump",
                eng_unit=units[name],
            )
        )
        for pump in range(pumps)
        for name in FEATURES
    ]
    return table, np.array(ids, np.int32).reshape(pumps, len(FEATURES))
