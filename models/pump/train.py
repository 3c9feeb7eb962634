"""Fit, judge and write the pump bundle, by `python models/pump/train.py`.

The bundle is made as a user's own is: what `sluicegate models fit` calls, with its defaults, on
healthy pumps. Then the gateway's engine judges it on pumps that were not fitted, as it would in
service: healthy ones for false alarms, and one of each fault for delay and blame. All are simulated
(simulators/training.py) and rounded as the line's registers round them. CARD.md says what came out.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from gateway.frame import Frame
from gateway.inference.config import ModelSettings
from gateway.inference.engine import Engine
from gateway.inference.events import AnomalyEvent, SensorEvent
from gateway.inference.fit import FitSettings, Fitted, Recording, fit
from gateway.inference.fit.bundling import Facts, healthy_facts, write_bundle
from gateway.inference.records import Records
from simulators.registers import PUMP_TAGS
from simulators.training import FEATURES, healthy, pump_table, with_fault

HERE = Path(__file__).parent
VERSION = "2.0.0"
DATE = "2026-11-26"
FALSE_ALARMS_PER_DAY = 1 / 7

# Seed, pumps and hours of each set; no pump is in two of them.
FIT = (1000, 16, 12)
JUDGE = (3000, 16, 24)
FAULTY = (4000, 10, 2)
FAULTS = ("bearing_wear", "cavitation", "closing_valve", "stuck_sensor", "drifting_sensor")
FAULT_AFTER_S = 3600

SECOND = 10**9
START_S = 1_767_225_600
STEPS = {tag.tag: tag.scale for tag in PUMP_TAGS if "int" in tag.data_type}
UNITS = {tag.tag: tag.eng_unit for tag in PUMP_TAGS}

Samples = npt.NDArray[np.float64]  # (time, asset, feature)


def as_registers(samples: Samples) -> Samples:
    """What a Modbus register leaves of a value: its scale is the smallest step."""
    steps = np.array([STEPS.get(name, 0.0) for name in FEATURES])
    coarse = steps > 0
    rounded = samples.copy()
    rounded[..., coarse] = np.round(samples[..., coarse] / steps[coarse]) * steps[coarse]
    return rounded


def learn() -> tuple[Fitted, Facts]:
    seed, pumps, hours = FIT
    samples = as_registers(healthy(seed, hours * 3600, pumps))
    recordings = [
        Recording(
            asset=f"pump-{pump}",
            fields=FEATURES,
            eng_units=tuple(UNITS[name] for name in FEATURES),
            period_s=1.0,
            t_ns=(START_S + np.arange(len(samples))) * SECOND,
            values=samples[:, pump],
            usable=np.ones(samples[:, pump].shape, np.bool_),
        )
        for pump in range(pumps)
    ]
    fitted = fit(recordings, FitSettings(false_alarms_per_day=FALSE_ALARMS_PER_DAY))
    facts = Facts(
        name="pump",
        version=VERSION,
        asset_class="pump",
        healthy=healthy_facts(recordings, fitted),
        provenance={
            "fitted_by": "models/pump/train.py",
            "data": f"simulated pumps, healthy only: {_set(FIT)}",
            "detectors": ", ".join(one.name for one in fitted.detectors if one.used),
            "false_alarms": fitted.calibration.in_words,
            "date": DATE,
        },
    )
    return fitted, facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What the engine said of some pumps; events once each, as they opened."""

    anomalies: list[AnomalyEvent]
    sensors: list[SensorEvent]
    score_max: float


def watch(bundle: Path, samples: Samples, *, lost: float = 0.0) -> Watched:
    """The gateway's engine on pumps at 1 Hz; a share of the scans is lost, pump by pump."""
    seconds, pumps, _ = samples.shape
    table, ids = pump_table(pumps)
    came = np.random.default_rng(1).random((seconds, pumps)) >= lost
    records = Records(table)
    anomalies: dict[tuple[str, int], AnomalyEvent] = {}
    sensors: dict[tuple[str, int], SensorEvent] = {}
    score_max = 0.0
    with Engine([ModelSettings(name="pump", bundle=bundle)], table, Path()) as engine:
        for second, row in enumerate(as_registers(samples)):
            now_ns = (START_S + second) * SECOND + SECOND // 2
            there = came[second]
            scan = Frame.of(now_ns, ids[there].ravel(), row[there].ravel())
            scores, events = engine.apply(scan, now_ns)
            score_max = max(score_max, float(np.nanmax(scores.values, initial=0.0)))
            for anomaly in records.every_event(events):
                anomalies.setdefault((anomaly.asset, anomaly.start_ns), anomaly)
            for sensor in records.sensor_events(events):
                sensors.setdefault((sensor.asset, sensor.start_ns), sensor)
    return Watched(
        anomalies=list(anomalies.values()), sensors=list(sensors.values()), score_max=score_max
    )


