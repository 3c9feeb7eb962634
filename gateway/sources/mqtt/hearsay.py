"""Hearsay: what time it is, by publishers that know it. Pure: monotonic times in, an offset out.

MQTT has no time of its own. A payload that has one was published no sooner than it says, but it
may have waited: retained, or queued while the gateway was away. So of all that is heard the
latest time counts, and only once another message, half a minute on, has said the same: what
waited comes faster than it was published, and does not.
"""

from __future__ import annotations

__all__ = ["Hearsay"]

# In which a backlog that comes a tenth faster than it was published gains more than AGREE_NS.
CONFIRMED_AFTER_NS = 30 * 10**9
# A publisher that stamps whole seconds, over a link that is slow at times.
AGREE_NS = 2 * 10**9
# Looking into payloads a second time costs; a clock need not be asked more often than this.
PERIOD_NS = 10**9
# Topics of which it is remembered when they were looked into.
TOPICS_MAX = 100
# A clock that ran ahead and was set right, or a crystal of ours that is too fast (100 ppm are two
# seconds in 5.6 hours): the latest time that was heard is said no more, and what is heard now has
# the word. Long, so that one who is right and says it seldom is not forgotten for one who is late.
FORGOTTEN_AFTER_NS = 6 * 3600 * 10**9


class Hearsay:
    """What one source has heard."""

    def __init__(self) -> None:
        self._latest: int | None = None  # UTC less monotonic time, as whoever was latest has it
        self._since_ns = 0  # monotonic
        self._agreed_ns = 0  # when it was said last
        self._looked_ns: dict[str, int] = {}  # by topic

    def is_due(self, topic: str, now_ns: int) -> bool:
        """Whether to look at the payload that has come now, by monotonic time."""
        looked_ns = self._looked_ns.get(topic)
        if looked_ns is not None and 0 <= now_ns - looked_ns < PERIOD_NS:
            return False
        if looked_ns is None and len(self._looked_ns) >= TOPICS_MAX:
            del self._looked_ns[next(iter(self._looked_ns))]
        self._looked_ns[topic] = now_ns
        return True

    def hear(self, t_ns: int, now_ns: int) -> int | None:
        """A payload says it is `t_ns`; UTC less monotonic time, if that is confirmed by now."""
        offset_ns = t_ns - now_ns
        is_later = self._latest is None or offset_ns > self._latest + AGREE_NS
        if self._latest is None or is_later or now_ns - self._agreed_ns > FORGOTTEN_AFTER_NS:
            self._latest, self._since_ns, self._agreed_ns = offset_ns, now_ns, now_ns
        if offset_ns < self._latest - AGREE_NS:
            return None
        self._agreed_ns = now_ns
        if now_ns - self._since_ns < CONFIRMED_AFTER_NS:
            return None
        # Within what agrees the later one waited less on its way.
        self._latest = max(self._latest, offset_ns)
        return self._latest
