"""Plan: what a configuration will do, in numbers: requests, samples a second, days on the disk.

Rates are upper bounds where a deadband holds samples back. What messages bring is not known
beforehand, and is left out of every sum.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.config.load import Config
from gateway.config.planned import is_covered
from gateway.errors import BundleInvalid, Problem
from gateway.sinks.config import Influx1Settings, Influx2Settings
from gateway.sources.modbus.config import ModbusSettings
from gateway.sources.mqtt.config import MqttSettings

__all__ = [
    "SAMPLE_BYTES",
    "AggregatePlan",
    "ModelPlan",
    "Plan",
    "ScanPlan",
    "SinkPlan",
    "SourcePlan",
    "SpoolPlan",
    "TopicPlan",
    "check_models",
    "make_plan",
]

# What a sample takes on the disk, all told (bench/RESULTS.md, "spool"): scans of noisy floats.
SAMPLE_BYTES = 8
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


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatePlan:
    """One [[aggregate]]."""

    every_s: float
    tags: int
    statistics: tuple[str, ...]
    samples_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """One [[model]]; `period_s` is None when its bundle cannot be read."""

    name: str
    bundle: str
    assets: tuple[str, ...]
    fields: tuple[str, ...]
    window_s: float | None
    period_s: float | None  # between two scores of an asset
    samples_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkPlan:
    """One [[sink]]."""

    name: str
    type: str
    url: str
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
        spool=_spool(config, raw, derived),
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
    from gateway.inference.bundle import check_bundle  # noqa: PLC0415 - loads ONNX Runtime

    return [
        problem
        for entry in config.settings.models
        for problem in check_bundle(entry.bundle, entry, config.tags)
    ]


def _source(config: Config, source: ModbusSettings | MqttSettings) -> SourcePlan:
    tags = [tag for tag in config.tags if tag.source == source.name]
    address = f"{source.host}:{source.port}"
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
            address=address,
            tags=len(tags),
            may_grow=True,
            samples_per_s=None,
            topics=topics,
        )
    scans = tuple(_scans(config, source))
    return SourcePlan(
        name=source.name,
        type=source.type,
        address=address,
        tags=len(tags),
        may_grow=False,
        samples_per_s=sum(scan.samples_per_s for scan in scans),
        scans=scans,
    )


def _scans(config: Config, source: ModbusSettings) -> Iterator[ScanPlan]:
    from gateway.sources.modbus.plan import plan  # noqa: PLC0415 - if it is used

    for scan in plan(config.register_maps[source.name], source):
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
                rates[f"{row.asset}.{row.tag}"] = 1 / source.scan_classes[row.scan_class]
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
            fields=manifest.fields,
            window_s=manifest.sample_period * manifest.window,
            period_s=period_s,
            samples_per_s=len(assets) / period_s,
        )


def _sink(sink: Influx1Settings | Influx2Settings) -> SinkPlan:
    target = f"bucket {sink.bucket}" if sink.type == "influxdb2" else f"database {sink.database}"
    return SinkPlan(
        name=sink.name, type=sink.type, url=sink.url, target=target, lanes=tuple(sink.lanes)
    )


def _spool(config: Config, raw: float, derived: float) -> SpoolPlan:
    gateway = config.settings.gateway
    without = derived * SAMPLE_BYTES * DAY_S
    written = without + (raw * SAMPLE_BYTES * DAY_S if gateway.spool.raw else 0.0)

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
