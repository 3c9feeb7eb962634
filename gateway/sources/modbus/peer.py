"""Peer: what the connections to one device share, one after the other.

A connection is used once, but some faults outlive it: an answer that comes after its time-out may
still be on its way when the next connection is open.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import randrange

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

    def __init__(self, first_id: int | None = None) -> None:
        """`first_id`: the transaction id before the first; chosen at random when not given."""
        first = randrange(65536) if first_id is None else first_id  # noqa: S311 - no secret
        self.transaction_ids = transaction_ids(first)
