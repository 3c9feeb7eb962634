"""Unanswered: messages that were sent to a broker, of which nothing or not all is known.

A broker that knows a message again stores it once, but it must be the same message. What is sent
again after a lost answer may be cut elsewhere: half of the batch, because the link seems slow, or
more than it, because more has come. So a message is remembered by its lines. A line that comes
again is sent within the message it was in, and not at all where that was stored meanwhile. Messages
that were answered, all of whose lines are delivered, are forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gateway.sinks.lineprotocol import RowArray
from gateway.sinks.messages import Message

__all__ = ["Unanswered"]

# The duplicate window of a stream, unless it is told otherwise: later it knows no message again,
# and what was too much for the link may be cut smaller.
DOUBT_S_MAX = 120.0
# Two batches of 20,000 samples, the current one and one of the backlog; beyond, the oldest is
# forgotten, and may come twice.
BYTES_MAX = 16 * 2**20

_NO_ROWS: RowArray = np.empty(0, np.intp)


@dataclass(slots=True)
class _Sent:
    """A message, and what became of it."""

    lines: list[bytes]
    since_s: float
    is_stored: bool = False


class Unanswered:
    """What one sink knows of messages that it may have to send again."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, bytes], tuple[_Sent, int]] = {}  # by asset and line
        self._bytes = 0

    def sort(self, wholes: Sequence[Message], now_s: float) -> tuple[list[Message], list[Message]]:
        """Messages to send again as they were; and those to cut, without what is in the others.

        A line of the former that is not of this frame has no rows.
        """
        if not self._places:
            return [], list(wholes)
        again: list[Message] = []
        new: list[Message] = []
        for whole in wholes:
            known: dict[int, Message] = {}
            rest = Message(whole.asset, [], [])
            for line, rows in zip(whole.lines, whole.rows_of, strict=True):
                sent, place = self._places.get((whole.asset, line), (None, 0))
                if sent is None or not (sent.is_stored or now_s - sent.since_s < DOUBT_S_MAX):
                    rest.lines.append(line)
                    rest.rows_of.append(rows)
                elif not sent.is_stored:
                    message = known.get(id(sent))
                    if message is None:
                        message = Message(whole.asset, sent.lines, [_NO_ROWS] * len(sent.lines))
                        known[id(sent)] = message
                    message.rows_of[place] = np.append(message.rows_of[place], rows)
            again += known.values()
            if rest.lines:
                new.append(rest)
        return again, new

    def keep(self, messages: Iterable[Message], now_s: float, *, is_stored: bool) -> None:
        """Remember messages that were sent: stored ones, or such that nothing was said of."""
        for message in messages:
            sent, _ = self._places.get((message.asset, message.lines[0]), (None, 0))
            if sent is None or sent.lines is not message.lines:
                sent = _Sent(message.lines, now_s)
                for place, line in enumerate(message.lines):
                    self._put((message.asset, line), (sent, place))
            sent.is_stored |= is_stored
        while self._bytes > BYTES_MAX:
            self._drop(next(iter(self._places)))

    def forget(self, messages: Iterable[Message]) -> None:
        """Their lines are delivered, or the broker said that it does not take them so."""
        if self._places:
            for message in messages:
                for line in message.lines:
                    self._drop((message.asset, line))

    def _put(self, key: tuple[str, bytes], place: tuple[_Sent, int]) -> None:
        self._drop(key)
        self._places[key] = place
        self._bytes += len(key[1])

    def _drop(self, key: tuple[str, bytes]) -> None:
        if self._places.pop(key, None) is not None:
            self._bytes -= len(key[1])