def card(bundle: Path, fitted: Fitted) -> str:
    """The model card: judge, and tell."""
    seed, pumps, hours = JUDGE
    calm = watch(bundle, healthy(seed, hours * 3600, pumps))
    days = pumps * hours / 24
    events = len(calm.anomalies)
    # Rule of three: with no event in n days the rate is below 3/n with 95 % confidence.
    bound = (events + 3 * (events + 1) ** 0.5) / days
    rows = []
    seed, pumps, hours = FAULTY
    for number, fault in enumerate(FAULTS):
        samples = with_fault(seed + number, hours * 3600, pumps, fault=fault, start_s=FAULT_AFTER_S)
        told = watch(bundle, samples)
        rows.append(f"| {fault} | {_found(told.anomalies)} | {_found(told.sensors)} |")
    size = sum((bundle / name).stat().st_size for name in ("model.onnx", "bundle.toml"))
    return CARD.format(
        version=VERSION,
        bytes=size,
        fit=_set(FIT),
        in_words=fitted.calibration.in_words,
        judge=_set(JUDGE),
        faulty=_set(FAULTY),
        events=events,
        sensors=len(calm.sensors),
        worst=calm.score_max,
        bound=bound,
        rows="\n".join(rows),
        window=fitted.window,
        hop=fitted.hop,
        open_after=fitted.open_after,
    )


def _found(events: Sequence[AnomalyEvent | SensorEvent]) -> str:
    """The first event of each pump after the fault began."""
    begins_ns = (START_S + FAULT_AFTER_S) * SECOND
    first: dict[str, AnomalyEvent | SensorEvent] = {}
    for event in sorted(events, key=lambda one: one.end_ns):
        if event.end_ns >= begins_ns:
            first.setdefault(event.asset, event)
    if not first:
        return "-"
    delays = [(event.end_ns - begins_ns) / SECOND for event in first.values()]
    tops = Counter(
        event.top.split(",")[0] if isinstance(event, AnomalyEvent) else event.faults
        for event in first.values()
    )
    why = ", ".join(top or "all a little" for top, _ in tops.most_common(3))
    return f"{len(first)} of {FAULTY[1]}, {median(delays):.0f} s ({max(delays):.0f} s): {why}"


def _set(which: tuple[int, int, int]) -> str:
    seed, pumps, hours = which
    return f"{pumps} pumps of {hours} h, seed {seed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=HERE, help="where the bundle is written")
    args = parser.parse_args()
    fitted, facts = learn()
    with TemporaryDirectory() as name:
        made = Path(name) / "pump"
        write_bundle(made, fitted, facts)
        args.folder.mkdir(parents=True, exist_ok=True)
        for file in made.iterdir():
            (args.folder / file.name).write_bytes(file.read_bytes())
    (args.folder / "CARD.md").write_text(card(args.folder, fitted))
    print((args.folder / "CARD.md").read_text())


CARD = """# Model card: pump {version}

Written by `models/pump/train.py`, with what it measured.

**What it does.** Watches one pump by ten signals at 1 Hz: levels, what each signal should be when
the others are as they are, and how much it shakes. It was fitted as `sluicegate models fit` fits
any asset, with its defaults; [docs/detectors.md](../../docs/detectors.md) tells how. It looks at
the last {window} s, scores every {hop} s, and {open_after} scores over 1 in a row open an event.
The graph is one ONNX file with everything in it, {bytes} bytes with `bundle.toml`.

**What it was made from.** Simulated pumps only, healthy only: {fit}. It has never seen a
real pump. Use it to try the gateway; for a real pump fit a model on that pump. Its false alarms:
{in_words}.

**Healthy pumps it had not seen** ({judge}, through idle phases and changes of set point):
{events} false alarms, {sensors} sensors doubted; the highest score was {worst:.2f}. So with 95 %
confidence fewer than {bound:.2f} false alarms a pump and day, for pumps like these.

**Faults it had not seen** ({faulty} and following; the fault begins after an hour, at the demo's
severity). How many were told, the median delay (the longest), and what was named first:

| fault | as an anomaly of the machine | as a sensor that is not believed |
|---|---|---|
{rows}

**What it cannot see.** A slow drift that stays within what was seen in fitting; anything while
the pump stands still and its signals agree with that; a sensor that sticks at a plausible value
while nothing moves. A sensor that drifts within minutes looks like a machine that changes, and is
told as one. A fault that grows over weeks is found once it is as large as the limits, not earlier.
"""


if __name__ == "__main__":
    main()
