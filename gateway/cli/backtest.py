"""`sluicegate backtest CONFIG [RECORDING]`: what the models would have made of a history."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.errors import SluicegateError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.frame import Frame, TimeArray

    Turns = Iterator[tuple[TimeArray, Frame]]

    from gateway.backtest.replay import Outcome, Replay
    from gateway.backtest.verdict import Fault, Verdict
    from gateway.config.load import Config

__all__ = ["add_parser"]

ALARMS_SHOWN_MAX = 20


def add_parser(subparsers: Any) -> None:
    """The `backtest` command."""
    parser = subparsers.add_parser(
        "backtest",
        help="replay a recording or the spool through the pipeline, and judge the models",
        description="Replay a history through the pipeline that runs live, as fast as it can:"
        " events, delays, false alarms. Without a recording, the spool's own history.",
    )
    parser.add_argument("config", type=Path, help="sluicegate.toml")
    parser.add_argument(
        "recording", type=Path, nargs="?", help="CSV or Parquet file, or a folder with a spool"
    )
    parser.add_argument(
        "--from", dest="start", help='"2h" ago, or 2026-01-31T12:00 (UTC); default 24h, or all'
    )
    parser.add_argument("--to", dest="end", help="likewise; default now, or the recording's end")
    parser.add_argument(
        "--model", action="append", default=[], metavar="NAME", help="run this model; default all"
    )
    parser.add_argument("--bundle", type=Path, help="run this bundle instead of the configured")
    parser.add_argument("--asset", default="", help="whose the columns of a wide recording are")
    parser.add_argument("--time-column", default="", help="of a recording")
    parser.add_argument("--period", help='how far apart rows without times are, as "1s"')
    parser.add_argument("--label", default="", help="column that says when there was a fault")
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="faults as a table: start, end, asset"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write a report (HTML)")
    parser.add_argument("--scores", metavar="FILE", help="write every score (CSV)")
    parser.add_argument("--json", action="store_true", help="print it for programs")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from gateway.backtest.replay import Replay
    from gateway.backtest.verdict import faults_of_file, judge
    from gateway.config.load import load

    config = load(options.config)
    faults = faults_of_file(options.labels) if options.labels else None
    replay = Replay(config, options.model, options.bundle)
    began_s = time.monotonic()
    outcome, of_column, what = _replayed(options, config, replay)
    took_s = time.monotonic() - began_s
    if not outcome.samples:
        raise SluicegateError(
            f"{what} has no samples in that time", hint="say which time with --from and --to"
        )
    if not outcome.scores:
        raise SluicegateError(
            f"no model watches an asset of {what}",
            hint="; ".join(outcome.left_out.values()) or _watched(replay),
        )
    faults = of_column if faults is None else faults
    windows_ns = {
        name: manifest.period_ns * manifest.window for name, manifest in replay.manifests.items()
    }
    verdicts = judge(outcome, faults, windows_ns)
    if options.scores:
        _write_scores(options.scores, outcome)
    if options.out:
        _write_report(options, what, outcome, verdicts, faults)
    if options.json:
        print(json.dumps(_plain(outcome, verdicts, took_s), indent=2))
        return 0
    _tell(what, outcome, verdicts, faults, took_s)
    if options.out:
        print(f"report: {options.out}")
    return 0


def _replayed(
    options: argparse.Namespace, config: Config, replay: Replay
) -> tuple[Outcome, list[Fault] | None, str]:
    """The outcome, the faults that the recording itself tells of, and what was replayed."""
    from gateway.backtest.verdict import faults_of_column
    from gateway.cli.query import time_ns
    from gateway.recordings import RecordingOptions

    path: Path | None = options.recording
    if path is None or path.is_dir():
        own = config.settings.gateway.data_dir / "spool"
        directory = own if path is None else path / "spool" if (path / "spool").is_dir() else path
        start_ns, end_ns = time_ns(options.start or "24h"), time_ns(options.end or "0s")
        turns = replay.spooled(directory, start_ns, end_ns)
        return replay.run(turns), None, f"the spool in {directory}"
    reader, turns = replay.recorded(
        path,
        RecordingOptions(
            asset=options.asset,
            time_column=options.time_column,
            label=options.label,
            row_period_s=_period_s(options.period),
        ),
    )
    outcome = replay.run(_between(turns, options.start, options.end))
    for column, why in reader.told.left_out:
        outcome.left_out.setdefault(column, why)
    faults = faults_of_column(*reader.labels()) if reader.told.label_column else None
    return outcome, faults, path.name


def _between(turns: Turns, start: str | None, end: str | None) -> Turns:
    """The turns of a recording from one date to another."""
    from gateway.cli.query import date_ns

    start_ns = date_ns(start) if start else -(2**63)
    end_ns = date_ns(end) if end else 2**63 - 1
    return (turn for turn in turns if start_ns <= int(turn[0][0]) < end_ns)


def _period_s(text: str | None) -> float | None:
    from gateway.settings import parse_duration

    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise SluicegateError(f"--period {text!r}", hint=str(error)) from None


def _watched(replay: Replay) -> str:
    said = [
        f"{name} watches class {manifest.asset_class!r} with {', '.join(manifest.fields[:6])}"
        for name, manifest in replay.manifests.items()
    ]
    return "; ".join(said)


def _write_scores(out: str, outcome: Outcome) -> None:
    from gateway.cli.export import opened

    with opened(out) as file:
        file.write(b"time_ns,model,asset,score\r\n")
        for scores in outcome.scores:
            name = ",".join(_csv_cell(text) for text in (scores.model, scores.asset))
            for t_ns, value in zip(scores.t_ns.tolist(), scores.values.tolist(), strict=True):
                said = "" if value != value else repr(value)  # noqa: PLR0124 - NaN: not known
                file.write(f"{t_ns},{name},{said}\r\n".encode("utf-8", "replace"))


def _csv_cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if set(',"\r\n') & set(text) else text


def _write_report(
    options: argparse.Namespace,
    what: str,
    outcome: Outcome,
    verdicts: list[Verdict],
    faults: list[Fault] | None,
) -> None:
    from gateway.backtest.report import report_of
    from gateway.cli.export import opened
    from gateway.reports.words import utc

    lead = [f"{what}, {utc(outcome.start_ns)} to {utc(outcome.end_ns)} UTC", str(options.config)]
    page = report_of("Backtest", lead, outcome, verdicts, faults)
    with opened(str(options.out)) as file:
        file.write(page.encode("utf-8", "replace"))


def _tell(
    what: str,
    outcome: Outcome,
    verdicts: list[Verdict],
    faults: list[Fault] | None,
    took_s: float,
) -> None:
    from gateway.backtest.report import totals_of
    from gateway.cli.query import time_text
    from gateway.reports.words import duration, rate

    speed = outcome.span_s / took_s if took_s else 0.0
    print(
        f"{what}: {duration(outcome.span_s)}, {outcome.samples:,} samples, {outcome.turns:,} turns"
        f" in {took_s:.1f} s, {speed:,.0f} times as fast as it happened"
    )
    for name, why in outcome.left_out.items():
        print(f"  left out: {name}: {why}")
    for alarm in outcome.alarms[:ALARMS_SHOWN_MAX]:
        event = alarm.event
        still = ", still open" if event.is_open else ""
        print(
            f"  {time_text(alarm.opened_ns)[:19]}  {event.asset}  {event.model}"
            f"  {event.severity}, peak {event.peak:.1f}, {duration(event.duration_s)}{still}"
            f"  {event.deviation or event.top}"
        )
    if len(outcome.alarms) > ALARMS_SHOWN_MAX:
        print(f"  and {len(outcome.alarms) - ALARMS_SHOWN_MAX} more; --out writes a report of all")
    for told in outcome.sensor_events[:ALARMS_SHOWN_MAX]:
        print(f"  {time_text(told.start_ns)[:19]}  {told.asset}  sensor: {told.faults}")
    for totals in totals_of(verdicts):
        alarms = f"{totals.alarms} alarm{'s' * (totals.alarms != 1)}"
        print(f"{totals.model}: {alarms}, {totals.unknown_share:.1%} of the scores not known")
        if faults:
            print(f"  found {totals.found} of {totals.faults} faults", end="")
            median, late = totals.delay_s(0.5), totals.delay_s(0.9)
            if median is not None and late is not None:
                print(f", median delay {duration(median)}, 90 % within {duration(late)}", end="")
            print()
        per_day = totals.false_alarms_per_day
        if per_day is not None:
            kind = "false alarms" if faults is not None else "alarms, as nothing is labelled,"
            print(
                f"  {totals.false_alarms} {kind} in {totals.healthy_days:.3g} healthy asset-days:"
                f" {rate(per_day)} and asset"
            )
    points = [verdict for verdict in verdicts if verdict.f1 is not None]
    for verdict in points[:ALARMS_SHOWN_MAX]:
        print(
            f"  point by point, {verdict.asset}: F1 {verdict.f1:.3f}, false"
            f" {verdict.points_false or 0:.1%}, missed {verdict.points_missed or 0:.1%}"
        )


def _plain(outcome: Outcome, verdicts: list[Verdict], took_s: float) -> dict[str, Any]:
    """The outcome as JSON has it."""
    return {
        "samples": outcome.samples,
        "turns": outcome.turns,
        "start_ns": outcome.start_ns,
        "end_ns": outcome.end_ns,
        "took_s": took_s,
        "left_out": outcome.left_out,
        "alarms": [
            {
                "model": alarm.event.model,
                "asset": alarm.event.asset,
                "start_ns": alarm.event.start_ns,
                "opened_ns": alarm.opened_ns,
                "end_ns": alarm.event.end_ns,
                "is_open": alarm.event.is_open,
                "peak": alarm.event.peak,
                "severity": alarm.event.severity,
                "top": alarm.event.top,
                "deviation": alarm.event.deviation,
            }
            for alarm in outcome.alarms
        ],
        "sensor_events": [
            {
                "model": event.model,
                "asset": event.asset,
                "start_ns": event.start_ns,
                "end_ns": event.end_ns,
                "faults": event.faults,
            }
            for event in outcome.sensor_events
        ],
        "verdicts": [
            {
                "model": verdict.model,
                "asset": verdict.asset,
                "alarms": verdict.alarms,
                "false_alarms": len(verdict.false_alarms),
                "false_alarms_per_day": verdict.false_alarms_per_day,
                "healthy_days": verdict.healthy_days,
                "unknown_share": verdict.unknown_share,
                "f1": verdict.f1,
                "points_false": verdict.points_false,
                "points_missed": verdict.points_missed,
                "faults": [
                    {
                        "start_ns": one.fault.start_ns,
                        "end_ns": one.fault.end_ns,
                        "found": one.alarm is not None,
                        "delay_s": one.delay_s,
                    }
                    for one in verdict.judged
                ],
            }
            for verdict in verdicts
        ],
    }
