"""Pumps that the model has never seen, a simulated day of them: false alarms, faults, delays.

    python -m bench.unseen [--hours 24] [--rate 1/day]

Fitted by `sluicegate models fit` to healthy pumps of one seed, six hours of each, and judged by
`sluicegate backtest` on pumps of other seeds: healthy ones, and one of each fault, which begins
half an hour before the end.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from gateway.cli.main import main as sluicegate
from simulators.training import FEATURES, healthy, with_fault

FIT_HOURS, FIT_PUMPS, HEALTHY_PUMPS = 6, 8, 4
FAULTS = ("bearing_wear", "cavitation", "closing_valve", "stuck_sensor", "drifting_sensor")
FAULT_HOURS, FAULT_BEGINS_S = 1.0, 1800
START_S = 1_769_860_800
CONFIG = """\
[gateway]
name = "bench"
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
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--rate", default="1/day")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sluicegate.toml").write_text(CONFIG)
        seen = healthy(1000, FIT_HOURS * 3600, assets=FIT_PUMPS)
        write(folder / "seen.csv", [seen[:, i] for i in range(FIT_PUMPS)])
        began_s = time.monotonic()
        said = command(
            "models", "fit", str(folder / "sluicegate.toml"), "--asset-class", "pump",
            "--false-alarms", options.rate, "--recording", str(folder / "seen.csv"),
            "--out", str(folder / "bundle"),
        )  # fmt: skip
        print(f"fitted to {FIT_PUMPS} pumps x {FIT_HOURS} h in {time.monotonic() - began_s:.0f} s")
        print("  " + next(line for line in said.splitlines() if line.startswith("false alarms")))
        day = healthy(2000, options.hours * 3600, assets=HEALTHY_PUMPS)
        write(folder / "healthy.csv", [day[:, i] for i in range(HEALTHY_PUMPS)])
        told = judged(folder, "healthy.csv")
        alarms = sum(verdict["false_alarms"] for verdict in told["verdicts"])
        days = sum(verdict["healthy_days"] for verdict in told["verdicts"])
        print(f"{alarms} false alarms in {days:.2f} healthy pump-days; asked for {options.rate}")
        for i, fault in enumerate(FAULTS):
            pump = with_fault(3000 + i, FAULT_HOURS * 3600, fault=fault, start_s=FAULT_BEGINS_S)
            write(folder / "fault.csv", [pump[:, 0]])
            end_s = START_S + round(FAULT_HOURS * 3600)
            (folder / "labels.csv").write_text(f"start,end\n{START_S + FAULT_BEGINS_S},{end_s}\n")
            told = judged(folder, "fault.csv", "--labels", str(folder / "labels.csv"))
            [found] = told["verdicts"][0]["faults"]
            after = f"after {found['delay_s']:.0f} s" if found["found"] else "missed"
            why = ", ".join(alarm["top"] for alarm in told["alarms"][:2])
            sensors = ", ".join(event["faults"] for event in told["sensor_events"][:2])
            print(f"  {fault:18} {after:14} {why:40} sensors: {sensors or '-'}")


def write(path: Path, pumps: list[np.ndarray]) -> None:
    """A wide recording at 1 Hz."""
    names = [f"pump-{i}.{feature}" for i in range(len(pumps)) for feature in FEATURES]
    with path.open("w") as file:
        file.write(",".join(["time", *names]) + "\n")
        for i, row in enumerate(np.concatenate(pumps, axis=1)):
            file.write(f"{START_S + i},{','.join(f'{value:.6g}' for value in row)}\n")


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
