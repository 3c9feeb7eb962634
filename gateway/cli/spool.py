"""`sluicegate spool ...`: show the store, verify it, export from it, move a sink's cursor in it."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.errors import SluicegateError

if TYPE_CHECKING:
    from gateway.config.load import Config
    from gateway.frame import Lane
    from gateway.spool.gap import Gap
    from gateway.spool.inspect import Finding, LaneReport, Report
    from gateway.spool.moving import Move
    from gateway.spool.wear import WearStats

__all__ = ["add_parser"]

EX_DAMAGED = 1
EX_USAGE = 64
LANES = ("event", "score", "aggregate", "raw")
FORMATS = ("csv", "jsonl", "lineprotocol", "parquet")
SHOWN_MAX = 20  # gaps or findings on a terminal; --json has them all


def add_parser(subparsers: Any) -> None:
    """The `spool` group of commands."""
    parser = subparsers.add_parser(
        "spool",
        help="show, verify, export the store; move a sink's cursor",
        description="Look after the gateway's own store. show, verify and export work beside a "
        "running gateway; rewind and skip need it stopped.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    show = _command(commands, "show", _show, "what is stored, how far each sink is, what is gone")
    verify = _command(commands, "verify", _verify, "read every byte; exit code 1 if any is damaged")
    for command in (show, verify):
        command.add_argument("--json", action="store_true", help="print it for programs")
    export = _command(commands, "export", _export, "stored samples as a file of another format")
    export.add_argument(
        "--tags", nargs="+", default=["*"], metavar="TAG", help="names or patterns; default all"
    )
    export.add_argument("--lane", choices=LANES, default="raw")
    export.add_argument(
        "--from", dest="start", default="1h", help='"15m" ago, or 2026-01-31T12:00 (UTC)'
    )
    export.add_argument("--to", dest="end", default="0s", help="likewise; default now")
    export.add_argument("--format", choices=FORMATS, default="csv")
    export.add_argument("--out", default="-", help="a file; default standard output")
    for name, what in (
        ("rewind", "have a sink send again what it has sent"),
        ("skip", "have a sink give up what it has not sent"),
    ):
        moving = _command(commands, name, _move, what)
        moving.add_argument("sink", help="name of the sink")
        moving.add_argument(
            "--to", required=True, help='"oldest", "newest", "15m" ago, or 2026-01-31T12:00 (UTC)'
        )
        moving.add_argument(
            "--lane", action="append", choices=LANES, help="default: all that the sink reads"
        )
        moving.add_argument("--yes", action="store_true", help="do it; without, only say what")
        moving.set_defaults(verb=name)


def _command(commands: Any, name: str, run: Any, what: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=what, description=what)
    parser.add_argument("config", type=Path, help="sluicegate.toml")
    parser.set_defaults(run=run)
    return parser


def _load(options: argparse.Namespace) -> tuple[Config, Path]:
    from gateway.config.load import load

    config = load(options.config)
    return config, config.settings.gateway.data_dir / "spool"


def _show(options: argparse.Namespace) -> int:
    from gateway.spool.disk import Disk
    from gateway.spool.inspect import look
    from gateway.spool.wear import saved_wear

    config, directory = _load(options)
    report = look(Disk(), directory)
    known = {place.sink for place in report.sinks}
    wear = saved_wear(directory, config.settings.gateway.spool.wear)
    unread = [sink.name for sink in config.settings.sinks if sink.name not in known]
    if options.json:
        more = {"sinks_without_cursor": unread, "wear": _plain(asdict(wear))}
        print(json.dumps({**asdict(report), **more}, indent=2))
        return 0
    print("\n".join(_report_lines(report, unread)))
    print(f"\n{_wear_line(wear)}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from gateway.spool.disk import Disk
    from gateway.spool.verify import verify

    _, directory = _load(options)
    verdict = verify(Disk(), directory)
    if options.json:
        print(json.dumps(asdict(verdict), indent=2))
        return EX_DAMAGED if verdict.findings_total else 0
    print(
        f"{verdict.segments} segments, {verdict.records:,} records,"
        f" {verdict.samples:,} samples, {_size(verdict.bytes_read)} read"
    )
    for finding in verdict.findings[:SHOWN_MAX]:
        print(_finding_line(finding))
    _print_rest(verdict.findings_total - SHOWN_MAX)
    if not verdict.findings_total:
        print("all is as it was written")
        return 0
    print(
        f"{_counted(verdict.findings_total, 'place')} damaged:"
        f" {_counted(verdict.records_damaged, 'record')},"
        f" {_counted(verdict.samples_lost, 'sample')} lost; the rest is served"
    )
    return EX_DAMAGED


def _export(options: argparse.Namespace) -> int:
    from gateway.cli.export import export
    from gateway.cli.query import time_ns
    from gateway.frame import Lane
    from gateway.spool.history import History
    from gateway.spool.inspect import Noted
    from gateway.tag import TagTable

    config, directory = _load(options)
    table = TagTable(config.settings.gateway.tags_max * 10)
    noted = Noted()
    history = History.open_readonly(directory, table, damage=noted)
    frames = history.stream(
        options.tags,
        time_ns(options.start),
        time_ns(options.end),
        lane=Lane[options.lane.upper()],
    )
    told = export(frames, table, options.format, options.out)
    refused = f"; {told.refused:,} refused: {told.reason}" if told.refused else ""
    print(f"{told.samples:,} samples exported{refused}", file=sys.stderr)
    # What a running gateway has deleted meanwhile is no damage.
    unread = [f for f in noted.findings if f.file.startswith(f"{options.lane}-")]
    unread = [finding for finding in unread if (directory / finding.file).exists()]
    if not unread:
        return 0
    print("not all could be read (spool verify says exactly what):", file=sys.stderr)
    for finding in unread[:SHOWN_MAX]:
        print(_finding_line(finding), file=sys.stderr)
    return EX_DAMAGED


def _move(options: argparse.Namespace) -> int:
    from gateway.cli.query import time_ns
    from gateway.frame import Lane
    from gateway.spool.disk import Disk
    from gateway.spool.moving import Mover

    config, directory = _load(options)
    to = options.to if options.to in ("oldest", "newest") else time_ns(options.to)
    settings = {sink.name: sink for sink in config.settings.sinks}
    with Mover.locked(Disk(), directory) as mover:
        lanes = mover.lanes_of(options.sink)
        if not lanes and options.sink not in settings:
            raise SluicegateError(
                f"no sink {options.sink!r} is configured, and none has a cursor under that name",
                hint=f"the configuration has: {', '.join(settings) or 'none'}",
            )
        if options.sink in settings:
            lanes = tuple(Lane[name.upper()] for name in settings[options.sink].lanes)
        asked = {Lane[name.upper()] for name in options.lane or ()}
        if strange := asked - set(lanes):
            raise SluicegateError(
                f"{options.sink} does not read the lane {_lane_name(min(strange))}",
                hint=f"it reads {', '.join(map(_lane_name, lanes))}",
            )
        moves = mover.plan(options.sink, sorted(asked or lanes), to)
        wrong = [move for move in moves if _is_wrong_way(move, options.verb)]
        moves = [move for move in moves if move not in wrong]
        print("\n".join(_move_lines(options.sink, moves, wrong, options.verb)))
        if not options.yes:
            print("nothing was changed; --yes does it")
            return 0
        mover.move(options.sink, moves)
    print("done")
    return 0


def _is_wrong_way(move: Move, verb: str) -> bool:
    """A rewind never gives up anything, and a skip sends nothing again."""
    return bool(move.samples_given_up if verb == "rewind" else move.samples_again)


def _move_lines(
    sink: str, moves: Sequence[Move], wrong: Sequence[Move], verb: str
) -> Iterator[str]:
    for move in moves:
        samples = move.samples_again if verb == "rewind" else move.samples_given_up
        what = "would be sent again" if verb == "rewind" else "would never be sent"
        yield f"{sink}  {_lane_name(move.lane):<10}{samples:>14,} samples {what}"
    for move in wrong:
        other = "skip" if verb == "rewind" else "rewind"
        yield f"{sink}  {_lane_name(move.lane):<10}stays where it is: that would be a {other}"


def _lane_name(lane: Lane) -> str:
    return lane.name.lower()


def _report_lines(report: Report, unread: Sequence[str]) -> Iterator[str]:
    yield f"Spool   {report.directory}"
    yield ""
    yield f"{'lane':<10}{'segments':>9}{'on disk':>10}{'samples':>14}  {'sequences':<19}times (UTC)"
    for lane in report.lanes:
        yield _lane_line(lane)
    yield ""
    if not report.sinks and not unread:
        yield "Sinks   none"
    for place in report.sinks:
        behind = f"{place.lag_samples:,} samples behind"
        since = f", from {_moment(place.oldest_ns)}" if place.lag_samples else ""
        yield f"{place.sink:<12}{place.lane:<10} at {place.place:,}: {behind}{since}"
    for name in unread:
        yield f"{name:<12}has not read yet: it begins with the oldest"
    yield from _gap_lines(report)
    if report.findings:
        yield ""
        yield "Damaged (spool verify says exactly what)"
        yield from map(_finding_line, report.findings[:SHOWN_MAX])


def _lane_line(lane: LaneReport) -> str:
    what = f"{lane.lane:<10}{lane.segments:>9}{_size(lane.bytes_used):>10}{lane.samples:>14,}"
    if not lane.segments:
        return what
    times = f"{_moment(lane.oldest_ns)} .. {_moment(lane.newest_ns)}" if lane.oldest_ns else ""
    return f"{what}  {f'{lane.sequence_first}..{lane.sequence_last}':<19}{times}"


def _gap_lines(report: Report) -> Iterator[str]:
    gaps: list[tuple[str, Gap]] = [(lane.lane, gap) for lane in report.lanes for gap in lane.gaps]
    if not gaps:
        return
    samples = sum(gap.samples for _, gap in gaps)
    undelivered = sum(gap.undelivered for _, gap in gaps)
    yield ""
    yield f"Deleted, as far as it is on record: {samples:,} samples, {undelivered:,} undelivered"
    for lane, gap in gaps[-SHOWN_MAX:]:
        times = f"{_moment(gap.t_ns_min)} .. {_moment(gap.t_ns_max)}"
        lost = f", {gap.undelivered:,} undelivered" if gap.undelivered else ""
        yield f"  {lane:<10}{times}  {gap.samples:,} samples{lost} ({gap.reason})"
    if len(gaps) > SHOWN_MAX:
        yield f"  and {len(gaps) - SHOWN_MAX:,} before"


def _wear_line(wear: WearStats) -> str:
    if math.isnan(wear.life_days):
        return "Wear    not known yet: it takes ten minutes of running, and is saved every 6 hours"
    device = f" ({_size(wear.device_bytes_day)} by the device)" * bool(wear.device_bytes_day)
    years = wear.life_days / 365
    life = "more than 20 years" if years > 20 else f"about {years:.1f} years"
    return (
        f"Wear    {_size(wear.bytes_day)}{device} and {wear.flushes_day:,.0f} flushes a day:"
        f" a card of {_size(wear.card_bytes)} lasts {life}"
    )


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity: null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in facts.items()
    }


def _finding_line(finding: Finding) -> str:
    where = f" sequences {finding.sequence_first}..{finding.sequence_last}"
    times = [_moment(t_ns) for t_ns in (finding.t_ns_min, finding.t_ns_max) if t_ns]
    between = f", {' .. '.join(times)}" if times else ""
    return (
        f"  {finding.file}{where * bool(finding.sequence_first)}: {finding.what};"
        f" {_counted(finding.records, 'record')}, {_counted(finding.samples, 'sample')}{between}"
    )


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _print_rest(more: int) -> None:
    if more > 0:
        print(f"  and {more:,} more")


def _moment(t_ns: int) -> str:
    from gateway.cli.query import time_text

    return time_text(t_ns)[:19] + "Z"


def _size(size: float) -> str:
    for unit, length in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= length:
            return f"{size / length:.1f} {unit}"
    return f"{size:.0f} B"
