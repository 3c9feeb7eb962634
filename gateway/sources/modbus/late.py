"""Late answers: which may still be on their way, where an answer has no number of its own.

Pure; told the time. On a serial line, behind a converter that passes its bytes on, and with a
device whose transaction id is always 0, an answer is known by unit id, function and length alone:
one that comes too late looks like the answer to the next request of the same shape. But a unit
answers one request after the other. So when something was left unanswered, the next request that
its late answer would fit is held back, and a *probe* that it cannot fit is sent first: once the
unit has answered that, whatever was late is over.
"""

from __future__ import annotations

from typing import Any

from gateway.sources.modbus.wire import READ_REGISTERS_MAX, Query, Request

__all__ = ["LATE_S_MAX", "LateAnswers"]

# Serial servers give up on a line after seconds, cellular links after half a minute.
LATE_S_MAX = 120.0

_Shape = tuple[int, int]  # function, bytes of the block


class LateAnswers:
    """What one device's units have left unanswered."""

    def __init__(self) -> None:
        self._until_s: dict[int, dict[_Shape, float]] = {}  # by unit id

    def __bool__(self) -> bool:
        return bool(self._until_s)

    def expect(self, query: Query[Any], now_s: float) -> None:
        """The query was sent, and what was heard was not its answer."""
        if isinstance(query, Request):
            self._until_s.setdefault(query.unit_id, {})[_shape(query)] = now_s + LATE_S_MAX

    def is_expected(self, unit_id: int) -> bool:
        return unit_id in self._until_s

    def is_doubtful(self, query: Query[Any], now_s: float) -> bool:
        """Whether something late could be taken for the query's answer."""
        shapes = self._until_s.get(query.unit_id)
        if shapes is None or not isinstance(query, Request):
            return False
        until_s = shapes.get(_shape(query), now_s)
        if max(shapes.values()) <= now_s:
            del self._until_s[query.unit_id]
        return until_s > now_s

    def probe(self, request: Request) -> Request:
        """A read near the request, whose answer nothing that is late can be taken for.

        The smallest that differs: there are fewer late shapes than there are sizes, because a
        unit that does not answer is asked less and less often.
        """
        late = set(self._until_s.get(request.unit_id, {})) | {_shape(request)}
        step = 8 if request.reads_bits else 1
        for quantity in range(1, READ_REGISTERS_MAX * step + 1, step):
            address = min(request.address, 65536 - quantity)
            probe = Request(request.unit_id, request.function, address, quantity)
            if _shape(probe) not in late:
                return probe
        return request

    def over(self, unit_id: int) -> None:
        """The unit has answered what nothing late could be taken for."""
        self._until_s.pop(unit_id, None)


def _shape(request: Request) -> _Shape:
    return request.function, request.block_bytes
