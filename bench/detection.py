"""Detection on recorded data with labels, by the commissioning that a user gets.

    python -m bench.detection [--data ../shared/data] [--only skab tep nab] [--develop]

Each file is fitted on the unlabelled leading rows that its protocol gives, with the defaults of
`sluicegate models fit`, and scored causally by the ONNX graph that this gives; alarms are the
events that the engine's own rule makes of the scores. What is there is found by its layout:

    skab/<group>/*.csv   `;`-separated, labels in `anomaly`: fitted on the first 400 rows
    tep/d00.dat, dNN_te.dat   fitted on d00; the fault is from row 160 on
    nab/<group>/*.csv, nab/labels/combined_windows.json   fitted on NAB's probation, 15 %, 750 rows

`--develop` leaves out what the method was not developed on. A clock and an alarm that never ends
are scored beside ours: neither reads a sensor.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.scoring import Floats, Scored, events, interval, nab_gain, nab_score, points, vus_pr
from gateway.inference.events import EventRule
from gateway.inference.fit import FitSettings, Recording, fit, parse_rate
from gateway.inference.fit.calibrate import states
from gateway.inference.fit.fit import Scorer

SKAB_TRAIN_ROWS = 400
TEP_FAULT_ROW = 160
# Of the data sets developed on in part: what of them. NAB was developed on whole.
DEVELOPED_ON = {"skab": {"valve1"}, "tep": {"01", "04", "06"}}
VUS_ROWS = 60
CROPS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """A file: what a detector may see of it, and what it is judged by."""

    name: str
    group: str
    fields: tuple[str, ...]
    t_s: Floats
    values: Floats
    fault: np.ndarray


def detect(
    settings: FitSettings, train: Floats, rest: Sequence[Floats], period_s: float
) -> tuple[list[Floats], list[np.ndarray]]:
    """Scores and alarms of each row of some series, by a model of `train`; a row is a tick."""
    rows, features = train.shape
    fitted = fit(
        [
            Recording(
                asset="bench",
                fields=tuple(f"tag{k}" for k in range(features)),
                eng_units=("",) * features,
                period_s=period_s,
                t_ns=np.arange(rows, dtype=np.int64) * round(period_s * 1e9),
                values=train,
                usable=np.isfinite(train),
            )
        ],
        settings,
    )
    scorer = Scorer(fitted.model, fitted.window, features)
    rule = EventRule(
        open_after=fitted.open_after,
        close_after=fitted.close_after,
        close_below=fitted.close_below,
    )
    scores, alarms = [], []
    for values in rest:
        found = scorer.over(values, fitted.hop)[0].astype(np.float64) / fitted.threshold
        # Between two scores the last one holds; before the first window nothing is known.
        held = np.repeat(found, fitted.hop)
        opened = np.repeat(states(found, rule), fitted.hop)
        before = fitted.window - 1
        scores.append(np.concatenate([np.zeros(before), held])[: len(values)])
        alarms.append(np.concatenate([np.zeros(before, np.bool_), opened])[: len(values)])
    return scores, alarms


def load_skab(folder: Path) -> list[Series]:
    """Every file of every group, in the order of their numbers."""
    found = []
    for file in sorted(folder.glob("*/*.csv"), key=lambda f: (f.parent.name, len(f.stem), f.stem)):
        with file.open(newline="") as opened:
            rows = list(csv.reader(opened, delimiter=";"))
        header, body = rows[0], rows[1:]
        if "anomaly" not in header:
            continue
        tags = [
            k for k, name in enumerate(header) if name not in ("datetime", "anomaly", "changepoint")
        ]
        stamps = np.array([row[header.index("datetime")] for row in body], "datetime64[ns]")
        found.append(
            Series(
                name=f"{file.parent.name}/{file.stem}",
                group=file.parent.name,
                fields=tuple(header[k] for k in tags),
                t_s=(stamps - stamps[0]).astype(np.int64) / 1e9,
                values=np.array([[float(row[k]) for k in tags] for row in body]),
                fault=np.array([float(row[header.index("anomaly")]) == 1 for row in body]),
            )
        )
    return found


def score_skab(files: Sequence[Series], settings: FitSettings) -> list[Scored]:
    scored = []
    for one in files:
        train = one.values[:SKAB_TRAIN_ROWS]
        scores, alarms = detect(settings, train, [one.values], 1.0)
        rest = slice(SKAB_TRAIN_ROWS, None)
        scored.append(
            Scored(
                name=one.name,
                t_s=one.t_s[rest],
                fault=one.fault[rest],
                alarm=alarms[0][rest],
                score=scores[0][rest],
            )
        )
    return scored


def by_clock(files: Sequence[Scored]) -> list[Scored]:
    """Alarms from the median first to the median last faulty row of the other files."""
    if len(files) < 2:
        return [replace(one, alarm=one.alarm & False) for one in files]
    firsts = [int(np.argmax(one.fault)) for one in files]
    lasts = [len(one.fault) - int(np.argmax(one.fault[::-1])) for one in files]
    found = []
    for k, one in enumerate(files):
        others = [j for j in range(len(files)) if j != k]
        first = np.median([firsts[j] for j in others])
        last = np.median([lasts[j] for j in others])
        row = np.arange(len(one.fault))
        alarm = (row >= first) & (row < last)
        found.append(replace(one, alarm=alarm, score=alarm.astype(np.float64)))
    return found


def cropped(files: Sequence[Series], seed: int) -> list[Series]:
    """Each file without some of its head, of its healthy rows after training, and of its tail."""
    random = np.random.default_rng(seed)
    found = []
    for one in files:
        first = int(np.argmax(one.fault))
        gap = int(random.integers(0, max(first - SKAB_TRAIN_ROWS - 20, 1)))
        tail = int(random.integers(0, 100))
        keep = np.ones(len(one.fault), np.bool_)
        keep[SKAB_TRAIN_ROWS : SKAB_TRAIN_ROWS + gap] = False
        keep[len(keep) - tail :] = False
        found.append(
            replace(one, t_s=one.t_s[keep], values=one.values[keep], fault=one.fault[keep])
        )
    return found


def report_skab(folder: Path, settings: FitSettings, *, develop: bool) -> None:
    files = [f for f in load_skab(folder) if not develop or f.group in DEVELOPED_ON["skab"]]
    if not files:
        return
    began_s = time.perf_counter()
    scored = score_skab(files, settings)
    print(f"\n## SKAB: {len(files)} files, {time.perf_counter() - began_s:.0f} s\n")
    table_head()
    groups = sorted({one.group for one in files})
    for group in groups:
        table_row(group, [s for s, f in zip(scored, files, strict=True) if f.group == group])
    if len(groups) > 1:
        table_row("all", scored)
    table_row(
        "an alarm that never ends",
        [replace(s, alarm=s.alarm | True, score=s.score * 0) for s in scored],
    )
    table_row("a clock that reads no sensor", by_clock(scored))
    crops = [(cropped(files, seed), seed) for seed in range(CROPS)]
    ours = [s for part, _ in crops for s in score_skab(part, settings)]
    table_row(f"all, cropped at random {CROPS} times", ours)
    table_row(
        "the clock on these",
        [s for k in range(CROPS) for s in by_clock(ours[k * len(files) : (k + 1) * len(files)])],
    )
    measures: dict[str, Callable[[Sequence[Scored]], float]] = {
        "F1": lambda part: points(part)["F1"],
        "FAR %": lambda part: points(part)["FAR %"],
        "MAR %": lambda part: points(part)["MAR %"],
        "event F1": lambda part: events(part)["event F1"],
        "false alarms/h": lambda part: events(part)["false alarms/h"],
        "delay s, median": lambda part: events(part)["delay s, median"],
    }
    said = [
        "{} {:.3g} to {:.3g}".format(name, *interval(scored, measure))
        for name, measure in measures.items()
    ]
    print(f"\n95 % intervals over all files, by bootstrap: {'; '.join(said)}")


def table_head() -> None:
    names = ["", *points([]), *events([]), "VUS-PR"]
    print("| " + " | ".join(names) + " |")
    print("|" + "---|" * len(names))


def table_row(name: str, scored: Sequence[Scored]) -> None:
    cells = []
    for what, value in (points(scored) | events(scored)).items():
        cells.append(f"{value:.3f}" if "F1" in what or what == "found" else f"{value:.1f}")
    cells.append(f"{vus_pr(scored, VUS_ROWS):.3f}")
    print("| " + " | ".join([name, *cells]) + " |")


def load_tep(file: Path) -> Floats:
    """(rows, 52); d00.dat is stored the other way round."""
    values = np.loadtxt(file)
    return values.T if values.shape[0] < values.shape[1] and values.shape[0] == 52 else values


def report_tep(folder: Path, settings: FitSettings, *, develop: bool) -> None:
    if not (folder / "d00.dat").exists():
        return
    names = sorted(file.stem[1:-3] for file in folder.glob("d*_te.dat"))
    faults = [n for n in names if n != "00" and (not develop or n in DEVELOPED_ON["tep"])]
    healthy = [n for n in names if n == "00"]
    series = [load_tep(folder / f"d{name}_te.dat") for name in [*healthy, *faults]]
    began_s = time.perf_counter()
    _, alarms = detect(settings, load_tep(folder / "d00.dat"), series, 180.0)
    print(f"\n## TEP: {len(faults)} faults, {time.perf_counter() - began_s:.0f} s\n")
    found, false = [], [alarms[k] for k in range(len(healthy))]
    print("| fault | rows found % | first found, min after onset |\n|---|---|---|")
    for name, alarm in zip(faults, alarms[len(healthy) :], strict=True):
        after, before = alarm[TEP_FAULT_ROW:], alarm[:TEP_FAULT_ROW]
        found.append(float(after.mean()) * 100)
        false.append(before)
        first = 3 * int(np.argmax(after)) if after.any() else "-"
        print(f"| {int(name)} | {found[-1]:.1f} | {first} |")
    random = np.random.default_rng(0)
    resampled = [np.mean(random.choice(found, len(found))) for _ in range(1000)]
    low, high = np.quantile(resampled, [0.025, 0.975])
    print(
        f"\nrows found, mean over faults: {np.mean(found):.1f} % (95 %: {low:.1f} to {high:.1f});"
        f" false alarms: {np.concatenate(false).mean() * 100:.2f} % of"
        f" {sum(map(len, false))} healthy rows"
    )


def report_nab(folder: Path, settings: FitSettings, *, develop: bool) -> None:
    del develop
    labels = folder / "labels" / "combined_windows.json"
    if not labels.exists():
        return
    windows = json.loads(labels.read_text())
    began_s = time.perf_counter()
    results = {}
    for name in sorted(windows):
        if not (folder / name).exists():
            continue
        with (folder / name).open(newline="") as opened:
            body = list(csv.reader(opened))[1:]
        stamps = [row[0][:19] for row in body]
        values = np.array([[float(row[1])] for row in body])
        train = values[: min(int(0.15 * len(values)), 750)]
        _, alarms = detect(settings, train, [values], 300.0)
        onsets = alarms[0] & ~np.concatenate([[False], alarms[0][:-1]])
        at = {stamp: row for row, stamp in enumerate(stamps)}
        spans = [(at[a[:19]], at[b[:19]]) for a, b in windows[name]]
        results[name] = (onsets, spans)
    if not results:
        return
    print(f"\n## NAB: {len(results)} series, {time.perf_counter() - began_s:.0f} s\n")
    print("| series | windows | found | events outside | NAB score |\n|---|---|---|---|---|")
    gains, counts = [], []
    for name, (onsets, spans) in results.items():
        hits = sum(bool(onsets[a : b + 1].any()) for a, b in spans)
        outside = int(onsets.sum()) - sum(int(onsets[a : b + 1].sum()) for a, b in spans)
        gains.append(nab_gain(onsets, spans))
        counts.append(len(spans))
        alone = nab_score(gains[-1:], counts[-1:])
        print(f"| {name} | {len(spans)} | {hits} | {outside} | {alone:.1f} |")
    random = np.random.default_rng(0)
    draws = random.integers(0, len(gains), (1000, len(gains)))
    resampled = [nab_score([gains[k] for k in d], [counts[k] for k in d]) for d in draws]
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    score = nab_score(gains, counts)
    print(f"\nNAB score, one threshold for all: {score:.1f} (95 %: {low:.1f} to {high:.1f})")


def main() -> None:
    shared = Path(os.environ.get("SLUICEGATE_SHARED", Path(__file__).parents[2] / "shared"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=shared / "data")
    parser.add_argument(
        "--only", nargs="+", choices=("skab", "tep", "nab"), default=("skab", "tep", "nab")
    )
    parser.add_argument("--develop", action="store_true", help="only what it was developed on")
    parser.add_argument("--rate", type=parse_rate, default="1/week", help="false alarms asked for")
    args = parser.parse_args()
    settings = FitSettings(false_alarms_per_day=args.rate)
    reports = {"skab": report_skab, "tep": report_tep, "nab": report_nab}
    if not any((args.data / name).is_dir() for name in args.only):
        print(f"skipped: there is none of {', '.join(args.only)} in {args.data}; see --data")
    for name in args.only:
        reports[name](args.data / name, settings, develop=args.develop)


if __name__ == "__main__":
    main()
