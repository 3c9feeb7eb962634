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
    grows = any(source.may_grow for source in plan.sources)
    total = plan.raw_samples_per_s + plan.derived_samples_per_s
    yield _row("In all", _count(plan.tags, grows), _rate(total, grows))
    if grows:
        yield "  + and what messages bring, which is not known beforehand"
    yield ""
    yield "Sinks" if plan.sinks else "Sinks    none: everything stays in the spool"
    for sink in plan.sinks:
        yield f"  {sink.name}  {sink.type} {sink.target}"
        yield f"    lanes, in this order: {', '.join(sink.lanes)}"
    yield ""
    yield from _spool_lines(plan)


def _source_lines(source: SourcePlan) -> Iterator[str]:
    what = f"  {source.name}  {source.type} {source.address}"
    rate = "+" if source.samples_per_s is None else _rate(source.samples_per_s)
    yield _row(what, _count(source.tags, source.may_grow), rate)
    if source.standby:
        yield f"    standby {source.standby}"
    for scan in source.scans:
        requests = f"{len(scan.requests)} request{'s' * (len(scan.requests) != 1)}"
        yield _row(
            f"    {scan.scan_class}, every {_duration(scan.period_s)}: {requests}",
            _count(scan.tags),
            _rate(scan.samples_per_s),
        )
        yield from _listed(scan.requests, REQUESTS_SHOWN_MAX, "      ")
    if source.learned:
        yield "    learned when it ran:"
        yield from _listed(source.learned, REQUESTS_SHOWN_MAX, "      ")
    if source.line_busy is not None:
        yield f"    busy for {source.line_busy:.1%} of the time at least, by what is known of it"
    for topic in source.topics:
        yield f"    {topic.topic_filter}  QoS {topic.qos}, {topic.payload}"
        fields = ", ".join(topic.fields) or "every number, true or false, and text"
        yield from wrap(fields, WIDTH, initial_indent="      ", subsequent_indent="      ")


def _aggregate_line(aggregate: AggregatePlan) -> str:
    what = f"  every {_duration(aggregate.every_s)}: {', '.join(aggregate.statistics)}"
    grows = aggregate.may_grow
    return _row(what, _count(aggregate.tags, grows), _rate(aggregate.samples_per_s, grows))


def _model_lines(model: ModelPlan) -> Iterator[str]:
    name = f"  {model.name}  {model.bundle}"
    if model.period_s is None or model.window_s is None:
        yield f"{name}: no scores, its bundle is not good"
        return
    yield _row(name, "", _rate(model.samples_per_s, model.may_grow))
    window, period = _duration(model.window_s), _duration(model.period_s)
    watches = f"scores windows of {window} every {period}: {', '.join(model.fields)}"
    yield from wrap(watches, WIDTH, initial_indent="    ", subsequent_indent="      ")
    assets = f"{_count(len(model.assets), model.may_grow)} assets"
    yield f"    watches {assets}{':' * bool(model.assets)}"
    yield from _listed(model.assets, NAMES_SHOWN_MAX, "      ")


def _spool_lines(plan: Plan) -> Iterator[str]:
    from gateway.config.reference import size_text

    spool = plan.spool
    yield f"Spool   {size_text(spool.bytes_max)} in {spool.directory}"
    if spool.days is None:
        yield "  how long that lasts depends on the messages alone"
        return
    grows = any(source.may_grow for source in plan.sources)
    besides = "without what messages bring, " if grows else ""
    yield (
        f"  {besides}up to {_bytes(spool.bytes_per_day)} a day: full after {_days(spool.days)} or"
        " more, then the oldest go"
    )
    if not spool.raw:
        yield "  raw = false: there is no raw history, and a restart loses what is in open windows"
        yield "  and in the models' memory"
        return
    kept = "no end" if spool.days_without_raw is None else _days(spool.days_without_raw)
    yield (
        f"  raw = false would make that {_bytes(spool.bytes_per_day_without_raw)} and {kept};"
        " it costs the raw history,"
    )
    yield "  and at each restart what is in open windows and in the models' memory"


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


def _count(number: int, grows: bool = False) -> str:
    return f"{number:,}" + "+" * grows


def _rate(per_second: float, grows: bool = False) -> str:
    decimals = 1 if per_second >= 0.05 or not per_second else 4
    return f"{per_second:,.{decimals}f}" + "+" * grows


def _bytes(size: float) -> str:
    for unit, length in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= length:
            return f"{size / length:.3g} {unit}"
    return f"{size:.0f} bytes"


def _days(days: float) -> str:
    if days < 2:
        return f"{days * 24:.0f} hours"
    return f"{days:,.0f} days" if days < 730 else f"{days / 365:,.0f} years"
