"""Device: what is known of a peer - its map, how that is read best, and who of its units answers.

It outlives the connections; `scan` reads by it, and tells it what was learned on the way.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from gateway.frame import IdArray
from gateway.sources.modbus.brackets import Bracket, bracket_of
from gateway.sources.modbus.config import ModbusSettings, ModbusTcpSettings, RegisterRow
from gateway.sources.modbus.decode import BlockDecoder, new_exponents
from gateway.sources.modbus.gaps import TRIES, Gap, GapSearch
from gateway.sources.modbus.learned import load_learned, save_learned
from gateway.sources.modbus.line import wire_s
from gateway.sources.modbus.patience import Patience
from gateway.sources.modbus.peer import Peer
from gateway.sources.modbus.plan import Block, ScanPlan, Verdict, plan
from gateway.sources.modbus.wire import Request

__all__ = ["BlockReader", "Device"]

# A time-out now and then is no reason to plan anew.
FAILURES_OVER_MAX = 3
# A plan of a thousand tags takes a tenth of a second, and its file a write: not for each gap.
SETTLED_MAX = 16
# What differs less from what is on disk is not worth a write.
ANSWER_NEWS_SHARE = 0.2


class BlockReader:
    """One block, ready to be read: its request, its tags, its decoder."""

    __slots__ = (
        "block", "decoder", "failures", "ids", "is_part", "least_ns", "reads", "request", "total_ns"
    )  # fmt: skip

    def __init__(self, block: Block, device: Device, failures: int | None = None) -> None:
        """`failures` are those of the block that this one is a part of; None: it is none."""
        self.block = block
        self.request = block.request
        self.decoder = BlockDecoder(block, device.rows, device.exponents)
        self.ids: IdArray = device.ids[np.array(block.rows, np.intp)]
        self.failures = failures or 0  # in a row
        self.is_part = failures is not None
        self.reads = 0  # answers
        self.least_ns = 0  # of them, what the quickest took
        self.total_ns = 0  # what all took

    def took(self, duration_ns: int) -> None:
        """It was answered within so long."""
        if not self.reads or duration_ns < self.least_ns:
            self.least_ns = duration_ns
        self.total_ns += duration_ns
        self.reads += 1
        self.failures = 0


class Device:
    """What is known of the peer: its map, how that is read best, and who answers."""

    def __init__(
        self,
        settings: ModbusSettings,
        rows: Sequence[RegisterRow],
        ids: IdArray,
        file: Path | None = None,
    ) -> None:
        """`file` is where what is learned of it is kept; None: nowhere."""
        self._file = file
        self._set(settings)
        self.doubted: set[int] = set()  # unit ids that have answered as another device would
        self.patience = Patience()
        self.peer = Peer(settings.name)
        self._failed_over: dict[Request, int] = {}  # that read over gaps: failures in a row
        self._settled = 0  # gaps, since the plan was made
        self.plans: tuple[ScanPlan, ...]
        self.readers: dict[str, list[BlockReader]] = {}  # by scan class
        self.adopt(rows, ids)

    def adopt(self, rows: Sequence[RegisterRow], ids: IdArray) -> None:
        """Take another map for the one there was; not during a scan."""
        self.rows = rows
        self.ids = ids
        self.exponents = new_exponents(rows)
        self.learned = load_learned(self._file, rows)
        self.readers = {}  # of other rows
        self.replan()

    def use(self, settings: ModbusSettings, peer: Peer) -> None:
        """Ask at another address: what was read of the one before means nothing there."""
        self._set(settings)
        self.peer = peer
        self.exponents[:] = np.nan
        self.patience.forgive()

    def _set(self, settings: ModbusSettings) -> None:
        self.settings = settings
        # Requests that may be on its connection at once.
        self.in_flight = settings.in_flight if isinstance(settings, ModbusTcpSettings) else 1

    async def remember(self) -> None:
        """Keep what was learned over restarts."""
        if self._file is not None:
            await asyncio.to_thread(save_learned, self._file, self.learned, self.rows)

    def replan(self) -> None:
        """Make the plan anew, with what was learned."""
        self.plans = plan(self.rows, self.settings, self.learned)
        made = {reader.block: reader for reader in chain(*self.readers.values())}
        self.readers = {
            each.scan_class: [made.get(block) or BlockReader(block, self) for block in each.blocks]
            for each in self.plans
        }
        self._settled = 0
        self.brackets = {
            name: bracket
            for name, readers in self.readers.items()
            if (bracket := self._bracket(readers)) is not None
        }
        self.patience.follow(reader.request for reader in chain(*self.readers.values()))
        # With several requests in flight their times do not add up.
        learns = self.settings.learns_gaps and self.in_flight == 1
        readers = self.readers.values() if learns else ()
        self.gaps = GapSearch(readers, self.rows, self.settings, self.learned)

    def settle(self, gap: Gap, verdict: Verdict) -> bool:
        """Something is known of a gap; whether the plan is another for that. Not during a scan."""
        self.gaps.settle(gap, verdict)
        self._settled += 1
        if self.gaps.is_open and self._settled < SETTLED_MAX:
            return False
        self.replan()
        return True

    def measure(self) -> bool:
        """Note what the units took to answer since the last plan; whether that is news."""
        if self.in_flight > 1:
            return False  # each waited for the others, too
        units: defaultdict[int, list[float]] = defaultdict(list)
        for reader in chain(*self.readers.values()):
            if reader.reads >= TRIES:
                mean_s = reader.total_ns / reader.reads / 1e9
                on_line_s = wire_s(reader.request, self.settings)
                units[reader.request.unit_id].append(max(0.0, mean_s - on_line_s))
        news = False
        for unit_id, each_s in units.items():
            known_s, found_s = self.learned.answer_s.get(unit_id), sum(each_s) / len(each_s)
            if known_s is None or abs(found_s - known_s) > max(ANSWER_NEWS_SHARE * known_s, 0.001):
                self.learned.answer_s[unit_id] = found_s
                news = True
        return news

    def answered_over(self, request: Request) -> None:
        """What reads over gaps is answered."""
        if self._failed_over:
            self._failed_over.pop(request, None)

    def failed_over(self, request: Request) -> bool:
        """A request is not answered; whether gaps are not read over any more for that.

        They were worth it once. The device may have been replaced by one that does not answer for
        addresses it has not, and then nothing that is read with them would ever come again. Where
        it is only away, they are found again when it is back.
        """
        spans = self.learned.gaps.get((request.unit_id, request.function), {})
        over = [
            span
            for span, verdict in spans.items()
            if verdict is Verdict.QUICKER
            and request.address < span[0]
            and span[1] < request.address + request.quantity
        ]
        if not over:
            return False
        failures = self._failed_over[request] = self._failed_over.get(request, 0) + 1
        if failures < FAILURES_OVER_MAX:
            return False
        del self._failed_over[request]
        for span in over:
            del spans[span]
        return True

    def _bracket(self, readers: Sequence[BlockReader]) -> Bracket | None:
        distant = [pair for reader in readers for pair in reader.decoder.distant]
        return bracket_of([r.block for r in readers], distant, self.ids, self.rows)
