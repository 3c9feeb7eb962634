"""The time of a board without a clock chip, in a world: what it says, finds out, and must give.

In true time nothing is wrong here; what the gateway stamps is. A boot begins not knowing the time
and goes on from the newest that is stored (`Spool.begin_clock`); somebody tells it, or nobody
does before the power fails, or it is told to go on without. Whatever happens, a sample has one
time for ever, the right one where its boot's verdict says `exact`.
"""

from __future__ import annotations

import bisect
import random

import numpy as np
import numpy.typing as npt

from gateway.clock import ManualClock
from gateway.frame import Frame
from gateway.spool.boots import Boot
from gateway.spool.store import Store
from gateway.tag import Quality

__all__ = ["Timekeeping"]

S = 10**9
# Turns are at multiples of it, so that times of two boots differ by what is added to them.
GRID_NS = 50_000_000


class Timekeeping:
    """Of one board, through all its boots and processes."""

    def __init__(self, rng: random.Random, clock: ManualClock, *, has_chip: bool) -> None:
        self.has_chip = has_chip
        self.boot_id = 1
        self.boot = 0  # whose stamps are provisional now; 0: they are right
        self.offset_ns = 0  # what is stamped, less the true time
        self._rng = rng
        self._clock = clock
        self._began_ns = clock.utc_ns()
        self._is_told = has_chip
        self._boots: tuple[list[int], list[int]] = ([0], [0])  # first values, and whose they are
        self._exact: set[int] = set()  # boots of which that is durable
        self._given: dict[int, tuple[int, int]] = {}  # by value: its shift and its quality

    def power_on(self) -> None:
        """Another boot: nobody remembers anything."""
        self.boot_id += 1
        self._began_ns = self._clock.utc_ns()
        self._is_told = self.has_chip

    def begin(self, store: Store, value_next: int) -> None:
        """A process begins: what it stamps from now on, as `Spool.begin_clock` decides it."""
        known = store.boots[self.boot_id]
        if self._is_told or known.verdict == "exact":
            self.boot, self.offset_ns = 0, 0
        else:
            self.boot = self.boot_id
            if self.boot_id in store.boots:
                self.offset_ns = known.offset_ns
            else:
                start_ns = -(-store.newest_ns() // GRID_NS) * GRID_NS
                start_ns += self._rng.choice((0, 0, S, 100 * S))
                now_ns = self._clock.utc_ns()
                self.offset_ns = min(start_ns - now_ns, 0) + self.boot_id
        self._note(value_next)

    def record(self, store: Store) -> None:
        """Have on disk what this process begins with, or what it knows. Raises OSError."""
        if self.boot:
            if self.boot_id not in store.boots:
                store.begin_boot(self.boot_id, self.offset_ns)
        else:
            self.settle(store)

    def tell(self, value_next: int) -> None:
        """Somebody says what time it is; from now on it is stamped."""
        self._is_told = True
        self.boot, self.offset_ns = 0, 0
        self._note(value_next)

    def settle(self, store: Store) -> None:
        """Have on disk how wrong this boot was. Raises OSError."""
        own = store.boots[self.boot_id]
        if self.boot_id in store.boots and not own.is_known:
            store.settle_boots(
                self.boot_id, Boot(own.offset_ns, -own.offset_ns, "exact"), self._began_ns
            )
            self._exact.add(self.boot_id)
        else:
            store.settle_boots(0, own, self._began_ns)

    def give_up(self, store: Store) -> None:
        """The operator does not want to wait any longer. Raises OSError."""
        own = store.boots[self.boot_id]
        if self.boot and not own.is_known:
            verdict = Boot(own.offset_ns, 0, "unsynchronised")
            store.settle_boots(self.boot_id, verdict, self._began_ns + own.offset_ns)

    def check(self, frame: Frame, true_ns: npt.NDArray[np.int64]) -> None:
        """What a server is sent: each value has its time, now as ever."""
        shifts = frame.t_ns - true_ns
        if self.has_chip:
            assert not shifts.any(), "a value at a wrong time"
            return
        rows = zip(*(each.tolist() for each in (frame.values, shifts, frame.quality)), strict=True)
        for value, shift_ns, quality in rows:
            now = (shift_ns, quality)
            assert self._given.setdefault(int(value), now) == now, "a value at another time"
            firsts, boots = self._boots
            boot = boots[bisect.bisect_right(firsts, value) - 1]
            if not boot or boot in self._exact or quality != Quality.UNCERTAIN_CLOCK:
                assert now == (0, 0), f"a value at a wrong time: {now}"

    def _note(self, value_next: int) -> None:
        self._boots[0].append(value_next)
        self._boots[1].append(self.boot)
