"""An event loop whose time passes only when a test says so, and whose threads run at once.

Tasks, timers and `asyncio.sleep` are asyncio's own; an hour takes as long as what happens in it.
The order of everything is the same in every run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

__all__ = ["ManualLoop"]


class _Selector:
    """No sockets: waiting is what makes time pass."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def select(self, timeout: float | None) -> list[Any]:
        self.now_s += timeout or 0.0
        return []

    def get_map(self) -> dict[int, Any]:
        return {}

    def close(self) -> None:
        pass


class ManualLoop(asyncio.BaseEventLoop):
    """Runs for as many of its own seconds as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = _Selector()
        self.set_exception_handler(lambda _loop, _context: None)
        # Sums of floats miss a timer's moment by their last bit; then time would stand still.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self._selector.now_s

    def restart(self) -> None:
        """It is 0 s again; what was to happen later never does."""
        self._scheduled.clear()
        self._ready.clear()
        self._selector.now_s = 0.0

    def run_for(self, seconds: float) -> None:
        self.call_later(seconds, self.stop)
        self.run_forever()

    def run_in_executor(  # type: ignore[override] - of one kind of call only
        self, executor: object, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """`func` runs here and now, so that seeds decide what happens in which order."""
        del executor
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - for whoever awaits it
            future.set_exception(error)
        return future

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass
