"""Watcher: one [[model]] at work on all its assets.

    tags -> cells -> rings --(every hop)--> one run -> scores --> alarms -> events
                       `-> sensors: which inputs can be believed --^

Ticks lie at absolute multiples of the sample period, and a tick sees what arrived in turns
before it. So what comes out depends on the samples and the times of their turns alone, not on
how often an idle gateway turned in between, nor on how late: a gap is worked off tick by tick.

The work is a generator that yields each run of the model as a job, so that whoever drives it
decides where the job is done: at once, or in a thread while the event loop goes on.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gateway.errors import SluicegateError
from gateway.frame import BoolArray, ByteArray, FloatArray, Frame, IdArray
from gateway.inference import ModelStats
from gateway.inference.alarms import Alarms
from gateway.inference.bundle import Bundle
from gateway.inference.config import ModelSettings
from gateway.inference.drift import BLOCK_NS, Drift, DriftRule
from gateway.inference.events import (
    UPDATE_PERIOD_NS,
    AnomalyEvent,
    DriftEvent,
    EventRule,
    SensorEvent,
)
from gateway.inference.manifest import unit_differs
from gateway.inference.records import Event, Records
from gateway.inference.rings import AGE_MAX_PERIODS, NOWHERE, CellArray, Rings, age_max_ns
from gateway.inference.run import Run, Save
from gateway.inference.runtime import Float32Array
from gateway.inference.sensors import SensorWatch
from gateway.jobs import Work
from gateway.tag import Quality, Tag, TagTable

__all__ = ["AssetStatus", "Scores", "Watcher"]

log = logging.getLogger(__name__)

# One model's rings on a board of 512 MiB. At 30 samples of 10 features: 100,000 assets.
RING_BYTES_MAX = 256 * 2**20
# A sensor that is at fault and makes no alarm can wait so long for its verdict.
JUDGE_PERIOD_S = 10.0
# A model that fails so often in a row is not run any more.
FAILURES_MAX = 3

# Longer than any past: before the first tick nothing is known.
NOT_YET = 2**62

_TRUE = np.ones(1, np.bool_)
# As numbers: looking a member up by name costs more than the comparison it is for.
_GOOD, _BAD, _BAD_WAITING = int(Quality.GOOD), int(Quality.BAD), int(Quality.BAD_WAITING)
_BAD_SENSOR, _OUTSIDE = int(Quality.BAD_SENSOR_FAILURE), int(Quality.UNCERTAIN_RANGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetStatus:
    """The newest word of a model on an asset."""

    asset: str
    score: float  # NaN while not known
    state: str  # "ok", "anomaly" (an event is open), "sensor" (one is not believed) or "unknown"
    top: str  # fields that made the open event's peak
    sensor: str = ""  # what is wrong with its sensors: "flow frozen,speed missing"
    drift: str = ""  # what does not look like the fitting: "sensor flow", "process flow,speed"


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """One tick's scores of all assets, and the events they made."""

    frame: Frame
    events: list[Event]


