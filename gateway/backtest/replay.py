"""Replay: the live pipeline's own turns, fed from a history instead of from sources.

Stored samples are in engineering units already, so their tags are the configuration's without the
scaling. What comes out for a spool is what the gateway's score lane has, to the bit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from gateway.asset import Assets, UnknownAsset
from gateway.config.load import Config
from gateway.errors import SluicegateError
from gateway.frame import Arrival, FloatArray, Frame, IdArray, Lane, TimeArray
from gateway.inference.config import ModelSettings
from gateway.inference.engine import Engine
from gateway.inference.events import AnomalyEvent, SensorEvent
from gateway.inference.manifest import read_manifest
from gateway.inference.records import Records
from gateway.recordings import Reader, RecordingOptions
from gateway.spool.history import History
from gateway.tag import DataType, Tag, TagTable
from gateway.turns import Turns

__all__ = ["Alarm", "Outcome", "Replay", "Scores", "as_stored"]


@dataclass(slots=True)
class Alarm:
    """An anomaly event, and when a person would have heard of it."""

    event: AnomalyEvent
    opened_ns: int


@dataclass(slots=True)
class Scores:
    """The scores of one model on one asset, in order; 16 bytes each."""

    model: str
    asset: str
    t_ns: TimeArray
    values: FloatArray  # NaN while not known


@dataclass(slots=True)
class Outcome:
    """What the models made of a history."""

    scores: list[Scores] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)
    sensor_events: list[SensorEvent] = field(default_factory=list)
    samples: int = 0
    turns: int = 0
    start_ns: int = 0
    end_ns: int = 0
    left_out: dict[str, str] = field(default_factory=dict)  # asset or tag, why

    @property
    def span_s(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


_NO_NAME = re.compile(r"[^A-Za-z0-9_.-]")


class Replay:
    """One configuration's stages and models, without sources, spool and sinks."""

    def __init__(
        self, config: Config, models: Sequence[str] = (), bundle: Path | None = None
    ) -> None:
        """`models` are the [[model]] to run, none = all; or a bundle that is none of them.

        Raises SluicegateError.
        """
        settings = config.settings
        gateway = settings.gateway
        self.table = TagTable(gateway.tags_max * 10)
        self._known = {tag.name: as_stored(tag) for tag in config.tags}
        self._assets = Assets(settings.assets, gateway=gateway.name, site=gateway.site)
        wanted = [model for model in settings.models if not models or model.name in models]
        if bundle is not None:
            name = _NO_NAME.sub("-", bundle.resolve().name).lstrip(".-") or "bundle"
            wanted = [ModelSettings(name=name[:64], bundle=bundle.resolve())]
        if not wanted:
            names = ", ".join(model.name for model in settings.models) or "none"
            raise SluicegateError(
                f"the configuration has no [[model]] {', '.join(models)}".rstrip(),
                hint=f"it has {names}",
            )
        self.engine = Engine(
            wanted, self.table, config.directory, deadband_report_s=gateway.deadband_report
        )
        bad = [s for s in self.engine.stats.values() if not s.active]
        if bad:
            raise SluicegateError(bad[0].error_last, hint="see `sluicegate models check`")
        self.manifests = {
            model.name: read_manifest(config.directory / model.bundle) for model in wanted
        }
        self._turns = Turns(self.table, settings.aggregates, gateway.deadband_report, self.engine)
        self._turn_ns = max(1, round(gateway.turn * 1e9))
        self._outcome = Outcome()
        self._records = Records(self.table)

    def spooled(
        self, directory: Path, start_ns: int, end_ns: int
    ) -> Iterator[tuple[TimeArray, Frame]]:
        """What a spool's raw lane holds, a turn each. Works beside a running gateway."""
        stored = TagTable(1_000_000)
        ids: IdArray = np.empty(0, np.int32)
        history = History.open_readonly(directory, stored)
        for arrived_ns, frame in history.arrivals(["*"], start_ns, end_ns):
            if len(ids) < len(stored):
                new = [self._adopt(stored[i]) for i in range(len(ids), len(stored))]
                ids = np.concatenate([ids, np.array(new, np.int32)])
            own = Frame(frame.t_ns, ids[frame.tag_ids], frame.values, frame.quality, frame.exact)
            edges = np.flatnonzero(np.diff(arrived_ns)) + 1
            yield from _cut(arrived_ns, own, edges)

    def recorded(
        self, path: Path, options: RecordingOptions
    ) -> tuple[Reader, Iterator[tuple[TimeArray, Frame]]]:
        """A file's samples, in turns of the length that the gateway has."""
        reader = Reader(path, self.table, self._tag_of, options)

        def turns() -> Iterator[tuple[TimeArray, Frame]]:
            for frame in reader.frames():
                edges = np.flatnonzero(np.diff(frame.t_ns // self._turn_ns)) + 1
                yield from _cut(frame.t_ns, frame, edges)

        return reader, turns()

    def run(self, turns: Iterable[tuple[TimeArray, Frame]]) -> Outcome:
        """Work all turns; the outcome."""
        outcome = self._outcome
        frames: list[Frame] = []
        alarms: dict[tuple[str, str, int], Alarm] = {}
        sensors: dict[tuple[str, str, int], SensorEvent] = {}
        now_ns = 0
        for arrived_ns, frame in turns:
            if not len(frame):
                continue
            now_ns = max(now_ns, int(arrived_ns[-1])) if outcome.turns else int(arrived_ns[-1])
            outcome.start_ns = outcome.start_ns or now_ns
            outcome.samples += len(frame)
            outcome.turns += 1
            self._take([Arrival(frame)], int(arrived_ns[-1]), frames, alarms, sensors)
        if outcome.turns:  # the tick that sees the last samples
            outcome.end_ns = now_ns
            self._take([], now_ns + self._tick_ns_max(), frames, alarms, sensors)
        outcome.scores = self._scores_of(frames)
        for alarm in alarms.values():
            if alarm.event.is_open:  # it was told of some time ago, and goes on
                alarm.event = replace(alarm.event, end_ns=max(alarm.event.end_ns, now_ns))
        outcome.alarms = sorted(alarms.values(), key=lambda alarm: alarm.opened_ns)
        outcome.sensor_events = sorted(sensors.values(), key=lambda event: event.start_ns)
        return outcome

    def _take(
        self,
        arrivals: list[Arrival],
        now_ns: int,
        frames: list[Frame],
        alarms: dict[tuple[str, str, int], Alarm],
        sensors: dict[tuple[str, str, int], SensorEvent],
    ) -> None:
        made = self._turns.turn(arrivals, now_ns).frames
        if Lane.SCORE in made:
            frames.append(made[Lane.SCORE])
        if Lane.EVENT not in made:
            return
        for event in self.engine.recent_events:
            key = (event.model, event.asset, event.start_ns)
            if key not in alarms:
                alarms[key] = Alarm(event, event.end_ns)
            alarms[key].event = event
        for told in self._records.sensor_events(made[Lane.EVENT]):
            sensors[told.model, told.asset, told.start_ns] = told

    def _tick_ns_max(self) -> int:
        return 2 * max(manifest.period_ns for manifest in self.manifests.values())

    def _scores_of(self, frames: Sequence[Frame]) -> list[Scores]:
        frame = Frame.concatenate(frames)
        found = []
        for tag_id in np.unique(frame.tag_ids).tolist():
            tag = self.table[tag_id]
            rows = frame.tag_ids == tag_id
            model = dict(tag.labels).get("model", "")
            found.append(Scores(model, tag.asset, frame.t_ns[rows], frame.values[rows]))
        return found

    def _adopt(self, tag: Tag) -> int:
        """The id of a spool's tag: as the configuration has it now, or as it was then."""
        return self.table.add(self._known.get(tag.name) or as_stored(tag))

    def _tag_of(self, asset: str, name: str, eng_unit: str) -> Tag | None:
        known = self._known.get(f"{asset}.{name}")
        if known is not None:
            if eng_unit and known.eng_unit and eng_unit != known.eng_unit:
                raise SluicegateError(
                    f"{known.name} is recorded in {eng_unit!r}, and configured in"
                    f" {known.eng_unit!r}",
                    hint="convert the recording, or correct its header",
                )
            return known
        try:
            return self._assets.tag(asset, name, eng_unit=eng_unit)
        except UnknownAsset as error:
            self._outcome.left_out[asset] = f"{error.message}; {error.hint}"
            return None


def as_stored(tag: Tag) -> Tag:
    """A tag whose samples have been scaled already."""
    if not tag.is_scaled:
        return tag
    return replace(tag, scale=1.0, offset=0.0, data_type=DataType.FLOAT64)


def _cut(
    arrived_ns: TimeArray, frame: Frame, edges: np.ndarray[tuple[int], np.dtype[np.intp]]
) -> Iterator[tuple[TimeArray, Frame]]:
    start = 0
    for stop in [*edges.tolist(), len(frame)]:
        if stop > start:
            yield arrived_ns[start:stop], frame.rows(start, stop)
        start = stop
