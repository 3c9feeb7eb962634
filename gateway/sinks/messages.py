"""Messages: a frame cut into payloads of one asset each, for brokers that keep messages.

Of each asset the order of samples is kept. A payload holds JSON lines or points, whole ones; what
alone is larger than a message may be is refused. What a broker finds too large is cut smaller, and
only a line that it refuses by itself is refused for good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from gateway.frame import Frame, IdArray
from gateway.sinks import http
from gateway.sinks.lineprotocol import LineEncoder, RowArray
from gateway.sinks.rows import json_rows
from gateway.tag import Tags

__all__ = ["Message", "MessageEncoder"]


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """Some samples of one asset: whole lines, and the frame's rows that each is made of.

    One that is sent again may have lines of another frame too: they have no rows.
    """

    asset: str
    lines: list[bytes]
    rows_of: list[RowArray]

    @property
    def payload(self) -> bytes:
        return b"".join(self.lines)

    @property
    def rows(self) -> list[int]:
        rows: list[int] = np.concatenate(self.rows_of).tolist()
        return rows

    @property
    def size(self) -> int:
        """Bytes of the payload."""
        return sum(map(len, self.lines))

    def cut(self, bytes_max: int) -> list[Message]:
        """Messages of at most `bytes_max`, one line at least."""
        messages, start = [], 0
        for stop in http.cuts(self.lines, bytes_max):
            part = slice(start, stop)
            messages.append(Message(self.asset, self.lines[part], self.rows_of[part]))
            start = stop
        return messages

    def cut_smaller(self) -> list[Message]:
        """What a broker found too large, without lines of others; nothing if it is one line."""
        if len(self.lines) == 1:
            return []
        own = [place for place, rows in enumerate(self.rows_of) if len(rows)]
        lines = [self.lines[place] for place in own]
        return Message(self.asset, lines, [self.rows_of[place] for place in own]).cut(
            self.size // 2
        )


class MessageEncoder:
    """Encodes frames of one tag table."""

    def __init__(self, table: Tags, form: Literal["jsonl", "lineprotocol"]) -> None:
        self._table = table
        self._form = form
        self._lines = LineEncoder(table)
        self._rows = json_rows(table)
        self._assets: list[str] = []
        self._numbers: dict[str, int] = {}
        self._asset_of: IdArray = np.empty(0, np.int32)  # by tag id, a place in `assets`

    def encode(self, frame: Frame, bytes_max: int) -> tuple[list[Message], dict[int, str]]:
        """A message for each asset, to be cut; and rows of a line beyond `bytes_max`, with that."""
        self._prepare()
        refused: dict[int, str] = {}
        if self._form == "lineprotocol":
            encoded = self._lines.encode(frame)
            refused |= encoded.refused
            pieces = encoded.points
            starts = np.append(0, encoded.ends[:-1])[: len(pieces)]
            rows_of = [encoded.rows[a:b] for a, b in zip(starts, encoded.ends, strict=True)]
            first_rows = encoded.rows[starts] if pieces else np.empty(0, np.intp)
        else:
            pieces = [row + b"\n" for row in self._rows.encode(frame)]
            first_rows = np.arange(len(frame))
            rows_of = list(first_rows.reshape(-1, 1))
        fits = np.array([len(piece) <= bytes_max for piece in pieces], np.bool_)
        for i in np.flatnonzero(~fits).tolist():
            why = f"{len(pieces[i])} bytes, and a message may have {bytes_max}"
            refused |= dict.fromkeys(rows_of[i].tolist(), why)
        assets = self._asset_of[frame.tag_ids[first_rows]]
        kept = np.flatnonzero(fits)
        kept = kept[np.argsort(assets[kept], kind="stable")]
        messages: list[Message] = []
        for chosen in np.split(kept, np.flatnonzero(np.diff(assets[kept])) + 1):
            if len(chosen):
                asset, places = self._assets[int(assets[chosen[0]])], chosen.tolist()
                lines = [pieces[i] for i in places]
                messages.append(Message(asset, lines, [rows_of[i] for i in places]))
        return messages, refused

    def _prepare(self) -> None:
        known = len(self._asset_of)
        new = []
        for tag_id in range(known, len(self._table)):
            asset = self._table[tag_id].asset
            number = self._numbers.setdefault(asset, len(self._assets))
            if number == len(self._assets):
                self._assets.append(asset)
            new.append(number)
        if new:
            self._asset_of = np.append(self._asset_of, np.array(new, np.int32))
