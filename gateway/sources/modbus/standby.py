"""Standby: which of a device's two addresses is used, and when that changes.

The first address is given up for the other one when so many attempts in a row have failed, or when
nothing was answered for so long, or only that the device is not well (exceptions 4, 5, 6, 10, 11).
It is taken back once it was well for so long: asked beside the scans, with a request of theirs,
because many devices accept connections and answer nothing. One that fails again soon after must be
well for twice as long the next time. The standby itself is given up as soon as it fails.

`Standby` is pure and told the time; `Ways` does what it says.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from gateway.clock import Clock
from gateway.errors import DeviceRefused, SluicegateError, SourceError, SourceUnavailable
from gateway.sources import SourceStats
from gateway.sources.modbus.client import connect
from gateway.sources.modbus.config import ModbusRtuSettings, ModbusSettings, ModbusTcpSettings
from gateway.sources.modbus.device import Device
from gateway.sources.modbus.endpoint import settings_at
from gateway.sources.modbus.scan import NOT_WELL, Scanner

__all__ = ["PRIMARY", "STANDBY", "Standby", "Ways", "standby_settings"]

log = logging.getLogger(__name__)

PRIMARY, STANDBY = 0, 1
# A device that fails every hour is not worth going back to each time; one a day is.
WELL_S_MAX = 3600.0
_LOOKS = 6  # at an address, while it is to be well
_LOOK_PERIOD_S_MAX = 30.0
_LOOK_PERIOD_S_MIN = 0.05
_REQUESTS_MAX = 3  # a look asks so many units for an answer
# What the standby's endpoint may say for itself; all else is as the source has it.
_OF_A_WAY = ("tls_ca", "tls_certificate", "transaction_id_zero", "in_flight", "connect_timeout")


def standby_settings(settings: ModbusSettings) -> ModbusSettings | None:
    """The source with its standby's address, None without one; raises SluicegateError."""
    if not settings.standby:
        return None
    there = settings_at(settings.standby)
    common = [*ModbusSettings.model_fields, *_OF_A_WAY]
    kept = {
        name: getattr(settings, name)
        for name in common
        if name != "type"
        and hasattr(settings, name)
        and name in type(there).model_fields
        and (name in ("name", "register_map") or name not in there.model_fields_set)
    }
    found = there.model_copy(update=kept)
    if isinstance(found, ModbusTcpSettings) and found.framing != "mbap":
        found = found.model_copy(update={"in_flight": 1, "transaction_id_zero": False})
    if _place(found) == _place(settings):
        raise SluicegateError(
            f"{settings.standby!r} is the source's own address", hint="name another device or path"
        )
    return found


def _place(settings: ModbusSettings) -> tuple[str, ...]:
    match settings:
        case ModbusTcpSettings():
            return settings.host, str(settings.port), settings.transport
        case ModbusRtuSettings():
            return (settings.device,)
        case _:
            return ()


class Standby:
    """The rule."""

    def __init__(self, failures_max: int, silence_s: float, take_back_s: float) -> None:
        """`take_back_s` 0: the standby is left only when it fails."""
        self._failures_max = failures_max
        self._silence_s = silence_s
        self._take_back_s = take_back_s
        self._failures = 0  # of the active address, one after the other
        self._heard_s: float | None = None  # the last answer of it, or when it was chosen
        self._returned_s: float | None = None
        self.active = PRIMARY
        self.well_s = take_back_s
        """How long the first address must be well to be taken back; 0: that is not looked at."""

    def next(self, tried: Iterable[int], now_s: float) -> int | None:
        """Which address to try now, some having failed in this attempt; None: no more of them."""
        if self._heard_s is None:
            self._heard_s = now_s
        other = STANDBY if self.active == PRIMARY else PRIMARY
        order = (other, self.active) if self._is_given_up(now_s) else (self.active,)
        left = [address for address in order if address not in set(tried)]
        return left[0] if left else None

    def failed(self, address: int) -> None:
        """An attempt to connect failed, or a session ended."""
        if address == self.active:
            self._failures += 1

    def heard(self, now_s: float) -> None:
        """The active address answered."""
        self._failures, self._heard_s = 0, now_s

    def chosen(self, address: int, now_s: float) -> bool:
        """There is a connection to it; whether it is another one than before."""
        if address == self.active:
            return False
        if self.active == PRIMARY:
            is_soon = self._returned_s is not None and now_s - self._returned_s < self.well_s
            self.well_s = min(2 * self.well_s, WELL_S_MAX) if is_soon else self._take_back_s
        else:
            self._returned_s = now_s
        self.active, self._failures, self._heard_s = address, 0, now_s
        return True

    def _is_given_up(self, now_s: float) -> bool:
        if not self._failures:
            return False  # a device that is asked once an hour is silent in between
        if self.active == STANDBY or self._failures >= self._failures_max:
            return True
        return self._heard_s is not None and now_s - self._heard_s >= self._silence_s


