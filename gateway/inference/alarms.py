"""Alarms: what the scores and sensor verdicts of one model's assets become, tick by tick.

    scores   -> Watch (one asset)     -> AnomalyEvent
    verdicts -> SensorLog (one asset) -> SensorEvent

A calm asset with good sensors costs nothing: only slots that are of concern are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import orjson

from gateway.frame import BoolArray, FloatArray
from gateway.inference import ModelStats
from gateway.inference.events import AnomalyEvent, EventRule, SensorEvent, SensorLog, Watch
from gateway.inference.manifest import Manifest
from gateway.inference.rings import Rings
from gateway.inference.runtime import Float32Array
from gateway.inference.sensors import SensorWatch

__all__ = ["Alarms"]

# An event names at most so many fields, and none that made less than this share of the score.
TOP_FIELDS_MAX = 3
TOP_SHARE_MIN = 0.15
# What an event keeps of its window: enough to draw it, little enough for a field of text.
SNAPSHOT_ROWS_MAX = 60
SNAPSHOT_FIELDS_MAX = 24


class Alarms:
    """The open and the coming events of every slot of one model."""

    def __init__(
        self, name: str, manifest: Manifest, rule: EventRule, rings: Rings, stats: ModelStats
    ) -> None:
        self._name = name
        self._manifest = manifest
        self._rule = rule
        self._rings = rings
        self._stats = stats
        self._watches: list[Watch] = []  # by slot
        self._sensors: list[SensorLog] = []  # by slot
        self._busy: set[int] = set()  # slots whose watch is not idle
        self._faulty: set[int] = set()  # slots whose sensor event is open
        self._deviation: dict[int, str] = {}  # by busy slot, at its peak so far
        self._restored: dict[str, AnomalyEvent] = {}  # by asset, until its slot is there
        self._restored_sensors: dict[str, SensorEvent] = {}

    def add(self, asset: str, settled_ns: int) -> None:
        """One more slot; `settled_ns` is when its sensors' past is known."""
        slot = len(self._watches)
        watch, sensors = (
            Watch(self._rule, self._name, asset),
            SensorLog(self._name, asset, settled_ns),
        )
        self._watches.append(watch)
        self._sensors.append(sensors)
        restored = self._restored.pop(asset, None)
        if restored is not None:
            watch.restore(restored)
            self._deviation[slot] = restored.deviation
        if watch.is_open:
            self._busy.add(slot)
            self._stats.events_open += 1
        told = self._restored_sensors.pop(asset, None)
        if told is not None:
            sensors.restore(told)
        if sensors.is_open:
            self._faulty.add(slot)
            self._stats.sensor_faults += 1

    def restore(self, event: AnomalyEvent | SensorEvent) -> None:
        """Take over the newest event record of an asset that is yet to be added."""
        if isinstance(event, AnomalyEvent):
            self._restored[event.asset] = event
        else:
            self._restored_sensors[event.asset] = event

    def open_events(self) -> Iterator[AnomalyEvent | SensorEvent]:
        """What is open, as of now, for another model to take over."""
        for slot in sorted(self._busy):
            if self._watches[slot].is_open:
                event = self._watches[slot].now()
                yield replace(event, deviation=self._deviation.get(slot, ""))
        for slot in sorted(self._faulty):
            yield self._sensors[slot].now()

    def adopt(self, asset_slot: int, event: AnomalyEvent | SensorEvent) -> None:
        """Go on with an event that another model had open for the asset of a slot."""
        if isinstance(event, SensorEvent):
            if asset_slot not in self._faulty:
                self._faulty.add(asset_slot)
                self._stats.sensor_faults += 1
            self._sensors[asset_slot].restore(event)
            return
        watch = self._watches[asset_slot]
        self._stats.events_open += not watch.is_open
        watch.restore(event)
        self._busy.add(asset_slot)
        self._deviation[asset_slot] = event.deviation

    def is_open(self, slot: int) -> bool:
        return self._watches[slot].is_open

    def top(self, slot: int) -> str:
        """The fields that made the peak of the open event, most first."""
        return self._watches[slot].top if self._watches[slot].is_open else ""

    @property
    def is_busy(self) -> bool:
        """Whether an event is open, or coming."""
        return bool(self._busy)

    def calm(self, is_below: BoolArray) -> BoolArray:
        """Of the slots whose score is below 1 those where no event is open or coming."""
        if not self._busy:
            return is_below
        calm = is_below.copy()
        calm[list(self._busy)] = False
        return calm

    def start(self, settled_ns: int) -> None:
        """The first tick: when the past of all assets so far will be known."""
        for sensors in self._sensors:
            sensors.settled_ns = settled_ns

    def clock_stepped_back(self, t_ns: int, settled_ns: int) -> None:
        """Times of before the step must not look like the future."""
        for watch in self._watches:
            watch.clock_stepped_back(t_ns)
        for sensors in self._sensors:
            sensors.settled_ns = min(sensors.settled_ns, settled_ns)

    def step(
        self,
        tick_ns: int,
        scores: FloatArray,
        contributions: Float32Array | None,
        doubts: Callable[[int], str],
    ) -> Iterator[AnomalyEvent]:
        """Show the watches their scores; a calm asset below 1 costs nothing.

        `doubts` says of a slot what is wrong with its sensors.
        """
        concerned = self._busy.union(np.flatnonzero(scores >= 1).tolist())
        for slot in sorted(concerned):
            watch = self._watches[slot]
            peak = partial(self._peak, contributions, slot)
            was_open = watch.is_open
            event = watch.step(tick_ns, float(scores[slot]), peak)
            if watch.is_idle:
                self._busy.discard(slot)
                deviation = self._deviation.pop(slot, "")
            else:
                self._busy.add(slot)
                deviation = self._deviation.get(slot, "")
            opened = watch.is_open and not was_open
            self._stats.events_total += opened
            self._stats.events_open += watch.is_open - was_open
            if event is not None:
                yield replace(
                    event,
                    deviation=deviation,
                    sensor=doubts(slot),
                    window=self._snapshot(slot) if opened else "",
                )

    def step_sensors(self, tick_ns: int, sensors: SensorWatch) -> Iterator[SensorEvent]:
        """Show the logs what is wrong with the sensors."""
        if not sensors.has_faults and not self._faulty:
            return
        concerned = self._faulty.union(np.flatnonzero(sensors.faults.any(axis=1)).tolist())
        for slot in sorted(concerned):
            event = self._sensors[slot].step(tick_ns, sensors.describe(slot, self._manifest.fields))
            if event is None:
                continue
            was_open = slot in self._faulty
            self._stats.sensor_faults += event.is_open - was_open
            self._stats.sensor_faults_total += event.is_open and not was_open
            (self._faulty.add if event.is_open else self._faulty.discard)(slot)
            yield event

    def _peak(self, contributions: Float32Array | None, slot: int) -> str:
        """The fields that made a score, most first; how far they are from healthy is kept."""
        shares = self._shares(contributions, slot)
        order = np.argsort(-shares, kind="stable")[:TOP_FIELDS_MAX]
        least = TOP_SHARE_MIN * shares.sum()
        top = [int(i) for i in order if shares[i] > 0 and shares[i] >= least]
        self._deviation[slot] = ", ".join(self._deviates(slot, column) for column in top)
        return ",".join(self._manifest.fields[column] for column in top)

    def _shares(self, contributions: Float32Array | None, slot: int) -> FloatArray:
        """How much each feature made the score; of a model that does not say, how unusual it is."""
        if contributions is not None:
            given: FloatArray = np.maximum(contributions[slot].astype(np.float64), 0)
            return np.nan_to_num(given)
        values = self._rings.values[slot]
        shares = np.zeros(len(values))
        for column, feature in enumerate(self._manifest.features):
            if feature.healthy is not None:
                low, *_, middle, _, _, _, high = feature.healthy.deciles
                shares[column] = abs(values[column] - middle) / max(high - low, 1e-9)
        return shares

    def _deviates(self, slot: int, column: int) -> str:
        """`vibration 4.2 mm/s (healthy 0.8 to 2.1)`."""
        feature = self._manifest.features[column]
        unit = f" {feature.eng_unit}" if feature.eng_unit else ""
        text = f"{feature.field} {self._rings.values[slot, column]:.4g}{unit}"
        if feature.healthy is None:
            return text
        return f"{text} (healthy {feature.healthy.low:.4g} to {feature.healthy.high:.4g})"

    def _snapshot(self, slot: int) -> str:
        """The window as JSON, thinned to what can be drawn."""
        window = self._rings.window_of(slot)
        every = -(-len(window) // SNAPSHOT_ROWS_MAX)
        # Counted from the newest sample, which is the one that matters most.
        rows = window[::-1][::every][::-1][:, :SNAPSHOT_FIELDS_MAX]
        said = {
            "fields": self._manifest.fields[:SNAPSHOT_FIELDS_MAX],
            "period_s": self._manifest.sample_period * every,
            "rows": [[float(f"{value:.5g}") for value in row] for row in rows.tolist()],
        }
        return orjson.dumps(said).decode()
