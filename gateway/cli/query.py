"""`sluicegate query CONFIG TAG ...`: ask the spool, whether the gateway runs or not."""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.errors import SluicegateError

if TYPE_CHECKING:
    from gateway.frame import Frame

__all__ = ["add_parser", "cut", "date_ns", "time_ns", "time_text"]

_FRACTION = re.compile(r"[.,](\d+)")  # of a second, in an ISO date

SAMPLES_MAX = 1_000_000


def add_parser(subparsers: Any) -> None:
    """The `query` command."""
    parser = subparsers.add_parser(
        "query",
        help="ask the spool by tag and time",
        description="Print stored samples, oldest first. Works beside a running gateway.",
    )
    parser.add_argument("config", type=Path, help="sluicegate.toml")
    parser.add_argument("tags", nargs="*", default=["*"], help='tag names or patterns; "*" = all')
    parser.add_argument("--lane", choices=("raw", "aggregate", "score", "event"), default="raw")
    parser.add_argument(
        "--from", dest="start", default="1h", help='"15m" ago, or 2026-01-31T12:00 (UTC)'
    )
    parser.add_argument("--to", dest="end", default="0s", help="likewise; default now")
    parser.add_argument("--format", choices=("csv", "json"), default="csv")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from gateway.config.load import load
    from gateway.frame import Lane
    from gateway.spool.history import History
    from gateway.tag import Quality, TagTable

    config = load(options.config)
    start_ns, end_ns = time_ns(options.start), time_ns(options.end)
    if start_ns >= end_ns:
        raise SluicegateError(
            f"--from {options.start} is not before --to {options.end}", hint="exchange them"
        )
    table = TagTable(config.settings.gateway.tags_max * 10)
    history = History.open_readonly(config.settings.gateway.data_dir / "spool", table)
    frame = history.query_now(
        options.tags,
        start_ns,
        end_ns,
        lane=Lane[options.lane.upper()],
        samples_max=SAMPLES_MAX,
    )
    rows = (
        (
            time_text(int(t_ns)),
            table[int(tag_id)].name,
            frame.value(row),
            table[int(tag_id)].eng_unit,
            Quality(int(quality)).name.lower(),
        )
        for row, (t_ns, tag_id, quality) in enumerate(
            zip(frame.t_ns, frame.tag_ids, frame.quality, strict=True)
        )
    )
    header = ("time", "tag", "value", "eng_unit", "quality")
    if options.format == "json":
        for row in rows:
            print(json.dumps(dict(zip(header, row, strict=True))))
    else:
        writer = csv.writer(sys.stdout)
        writer.writerow(header)
        writer.writerows(rows)
    if not len(frame):
        known = {tag.name for tag in (*config.tags, *table)}
        print(f"sluicegate: {_nothing(options, known)}", file=sys.stderr)
    return 0


def _nothing(options: argparse.Namespace, known: set[str]) -> str:
    """Why there may be no samples."""
    from gateway.config.explain import did_you_mean
    from gateway.settings import matches_any

    if options.lane == "raw":  # of the others names are known by their samples only
        for tag in options.tags:
            if known and not any(matches_any(name, (tag,)) for name in known):
                return f"no tag is called {tag!r}. {did_you_mean(tag, known)}".rstrip()
    return f"the lane {options.lane} has no samples between --from and --to"


def time_text(t_ns: int) -> str:
    """A time to the nanosecond, UTC."""
    moment = datetime.fromtimestamp(t_ns // 10**9, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + f".{t_ns % 10**9:09d}Z"


def time_ns(text: str) -> int:
    """UTC nanoseconds of a time as users write it: a duration ago, or an ISO date."""
    from gateway.settings import parse_duration

    try:
        return time.time_ns() - round(parse_duration(text) * 1e9)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise SluicegateError(
            f"{text!r} is not a time",
            hint='write "15m" for a quarter of an hour ago, or an ISO date',
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    # A datetime has microseconds, and a float not even these: what was printed must be a border.
    seconds = (moment.replace(microsecond=0) - datetime.fromtimestamp(0, UTC)) // timedelta(
        seconds=1
    )
    fraction = _FRACTION.search(text)
    return seconds * 10**9 + (int(fraction[1][:9].ljust(9, "0")) if fraction else 0)


def cut(frames: Iterator[Frame], start: str | None, end: str | None) -> Iterator[Frame]:
    """The samples of a recording from one date to another, as a user names them."""
    start_ns = date_ns(start) if start else -(2**63)
    end_ns = date_ns(end) if end else 2**63 - 1
    for frame in frames:
        yield frame.where((frame.t_ns >= start_ns) & (frame.t_ns < end_ns))


def date_ns(text: str) -> int:
    """UTC nanoseconds of an ISO date: in a file, "2h ago" means nothing."""
    from gateway.settings import parse_duration

    try:
        parse_duration(text)
    except ValueError:
        return time_ns(text)
    raise SluicegateError(
        f"{text!r} ago is no time of a recording", hint="write a date, such as 2026-01-31T12:00"
    )