class Ways:
    """The addresses of one source: at most two."""

    def __init__(
        self, settings: ModbusSettings, device: Device, stats: SourceStats, clock: Clock
    ) -> None:
        """Raises SluicegateError when the standby is no endpoint."""
        self._name, self._device, self._stats, self._clock = settings.name, device, stats, clock
        self._all = [(settings, device.peer)]
        other = standby_settings(settings)
        if other is not None:
            self._all.append((other, device.peer.beside()))
        self._rule = Standby(
            settings.standby_failures, settings.standby_silence, settings.take_back
        )
        self._error = ""
        self._is_told = False  # a change was logged, and nothing was heard since
        self.is_due_back = False
        """The first address was well for long enough: `take_back` when no scan is under way."""

    @property
    def are_several(self) -> bool:
        """Whether there is a standby."""
        return len(self._all) > 1

    @asynccontextmanager
    async def open(self, scanner: Scanner) -> AsyncIterator[None]:
        """Connected, to the address whose turn it is, for one session; raises SourceUnavailable."""
        if not self.are_several:
            await scanner.connect()
            yield
            return
        self.is_due_back = False
        scanner.silence_s_max = self._all[PRIMARY][0].standby_silence
        await self._connect(scanner)
        watching = asyncio.create_task(self._watch(), name=f"standby:{self._name}")
        try:
            yield
        except SourceError as error:
            self._error = str(error)
            if scanner.heard_ns:
                self._rule.heard(scanner.heard_ns / 1e9)
                self._is_told = False
            self._rule.failed(self._rule.active)
            raise
        finally:
            watching.cancel()
            await asyncio.wait([watching])
            if not watching.cancelled():
                watching.result()

    async def take_back(self, scanner: Scanner) -> bool:
        """Go on at the first address, if it can be connected to; whether it was."""
        self.is_due_back = False
        try:
            await scanner.move(*self._all[PRIMARY])
        except SourceUnavailable:
            self._device.use(*self._all[STANDBY])  # the next request connects
            return False
        self._is_told = False
        self._chosen(PRIMARY)
        return True

    async def _connect(self, scanner: Scanner) -> None:
        tried: dict[int, SourceUnavailable] = {}
        while True:
            address = self._rule.next(tried, self._clock.monotonic_s())
            if address is None:
                raise next(reversed(tried.values()))
            if self._device.settings is not self._all[address][0]:
                self._device.use(*self._all[address])
            try:
                await scanner.connect()
            except SourceUnavailable as error:
                self._error = str(error)
                self._rule.failed(address)
                tried[address] = error
            else:
                self._chosen(address)
                return

    def _chosen(self, address: int) -> None:
        if not self._rule.chosen(address, self._clock.monotonic_s()):
            return
        stats, there = self._stats, self._all[address][0].address
        stats.on_standby = address == STANDBY
        stats.standby_taken_total += stats.on_standby
        stats.standby_left_total += not stats.on_standby
        # With both of them silent it goes to and fro: that is said once.
        level = logging.DEBUG if self._is_told else logging.WARNING
        self._is_told = True
        if stats.on_standby:
            log.log(
                level,
                "source.standby_taken source=%s address=%s error=%s",
                *(self._name, there, self._error),
            )
        else:
            log.log(level, "source.standby_left source=%s address=%s", self._name, there)

    async def _watch(self) -> None:
        """While the standby is used: find out when the first address may be taken back."""
        well_since_s: float | None = None
        while True:
            well_s = self._rule.well_s
            await asyncio.sleep(min(max(well_s / _LOOKS, _LOOK_PERIOD_S_MIN), _LOOK_PERIOD_S_MAX))
            if self._rule.active == PRIMARY or not well_s or self.is_due_back:
                well_since_s = None
                continue
            began_s = self._clock.monotonic_s()
            if not await self._is_well():
                well_since_s = None
            elif well_since_s is None:
                well_since_s = began_s
            elif self._clock.monotonic_s() - well_since_s >= well_s:
                self.is_due_back = True

    async def _is_well(self) -> bool:
        """Whether something at the first address answers as a device does."""
        settings, peer = self._all[PRIMARY]
        units = {
            block.request.unit_id: block.request
            for plan in self._device.plans
            for block in plan.blocks
        }
        try:
            async with connect(settings, peer) as connection:
                for request in list(units.values())[:_REQUESTS_MAX]:
                    try:
                        await connection.read(request, settings.response_timeout)
                    except DeviceRefused as refused:
                        if refused.code in NOT_WELL:
                            continue
                    return True
        except SourceError:
            return False
        return False
