"""Watcher: one [[model]] at work on all its assets.

    tags -> cells -> rings --(every hop)--> one run -> scores -> watches -> events

Ticks lie at absolute multiples of the sample period, and a tick sees what arrived in turns
before it. So what comes out depends on the samples and the times of their turns alone, not on
how often an idle gateway turned in between, nor on how late: a gap is worked off tick by tick.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from gateway.errors import ModelFailed, SluicegateError
from gateway.frame import FloatArray, Frame, IdArray
from gateway.inference import ModelStats
from gateway.inference.bundle import Bundle
from gateway.inference.config import ModelSettings
from gateway.inference.events import UPDATE_PERIOD_NS, AnomalyEvent, EventRule, Watch
from gateway.inference.manifest import unit_differs
from gateway.inference.records import Records
from gateway.inference.rings import AGE_MAX_PERIODS, NOWHERE, CellArray, Rings, age_max_ns
from gateway.inference.runtime import Float32Array
from gateway.tag import Quality, Tag, TagTable

__all__ = ["AssetStatus", "Scores", "Watcher"]

log = logging.getLogger(__name__)

# One model's rings on a board of 512 MiB. At 30 samples of 10 features: 100,000 assets.
RING_BYTES_MAX = 256 * 2**20
# An event names at most so many fields, and none that made less than this share of the score.
TOP_FIELDS_MAX = 3
TOP_SHARE_MIN = 0.15

# As numbers: looking a member up by name costs more than the comparison it is for.
_GOOD, _BAD, _BAD_WAITING = int(Quality.GOOD), int(Quality.BAD), int(Quality.BAD_WAITING)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetStatus:
    """The newest word of a model on an asset."""

    asset: str
    score: float  # NaN while not known
    state: str  # "ok", "anomaly" (an event is open) or "unknown"
    top: str  # fields that made the open event's peak


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """One tick's scores of all assets, and the events they made."""

    frame: Frame
    events: list[AnomalyEvent]


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
    ) -> None:
        manifest = bundle.manifest
        self.name = settings.name
        self.stats = ModelStats(active=True)
        self._settings = settings
        self._manifest = manifest
        self._runner = bundle.runner
        self._table = table
        self._records = records
        self._rule = EventRule(
            open_after=settings.open_after,
            close_after=settings.close_after,
            close_below=settings.close_below,
        )
        self._period_ns = manifest.period_ns
        self._valid_min = int(np.ceil(manifest.min_valid_fraction * manifest.window))
        self._deadband_report_s = deadband_report_s
        # The longest that any value counts: a tag with a deadband's.
        self._age_max_ns = AGE_MAX_PERIODS * self._period_ns + round(deadband_report_s * 1e9)
        self._tick_ns: int | None = None  # the newest tick worked

        self._rings = Rings(window=manifest.window, features=len(manifest.features))
        self._tags_seen = 0
        self._cells: CellArray = np.zeros(0, np.intp)  # by tag id
        self._slots: dict[str, int | None] = {}  # None: refused, and said so
        self._watches: list[Watch] = []  # by slot
        self._score_ids: IdArray = np.zeros(0, np.int32)  # by slot
        self._scores: FloatArray = np.zeros(0)  # by slot, NaN while not known
        self._busy: set[int] = set()  # slots whose watch is not idle
        self._restored: dict[str, AnomalyEvent] = {}  # by asset, until its slot is there

    @property
    def horizon_ns(self) -> int:
        """How far back a replay must begin to arrive at the same state."""
        rows = max(self._rule.open_after, self._rule.close_after) * self._manifest.hop
        ticks = self._manifest.window + rows + self._manifest.hop + 1
        return ticks * self._period_ns + self._age_max_ns + UPDATE_PERIOD_NS

    def apply(self, frame: Frame, now_ns: int) -> Iterator[Scores]:
        """What the ticks up to `now_ns` give; the frame's samples count from the next one on."""
        if len(self._table) != self._tags_seen:
            self._connect_new_tags()
        if self._tick_ns is None or now_ns - self._tick_ns >= self._period_ns:
            yield from self._work_ticks(now_ns)
        elif now_ns < self._tick_ns:
            self._step_back(now_ns)
        if len(frame):
            cells = self._cells[frame.tag_ids]
            self._rings.hold(cells, frame.values, frame.quality < _BAD, now_ns)

    def restore(self, event: AnomalyEvent) -> None:
        """Take over the newest event record of an asset, before anything is replayed."""
        self._restored[event.asset] = event

    def status(self) -> list[AssetStatus]:
        """The newest word on each asset, in the order they appeared."""
        found = []
        for asset, slot in self._slots.items():
            if slot is None:
                continue
            watch, score = self._watches[slot], float(self._scores[slot])
            state = "anomaly" if watch.is_open else "unknown" if np.isnan(score) else "ok"
            top = watch.top if watch.is_open else ""
            found.append(AssetStatus(asset=asset, score=score, state=state, top=top))
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
        watch = Watch(self._rule, self.name, tag.asset)
        self._watches.append(watch)
        self._score_ids = np.append(self._score_ids, np.int32(score_id))
        self._scores = np.append(self._scores, np.nan)
        slot = self._rings.add()
        restored = self._restored.pop(tag.asset, None)
        if restored is not None:
            watch.restore(restored)
        if watch.is_open:
            self._busy.add(slot)
            self.stats.events_open += 1
        self.stats.assets += 1
        return slot

    def _step_back(self, now_ns: int) -> None:
        """The gateway's clock was set back: go on from there, with what the rings hold."""
        self._tick_ns = now_ns - now_ns % self._period_ns
        self._rings.clock_stepped_back(now_ns)
        for watch in self._watches:
            watch.clock_stepped_back(self._tick_ns)

    def _work_ticks(self, now_ns: int) -> Iterator[Scores]:
        newest = now_ns - now_ns % self._period_ns
        if self._tick_ns is None:
            self._tick_ns = newest
            return
        # After that many ticks without a sample no column is valid: those before change nothing.
        ticks_max = self._manifest.window + self._age_max_ns // self._period_ns + 1
        tick = max(self._tick_ns + self._period_ns, newest - ticks_max * self._period_ns)
        for tick_ns in range(tick, newest + 1, self._period_ns):
            self._rings.push(tick_ns)
            self._tick_ns = tick_ns
            if tick_ns // self._period_ns % self._manifest.hop == 0 and self._rings.slots:
                yield self._score(tick_ns)

    def _score(self, tick_ns: int) -> Scores:
        """One run for all assets; not known is NaN, with bad quality."""
        known = self._rings.valid[: self._rings.slots] >= self._valid_min
        quality = np.full(len(known), _BAD_WAITING, np.uint8)
        contributions = None
        if known.any():
            contributions = self._run()
            quality[known] = _BAD  # there was data, but the model made nothing of it
            known &= np.isfinite(self._scores)
            quality[known] = _GOOD
        self._scores[~known] = np.nan
        self.stats.windows_total += len(known)
        self.stats.windows_unknown_total += len(known) - int(np.count_nonzero(known))
        frame = Frame.of(tick_ns, self._score_ids, self._scores.copy(), quality)
        return Scores(frame, list(self._events(tick_ns, contributions)))

    def _run(self) -> Float32Array | None:
        """Fill the scores of all slots; their contributions, or None when the run failed.

        All slots are run, the unknown ones too: a row's place then depends on its slot alone.
        """
        runner, stats, n = self._runner, self.stats, self._rings.slots
        began_s = time.perf_counter()
        if len(runner.windows) < n:
            runner.reserve(n, self._manifest.window, len(self._manifest.features))
        self._rings.gather(runner.windows[:n])
        stats.runs_total += 1
        try:
            scores, contributions = runner.run()
        except ModelFailed as error:
            stats.runs_failed_total += 1
            if stats.error_last != str(error):
                log.error("model.run_failed model=%s error=%s", self.name, error)  # noqa: TRY400 - ORT's trace says nothing
            stats.error_last = str(error)
            self._scores[:] = np.nan
            return None
        stats.error_last = ""
        self._scale(scores[:n])
        stats.run_ms_last = (time.perf_counter() - began_s) * 1000
        return contributions

    def _scale(self, found: Float32Array) -> None:
        """What the model gives to scores: 0 is normal, 1 alarms."""
        manifest = self._manifest
        if manifest.normal == 0:
            np.divide(found, manifest.threshold, out=self._scores)
        else:
            span = manifest.threshold - manifest.normal
            np.divide(found.astype(np.float64) - manifest.normal, span, out=self._scores)

    def _events(self, tick_ns: int, contributions: Float32Array | None) -> Iterator[AnomalyEvent]:
        """Show the watches their scores; a calm asset below 1 costs nothing."""
        concerned = self._busy.union(np.flatnonzero(self._scores >= 1).tolist())
        for slot in sorted(concerned):
            watch = self._watches[slot]
            top = partial(self._top, contributions, slot)
            was_open = watch.is_open
            event = watch.step(tick_ns, float(self._scores[slot]), top)
            if watch.is_idle:
                self._busy.discard(slot)
            else:
                self._busy.add(slot)
            self.stats.events_total += watch.is_open and not was_open
            self.stats.events_open += watch.is_open - was_open
            if event is not None:
                yield event

    def _top(self, contributions: Float32Array | None, slot: int) -> str:
        """The fields that made a score, most first."""
        if contributions is None:
            return ""
        shares = np.nan_to_num(np.maximum(contributions[slot], 0))
        order = np.argsort(-shares, kind="stable")[:TOP_FIELDS_MAX]
        least = TOP_SHARE_MIN * shares.sum()
        fields = self._manifest.fields
        return ",".join(fields[i] for i in order if shares[i] > 0 and shares[i] >= least)
