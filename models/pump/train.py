"""Fit, judge and write the pump bundle, by `python models/pump/train.py`.

Three sets of pumps, no pump in two of them: some to fit, some to set the limits by, some to judge
on. All are simulated (simulators/training.py), healthy ones through idle phases and changes of
set point; no fault is seen before the judging, which runs the written bundle with the gateway's
own event rule. The same program gives the same bytes, and writes CARD.md with what it measured.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
from fitting import FEATURES, fit, set_limits
from graph import Detector, export

from gateway.inference.bundle import Bundle, load_bundle
from gateway.inference.events import AnomalyEvent, EventRule, Watch
from simulators.training import healthy, with_fault

HERE = Path(__file__).parent
VERSION = "1.0.0"
WINDOW, HOP = 30, 3  # samples, at 1 Hz
UNITS = ("rpm", "m3/h", "bar", "bar", "A", "degC", "degC", "mm/s", "%", "%")
RULE = EventRule(open_after=2, close_after=3, close_below=0.9)  # [[model]]'s defaults

# Seed, pumps and hours of each set.
FIT = (1000, 32, 12)
LIMIT = (2000, 16, 24)
JUDGE = (3000, 16, 24)
FAULTY = (4000, 10, 2)
FAULTS = ("bearing_wear", "cavitation", "closing_valve", "stuck_sensor", "drifting_sensor")
FAULT_AFTER_S = 3600
# Above the worst score of the limit pumps: what one more pump, or one more day, may add to it.
MARGIN = 1.2

Windows = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthy:
    """A healthy pump, judged: its worst score, and the false alarms."""

    score_max: float
    events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Faulty:
    """A pump with a fault, judged: seconds from the fault's start to its event, None for never."""

    delay_s: float | None
    top: str


def windows_of(samples: npt.NDArray[np.float64], hop: int) -> Windows:
    """(rows, WINDOW, features): windows that end at every hop-th sample."""
    found = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float32), WINDOW, axis=0)
    return found[::hop].transpose(0, 2, 1)


def train() -> tuple[Detector, float]:
    """The detector and the score that alarms."""
    # Neighbouring windows say the same: every 11th to fit by, every 3rd, as in service, to limit.
    fitted = fit(np.concatenate([windows_of(samples, 11) for samples in calm(FIT)]))
    limiting = [windows_of(samples, HOP) for samples in calm(LIMIT)]
    detector = set_limits(fitted, limiting)
    return detector, MARGIN * max(float(detector.score(rows).max()) for rows in limiting)


def calm(which: tuple[int, int, int]) -> Iterator[npt.NDArray[np.float64]]:
    """(time, feature) of each healthy pump of a set."""
    seed, pumps, hours = which
    samples = healthy(seed, hours * 3600, pumps)
    return (samples[:, pump] for pump in range(pumps))


def broken(
    which: tuple[int, int, int], fault: str, start_s: float
) -> Iterator[npt.NDArray[np.float64]]:
    """The same of pumps that all have one fault."""
    seed, pumps, hours = which
    samples = with_fault(seed, hours * 3600, pumps, fault=fault, start_s=start_s)
    return (samples[:, pump] for pump in range(pumps))


def score(bundle: Bundle, windows: Windows) -> tuple[Windows, Windows]:
    """Scores over the threshold, and contributions, by the bundle itself."""
    scores, contributions = [], []
    for start in range(0, len(windows), 1024):
        rows = windows[start : start + 1024]
        bundle.runner.reserve(len(rows), WINDOW, len(FEATURES))
        bundle.runner.windows[: len(rows)] = rows
        found, shares = bundle.runner.run()
        scores.append(found[: len(rows)] / bundle.manifest.threshold)
        contributions.append(shares[: len(rows)].copy())
    return np.concatenate(scores), np.concatenate(contributions)


def alarms(scores: Windows, contributions: Windows) -> list[AnomalyEvent]:
    """Opening records of the events; times are seconds of the record, in nanoseconds."""
    watch = Watch(RULE, "pump", "")
    found = []
    for row, value in enumerate(scores):
        was_open = watch.is_open
        top = FEATURES[int(np.argmax(contributions[row]))]
        event = watch.step((WINDOW - 1 + row * HOP) * 10**9, float(value), lambda top=top: top)
        if event is not None and event.is_open and not was_open:
            found.append(event)
    return found


def judge_healthy(bundle: Bundle) -> list[Healthy]:
    found = []
    for samples in calm(JUDGE):
        scores, shares = score(bundle, windows_of(samples, HOP))
        found.append(Healthy(score_max=float(scores.max()), events=len(alarms(scores, shares))))
    return found


def judge_fault(bundle: Bundle, fault: str) -> list[Faulty]:
    found = []
    for samples in broken(FAULTY, fault, FAULT_AFTER_S):
        opened = [
            event
            for event in alarms(*score(bundle, windows_of(samples, HOP)))
            if event.end_ns / 1e9 >= FAULT_AFTER_S
        ]
        delay_s = opened[0].end_ns / 1e9 - FAULT_AFTER_S if opened else None
        found.append(Faulty(delay_s=delay_s, top=opened[0].top if opened else ""))
    return found


