"""Plan: what a configuration will do, in numbers: requests, samples a second, days on the disk.

Rates are upper bounds where a deadband holds samples back. What messages bring is not known
beforehand, and is left out of every sum.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.config.explain import legible
from gateway.config.load import Config
from gateway.config.planned import can_both_match, is_covered
from gateway.config.reference import toml_text
from gateway.config.schema import AnySink, SourceSettings
from gateway.errors import BundleInvalid, Problem
from gateway.inference.config import ModelSettings
from gateway.sources.modbus.config import ModbusSettings, RegisterRow
from gateway.sources.mqtt.config import MqttSettings
from gateway.tag import Tag

if TYPE_CHECKING:
    from gateway.sources.modbus.plan import Learned

__all__ = [
    "RECORD_BYTES",
    "SAMPLE_BYTES",
    "AggregatePlan",
    "ModelPlan",
    "Plan",
    "ScanPlan",
    "SinkPlan",
    "SourcePlan",
    "SpoolPlan",
    "TopicPlan",
    "bytes_per_day",
    "check_models",
    "make_plan",
]

# On the disk, for floats of which every digit is noise; scaled integers take about half. Measured,
# and held to what the spool writes by tests/config/test_plan.py.
SAMPLE_BYTES = 7.3
RECORD_BYTES = 140
DAY_S = 86_400
_LEVEL = re.compile(r"\{(asset|field)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanPlan:
    """One scan class of a Modbus source."""

    scan_class: str
    period_s: float
    tags: int
    requests: tuple[str, ...]  # each as words

    @property
    def samples_per_s(self) -> float:
        return self.tags / self.period_s


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicPlan:
    """One subscription."""

    topic_filter: str
    qos: int
    payload: str
    fields: tuple[str, ...]  # empty: whatever the messages have


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePlan:
    """One [[source]]."""

    name: str
    type: str
    address: str
    tags: int
    may_grow: bool  # messages may bring more tags
    samples_per_s: float | None  # None where messages decide
    scans: tuple[ScanPlan, ...] = ()
    topics: tuple[TopicPlan, ...] = ()
    line_busy: float | None = None  # share of a line's or connection's time, at least
    standby: str = ""  # its second address
    learned: tuple[str, ...] = ()  # what it refused when the gateway ran, in words


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatePlan:
    """One [[aggregate]]."""

    every_s: float
    tags: int
    may_grow: bool
    statistics: tuple[str, ...]
    samples_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """One [[model]]; `period_s` is None when its bundle cannot be read."""

    name: str
    bundle: str
    assets: tuple[str, ...]
    may_grow: bool
    fields: tuple[str, ...]
    window_s: float | None
    period_s: float | None  # between two scores of an asset
    samples_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkPlan:
    """One [[sink]]."""

    name: str
    type: str
    target: str
    lanes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolPlan:
    """The disk. `days` is None where nothing is known to be written."""

    directory: str
    bytes_max: int
    raw: bool
    bytes_per_day: float
    bytes_per_day_without_raw: float
    days: float | None
    days_without_raw: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the gateway will do."""

    name: str
    site: str
    sources: tuple[SourcePlan, ...]
    aggregates: tuple[AggregatePlan, ...]
    models: tuple[ModelPlan, ...]
    sinks: tuple[SinkPlan, ...]
    spool: SpoolPlan
    tags: int
    raw_samples_per_s: float
    derived_samples_per_s: float


def make_plan(config: Config) -> Plan:
    """The plan of a configuration. A model's bundle is read, but not run."""
    settings = config.settings
    sources = tuple(_source(config, source) for source in settings.sources)
    rates = _tag_rates(config)
    aggregates = tuple(
        AggregatePlan(
            every_s=entry.every,
            tags=(covered := sum(is_covered(tag, entry) for tag in config.tags)),
            may_grow=any(
                can_both_match(pattern, name)
                for pattern in entry.tags
                for name in config.open_names
            ),
            statistics=tuple(map(str, entry.statistics)),
            samples_per_s=covered * len(entry.statistics) / entry.every,
        )
        for entry in settings.aggregates
    )
    models = tuple(_models(config))
    raw = sum(rates.values())
    derived = sum(entry.samples_per_s for entry in aggregates)
    derived += sum(entry.samples_per_s for entry in models)
    return Plan(
        name=settings.gateway.name,
        site=settings.gateway.site,
        sources=sources,
        aggregates=aggregates,
        models=models,
        sinks=tuple(map(_sink, settings.sinks)),
        spool=_spool(config, sources, aggregates, models),
        tags=len(config.tags),
        raw_samples_per_s=raw,
        derived_samples_per_s=derived,
    )


