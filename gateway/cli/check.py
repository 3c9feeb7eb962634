"""`sluicegate check FILE`: what is wrong with a configuration, or what it will do."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from gateway.errors import ConfigError, Problem

if TYPE_CHECKING:
    from gateway.config.plan import AggregatePlan, ModelPlan, Plan, SourcePlan

__all__ = ["add_parser"]

EX_CONFIG = 78
WIDTH = 96  # a terminal of 100 columns, less a margin
REQUESTS_SHOWN_MAX = 12
NAMES_SHOWN_MAX = 8


def add_parser(subparsers: Any) -> None:
    """The `check` command."""
    parser = subparsers.add_parser(
        "check",
        help="check a configuration, and say what it will do",
        description="Print what is wrong with a configuration (exit code 78), or what it will do.",
    )
    parser.add_argument("config", type=Path, nargs="?", help="sluicegate.toml")
    parser.add_argument("--json", action="store_true", help="print it for programs")
    parser.add_argument(
        "--schema", action="store_true", help="print the JSON Schema for editors, and no more"
    )
    parser.set_defaults(run=_run, parser=parser)


def _run(options: argparse.Namespace) -> int:
    if options.schema:
        from gateway.config.reference import json_schema

        print(json.dumps(json_schema(), indent=2))
        return 0
    if options.config is None:
        options.parser.error("name a configuration: sluicegate check sluicegate.toml")
    from gateway.config.load import load
    from gateway.config.plan import check_models, make_plan

    try:
        config = load(options.config)
        problems = check_models(config)
        if problems:
            raise ConfigError(problems)  # noqa: TRY301 - refused like any other problem
    except ConfigError as error:
        _print_problems(error.problems, as_json=options.json)
        return EX_CONFIG
    plan = make_plan(config)
    if options.json:
        print(_json({"problems": [], "warnings": config.warnings, "plan": plan}))
        return 0
    for warning in config.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print("\n".join(_plan_lines(plan)))
    return 0


def _print_problems(problems: Sequence[Problem], *, as_json: bool) -> None:
    if as_json:
        print(_json({"problems": problems}))
        return
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(problems)} to mend", file=sys.stderr)


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, default=asdict)


def _plan_lines(plan: Plan) -> Iterator[str]:
    site = f" at {plan.site}" if plan.site else ""
    yield _row(f"Gateway {plan.name}{site}", "tags", "samples/s")
    yield ""
    yield "Sources"
    for source in plan.sources:
        yield from _source_lines(source)
    if plan.aggregates:
        yield ""
        yield "Aggregates"
        yield from map(_aggregate_line, plan.aggregates)
    if plan.models:
        yield ""
        yield "Models"
        for model in plan.models:
            yield from _model_lines(model)
    yield ""
    messages = "" if all(s.samples_per_s is not None for s in plan.sources) else ", and messages"
    total = plan.raw_samples_per_s + plan.derived_samples_per_s
    yield _row(f"In all, at most{messages}", _count(plan.tags), _rate(total))
    yield ""
    yield "Sinks" if plan.sinks else "Sinks    none: everything stays in the spool"
    for sink in plan.sinks:
        yield f"  {sink.name}  {sink.type} {sink.url} {sink.target}"
        yield f"    lanes, in this order: {', '.join(sink.lanes)}"
    yield ""
    yield from _spool_lines(plan)


def _source_lines(source: SourcePlan) -> Iterator[str]:
    rate = "" if source.samples_per_s is None else _rate(source.samples_per_s)
    tags = _count(source.tags) + ("+" if source.may_grow else "")
    yield _row(f"  {source.name}  {source.type} {source.address}", tags, rate)
    for scan in source.scans:
        requests = f"{len(scan.requests)} request{'s' * (len(scan.requests) != 1)}"
        yield _row(
            f"    {scan.scan_class}, every {_duration(scan.period_s)}: {requests}",
            _count(scan.tags),
            _rate(scan.samples_per_s),
        )
        yield from _listed(scan.requests, REQUESTS_SHOWN_MAX, "      ")
    for topic in source.topics:
        yield f"    {topic.topic_filter}  QoS {topic.qos}, {topic.payload}"
        fields = ", ".join(topic.fields) or "every number, true or false, and text"
        yield from wrap(fields, WIDTH, initial_indent="      ", subsequent_indent="      ")


def _aggregate_line(aggregate: AggregatePlan) -> str:
    what = f"  every {_duration(aggregate.every_s)}: {', '.join(aggregate.statistics)}"
    return _row(what, _count(aggregate.tags), _rate(aggregate.samples_per_s))


def _model_lines(model: ModelPlan) -> Iterator[str]:
    name = f"  {model.name}  {model.bundle}"
    if model.period_s is None or model.window_s is None:
        yield f"{name}: no scores, its bundle is not good"
        return
    yield _row(name, "", _rate(model.samples_per_s))
    window, period = _duration(model.window_s), _duration(model.period_s)
    watches = f"scores windows of {window} every {period}: {', '.join(model.fields)}"
    yield from wrap(watches, WIDTH, initial_indent="    ", subsequent_indent="      ")
    assets = f"watches {len(model.assets)} asset{'s' * (len(model.assets) != 1)}"
    yield f"    {assets}{':' * bool(model.assets)}"
    yield from _listed(model.assets, NAMES_SHOWN_MAX, "      ")


def _spool_lines(plan: Plan) -> Iterator[str]:
    from gateway.config.plan import SAMPLE_BYTES
    from gateway.config.reference import size_text

    spool = plan.spool
    yield f"Spool   {size_text(spool.bytes_max)} in {spool.directory}"
    if spool.days is None:
        yield "  how long that lasts depends on the messages alone"
        return
    yield (
        f"  at {SAMPLE_BYTES} bytes a sample (measured): {_bytes(spool.bytes_per_day)} a day,"
        f" full after {_days(spool.days)}; then the oldest go first"
    )
    if not spool.raw:
        yield "  raw = false: raw samples are not kept, nor is what a restart needs of them"
        return
    kept = "no end" if spool.days_without_raw is None else _days(spool.days_without_raw)
    yield (
        f"  raw = false would write {_bytes(spool.bytes_per_day_without_raw)} a day"
        f" and last {kept}, at a cost:"
    )
    yield "  no raw history, and a restart loses what is in open windows and in the models' memory"


def _row(what: str, tags: str, rate: str) -> str:
    """A line with two right-aligned columns; a long text pushes them to a line of their own."""
    columns = f"{tags:>8}{rate:>12}"
    room = WIDTH - len(columns)
    return f"{what:<{room}}{columns}" if len(what) <= room else f"{what}\n{'':<{room}}{columns}"


def _listed(words: Iterable[str], most: int, indent: str) -> Iterator[str]:
    words = list(words)
    for word in words[:most]:
        yield indent + word
    if len(words) > most:
        yield f"{indent}and {len(words) - most} more"


def _duration(seconds: float) -> str:
    from gateway.stages.windows import duration_text

    return duration_text(seconds)


def _count(number: int) -> str:
    return f"{number:,}"


def _rate(per_second: float) -> str:
    return f"{per_second:,.1f}" if per_second >= 0.05 or not per_second else f"{per_second:.2g}"


def _bytes(size: float) -> str:
    for unit, length in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= length:
            return f"{size / length:.3g} {unit}"
    return f"{size:.0f} bytes"


def _days(days: float) -> str:
    if days < 2:
        return f"{days * 24:.0f} hours"
    return f"{days:,.0f} days" if days < 730 else f"{days / 365:,.0f} years"