def write_bundle(folder: Path, detector: Detector, threshold: float) -> Bundle:
    """model.onnx and bundle.toml, with two golden windows: a healthy one and a worn bearing."""
    model = export(detector, producer="models/pump/train.py").SerializeToString()
    (folder / "model.onnx").write_bytes(model)
    one = (FAULTY[0], 1, 1)
    well = windows_of(next(calm(one)), 1)[1800]
    worn = windows_of(next(broken(one, "bearing_wear", 0.0)), 1)[1800]
    lines = [
        "# Written by train.py; docs/formats/bundle.md says what each line means.",
        "format = 1",
        'name = "pump"',
        f'version = "{VERSION}"',
        'asset_class = "pump"',
        'sample_period = "1s"',
        f"window = {WINDOW}",
        f"hop = {HOP}",
        f"threshold = {threshold:.4f}",
        "min_valid_fraction = 0.8",
        f'sha256 = "{hashlib.sha256(model).hexdigest()}"',
        "",
        "[provenance]",
        'trained_by = "models/pump/train.py"',
        'data = "simulated pumps, healthy only (simulators/training.py)"',
        f'fitted_by = "{_set(FIT)}"',
        f'limited_by = "{_set(LIMIT)}"',
        'date = "2026-11-24"',
        "",
    ]
    for field, eng_unit in zip(FEATURES, UNITS, strict=True):
        lines += ["[[feature]]", f'field = "{field}"', f'eng_unit = "{eng_unit}"', ""]
    for window in (well, worn):
        rows = [f"    [{', '.join(repr(float(value)) for value in row)}]," for row in window]
        golden = float(detector.score(window[np.newaxis])[0])
        lines += ["[[golden]]", f"score = {golden:.6g}", "window = [", *rows, "]", ""]
    (folder / "bundle.toml").write_text("\n".join(lines))
    return load_bundle(folder)


def _set(which: tuple[int, int, int]) -> str:
    seed, pumps, hours = which
    return f"{pumps} pumps of {hours} h, seed {seed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=HERE, help="where the bundle is written")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    bundle = write_bundle(args.folder, *train())
    calm_pumps = judge_healthy(bundle)
    faulty = {fault: judge_fault(bundle, fault) for fault in FAULTS}
    size = sum((args.folder / name).stat().st_size for name in ("model.onnx", "bundle.toml"))
    (args.folder / "CARD.md").write_text(card(bundle, size, calm_pumps, faulty))
    print((args.folder / "CARD.md").read_text())


def card(
    bundle: Bundle, size: int, calm_pumps: list[Healthy], faulty: dict[str, list[Faulty]]
) -> str:
    """The model card, with what was measured."""
    hours = JUDGE[1] * JUDGE[2]
    events = sum(pump.events for pump in calm_pumps)
    worst = max(pump.score_max for pump in calm_pumps)
    # Rule of three: with no event in n days the rate is below 3/n with 95 % confidence.
    bound = (events + 3 * (events + 1) ** 0.5) / (hours / 24)
    rows = []
    for fault, found in faulty.items():
        delays = sorted(pump.delay_s for pump in found if pump.delay_s is not None)
        tops = sorted({pump.top for pump in found if pump.top})
        shown = f"{median(delays):.0f} s | {max(delays):.0f} s" if delays else "- | -"
        rows.append(f"| {fault} | {len(delays)} of {len(found)} | {shown} | {', '.join(tops)} |")
    return CARD.format(
        version=bundle.manifest.version,
        bytes=size,
        fit=_set(FIT),
        limit=_set(LIMIT),
        judge=_set(JUDGE),
        faulty=_set(FAULTY),
        hours=hours,
        events=events,
        worst=worst,
        bound=bound,
        rows="\n".join(rows),
        window=WINDOW,
        hop=HOP,
    )


CARD = """# Model card: pump {version}

Written by `models/pump/train.py`, with what it measured; the same program gives the same bytes.

**What it does.** Watches one pump by ten signals at 1 Hz. From the last {window} seconds it works
out what flow, pressure, current, temperatures and vibration should be at this speed, valve
position and level, and how much they should wobble; the score is how far they are from that, and
1 alarms. A score comes every {hop} s; two in a row open an event (the defaults of `[[model]]`).
The graph is one ONNX file with everything in it, {bytes} bytes with `bundle.toml`.

**What it was made from.** Simulated pumps only, healthy only: {fit} to fit, {limit} to set the
limits. It has never seen a real pump. Use it to try the gateway; for a real pump fit a model on
that pump.

**Healthy pumps it had not seen** ({judge}; {hours} pump hours, through idle phases and changes of
set point): {events} false alarms; the highest score was {worst:.2f}. So with 95 % confidence fewer
than {bound:.2f} false alarms a pump and day, for pumps like these.

**Faults it had not seen** ({faulty}; the fault begins after an hour, at the demo's severity):

| fault | found | delay, median | longest | because of |
|---|---|---|---|---|
{rows}

**What it cannot see.** A slow drift that stays within what was seen in fitting; anything while
the pump stands still and its signals agree with that; a sensor that sticks at a plausible value
while the pump runs steadily; the difference between a broken sensor and a broken pump. A fault
that grows over weeks is found once it is as large as the limits, not earlier.
"""


if __name__ == "__main__":
    main()
