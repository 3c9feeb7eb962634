"""Drift: whether what comes in while all is well still looks like what the model was fitted to.

    healthy input, every 10 s -> which tenth of the fitted values it lies in -> counts of a block
    block (5 min)             -> counts that fade, half of them in `drift_memory`
    counts                    -> population stability index of each input against the fitting

The index is sum((p - q) ln(p / q)) over the tenths: 0 for the same distribution; 0.25 is commonly
called a shift. One input of an asset alone that shifted is its sensor's drift, several are a
change of the process; with either it is time to look, and with the latter to fit anew.

Blocks lie at absolute times, and their sums are kept in a file with the number of the newest, so
that a replay of two blocks arrives at the same sums.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from gateway.frame import BoolArray, FloatArray
from gateway.inference.events import DriftEvent
from gateway.inference.manifest import Healthy

__all__ = ["BLOCK_NS", "Drift", "DriftRule"]

log = logging.getLogger(__name__)

BLOCK_NS = 300 * 10**9
SAMPLE_NS = 10 * 10**9
TENTHS = 10
# Closed only well below what opened it, lest a value at the limit opens a hundred events.
CLOSE_SHARE = 0.6
# Half of what a long watch comes to must be there before anything is said.
WEIGHT_MIN_SHARE = 0.5
# Of a value that comes in steps, the deciles tell the share of a tenth to this much only.
SLACK = 0.03
TIED_SLACK = 0.1
# With fewer inputs one cannot be told from many.
INPUTS_MIN = 3

Counts = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftRule:
    """When a shift is one, as [[model]] says."""

    memory_s: float
    limit: float


class Drift:
    """All inputs of all assets of one model; slots and features are those of its rings."""

    def __init__(
        self,
        model: str,
        healthy: Sequence[Healthy | None],
        fields: Sequence[str],
        rule: DriftRule,
        file: Path | None,
    ) -> None:
        self._model = model
        self._fields = fields
        self._rule = rule
        self._file = file
        self._is_known = np.array([fact is not None for fact in healthy])
        self._deciles = np.array(
            [fact.deciles if fact else (0.0,) * (TENTHS - 1) for fact in healthy]
        ).reshape(-1, TENTHS - 1)
        self._expected = np.stack([_expected(deciles) for deciles in self._deciles])
        ties = (np.diff(self._deciles, axis=1) == 0).any(axis=1)
        self._slack = np.where(ties, TIED_SLACK, SLACK)[:, np.newaxis]
        self._fade = np.float32(0.5 ** (BLOCK_NS / 1e9 / rule.memory_s))
        # What the counts of one input come to in the end: a geometric series of blocks.
        full = BLOCK_NS / SAMPLE_NS / (1 - float(self._fade))
        self._weight_min = WEIGHT_MIN_SHARE * full
        features = len(fields)
        self._block: int | None = None  # the one being counted
        self._folded = -1  # the newest in the sums
        self._counts: Counts = np.zeros((0, features, TENTHS), np.float32)
        self._sums: Counts = np.zeros((0, features, TENTHS), np.float32)
        self._assets: list[str] = []  # by slot
        self._logs: list[_Log] = []
        self._loaded: dict[str, Counts] = {}
        self.index: FloatArray = np.zeros((0, features))  # NaN while too little is known
        self._load()

    def add(self, asset: str) -> None:
        """One more slot."""
        self._assets.append(asset)
        self._logs.append(_Log())
        shape = (1, len(self._fields), TENTHS)
        known = self._loaded.pop(asset, None)
        sums = np.zeros(shape, np.float32) if known is None else known[np.newaxis]
        self._sums = np.concatenate([self._sums, sums])
        self._counts = np.concatenate([self._counts, np.zeros(shape, np.float32)])
        self.index = np.concatenate([self.index, np.full((1, len(self._fields)), np.nan)])

    def restore(self, slot: int, event: DriftEvent) -> None:
        """Take over the newest record of before a restart, ahead of the replay."""
        self._logs[slot].restore(event)

    def open_events(self) -> list[DriftEvent]:
        """What is open, as it was last reported."""
        return [log.told for log in self._logs if log.is_open and log.told is not None]

    @property
    def drifting(self) -> int:
        """Assets with an event open."""
        return sum(log.is_open for log in self._logs)

    @property
    def refits_due(self) -> int:
        """Assets whose process has changed."""
        return sum(log.is_open and log.kind == "process" for log in self._logs)

    def describe(self, slot: int) -> str:
        """`sensor flow`, `process flow,pressure`, or nothing."""
        known = self._logs[slot]
        return f"{known.kind} {known.fields}" if known.is_open else ""

    def lone(self, slot: int) -> str:
        """The one input of an asset that drifts alone, if one does."""
        known = self._logs[slot]
        return known.fields if known.is_open and known.kind == "sensor" else ""

    def is_due(self, tick_ns: int, hop_ns: int) -> bool:
        """Whether this score's input is one of those that are counted."""
        return tick_ns // SAMPLE_NS != (tick_ns - hop_ns) // SAMPLE_NS

    def take(self, tick_ns: int, values: FloatArray, is_well: BoolArray) -> list[DriftEvent] | None:
        """Count the inputs (slots, features) of the assets that are well.

        At the end of a block what there is to tell; then `save` is for the caller to have done.
        """
        block = tick_ns // BLOCK_NS
        told = None
        if self._block is not None and block != self._block:
            told = self._fold(self._block, block * BLOCK_NS) if self._block > self._folded else None
        if block != self._block:
            self._counts[:] = 0
            self._block = block
        slots = np.flatnonzero(is_well)
        tenth = (values[slots, :, np.newaxis] > self._deciles).sum(axis=2)
        self._counts[slots[:, np.newaxis], np.arange(len(self._fields)), tenth] += 1
        return told

    def clock_stepped_back(self, tick_ns: int) -> None:
        """Times of before the step must not look like the future."""
        self._folded = min(self._folded, tick_ns // BLOCK_NS - 1)
        self._block = None

    def save(self) -> None:
        """Write the sums down; not synced: what a power cut takes is ten minutes of many hours."""
        if self._file is None:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            new = self._file.with_suffix(".new")
            with new.open("wb") as file:
                np.savez(
                    file,
                    folded=np.int64(self._folded),
                    assets=np.array(self._assets, np.str_),
                    sums=self._sums,
                )
            new.replace(self._file)
        except OSError as error:
            log.warning("model.drift_not_saved file=%s error=%s", self._file, error)

    def _load(self) -> None:
        if self._file is None:
            return
        try:
            with np.load(self._file, allow_pickle=False) as kept:
                folded, assets, sums = int(kept["folded"]), kept["assets"], kept["sums"]
            if sums.shape != (len(assets), len(self._fields), TENTHS) or sums.dtype != np.float32:
                raise ValueError("of another shape")  # noqa: TRY301 - to be told like the rest
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            log.warning("model.drift_begins_anew file=%s error=%s", self._file, error)
            return
        self._folded = folded
        self._loaded = dict(zip(assets.tolist(), sums, strict=True))

    def _fold(self, block: int, now_ns: int) -> list[DriftEvent]:
        """Add a finished block to the sums, and see who is where."""
        # What is not watched, while its asset is not well, is not forgotten either.
        is_seen = self._counts.sum(axis=2, keepdims=True) > 0
        self._sums *= np.where(is_seen, self._fade, np.float32(1))
        self._sums += self._counts
        self._folded = block
        weight = self._sums.sum(axis=2)
        # Half a sample a tenth: none seen so far is not never.
        share = (self._sums + 0.5) / (weight[:, :, np.newaxis] + 0.5 * TENTHS)
        expected = self._expected
        smooth = (expected * self._weight_min + 0.5) / (self._weight_min + 0.5 * TENTHS)
        off = share - smooth
        share = smooth + np.sign(off) * np.maximum(np.abs(off) - self._slack, 0)
        index = ((share - smooth) * np.log(share / smooth)).sum(axis=2, dtype=np.float64)
        self.index = np.where((weight >= self._weight_min) & self._is_known, index, np.nan)
        found = []
        for slot in np.flatnonzero(self._concerned()).tolist():
            event = self._logs[slot].step(
                self._model, self._assets[slot], now_ns, *self._shifted(slot)
            )
            if event is not None:
                found.append(event)
        return found

    def _concerned(self) -> BoolArray:
        with np.errstate(invalid="ignore"):
            over = (self.index > self._rule.limit).any(axis=1)
        concerned: BoolArray = over | np.array([log.is_open for log in self._logs], np.bool_)
        return concerned

    def _shifted(self, slot: int) -> tuple[str, str, float]:
        """What kind of shift it is, of which fields, and how far the furthest went."""
        known = set(self._logs[slot].fields.split(",")) if self._logs[slot].is_open else set()
        limit = self._rule.limit
        columns = [
            column
            for column, index in enumerate(self.index[slot].tolist())
            if index > (CLOSE_SHARE * limit if self._fields[column] in known else limit)
        ]
        if not columns:
            return "", "", 0.0
        alone = len(columns) == 1 and int(self._is_known.sum()) >= INPUTS_MIN
        fields = ",".join(self._fields[column] for column in columns)
        furthest = float(np.nanmax(self.index[slot]))
        return "sensor" if alone else "process", fields, furthest


class _Log:
    """The drift event of one asset: told when it opens, when other inputs shift, when it closes."""

    __slots__ = ("fields", "is_open", "kind", "start_ns", "told")

    def __init__(self) -> None:
        self.is_open = False
        self.kind = self.fields = ""
        self.start_ns = 0
        self.told: DriftEvent | None = None  # as it was last reported

    def restore(self, event: DriftEvent) -> None:
        self.told = event
        self.is_open, self.start_ns = event.is_open, event.start_ns
        self.kind, self.fields = event.kind, event.fields

    def step(
        self, model: str, asset: str, now_ns: int, kind: str, fields: str, index: float
    ) -> DriftEvent | None:
        if fields == (self.fields if self.is_open else ""):
            return None
        if fields:
            if not self.is_open:
                self.start_ns = now_ns
            self.kind, self.fields = kind, fields
        self.is_open = bool(fields)
        self.told = DriftEvent(
            model=model,
            asset=asset,
            start_ns=self.start_ns,
            end_ns=now_ns,
            is_open=self.is_open,
            kind=self.kind,
            fields=self.fields,
            index=index,
        )
        return self.told


def _expected(deciles: FloatArray) -> FloatArray:
    """The share of the fitted values in each tenth; deciles that are equal are one place."""
    shares = np.zeros(TENTHS)
    shares[-1] = 1 / TENTHS
    for i, decile in enumerate(deciles):
        first = int(np.searchsorted(deciles, decile, side="left"))
        shares[first] += 1 / TENTHS
        assert first <= i
    return shares