def check_models(config: Config) -> list[Problem]:
    """Everything wrong with the models' bundles, which are run on their golden windows.

    A running gateway goes on without a model whose bundle is not good, so `load` does not ask;
    whoever checks a configuration wants to know.
    """
    if not config.settings.models:
        return []
    from gateway.inference.bundle import check_bundle, read_manifest  # noqa: PLC0415 - ONNX Runtime
    from gateway.inference.rings import AGE_MAX_PERIODS  # noqa: PLC0415

    problems: list[Problem] = []
    rates = _tag_rates(config)
    for entry in config.settings.models:
        found = check_bundle(entry.bundle, entry, config.tags)
        problems += map(legible, found)
        if found:
            continue
        manifest = read_manifest(entry.bundle)
        longest_s = AGE_MAX_PERIODS * manifest.sample_period
        for tag in config.tags:
            rate = rates.get(tag.name)
            is_fed = manifest.feature_of(tag, entry) is not None
            if is_fed and rate and 1 / rate > longest_s and not tag.deadband:
                problems.append(_too_slow(config, entry, tag, 1 / rate, manifest.sample_period))
        if config.open_names:
            continue
        if all(manifest.feature_of(tag, entry) is None for tag in config.tags):
            problems.append(_watches_nothing(config, entry, manifest.fields, manifest.asset_class))
    return problems


def _too_slow(
    config: Config, model: ModelSettings, tag: Tag, scan_s: float, sample_s: float
) -> Problem:
    """A value counts for three sample periods: one that is read more rarely is never scored."""
    return legible(
        Problem(
            file=str(config.path),
            place=f"[[model]] {toml_text(model.name)}",
            found=f"{tag.name} is read every {scan_s:g} s, the model samples every {sample_s:g} s",
            mend="Read it at least every third sample, or fit the model to a longer period",
        )
    )


def _watches_nothing(
    config: Config, model: ModelSettings, fields: Sequence[str], bundle_class: str
) -> Problem:
    wanted = model.asset_class or bundle_class
    return legible(
        Problem(
            file=str(config.path),
            place=f"[[model]] {toml_text(model.name)}",
            found=f"no asset of the class {toml_text(wanted)} has a tag {', '.join(fields)}",
            mend=f"Give the assets it is for class = {toml_text(wanted)}, and the tags these names",
        )
    )


def _source(config: Config, source: SourceSettings) -> SourcePlan:
    tags = [tag for tag in config.tags if tag.source == source.name]
    if isinstance(source, MqttSettings):
        topics = tuple(
            TopicPlan(
                topic_filter=_LEVEL.sub("+", topic.pattern),
                qos=topic.qos,
                payload=topic.payload,
                fields=tuple(topic.fields) or tuple(filter(None, [topic.field])),
            )
            for topic in source.topics
        )
        return SourcePlan(
            name=source.name,
            type=source.type,
            address=f"{source.host}:{source.port}",
            tags=len(tags),
            may_grow=True,
            samples_per_s=None,
            topics=topics,
        )
    learned = _learned_of(config, source)
    scans = tuple(_scans(config, source, learned))
    return SourcePlan(
        name=source.name,
        type=source.type,
        address=source.address,
        tags=len(tags),
        may_grow=bool(source.profile),
        samples_per_s=sum(scan.samples_per_s for scan in scans),
        scans=scans,
        line_busy=_line_busy(config, source, learned),
        standby=source.standby,
        learned=tuple(_in_words(learned, config.register_maps[source.name])),
    )


def _learned_of(config: Config, source: ModbusSettings) -> Learned:
    """What an earlier run of the gateway learned of the device."""
    from gateway.sources.modbus.learned import load_learned  # noqa: PLC0415 - if it is used

    path = config.settings.gateway.data_dir / "sources" / f"{source.name}.json"
    return load_learned(path, config.register_maps[source.name])


_ANSWER_WORDS = "answers within {} ms, as measured (answer_time goes before it)"
_GAP_WORDS = {
    "quicker": "is read over, because that is quicker (gap_max = 8 forbids it)",
    "slower": "is not read over: two requests are quicker",
    "refused": "is not read over: the device refused it",
    "silent": "is not read over: the device did not answer",
}


def _in_words(learned: Learned, rows: Sequence[RegisterRow]) -> Iterator[str]:
    for index in sorted(learned.alone):
        row = rows[index]
        yield f"{row.asset}.{row.tag} was refused: correct its address, or remove its row"
    for (unit_id, function), addresses in sorted(learned.cuts.items()):
        at = ", ".join(map(str, sorted(addresses)))
        yield f"unit {unit_id}, function {function}: no request reads across {at}"
    for unit_id, answer_s in sorted(learned.answer_s.items()):
        answer_ms = 1000 * answer_s
        shown = f"{answer_ms:.0f}" if answer_ms >= 10 else f"{answer_ms:.1f}"
        yield f"unit {unit_id} " + _ANSWER_WORDS.format(shown)
    for (unit_id, function), spans in sorted(learned.gaps.items()):
        for (first, end), verdict in sorted(spans.items()):
            unused = f"{first}-{end - 1}" if end - first > 1 else f"{first}"
            yield f"unit {unit_id}, function {function}: {unused} {_GAP_WORDS[verdict]}"


