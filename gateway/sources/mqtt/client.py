"""Client: a connection to a broker, in the newest version it speaks, logged in and subscribed.

What the messages are for is not its business: a source makes samples of them, and the gateway's
commands may come this way, too.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from gateway.errors import SluicegateError, SourceLost, SourceUnavailable
from gateway.resolve import UNRESOLVED_HINT, unresolved
from gateway.sources import SourceStats
from gateway.sources.mqtt.config import MqttSettings
from gateway.sources.mqtt.link import Link
from gateway.sources.mqtt.packets import MQTT_5, MQTT_311, Connect

__all__ = ["Client"]

log = logging.getLogger(__name__)

# Another client with our id throws us out, and we it: slowly, so that an operator can read why.
TAKEN_OVER_PAUSE_S = 5.0
# A broker that knows version 5 answers at once; one that does not may say nothing at all.
ANSWER_TO_5_S = 2.0
_NO_SUCH_VERSION = (1, 0x84)


class Client:
    """What connects to one broker, again and again."""

    def __init__(
        self,
        name: str,
        settings: MqttSettings,
        client_id: str,
        filters: Sequence[tuple[str, int]],
    ) -> None:
        """`filters` are topic filters, each with its subscription options (QoS 0 or 1)."""
        self.name = name
        self.settings = settings
        self.client_id = client_id
        self.filters = filters
        self.stats = SourceStats()
        self.version = MQTT_5
        self.had_session = False
        self.was_taken_over = False

    def begins_anew(self) -> None:
        """The broker knows nothing of us: what was not acknowledged does not come again."""

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Link]:
        """Connected and subscribed, until the block ends; raises SourceUnavailable."""
        if self.was_taken_over:
            self.was_taken_over = False
            await asyncio.sleep(TAKEN_OVER_PAUSE_S)
        try:
            async with asyncio.timeout(self.settings.connect_timeout):
                link = await self._connect()
        except TimeoutError as error:
            if told := unresolved(self.settings.host, self.settings.connect_timeout):
                raise SourceUnavailable(told, hint=UNRESOLVED_HINT) from error
            raise SourceUnavailable(
                f"the broker {self.settings.host}:{self.settings.port} does not answer",
                hint="check its address, the cable and the firewall",
            ) from error
        pinging = asyncio.create_task(link.keep_alive(), name=f"ping:{self.name}")
        try:
            yield link
        finally:
            pinging.cancel()
            link.close(SourceLost("closed"), politely=True)

    async def _connect(self) -> Link:
        """Open a link in the newest version the broker speaks."""
        while True:
            link = await self._open()
            is_5 = self.version == MQTT_5
            try:
                async with asyncio.timeout(ANSWER_TO_5_S if is_5 else None):
                    return await self._introduce_us(link)
            except SourceLost as error:
                link.close(error)
                if not is_5:
                    self.version = MQTT_5  # it was not the version; begin anew next time
                    raise SourceUnavailable(f"the broker hung up: {error}") from error
            except SourceUnavailable as error:
                link.close(error)
                if not is_5 or link.refusal not in _NO_SUCH_VERSION:
                    raise
            except BaseException as error:
                link.close(SourceLost("given up before the broker answered"))
                if not isinstance(error, TimeoutError) or not is_5:
                    self.version = MQTT_5
                    raise
            # An old broker refuses version 5, hangs up, or waits for bytes that never come.
            self.version = MQTT_311

    async def _open(self) -> Link:
        settings = self.settings
        context = None
        loop = asyncio.get_running_loop()
        try:
            if settings.tls:
                context = ssl.create_default_context(cafile=settings.tls_ca or None)
            _, link = await loop.create_connection(
                partial(Link, self), settings.host, settings.port, ssl=context
            )
        except (OSError, ssl.SSLError) as error:
            raise SourceUnavailable(
                f"cannot connect to the broker {settings.host}:{settings.port}:"
                f" {error.strerror or error}",
                hint="check that the broker runs, and its address",
            ) from error
        return link

    async def _introduce_us(self, link: Link) -> Link:
        settings = self.settings
        try:
            password = settings.password.read() if settings.password else ""
        except SluicegateError as error:
            raise SourceUnavailable(error.message, hint=error.hint) from error
        connack = await link.connect(
            Connect(
                client_id=self.client_id,
                keepalive_s=max(1, round(settings.keepalive)),
                username=settings.username,
                password=password,
                version=self.version,
                session_expiry_s=min(round(settings.session_expiry), 2**32 - 1),
                receive_max=settings.receive_max,
                packet_bytes_max=settings.packet_bytes_max,
            )
        )
        if not connack.session_present:
            if self.had_session:
                self.stats.errors_total["session_lost"] += 1
                log.warning("mqtt.session_lost source=%s client_id=%s", self.name, self.client_id)
            self.begins_anew()
        self.had_session = True
        filters = self._options()
        reasons = await link.subscribe(filters)
        if len(reasons) != len(filters):
            raise SourceUnavailable("the broker answers fewer subscriptions than were asked for")
        for (name, _), reason in zip(filters, reasons, strict=True):
            if reason >= 0x80:
                raise SourceUnavailable(
                    f"the broker refuses the subscription to {name} (reason 0x{reason:02x})",
                    hint="allow it to this user in the broker's access list",
                )
        return link

    def _options(self) -> list[tuple[str, int]]:
        """The filters as this version subscribes: before 5 there is nothing but the QoS."""
        mask = 0xFF if self.version == MQTT_5 else 0x03
        return [(name, options & mask) for name, options in self.filters]
