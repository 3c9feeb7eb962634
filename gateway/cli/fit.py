"""`sluicegate models fit`: the history of a class of assets -> a signed bundle and its report."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from gateway import __version__
from gateway.cli.models import CONFIG, key_of
from gateway.cli.query import cut, time_ns
from gateway.config.load import Config, load
from gateway.errors import SluicegateError
from gateway.frame import Frame, TimeArray
from gateway.inference.fit import FitError, FitSettings, Fitted, fit, parse_rate
from gateway.inference.fit.bundling import REPORT, Facts, healthy_facts, write_bundle
from gateway.inference.fit.prepare import (
    Arrivals,
    Prepared,
    Selection,
    Spoken,
    prepare,
    sample_period,
)
from gateway.inference.fit.recording import Recording
from gateway.inference.fit.report import report_of
from gateway.inference.keys import DeviceKey
from gateway.inference.notes import NOTES_FILE, Notes
from gateway.recordings import Reader, RecordingOptions
from gateway.settings import parse_duration
from gateway.spool.history import History
from gateway.tag import Tag, TagTable

__all__ = ["commission"]

NAMES_SHOWN_MAX = 8
# A tag with a deadband is silent this long, unless the configuration says otherwise.
DEADBAND_REPORT_S = 60.0


def commission(options: argparse.Namespace) -> int:
    """Do it; the exit code. Raises SluicegateError."""
    settings = _settings(options)
    config = _config(options)
    began_s = time.monotonic()
    prepared, period_s, data = _prepare(options, config)
    for left_out in prepared.left_out:
        print(f"  left out: {left_out.what}: {left_out.why}")
    if not prepared.recordings:
        hint = "look at what is there, with `sluicegate query` for a spool"
        if config is not None and not options.recording and not config.settings.gateway.spool.raw:
            hint = "the spool keeps no raw samples: gateway.spool.raw is false"
        raise FitError(_nothing(options, prepared), hint=hint)
    recordings = prepared.recordings
    print(
        f"{_hours(recordings)} of {_listed([r.asset for r in recordings])}:"
        f" {len(recordings[0].fields)} fields, every {period_s:g} s"
    )
    print("fitting ...", flush=True)
    fitted = fit(recordings, settings)
    key = None
    if not options.no_signature:
        key = DeviceKey.open(key_of(config.path if config else None, options.key))
    facts = _facts(options, recordings, fitted, data)
    report = report_of(fitted, facts, recordings, prepared.left_out, key.public if key else "")
    write_bundle(options.out, fitted, facts, report=report, key=key, replace=options.replace)
    _tell(options, config, fitted, key, time.monotonic() - began_s)
    return 0


def _settings(options: argparse.Namespace) -> FitSettings:
    try:
        rate = parse_rate(options.false_alarms)
    except ValueError as error:
        raise SluicegateError(f"--false-alarms {options.false_alarms!r}", hint=str(error)) from None
    if options.window is not None and not 2 <= options.window <= 10_000:
        raise SluicegateError(
            f"--window {options.window}", hint="2 to 10,000 samples; without it, one is chosen"
        )
    if options.seed < 0:
        raise SluicegateError(f"--seed {options.seed}", hint="0 or more")
    return FitSettings(false_alarms_per_day=rate, window=options.window, seed=options.seed)


def _config(options: argparse.Namespace) -> Config | None:
    """The configuration whose spool is read; with recordings it may be missing."""
    if options.config is not None:
        return load(options.config)
    if options.recording:
        return None
    if not CONFIG.is_file():
        raise SluicegateError(
            "name a configuration whose spool to read, or a --recording",
            hint=f"sluicegate models fit {CONFIG} --asset-class pump --from 2h --out bundles/pump",
        )
    return load(CONFIG)


def _prepare(options: argparse.Namespace, config: Config | None) -> tuple[Prepared, float, str]:
    """The recordings, their period, and in words what they are of."""
    selection = Selection(
        asset_class=options.asset_class,
        assets=tuple(options.asset),
        fields=tuple(options.fields),
        exclude=tuple(options.exclude),
    )
    report_s = config.settings.gateway.deadband_report if config else DEADBAND_REPORT_S
    wanted_s = _period(options)
    streams: list[tuple[TagTable, Arrivals]] = []
    if options.recording:
        for path in options.recording:
            reader = _reader(path, options, config, wanted_s)
            for what, why in reader.told.left_out:
                print(f"  {path}: column {what!r} left out: {why}")
            frames = cut(reader.frames(), options.start, options.end)
            streams.append((reader.table, ((frame.t_ns, frame) for frame in frames)))
        data = ", ".join(str(path.name) for path in options.recording)
    else:
        assert config is not None
        start_ns, end_ns = time_ns(options.start or "24h"), time_ns(options.end or "0s")
        streams.append(_spooled(config, selection, start_ns, end_ns))
        data = f"the spool from {_utc(start_ns)} to {_utc(end_ns)}"
    print(f"reading {data} ...", flush=True)
    if wanted_s is None:
        wanted_s, streams = _common_period(streams, selection)
    prepared = prepare(
        streams, selection, wanted_s, deadband_report_s=report_s, spoken=_spoken(config)
    )
    return prepared, wanted_s, data


def _spoken(config: Config | None) -> Callable[[str], Spoken]:
    """What operators said of an asset, as the gateway keeps it."""
    if config is None:
        return lambda _: Spoken()
    notes = Notes(config.settings.gateway.data_dir / "models" / NOTES_FILE)
    return lambda asset: Spoken(
        normal=notes.normal_spans(asset), excluded=notes.excluded_spans(asset)
    )


def _common_period(
    streams: Sequence[tuple[TagTable, Arrivals]], selection: Selection
) -> tuple[float, list[tuple[TagTable, Arrivals]]]:
    """The period of most samples, the longest of those of several recordings."""
    periods: list[float] = []
    again: list[tuple[TagTable, Arrivals]] = []
    for table, arrivals in streams:
        period_s, arrivals_again = sample_period(arrivals, table, selection)
        again.append((table, arrivals_again))
        if period_s is not None:
            periods.append(period_s)
    return max(periods, default=1.0), again


def _period(options: argparse.Namespace) -> float | None:
    if options.period is None:
        return None
    try:
        period_s = parse_duration(options.period)
    except ValueError as error:
        raise SluicegateError(f"--period {options.period!r}", hint=str(error)) from None
    if not 0.01 <= period_s <= 3600:
        raise SluicegateError(f"--period {options.period!r}", hint="10ms to 1h")
    return period_s


def _reader(
    path: Path, options: argparse.Namespace, config: Config | None, period_s: float | None
) -> Reader:
    known = {} if config is None else {tag.name: tag for tag in config.tags}
    named = len(options.asset) == 1 and not set("*?[") & set(options.asset[0])

    def naming(asset: str, field: str, eng_unit: str) -> Tag:
        tag = known.get(f"{asset}.{field}")
        if tag is not None:  # values are in engineering units already
            return replace(tag, scale=1.0, offset=0.0)
        return Tag(
            name=f"{asset}.{field}",
            asset=asset,
            asset_class=options.asset_class,
            field=field,
            measurement=options.asset_class,
            eng_unit=eng_unit,
        )

    return Reader(
        path,
        TagTable(),
        naming,
        RecordingOptions(
            time_column=options.time_column,
            asset=options.asset[0] if named else "",
            columns=tuple(options.fields),
            exclude=tuple(options.exclude),
            row_period_s=period_s,
        ),
    )


def _spooled(
    config: Config, selection: Selection, start_ns: int, end_ns: int
) -> tuple[TagTable, Iterator[tuple[TimeArray, Frame]]]:
    gateway = config.settings.gateway
    table = TagTable(gateway.tags_max * 10)
    history = History.open_readonly(gateway.data_dir / "spool", table)
    assets = selection.assets if selection.assets != ("*",) else ("",)
    patterns = [f"{asset}.*" if asset else "*" for asset in assets]
    return table, history.arrivals(patterns, start_ns, end_ns)


def _nothing(options: argparse.Namespace, prepared: Prepared) -> str:
    """Why there is nothing to learn from."""
    if prepared.assets:
        return f"no field of {_listed(prepared.assets)} is left to learn from"
    where = "the recording" if options.recording else "the spool"
    which = "" if options.asset == ["*"] else f" {' '.join(options.asset)}"
    return f"{where} has no samples of assets{which} of class {options.asset_class!r} in that time"


def _facts(
    options: argparse.Namespace, recordings: Sequence[Recording], fitted: Fitted, data: str
) -> Facts:
    now = datetime.now(UTC)
    used = [detector.name for detector in fitted.detectors if detector.used]
    return Facts(
        name=(options.name or options.out.resolve().name)[:64],
        version=(options.version or now.strftime("%Y%m%dT%H%M%SZ"))[:64],
        asset_class=options.asset_class,
        healthy=healthy_facts(recordings, fitted),
        provenance={
            "fitted_by": f"sluicegate {__version__} models fit, seed {options.seed}",
            "data": data,
            "assets": ", ".join(dict.fromkeys(r.asset for r in recordings)),
            "hours": f"{sum(r.span_s for r in recordings) / 3600:.2f}",
            "detectors": ", ".join(used),
            "false_alarms": fitted.calibration.in_words,
            "date": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
    )


def _tell(
    options: argparse.Namespace,
    config: Config | None,
    fitted: Fitted,
    key: DeviceKey | None,
    took_s: float,
) -> None:
    caught = sum(injection.caught for injection in fitted.injections)
    print(f"found {caught} of {len(fitted.injections)} faults put into healthy history")
    print(f"false alarms: {fitted.calibration.in_words}")
    size = sum(file.stat().st_size for file in options.out.iterdir())
    print(f"{options.out}: {size / 1000:.0f} kB, in {took_s:.0f} s; read its {REPORT}")
    print(f"signed with {key.path}, public key {key.public}" if key else "not signed")
    bundle = options.out.resolve()
    if config is not None and bundle.is_relative_to(config.directory):
        bundle = bundle.relative_to(config.directory)
    print("\nTo watch with it, add to the configuration:\n\n[[model]]")
    print(f'name = "{options.out.resolve().name}"')
    print(f'bundle = "{bundle}"')
    if key:
        print(f'trusted_keys = ["{key.public}"]')


def _hours(recordings: Sequence[Recording]) -> str:
    hours = sum(recording.span_s for recording in recordings) / 3600
    return f"{hours:.1f} hours" if hours >= 2 else f"{hours * 60:.1f} minutes"


def _listed(names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - NAMES_SHOWN_MAX} more" if len(names) > NAMES_SHOWN_MAX else ""
    return ", ".join(names[:NAMES_SHOWN_MAX]) + more


def _utc(t_ns: int) -> str:
    return datetime.fromtimestamp(t_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