def _line_busy(config: Config, source: ModbusSettings, learned: Learned) -> float | None:
    if not config.register_maps[source.name]:
        return None  # a device that has not been asked yet
    from gateway.sources.modbus.line import loads  # noqa: PLC0415 - if it is used

    return sum(share for _, share in loads(config.register_maps[source.name], source, learned))


def _scans(config: Config, source: ModbusSettings, learned: Learned) -> Iterator[ScanPlan]:
    from gateway.sources.modbus.plan import plan  # noqa: PLC0415 - if it is used

    for scan in plan(config.register_maps[source.name], source, learned):
        yield ScanPlan(
            scan_class=scan.scan_class,
            period_s=scan.period_s,
            tags=scan.tags,
            requests=tuple(scan.describe()),
        )


def _tag_rates(config: Config) -> dict[str, float]:
    """Samples a second of each tag that is scanned."""
    rates: dict[str, float] = {}
    for source in config.settings.sources:
        if isinstance(source, ModbusSettings):
            for row in config.register_maps[source.name]:
                rates[f"{row.asset}.{row.tag}"] = 1 / source.periods[row.scan_class]
    return rates


def _models(config: Config) -> Iterator[ModelPlan]:
    if not config.settings.models:
        return
    from gateway.inference.bundle import read_manifest  # noqa: PLC0415 - loads ONNX Runtime

    for entry in config.settings.models:
        try:
            manifest = read_manifest(entry.bundle)
        except BundleInvalid:
            yield ModelPlan(
                name=entry.name,
                bundle=str(entry.bundle),
                assets=(),
                may_grow=False,
                fields=(),
                window_s=None,
                period_s=None,
                samples_per_s=0.0,
            )
            continue
        watched = [tag for tag in config.tags if manifest.feature_of(tag, entry) is not None]
        assets = tuple(dict.fromkeys(tag.asset for tag in watched))
        period_s = manifest.sample_period * manifest.hop
        yield ModelPlan(
            name=entry.name,
            bundle=str(entry.bundle),
            assets=assets,
            may_grow=bool(config.open_names),
            fields=manifest.fields,
            window_s=manifest.sample_period * manifest.window,
            period_s=period_s,
            samples_per_s=len(assets) / period_s,
        )


def _sink(sink: AnySink) -> SinkPlan:
    return SinkPlan(name=sink.name, type=sink.type, target=sink.target, lanes=tuple(sink.lanes))


def bytes_per_day(turns: Iterable[tuple[float, float]], commit_period_s: float) -> float:
    """What one lane writes; `turns` are pairs of samples and how many times a second they come.

    What is appended within a commit period becomes one record.
    """
    pairs = list(turns)
    samples_per_s = sum(samples * times for samples, times in pairs)
    records_per_s = min(sum(times for _, times in pairs), 1 / commit_period_s)
    return DAY_S * (samples_per_s * SAMPLE_BYTES + records_per_s * RECORD_BYTES)


def _spool(
    config: Config,
    sources: Sequence[SourcePlan],
    aggregates: Sequence[AggregatePlan],
    models: Sequence[ModelPlan],
) -> SpoolPlan:
    gateway = config.settings.gateway
    period_s = gateway.spool.commit_period
    windows = [
        (entry.tags * len(entry.statistics), 1 / entry.every_s)
        for entry in aggregates
        if entry.tags
    ]
    scores = [
        (len(model.assets), 1 / model.period_s)
        for model in models
        if model.assets and model.period_s is not None
    ]
    scans = [(scan.tags, 1 / scan.period_s) for source in sources for scan in source.scans]
    without = bytes_per_day(windows, period_s) + bytes_per_day(scores, period_s)
    written = without + (bytes_per_day(scans, period_s) if gateway.spool.raw else 0.0)

    def days(bytes_per_day: float) -> float | None:
        return gateway.spool.bytes_max / bytes_per_day if bytes_per_day else None

    return SpoolPlan(
        directory=str(gateway.data_dir / "spool"),
        bytes_max=gateway.spool.bytes_max,
        raw=gateway.spool.raw,
        bytes_per_day=written,
        bytes_per_day_without_raw=without,
        days=days(written),
        days_without_raw=days(without),
    )