class Watcher:
    """Scores the assets that its settings name; assets may appear while it runs."""

    def __init__(
        self,
        settings: ModelSettings,
        bundle: Bundle,
        table: TagTable,
        records: Records,
        *,
        deadband_report_s: float,
        stats: ModelStats | None = None,
        directory: Path | None = None,
    ) -> None:
        """With a `directory` what it knows of drift is kept there."""
        manifest = bundle.manifest
        self.name = settings.name
        self.bundle = bundle
        self.stats = stats or ModelStats(
            active=True,
            state="running",
            version=manifest.version,
            signed_by=bundle.signed_by,
            is_aside=bundle.runner.is_aside,
        )
        self._settings = settings
        self._directory = directory
        self._manifest = manifest
        self._run = Run(bundle, settings.run_max * 1000)
        self._failures = 0  # in a row
        self._table = table
        self._records = records
        said = manifest.events.model_dump()
        said |= settings.model_dump(include=set(said), exclude_none=True)
        self._rule = EventRule(**said)
        self._period_ns = manifest.period_ns
        self._hop_ns = manifest.hop * manifest.period_ns
        self._valid_min = int(np.ceil(manifest.min_valid_fraction * manifest.window))
        self._deadband_report_s = deadband_report_s
        # The longest that any value counts: a tag with a deadband's.
        self._age_max_ns = AGE_MAX_PERIODS * self._period_ns + round(deadband_report_s * 1e9)
        self._tick_ns: int | None = None  # the newest tick worked

        self._rings = Rings(window=manifest.window, features=len(manifest.features))
        self._sensors = SensorWatch(
            [feature.healthy for feature in manifest.features],
            window=manifest.window,
            invalid_max=manifest.window - self._valid_min,
        )
        # Of how many scores in a row one has the sensors judged, though nothing asks for it.
        self._judged = max(1, round(JUDGE_PERIOD_S / self.hop_s))
        self._alarms = Alarms(self.name, manifest, self._rule, self._rings, self.stats)
        self._drift = Drift(
            self.name,
            [feature.healthy for feature in manifest.features],
            manifest.fields,
            DriftRule(memory_s=settings.drift_memory, limit=settings.drift_limit),
            directory and directory / f"{self.name}.{manifest.sha256[:12]}.drift.npz",
        )
        self._watches_drift = any(feature.healthy for feature in manifest.features)
        self._restored_drift: dict[str, DriftEvent] = {}  # by asset, until its slot is there
        self._tags_seen = 0
        self._cells: CellArray = np.zeros(0, np.intp)  # by tag id
        self._slots: dict[str, int | None] = {}  # None: refused, and said so
        self._score_ids: IdArray = np.zeros(0, np.int32)  # by slot
        self._scores: FloatArray = np.zeros(0)  # by slot, NaN while not known

    @property
    def horizon_ns(self) -> int:
        """How far back a replay must begin to arrive at the same state."""
        rows = max(self._rule.open_after, self._rule.close_after) * self._manifest.hop
        ticks = self._sensors.memory + rows + self._manifest.hop + 1
        if self._watches_drift:
            ticks = max(ticks, 2 * BLOCK_NS // self._period_ns + self._manifest.hop)
        return ticks * self._period_ns + self._age_max_ns + UPDATE_PERIOD_NS

    def work(self, frame: Frame, now_ns: int) -> Work[list[Scores]]:
        """What the ticks up to `now_ns` give; the frame's samples count from the next one on."""
        if len(self._table) != self._tags_seen:
            self._connect_new_tags()
        made: list[Scores] = []
        if self._tick_ns is None or now_ns - self._tick_ns >= self._period_ns:
            made = yield from self._work_ticks(now_ns)
        elif now_ns < self._tick_ns:
            self._step_back(now_ns)
        if len(frame):
            self._hold(frame, now_ns)
        return made

    def _hold(self, frame: Frame, now_ns: int) -> None:
        """Let the cells have the frame's samples, each from its own time on.

        What a broker kept while a device was away comes with the times it was taken at: it is the
        past, and too old to be the present.
        """
        cells, t_ns = self._cells[frame.tag_ids], frame.t_ns
        if t_ns.max() > now_ns:  # a device's clock may be ahead of ours
            t_ns = np.minimum(t_ns, now_ns)
        usable = frame.quality < _BAD if frame.quality.any() else None
        self._rings.hold(cells, frame.values, usable, t_ns)
        if usable is not None or self._sensors.any_outside:
            self._sensors.note_outside(cells, frame.quality == _OUTSIDE)
        if now_ns - int(t_ns.min()) > self._age_max_ns:
            late = now_ns - t_ns > self._age_max_ns
            self.stats.samples_late_total += int(np.count_nonzero(late & (cells != NOWHERE)))

    @property
    def is_quarantined(self) -> bool:
        """Whether it failed so often in a row that it is not run any more."""
        return self._failures >= FAILURES_MAX

    @property
    def hop_s(self) -> float:
        """The time from a score to the next."""
        return self._manifest.hop * self._manifest.sample_period

    @property
    def scores(self) -> FloatArray:
        """The newest score of each slot, NaN while not known."""
        return self._scores

    def pairs_with(self, other: Watcher) -> tuple[CellArray, CellArray]:
        """Slots of the assets that both watch: ours, and the other's."""
        pairs = [
            (slot, there)
            for asset, slot in self._slots.items()
            if slot is not None and (there := other._slots.get(asset)) is not None
        ]
        both = np.array(pairs, np.intp).reshape(-1, 2)
        return both[:, 0], both[:, 1]

    def watches(self, asset: str) -> bool:
        return self._slots.get(asset) is not None

    def has_open_event(self, asset: str) -> bool:
        slot = self._slots.get(asset)
        return slot is not None and self._alarms.is_open(slot)

    def open_events(self) -> list[Event]:
        """What is open, as it was last reported."""
        return [*self._alarms.open_events(), *self._drift.open_events()]

    def adopt(self, event: AnomalyEvent | SensorEvent) -> None:
        """Go on with what another watcher of the same [[model]] had open."""
        slot = self._slots.get(event.asset)
        if slot is not None:
            self._alarms.adopt(slot, event)

    def close(self) -> None:
        """Let go of the model; nothing is scored any more."""
        self.bundle.runner.close()
        self.stats.active, self.stats.state = False, "closed"

    def renewed(self) -> Watcher:
        """The same without anything it has seen."""
        self.stats.events_open = self.stats.sensor_faults = self.stats.assets = 0
        return Watcher(
            self._settings,
            self.bundle,
            self._table,
            self._records,
            deadband_report_s=self._deadband_report_s,
            stats=self.stats,
            directory=self._directory,
        )

    def restore(self, event: Event) -> None:
        """Take over the newest event record of an asset, before anything is replayed."""
        if isinstance(event, DriftEvent):
            self._restored_drift[event.asset] = event
        else:
            self._alarms.restore(event)

    def status(self) -> list[AssetStatus]:
        """The newest word on each asset, in the order they appeared."""
        found = []
        for asset, slot in self._slots.items():
            if slot is None:
                continue
            score, is_open = float(self._scores[slot]), self._alarms.is_open(slot)
            sensor = self._sensors.describe(slot, self._manifest.fields)
            state = "unknown" if np.isnan(score) else "ok"
            state = "anomaly" if is_open else "sensor" if sensor else state
            top = self._alarms.top(slot)
            drift = self._drift.describe(slot)
            found.append(
                AssetStatus(
                    asset=asset, score=score, state=state, top=top, sensor=sensor, drift=drift
                )
            )
        return found

    def _connect_new_tags(self) -> None:
        """Give the tags that came since the last look their cells."""
        first, self._tags_seen = self._tags_seen, len(self._table)
        found = []
        for tag_id in range(first, self._tags_seen):
            tag = self._table[tag_id]
            column = self._manifest.feature_of(tag, self._settings)
            if column is None:
                continue
            if unit_differs(self._manifest.features[column], tag):
                log.error(
                    "model.unit_differs model=%s tag=%s unit=%s fitted_in=%s",
                    *(self.name, tag.name, tag.eng_unit, self._manifest.features[column].eng_unit),
                )
                continue  # its asset stays unknown: a wrong score is worse than none
            if tag.asset not in self._slots:
                self._slots[tag.asset] = self._add_asset(tag)
            slot = self._slots[tag.asset]
            if slot is not None:
                if self._records.is_outdated(self.name, tag):
                    with contextlib.suppress(SluicegateError):  # a full table: those of before
                        self._score_ids[slot] = self._records.introduce(self.name, tag)
                age_ns = age_max_ns(tag, self._period_ns, self._deadband_report_s)
                found.append((tag_id, self._rings.connect(slot, column, age_ns)))
        if len(self._cells) < len(self._table):  # by now the scores' own tags are in it, too
            grown = np.full(max(len(self._table), 2 * len(self._cells)), NOWHERE, np.intp)
            grown[: len(self._cells)] = self._cells
            self._cells = grown
        for tag_id, cell in found:
            self._cells[tag_id] = cell

    def _add_asset(self, tag: Tag) -> int | None:
        """A slot for the asset of a tag; None when there is no room for it."""
        if (self._rings.slots + 1) * self._rings.bytes_per_asset > RING_BYTES_MAX:
            log.error(
                "model.asset_refused model=%s asset=%s error=rings full", self.name, tag.asset
            )
            return None
        try:
            score_id = self._records.introduce(self.name, tag)
        except SluicegateError as error:
            log.error("model.asset_refused model=%s asset=%s error=%s", self.name, tag.asset, error)  # noqa: TRY400 - the message has its place
            return None
        self._score_ids = np.append(self._score_ids, np.int32(score_id))
        self._scores = np.append(self._scores, np.nan)
        slot = self._rings.add()
        tick = 0 if self._tick_ns is None else self._tick_ns // self._period_ns
        self._sensors.grow(slot + 1, tick)
        self._alarms.add(tag.asset, self._settled_ns())
        self._drift.add(tag.asset)
        drifts = self._restored_drift.pop(tag.asset, None)
        if drifts is not None:
            self._drift.restore(slot, drifts)
        self.stats.assets += 1
        return slot

    def _settled_ns(self) -> int:
        """When what is known of an asset that appears now reaches back far enough."""
        if self._tick_ns is None:
            return NOT_YET
        return self._tick_ns + self._sensors.memory * self._period_ns

    def _step_back(self, now_ns: int) -> None:
        """The gateway's clock was set back: go on from there, with what the rings hold."""
        self._tick_ns = now_ns - now_ns % self._period_ns
        self._rings.clock_stepped_back(now_ns)
        self._sensors.clock_stepped_back(self._tick_ns // self._period_ns)
        self._alarms.clock_stepped_back(self._tick_ns, self._settled_ns())
        self._drift.clock_stepped_back(self._tick_ns)

    def _work_ticks(self, now_ns: int) -> Work[list[Scores]]:
        newest = now_ns - now_ns % self._period_ns
        made: list[Scores] = []
        if self._tick_ns is None:
            self._tick_ns = newest
            self._sensors.start(newest // self._period_ns)
            self._alarms.start(self._settled_ns())
            return made
        # After that many ticks without a sample no column is valid: those before change nothing.
        ticks_max = self._sensors.memory + self._age_max_ns // self._period_ns + 1
        tick = max(self._tick_ns + self._period_ns, newest - ticks_max * self._period_ns)
        for tick_ns in range(tick, newest + 1, self._period_ns):
            fresh = self._rings.push(tick_ns)
            tick = tick_ns // self._period_ns
            self._sensors.push(tick, self._rings.values, fresh)
            self._tick_ns = tick_ns
            if tick % self._manifest.hop == 0 and self._rings.slots:
                made.append((yield from self._score(tick_ns)))
        return made

    def _score(self, tick_ns: int) -> Work[Scores]:
        """One run for all assets; not known is NaN, with bad quality."""
        n = self._rings.slots
        all_known = self._rings.all_valid
        known = _TRUE if all_known else self._rings.valid[:n] >= self._valid_min
        contributions = None
        if (all_known or known.any()) and not self.is_quarantined:
            self._gather(n)
            yield self._run
            contributions = self._take_run(n)
        else:
            self._scores = np.full(n, np.nan)
        stats, sensors = self.stats, self._sensors
        stats.windows_total += n
        # Sensors are judged now and then, and before an alarm or what looks like a fault of one:
        # so the usual tick, all known and all calm, costs a third less.
        is_calm = (
            (all_known or bool(known.all()))
            and np.maximum.reduce(self._scores) < 1  # which NaN is not
            and np.minimum.reduce(self._scores) > -np.inf
        )
        tick = tick_ns // self._period_ns
        if not is_calm or sensors.is_suspicious or tick // self._manifest.hop % self._judged == 0:
            sensors.judge(tick)
        quality: int | ByteArray = 0
        if not is_calm or sensors.has_faults:
            quality = self._mark(np.ones(n, np.bool_) if all_known else known)
        # The next run fills an array of its own, so this one is the frame's to keep.
        frame = Frame.of(tick_ns, self._score_ids, self._scores, quality)
        events: list[Event] = []
        if not is_calm or self._alarms.is_busy:
            events += self._alarms.step(tick_ns, self._scores, contributions, self._doubts)
        events += self._alarms.step_sensors(tick_ns, sensors)
        if self._watches_drift and self._drift.is_due(tick_ns, self._hop_ns):
            events += yield from self._count_drift(tick_ns)
        return Scores(frame, events)

    def _mark(self, known: BoolArray) -> ByteArray:
        """The scores' quality: whether each is known, and if not, why; those are NaN then."""
        quality = np.zeros(len(known), np.uint8)
        is_number = np.isfinite(self._scores)
        quality[~known] = _BAD_WAITING
        quality[known & ~is_number] = _BAD  # there was data, but the model made nothing of it
        known &= is_number
        if self._sensors.has_faults:
            gated = self._sensors.faults.any(axis=1)
            self.stats.windows_gated_total += int(np.count_nonzero(gated))
            quality[gated] = _BAD_SENSOR
            known &= ~gated
        self._scores[~known] = np.nan
        self.stats.windows_unknown_total += len(known) - int(np.count_nonzero(known))
        return quality

    def _doubts(self, slot: int) -> str:
        """What is wrong with an asset's sensors; a drift is a doubt, but gates nothing."""
        faults, drift = self._sensors.describe(slot, self._manifest.fields), self._drift.lone(slot)
        return ",".join(filter(None, (faults, drift and f"{drift} drifting")))

    def _count_drift(self, tick_ns: int) -> Work[list[DriftEvent]]:
        """Count the inputs of the assets that are well; at the end of a block, what drifts."""
        is_well = self._alarms.calm(self._scores < 1)
        told = self._drift.take(tick_ns, self._rings.values, is_well)
        if told is None:
            return []
        self.stats.drifting = self._drift.drifting
        self.stats.refits_due = self._drift.refits_due
        yield Save(self._drift)
        return told

    def _gather(self, n: int) -> None:
        """Have the windows of all slots, the unknown ones too: a row's place is its slot's."""
        runner = self._run.runner
        if len(runner.windows) < n:
            runner.reserve(n, self._manifest.window, len(self._manifest.features))
        self._rings.gather(runner.windows[:n])

    def _take_run(self, n: int) -> Float32Array | None:
        """Fill the scores of all slots; their contributions, or None when there are none."""
        run, stats = self._run, self.stats
        stats.runs_total += 1
        stats.run_ms_last = run.ms
        if run.scores is None:
            stats.runs_failed_total += 1
            self._failures += 1
            if stats.error_last != run.error:
                log.error("model.run_failed model=%s error=%s", self.name, run.error)
            self._scores = np.full(n, np.nan)
            if self._failures >= FAILURES_MAX:
                stats.active, stats.state = False, "quarantined"
                log.error("model.quarantined model=%s failures=%d", self.name, self._failures)
        else:
            self._failures = 0
            self._scale(run.scores[:n])
        stats.error_last = run.error
        return run.contributions

    def _scale(self, found: Float32Array) -> None:
        """What the model gives to scores: 0 is normal, 1 alarms."""
        manifest = self._manifest
        if manifest.normal == 0:
            self._scores = np.divide(found, manifest.threshold, dtype=np.float64)
        else:
            span = manifest.threshold - manifest.normal
            self._scores = (found.astype(np.float64) - manifest.normal) / span
