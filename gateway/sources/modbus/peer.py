"""Peer: what the connections to one device share, one after the other.

A connection is used once, but some faults outlive it: an answer that comes after its time-out may
still be on its way when the next connection is open, and an adapter that was unplugged may come
back under another name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import randrange

from gateway.clock import Clock
from gateway.sources.modbus.late import LateAnswers
from gateway.sources.modbus.wirelog import WireLog

__all__ = ["Peer", "transaction_ids"]


def transaction_ids(first: int) -> Iterator[int]:
    """Transaction ids from `first` on, 1-65535 round and round.

    One series serves all connections to a device, because some Modbus gateways hand the late
    answer of a serial line to whichever connection is open by then. 0 is left out: it is what a
    device answers that does not care.
    """
    transaction_id = first
    while True:
        transaction_id = transaction_id % 65535 + 1
        yield transaction_id


class Peer:
    """The memory of one device's connections."""

    def __init__(
        self, name: str = "", *, first_id: int | None = None, clock: Clock | None = None
    ) -> None:
        """`first_id`: the transaction id before the first; chosen at random when not given."""
        first = randrange(65536) if first_id is None else first_id  # noqa: S311 - no secret
        self.transaction_ids = transaction_ids(first)
        self.late = LateAnswers()
        self.wire_log = WireLog(name, clock)
        self.port_link = ""  # the lasting name of the serial port, once it was open
        # What cost nobody an answer, by kind: noise, late answers and datagrams left out.
        self.passed_over_total: Counter[str] = Counter()

    def beside(self) -> Peer:
        """For another way to the same source: one wire log, one series of ids, its own faults."""
        other = Peer()
        other.wire_log, other.transaction_ids = self.wire_log, self.transaction_ids
        other.passed_over_total = self.passed_over_total
        return other
