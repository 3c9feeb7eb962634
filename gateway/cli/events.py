"""`sluicegate events ...`: the anomaly events there were, and what the operator says of them."""

from __future__ import annotations

import argparse
import getpass
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.cli.query import time_ns, time_text
from gateway.errors import SluicegateError

if TYPE_CHECKING:
    from gateway.config.load import Config
    from gateway.inference.events import AnomalyEvent
    from gateway.inference.notes import Notes

__all__ = ["add_parser"]

SPAN_S_MAX = 10 * 365 * 86400.0

EVENT_SAMPLES_MAX = 1_000_000


def add_parser(subparsers: Any) -> None:
    """The `events` group of commands."""
    parser = subparsers.add_parser(
        "events",
        help="list anomaly events; acknowledge, snooze, maintenance",
        description="Anomaly events, and what you say of them. Works beside a running gateway.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    listing = _command(commands, "list", _list, "events, newest last")
    listing.add_argument("--from", dest="start", default="7d", help='"2d" ago, or 2026-01-31T12:00')
    listing.add_argument("--open", action="store_true", help="only those that are open")
    listing.add_argument("--json", action="store_true", help="print it for programs")
    ack = _command(commands, "ack", _ack, "an event is seen; say what it was, if you know")
    _names_asset(ack)
    ack.add_argument("--at", help="when it began, as `list` shows it; default its newest event")
    judged = ack.add_mutually_exclusive_group()
    judged.add_argument("--normal", action="store_true", help="nothing was wrong: learn from it")
    judged.add_argument("--fault", action="store_true", help="something was wrong: never learn it")
    snooze = _command(commands, "snooze", _snooze, "do not tell of an asset's events for a while")
    _names_asset(snooze)
    snooze.add_argument("--for", dest="span", default="8h", help='how long: "30m", "8h"')
    snooze.add_argument("--end", action="store_true", help="no longer")
    work = _command(commands, "maintenance", _maintenance, "somebody works on an asset")
    _names_asset(work)
    work.add_argument("--for", dest="span", help='how long: "4h"; default until --end')
    work.add_argument("--end", action="store_true", help="it is done")


def _command(commands: Any, name: str, run: Any, what: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=what, description=what)
    parser.add_argument("config", type=Path, help="sluicegate.toml")
    parser.set_defaults(run=run)
    return parser


def _names_asset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("asset", help="name of the asset")
    parser.add_argument("--model", default="", help="only this [[model]]'s; default every one's")
    parser.add_argument("--note", default="", help="in your own words")


def _list(options: argparse.Namespace) -> int:
    from gateway.config.load import load

    config = load(options.config)
    notes = _notes(config)
    events = _events(config, options.start)
    events = [event for event in events if event.is_open or not options.open]
    if options.json:
        for event in events:
            note = notes.of_event(event.model, event.asset, event.start_ns)
            said = asdict(event) | {"severity": event.severity, "note": note and asdict(note)}
            print(json.dumps(said))
        return 0
    for event in events:
        print(_line(event, notes))
    for kind in ("maintenance", "snooze"):
        for note in notes:
            if note.covers(kind, note.model, note.asset, time.time_ns()):
                print(f"{note.asset}: {kind} since {_short(note.start_ns)} {note.words}".rstrip())
    return 0


def _ack(options: argparse.Namespace) -> int:
    from gateway.config.load import load

    config, start = load(options.config), options.at or "3650d"
    found = [
        event
        for event in _events(config, start)
        if event.asset == options.asset and options.model in ("", event.model)
    ]
    if options.at:
        at_ns = time_ns(options.at)
        found = [event for event in found if abs(event.start_ns - at_ns) < 10**9]
    if not found:
        raise SluicegateError(
            f"there is no such event of {options.asset}",
            hint=f"see `sluicegate events list {options.config}`",
        )
    event = found[-1]
    verdict = "normal" if options.normal else "fault" if options.fault else ""
    # An event that is still open is judged as far as it goes; to be said anew once it is over.
    end_ns = time.time_ns() if event.is_open else event.end_ns
    _notes(config).acknowledge(
        event.model,
        event.asset,
        event.start_ns,
        end_ns,
        now_ns=time.time_ns(),
        by=getpass.getuser(),
        words=options.note,
        verdict=verdict,
    )
    print(
        f"acknowledged: {event.asset}, {event.model}, {_short(event.start_ns)} {verdict}".rstrip()
    )
    return 0


def _snooze(options: argparse.Namespace) -> int:
    return _begin_or_end(options, "snooze", options.span)


def _maintenance(options: argparse.Namespace) -> int:
    return _begin_or_end(options, "maintenance", options.span)


def _begin_or_end(options: argparse.Namespace, kind: str, span: str | None) -> int:
    from gateway.config.load import load
    from gateway.inference.notes import FOREVER_NS
    from gateway.settings import parse_duration

    config = load(options.config)
    _check_names(config, options)
    notes, now_ns = _notes(config), time.time_ns()
    if options.end:
        notes.end(kind, options.asset, now_ns=now_ns, model=options.model)
        print(f"{options.asset}: {kind} ended")
        return 0
    try:
        span_s = 0.0 if span is None else parse_duration(span)
    except ValueError as error:
        raise SluicegateError(f"--for {span}: {error}", hint='for example "8h"') from error
    if span is not None and not 0 < span_s <= SPAN_S_MAX:
        raise SluicegateError(f"--for {span} is not up to ten years", hint='for example "8h"')
    until_ns = FOREVER_NS if span is None else now_ns + round(span_s * 1e9)
    notes.begin(
        kind,
        options.asset,
        now_ns=now_ns,
        until_ns=until_ns,
        model=options.model,
        by=getpass.getuser(),
        words=options.note,
    )
    until = "until you say --end" if span is None else f"until {_short(until_ns)}"
    print(f"{options.asset}: {kind} {until}")
    return 0


def _check_names(config: Config, options: argparse.Namespace) -> None:
    """Raise SluicegateError for a model or an asset that the configuration cannot have."""
    from gateway.config.explain import did_you_mean
    from gateway.config.planned import can_both_match

    models = {model.name for model in config.settings.models}
    if options.model and options.model not in models:
        hint = did_you_mean(options.model, models) or f"there are {', '.join(models) or 'none'}"
        raise SluicegateError(f"there is no [[model]] {options.model!r}", hint=hint)
    assets = {tag.asset for tag in config.tags}
    may_come = any(can_both_match(f"{options.asset}.*", name) for name in config.open_names)
    if options.asset not in assets and not may_come:
        hint = did_you_mean(options.asset, assets) or "see `sluicegate check`"
        raise SluicegateError(f"there is no asset {options.asset!r}", hint=hint)


def _notes(config: Config) -> Notes:
    from gateway.inference.notes import NOTES_FILE, Notes

    return Notes(config.settings.gateway.data_dir / "models" / NOTES_FILE)


def _events(config: Config, start: str) -> Sequence[AnomalyEvent]:
    """By their start."""
    from gateway.frame import Lane
    from gateway.inference.records import Records
    from gateway.spool.history import History
    from gateway.tag import TagTable

    settings = config.settings.gateway
    table = TagTable(settings.tags_max * 10)
    history = History.open_readonly(settings.data_dir / "spool", table)
    begin_ns = time_ns(start) - 10**9
    frame = history.query_now(
        ["*.event.*"], begin_ns, 2**62, lane=Lane.EVENT, samples_max=EVENT_SAMPLES_MAX
    )
    return sorted(Records(table).every_event(frame), key=lambda event: event.start_ns)


def _line(event: AnomalyEvent, notes: Notes) -> str:
    note = notes.of_event(event.model, event.asset, event.start_ns)
    said = f"  acknowledged by {note.by} {note.verdict} {note.words}".rstrip() if note else ""
    lasting = "open" if event.is_open else f"{event.duration_s:.0f} s"
    return (
        f"{_short(event.start_ns)}  {event.asset}  {event.model}  {event.severity}"
        f"  peak {event.peak:.2f}  {lasting}  {event.deviation or event.top}{said}"
    )


def _short(t_ns: int) -> str:
    return time_text(t_ns)[:19] + "Z"
