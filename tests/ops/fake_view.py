"""A gateway that is only looked at: assets, values and faults set by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gateway.clock import ManualClock
from gateway.frame import Frame, IdArray, Lane
from gateway.inference import ModelStats
from gateway.ops.systemd import LoopStats
from gateway.ops.view import LaneView, ScoreView, SpoolView, Stats
from gateway.sinks import SinkStats
from gateway.sources import SourceStats
from gateway.spool.plot import Plot, Thinner
from gateway.spool.wear import WearStats
from gateway.stages.latest import Latest
from gateway.stats import stat, stats
from gateway.tag import DataType, Quality, Tag, TagTable

__all__ = ["FakeEvent", "FakePart", "FakeView", "until"]

# class -> fields: name, engineering unit, usual value, noise
FIELDS = {
    "pump": [
        ("pressure", "bar", 4.2, 0.03),
        ("flow", "m³/h", 18.4, 0.2),
        ("speed", "rpm", 1480.0, 4.0),
        ("vibration", "mm/s", 2.1, 0.12),
        ("bearing_temperature", "°C", 46.0, 0.1),
        ("running", "", 1.0, 0.0),
    ],
    "tank": [
        ("level", "%", 62.0, 0.4),
        ("temperature", "°C", 11.5, 0.05),
        ("inlet_valve", "%", 35.0, 0.0),
    ],
    "greenhouse": [
        ("soil_moisture", "%", 41.0, 0.3),
        ("air_temperature", "°C", 23.6, 0.1),
        ("humidity", "%", 68.0, 0.5),
        ("co2", "ppm", 612.0, 6.0),
        ("par", "µmol/m²s", 540.0, 9.0),
    ],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeEvent:
    model: str
    asset: str
    start_ns: int
    end_ns: int
    is_open: bool
    peak: float
    top: str
    severity: str = "minor"
    deviation: str = ""
    sensor: str = ""


@stats
class FakePart:
    samples_total: int = stat("samples")
    turn_ms_last: float = stat("how long", default=0.0)


@dataclass
class FakeSource:
    name: str
    stats: SourceStats
    tag_ids: IdArray


@dataclass
class FakeSink:
    name: str
    stats: SinkStats


class FakeView:
    """Satisfies GatewayView; every part may be changed by a test."""

    name = "line-1"
    site = "bottling"
    version = "0.1.0"

    def __init__(self, assets: Mapping[str, str] | None = None, seed: int = 1) -> None:
        self.clock = ManualClock()
        self.started_s = self.clock.monotonic_s()
        self.table = TagTable()
        self.random = np.random.default_rng(seed)
        self.assets = dict(assets if assets is not None else {"pump-1": "pump"})
        self.usual: list[tuple[float, float]] = []
        for asset, name in self.assets.items():
            for tag_field, eng_unit, value, noise in FIELDS[name]:
                self.add_tag(asset, name, tag_field, eng_unit, value, noise)
        self.latest = Latest(self.table)
        modbus = SourceStats(connected=True, sessions_total=1, scan_ms_last=3.2)
        mqtt = SourceStats(connected=True, sessions_total=1)
        self.sources = [
            FakeSource("press-plc", modbus, self.table.ids_of_source("press-plc")),
            FakeSource("greenhouse", mqtt, self.table.ids_of_source("greenhouse")),
        ]
        self.sinks = [FakeSink("influx", SinkStats(state="idle", latency_ms_last=11.0))]
        self.models = {"line-anomaly": ModelStats(active=True, assets=len(self.assets))}
        self.loop = LoopStats(lag_ms_last=0.4, lag_ms_max=3.0)
        self.part = FakePart()
        self.parts: dict[str, Stats] = {"pipeline": self.part}
        self.trouble = ""
        self.wear = WearStats()
        self.bytes_used = 120 * 2**20
        self.score_of: dict[str, float] = dict.fromkeys(self.assets, 0.3)
        self.event_list: list[FakeEvent] = []
        self.said: dict[str, str] = {}  # by asset
        self.sensor_of: dict[str, str] = {}
        self.drift_of: dict[str, str] = {}
        self.stored = Frame.of(0, np.empty(0, np.int32), np.empty(0))
        self.asked: list[tuple[object, ...]] = []

    def add_tag(
        self, asset: str, name: str, tag_field: str, eng_unit: str, value: float, noise: float
    ) -> int:
        self.usual.append((value, noise))
        return self.table.add(
            Tag(
                name=f"{asset}.{tag_field}",
                asset=asset,
                asset_class=name,
                field=tag_field,
                measurement=name,
                source="greenhouse" if name == "greenhouse" else "press-plc",
                eng_unit=eng_unit,
                data_type=DataType.BOOL if tag_field == "running" else DataType.FLOAT64,
            )
        )

    def sample(self, changes: Mapping[str, float] | None = None, seconds: float = 1.0) -> None:
        """Another second of the plant; `changes` sets tags by name, NaN goes bad."""
        self.clock.advance(seconds)
        usual = np.array(self.usual)
        values = usual[:, 0] + self.random.normal(size=len(usual)) * usual[:, 1]
        for name, value in (changes or {}).items():
            tag_id = self.table.id_of(name)
            assert tag_id is not None
            values[tag_id] = value
        quality = np.where(np.isnan(values), Quality.BAD_NO_COMMUNICATION, 0).astype(np.uint8)
        ids = np.arange(len(usual), dtype=np.int32)
        self.latest.update(Frame.of(self.clock.utc_ns(), ids, values, quality))
        self.part.samples_total += len(ids)
        for source in self.sources:
            source.stats.scans_total += 1
            source.stats.samples_total += len(source.tag_ids)

    @property
    def spool(self) -> SpoolView:
        now_ns = self.clock.utc_ns()
        shares = {Lane.EVENT: 0.01, Lane.SCORE: 0.06, Lane.AGGREGATE: 0.13, Lane.RAW: 0.8}
        lanes = [
            LaneView(
                lane=lane,
                bytes_used=int(self.bytes_used * share),
                samples=int(self.bytes_used * share / 14),
                oldest_ns=now_ns - 7200 * 10**9,
            )
            for lane, share in shares.items()
        ]
        return SpoolView(
            bytes_used=self.bytes_used,
            bytes_max=512 * 2**20,
            lanes=lanes,
            trouble=self.trouble,
            wear=self.wear,
        )

    def scores(self) -> Sequence[ScoreView]:
        open_assets = {event.asset for event in self.event_list if event.is_open}
        return [
            ScoreView(
                asset=asset,
                model="line-anomaly",
                t_ns=self.clock.utc_ns(),
                score=score,
                is_open=asset in open_assets,
                sensor=self.sensor_of.get(asset, ""),
                drift=self.drift_of.get(asset, ""),
                operator=self.said.get(asset, ""),
            )
            for asset, score in self.score_of.items()
        ]

    def events(self) -> Sequence[FakeEvent]:
        return self.event_list

    def said_of(self, event: object) -> str:
        return self.said.get(getattr(event, "asset", ""), "")

    async def history(
        self, names: Sequence[str], start_ns: int, end_ns: int, lane: Lane, samples_max: int
    ) -> Frame:
        self.asked.append((tuple(names), start_ns, end_ns, lane, samples_max))
        return self.stored

    async def plot(
        self, names: Sequence[str], start_ns: int, end_ns: int, lane: Lane, points_max: int
    ) -> Plot:
        self.asked.append((tuple(names), start_ns, end_ns, lane, points_max))
        frame, thinner = self.stored, Thinner(start_ns, end_ns, points_max)
        thinner.add(frame.tag_ids.astype(np.intp), frame.t_ns, frame.values, frame.quality)
        tags = [self.table[i] for i in np.unique(frame.tag_ids).tolist()]
        series = [thinner.series(i, tag.name, tag.eng_unit) for i, tag in enumerate(tags)]
        return Plot(series, thinner.bucket_ns / 1e9, len(frame), 0, is_cut=False)


async def until(condition: Callable[[], bool], seconds: float = 10, pause_s: float = 0.01) -> None:
    """Wait for a condition; TimeoutError when it does not come."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for knows no event
            await asyncio.sleep(pause_s)
