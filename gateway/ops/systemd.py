"""systemd: readiness, state and the watchdog, told over $NOTIFY_SOCKET (sd_notify(3)).

The watchdog is fed by progress, never by a timer alone: a tick is given only if the event loop
was on time and every kind of work that was owed has moved. Two frozen tasks behind a live timer
therefore look to systemd as what they are.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from gateway.stats import stat, stats

__all__ = ["LoopStats", "Notifier", "Progress", "Watchdog"]

log = logging.getLogger(__name__)

# How often the event loop's lateness is measured; four wake-ups a second cost nothing.
LAG_PERIOD_S = 0.25
# A loop that was later than this is not working: scans, acknowledgements, everything waits.
LAG_MAX_S = 1.0
# Ticks within one watchdog time-out: three in a row must fail before systemd acts.
TICKS_PER_TIMEOUT = 4
# Without systemd the same checks run for /healthz, at the pace of WatchdogSec=20.
PERIOD_DEFAULT_S = 5.0


class Notifier:
    """Messages to the service manager; does nothing where there is none."""

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        self._address = address
        self.watchdog_s = watchdog_s  # systemd acts after this long without a tick

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> Notifier:
        """What systemd set for this very process (sd_watchdog_enabled(3))."""
        watchdog_s = None
        if environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            microseconds = environment.get("WATCHDOG_USEC", "")
            if microseconds.isdecimal() and int(microseconds) > 0:
                watchdog_s = int(microseconds) / 1e6
        return Notifier(environment.get("NOTIFY_SOCKET", ""), watchdog_s)

    def ready(self) -> None:
        self._send("READY=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send("STATUS=" + " ".join(text.split()))

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # "@" stands for the NUL of an abstract socket (unix(7)).
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)  # a manager that does not read must not stop the loop
                sender.sendto(message.encode(), address)
        except OSError as error:
            log.warning("systemd.notify_failed message=%s error=%s", message, error)


@dataclass(frozen=True, slots=True)
class Progress:
    """One kind of work: how much was `taken` on and how much is `done`. Both only rise."""

    name: str
    done: int
    taken: int  # work is owed while done < taken


@stats
class LoopStats:
    """How well the event loop and what runs on it keep up."""

    lag_ms_last: float = stat("how late the event loop was when it was looked at", default=0.0)
    lag_ms_max: float = stat("the latest that the event loop was, since the start", default=0.0)
    watchdog_withheld_total: int = stat("ticks that the watchdog was not given: work stood still")
    stalled: str = ""  # why the watchdog is not fed; "" while it is


class Watchdog:
    """Ticks the service manager while there is progress."""

    def __init__(
        self,
        notifier: Notifier,
        progress: Callable[[], Iterable[Progress]],
        stats: LoopStats | None = None,
    ) -> None:
        self._notifier = notifier
        self._progress = progress
        self._before: dict[str, Progress] = {}
        timeout_s = notifier.watchdog_s
        self.period_s = timeout_s / TICKS_PER_TIMEOUT if timeout_s else PERIOD_DEFAULT_S
        self.stats = stats or LoopStats()

    async def run(self) -> None:
        """Measure the loop's lag, and tick or not, until cancelled."""
        loop = asyncio.get_running_loop()
        lag_max_s, due_s = 0.0, loop.time() + self.period_s
        while True:
            nap_s = min(LAG_PERIOD_S, self.period_s)
            expected_s = loop.time() + nap_s
            await asyncio.sleep(nap_s)
            lag_s = max(0.0, loop.time() - expected_s)
            lag_max_s = max(lag_max_s, lag_s)
            self.stats.lag_ms_last = lag_s * 1000
            self.stats.lag_ms_max = max(self.stats.lag_ms_max, self.stats.lag_ms_last)
            if loop.time() >= due_s:
                self.tick(lag_max_s)
                lag_max_s, due_s = 0.0, loop.time() + self.period_s

    def tick(self, lag_s: float) -> None:
        """Feed the watchdog, or withhold it and say why; `lag_s` is the worst since the last."""
        stalled = self._stalled()
        if lag_s > LAG_MAX_S:
            stalled = f"event loop late by {lag_s:.1f} s"
        if not stalled:
            self._notifier.watchdog()
        else:
            self.stats.watchdog_withheld_total += 1
        if bool(stalled) != bool(self.stats.stalled):
            if stalled:
                log.error("watchdog.withheld reason=%s", stalled)
            else:
                log.info("watchdog.resumed")
        self.stats.stalled = stalled

    def _stalled(self) -> str:
        """What was owed at the last tick and has not moved since, if anything."""
        before = self._before
        self._before = {work.name: work for work in self._progress()}
        for name, now in self._before.items():
            then = before.get(name)
            if then is not None and then.done < then.taken and now.done == then.done:
                return f"no progress: {name} stays at {now.done}"
        return ""
