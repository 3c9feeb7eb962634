"""Assets that the model has never seen, a simulated day of them: false alarms, faults, delays.

    python -m bench.unseen [--hours 24] [--rate 1/day]

Fitted by `sluicegate models fit` to healthy assets of one seed, and judged by `sluicegate
backtest` on assets of other seeds: healthy ones, and one of each fault of the simulators. A fault
of a pump begins half an hour before the end of an hour; one of a bay two hours after the beginning
of a day, because a valve is opened about twice a day.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gateway.cli.main import main as sluicegate
from gateway.frame import FloatArray
from simulators.training import (
    BAY_FEATURES,
    BAY_STEP_S,
    CONFIG,
    FEATURES,
    STEP_S,
    bays,
    healthy,
    with_fault,
    write_recording,
)

START_S = 1_769_860_800


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A class of simulated assets."""

    name: str
    features: tuple[str, ...]
    step_s: float
    healthy: Callable[[int, float, int], FloatArray]  # seed, seconds, assets
    faulty: Callable[[int, float, str, float], FloatArray]  # seed, seconds, fault, its start
    fit: tuple[int, float]  # assets and hours
    watched: int  # healthy assets
    faults: tuple[str, ...]
    fault_hours: float
    fault_begins_s: float


PUMP = Kind(
    name="pump",
    features=FEATURES,
    step_s=STEP_S,
    healthy=healthy,
    faulty=lambda seed, s, fault, start_s: with_fault(seed, s, fault=fault, start_s=start_s),
    fit=(8, 6),
    watched=4,
    faults=("bearing_wear", "cavitation", "closing_valve", "stuck_sensor", "drifting_sensor"),
    fault_hours=1,
    fault_begins_s=1800,
)
BAY = Kind(
    name="bay",
    features=BAY_FEATURES,
    step_s=BAY_STEP_S,
    healthy=bays,
    faulty=lambda seed, s, fault, start_s: bays(seed, s, fault=fault, start_s=start_s),
    fit=(6, 72),
    watched=4,
    faults=("closing_valve", "stuck_sensor", "drifting_sensor"),
    fault_hours=24,
    fault_begins_s=7200,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--rate", default="1/day")
    options = parser.parse_args()
    for kind in (PUMP, BAY):
        with tempfile.TemporaryDirectory() as name:
            judge(kind, Path(name), options.hours, options.rate)


def judge(kind: Kind, folder: Path, hours: float, rate: str) -> None:
    def write(name: str, assets: FloatArray) -> None:
        named = {f"{kind.name}-{i}": assets[:, i] for i in range(assets.shape[1])}
        write_recording(folder / name, named, kind.features, start_s=START_S, step_s=kind.step_s)

    (folder / "sluicegate.toml").write_text(CONFIG)
    count, fit_hours = kind.fit
    write("seen.csv", kind.healthy(1000, fit_hours * 3600, count))
    began_s = time.monotonic()
    said = command(
        "models", "fit", str(folder / "sluicegate.toml"), "--asset-class", kind.name,
        "--false-alarms", rate, "--recording", str(folder / "seen.csv"),
        "--out", str(folder / "bundle"),
    )  # fmt: skip
    took_s = time.monotonic() - began_s
    print(f"fitted to {count} {kind.name}s x {fit_hours} h in {took_s:.0f} s")
    print("  " + next(line for line in said.splitlines() if line.startswith("false alarms")))
    write("healthy.csv", kind.healthy(2000, hours * 3600, kind.watched))
    told = judged(folder, "healthy.csv")
    alarms = sum(verdict["false_alarms"] for verdict in told["verdicts"])
    days = sum(verdict["healthy_days"] for verdict in told["verdicts"])
    print(f"{alarms} false alarms in {days:.2f} healthy {kind.name}-days; asked for {rate}")
    for i, fault in enumerate(kind.faults):
        seconds, begins_s = kind.fault_hours * 3600, kind.fault_begins_s
        made = kind.faulty(3000 + i, seconds, fault, begins_s)
        write("fault.csv", made)
        labels = folder / "labels.csv"
        labels.write_text(f"start,end\n{START_S + begins_s},{START_S + round(seconds)}\n")
        told = judged(folder, "fault.csv", "--labels", str(labels))
        [found] = told["verdicts"][0]["faults"]
        after = f"after {found['delay_s']:.0f} s" if found["found"] else "missed"
        if "valve_open" in kind.features and fault == "closing_valve":
            is_open = made[:, 0, kind.features.index("valve_open")] > 0
            asked = np.flatnonzero(is_open & (np.arange(len(made)) * kind.step_s >= begins_s))
            after += f" (first asked for after {asked[0] * kind.step_s - begins_s:.0f} s)"
        why = " / ".join(alarm["top"] for alarm in told["alarms"][:2])
        sensors = ", ".join(event["faults"] for event in told["sensor_events"][:2])
        print(f"  {fault:18} {after:14} {why:40} sensors: {sensors or '-'}")


def judged(folder: Path, recording: str, *more: str) -> dict:
    return json.loads(
        command(
            "backtest", str(folder / "sluicegate.toml"), str(folder / recording),
            "--bundle", str(folder / "bundle"), "--json", *more,
        )
    )  # fmt: skip


def command(*arguments: str) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert sluicegate(arguments) == 0
    return said.getvalue()


if __name__ == "__main__":
    main()
