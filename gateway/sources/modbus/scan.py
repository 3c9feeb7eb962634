"""Scan: read the blocks of one scan class, one after the other, into one frame.

What goes wrong with a block costs that block; its tags get a bad quality with the reason:

    exception 2, 3     the block is halved until the refused tags are found. They are parked (asked
                       again after a while), and the plan is cut there; the others are read in the
                       same scan
    exception 4        bad for this scan; the third time in a row the block is halved likewise
    exception 5, 6     the device is busy: the block is left alone for a while
    exception 10, 11   the unit behind a Modbus gateway is away: it is left alone for a while
    other exceptions   bad for this scan
    unexpected numbers bad, and the device is doubted: it may be another one by now
    time-out, nonsense the connection is replaced; the unit id is left alone for a while. When the
                       block has failed so again and again, and one of its tags by itself is
                       answered, the plan is cut in its middle
    reset              the same, but first the request is tried once more

`gateway.sources.modbus.patience` decides how long a while is, and `gateway.sources.modbus.said`
tells the log.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gateway.clock import Clock
from gateway.errors import DeviceRefused, SourceError, SourceLost, WireError
from gateway.frame import FloatArray, Frame, Part
from gateway.sources import SourceStats
from gateway.sources.modbus.asker import Asker, Breaks
from gateway.sources.modbus.brackets import Bracket
from gateway.sources.modbus.client import ConnectionClosed, ResponseTimeout
from gateway.sources.modbus.device import BlockReader, Device
from gateway.sources.modbus.gaps import PASSED_OVER_MAX
from gateway.sources.modbus.said import Said
from gateway.tag import Quality

__all__ = ["NOT_WELL", "Scan", "Scanner"]

# A refused block of 125 tags takes up to 248 refusals to take apart. A serial line answers some
# twenty a second, so that a scan stays within seconds; the next one goes on from there.
REFUSALS_MAX = 32
# Of tags that were refused before, so many may be refused again in a scan: where a map has a
# hundred of them, the others need not wait for all.
REFUSED_AGAIN_MAX = 4
# A block fails so often before it is doubted that what is wrong is the device.
FAILURES_DOUBTED = 3
_NONE: FloatArray = np.empty(0)

_ADDRESS_REFUSED = (2, 3)
_DEVICE_FAILURE = 4
_BUSY = (5, 6)
_UNIT_AWAY = (10, 11)
# With these a device says that it is not well, whatever it is asked.
NOT_WELL = (4, 5, 6, 10, 11)
_QUALITY_OF_CODE = {
    1: Quality.BAD_CONFIGURATION,
    2: Quality.BAD_CONFIGURATION,
    3: Quality.BAD_CONFIGURATION,
    5: Quality.BAD_TIMEOUT,
    6: Quality.BAD_TIMEOUT,
    10: Quality.BAD_NO_COMMUNICATION,
    11: Quality.BAD_NO_COMMUNICATION,
}


@dataclass(slots=True)
class Scan:
    """A scan under way."""

    readers: Sequence[BlockReader]  # in the order in which they are asked
    bracket: Bracket | None
    began: FloatArray  # powers of ten, of the bracket, before anything was read
    done: int = 0  # readers
    parts: list[Part] = field(default_factory=list)  # stamped with monotonic time
    failed: int = 0  # blocks
    working: set[int] = field(default_factory=set)  # unit ids that have answered
    is_well: bool = False  # one of them with a value, or as one that could
    is_unwell: bool = False  # one of them failed, or said that it is not
    breaks: Breaks = field(default_factory=Breaks)
    refusals: int = 0
    refused_again: int = 0  # of these, tags that were known to be
    refused: list[tuple[int, DeviceRefused]] = field(default_factory=list)  # rows found refused
    has_learned: bool = False

    def add_bad(self, reader: BlockReader, quality: Quality, t_ns: int) -> None:
        nothing = np.full(len(reader.ids), np.nan)
        codes = np.full(len(reader.ids), int(quality), np.uint8)
        self.parts.append(Part(t_ns, reader.ids, nothing, codes))


class Scanner(Asker):
    """Scans of a device."""

    def __init__(self, name: str, device: Device, clock: Clock, stats: SourceStats) -> None:
        super().__init__(device, clock, stats)
        self._said = Said(name, device, stats)
        self._error: SourceError = SourceLost("nothing was read yet")
        self.has_answer = False  # whether anything was answered in this session
        self.silence_s_max = 0.0  # so long without a value, and the session is over; 0: for ever
        self.heard_ns = 0  # the last value, or refusal of a device that is well; 0: none
        self._unwell_since_ns = 0  # 0: it is well
        stats.tags_refused = len(device.learned.alone)

    async def try_gap(self, spare_s: float) -> None:
        """Ask for two blocks as one where it is not known whether that is quicker.

        Between two scans, with so much time before the next. Nothing of the answer is used. Raises
        SourceLost when the connection cannot be replaced.
        """
        device = self._device
        patience, now_s = device.patience, self._clock.monotonic_s()
        gap = device.gaps.next(lambda request: patience.reason_to_wait(request, now_s) is None)
        if gap is None:
            return
        pause_s = device.settings.request_pause
        is_pressed = spare_s < 1.5 * gap.apart_ns / 1e9 + pause_s
        if is_pressed and gap.passed_over < PASSED_OVER_MAX:
            gap.passed_over += 1
            return
        gap.passed_over = 0
        timeout_s = device.settings.response_timeout
        if pause_s:
            await self._pause()
        connection = await self._connected()
        began_ns = self._clock.monotonic_ns()
        try:
            await connection.read(
                gap.request, timeout_s if is_pressed else min(timeout_s, spare_s - pause_s)
            )
        except DeviceRefused as refused:
            self._count(refused)
            gap.refusals += refused.code in _ADDRESS_REFUSED
        except (ResponseTimeout, ConnectionClosed, WireError) as error:
            self._count(error)
            gap.silences += 1
        else:
            gap.took_ns.append(self._clock.monotonic_ns() - began_ns)
        self.answered_ns = self._clock.monotonic_ns()
        verdict = gap.verdict(round(pause_s * 1e9))
        if verdict is None:
            return
        self._said.settled(gap, verdict)
        if device.settle(gap, verdict):
            await device.remember()

    def begin(self, scan_class: str) -> Scan:
        """A scan of a class, still to be done."""
        device = self._device
        readers = device.patience.in_order(device.readers[scan_class])
        bracket = device.brackets.get(scan_class)
        began = device.exponents[bracket.holders] if bracket is not None else _NONE
        return Scan(readers, bracket, began)

    async def step(self, scan: Scan) -> Frame | None:
        """Do the next request of a scan: one frame with every tag of the class after the last.

        None before that: there another scan may go first. Raises SourceLost when the connection
        cannot be replaced or no unit id answers any more.
        """
        device, readers = self._device, scan.readers
        if device.in_flight > 1:
            await self._read_together(readers, scan)
        elif scan.done < len(readers):
            await self._read(readers[scan.done], scan)
            scan.done += 1
            if scan.done < len(readers) or scan.bracket is not None:
                return None
        if scan.bracket is not None:
            await self._bracket(scan.bracket, scan)
        if scan.has_learned or device.learned.unfinished:
            await self._learn(scan)
        if device.patience.is_spent:
            raise SourceLost(f"no unit id answers: {self._error}")
        if self.silence_s_max:
            self._give_up_if_unwell(scan)
        self._said.silent(device.patience.silent_units, self._error)
        self.has_answer = self.has_answer or bool(scan.working)
        self._stats.scans_failed_total += scan.failed > 0
        # Only now: a clock that is set while a scan lasts must not tear it apart.
        return Frame.stacked(scan.parts, self._clock.offset_ns)

    async def _learn(self, scan: Scan) -> None:
        """Plan by what a scan has shown."""
        device = self._device
        if scan.refused:
            self._said.refused(scan.refused)
            self._stats.error_last = str(scan.refused[0][1])
        if device.learned.unfinished and not scan.refusals:
            # A device that refused everything while it started has none of these edges.
            device.learned.unfinished.clear()
            scan.has_learned = True
        if scan.has_learned:
            device.replan()
            await device.remember()
        self._stats.tags_refused = len(device.learned.alone)

    def _give_up_if_unwell(self, scan: Scan) -> None:
        """Raise SourceLost where there is another address, and this one gives no values."""
        now_ns = self._clock.monotonic_ns()
        if scan.is_well:
            self.heard_ns, self._unwell_since_ns = now_ns, 0
        elif not scan.is_unwell:
            return  # nobody was asked
        elif not self._unwell_since_ns:
            self._unwell_since_ns = now_ns
        elif now_ns - self._unwell_since_ns >= self.silence_s_max * 1e9:
            raise SourceLost(f"no value for {self.silence_s_max:g} s: {self._error}")

    async def _read_together(self, readers: Sequence[BlockReader], scan: Scan) -> None:
        """Read several at once: one of each unit id first, the others when that has answered.

        So a unit id that is away holds one of the places on the connection, not all of them.
        """
        units: defaultdict[int, list[BlockReader]] = defaultdict(list)
        for reader in readers:
            units[reader.request.unit_id].append(reader)

        async def read_unit(first: BlockReader, *others: BlockReader) -> None:
            await self._read(first, scan)
            for other in others:
                if first.request.unit_id in scan.working:
                    tasks.create_task(self._read(other, scan))
                else:
                    await self._read(other, scan)

        try:
            async with asyncio.TaskGroup() as tasks:
                for unit in units.values():
                    tasks.create_task(read_unit(*unit))
        except ExceptionGroup as group:
            raise group.exceptions[0] from group

    async def _read(self, reader: BlockReader, scan: Scan) -> bool:
        """Add the block's tags to the scan, good or bad; whether they are there."""
        request, device = reader.request, self._device
        waiting = self._reason_to_wait(reader, scan)
        if waiting is not None:
            # A parked tag is known to be wrong; what it costs is in the log, not in each scan.
            scan.failed += waiting is not Quality.BAD_CONFIGURATION
            scan.add_bad(reader, waiting, self._clock.monotonic_ns())
            return False
        is_doubted, has_part = reader.failures >= FAILURES_DOUBTED and len(reader.ids) > 1, False
        try:
            if is_doubted and reader.failures % 2:
                await self._ask_for_one(reader, scan)
                has_part = True
            block, began_ns, ended_ns = await self._request(request, scan.breaks)
        except DeviceRefused as refused:
            await self._refused(reader, refused, scan)
            return False
        except (ResponseTimeout, ConnectionClosed, WireError) as error:
            if has_part:
                self._cut_in_two(reader, scan)
            is_silent = isinstance(error, ResponseTimeout)
            quality = Quality.BAD_TIMEOUT if is_silent else Quality.BAD_NO_COMMUNICATION
            self._failed(reader, error, quality, scan)
            return False
        reader.took(ended_ns - began_ns)
        device.answered_over(request)
        device.patience.answered(request)
        scan.working.add(request.unit_id)
        scan.is_well = True
        self._said.answered(request)
        if device.learned.alone:
            self._welcome_back(reader, scan)
        if reader.decoder.is_of_another(block):
            self._doubt(reader, scan)
            return False
        values, codes, exact = reader.decoder.decode(block)
        scan.parts.append(Part((began_ns + ended_ns) // 2, reader.ids, values, codes, exact))
        return True

    def _reason_to_wait(self, reader: BlockReader, scan: Scan) -> Quality | None:
        """The quality of the tags of a block that is not asked for now."""
        request, device, waiting = reader.request, self._device, None
        if not device.patience.is_at_ease:
            waiting = device.patience.reason_to_wait(request, self._clock.monotonic_s())
        if waiting is None and scan.breaks.is_enough(request.unit_id):
            waiting = Quality.BAD_NO_COMMUNICATION
        if scan.refused_again >= REFUSED_AGAIN_MAX and reader.block.rows[0] in device.learned.alone:
            waiting = waiting or Quality.BAD_CONFIGURATION
        if device.doubted and request.unit_id in device.doubted and device.settings.profile:
            waiting = Quality.BAD_CONFIGURATION  # it is asked what it has, before the next scan
        return waiting

    async def _bracket(self, bracket: Bracket, scan: Scan) -> None:
        """Read powers of ten once more; what they scale is bad where they have changed."""
        exponents = self._device.exponents
        before = exponents[bracket.holders]
        for block in bracket.blocks:
            reader = BlockReader(block, self._device)
            if block.request.unit_id not in scan.working:
                continue  # its values are bad already
            try:
                answer, _, _ = await self._request(reader.request, scan.breaks)
                reader.decoder.decode(answer)
            except SourceError:
                exponents[list(block.rows)] = np.nan
        seen = (scan.began, before, exponents[bracket.holders])
        lost = bracket.discredit(scan.parts, seen)
        scan.failed += lost > 0

    def _doubt(self, reader: BlockReader, scan: Scan) -> None:
        """What is there is not what the map says: nothing of it is believed."""
        device, unit_id = self._device, reader.request.unit_id
        self._stats.errors_total["unexpected"] += 1
        self._stats.error_last = f"unit {unit_id} has other numbers than its map expects"
        self._said.strange(reader.request)
        device.doubted.add(unit_id)
        device.exponents[list(reader.block.rows)] = np.nan
        scan.failed += 1
        scan.add_bad(reader, Quality.BAD_CONFIGURATION, self._clock.monotonic_ns())

    def _failed(
        self, reader: BlockReader, error: SourceError, quality: Quality, scan: Scan
    ) -> None:
        self._error = error
        self._stats.error_last = str(error)
        reader.failures += 1
        scan.is_unwell = True
        scan.failed += 1
        scan.has_learned |= self._device.failed_over(reader.request)
        scan.add_bad(reader, quality, self._clock.monotonic_ns())
        self._device.patience.failed(
            reader.request,
            quality,
            self._clock.monotonic_s(),
            unit_works=reader.request.unit_id in scan.working,
            speaks=isinstance(error, DeviceRefused),
        )
        is_silent = reader.request.unit_id in self._device.patience.silent_units
        if reader.failures >= FAILURES_DOUBTED and not is_silent:
            self._said.failing(reader.request, error)

    async def _refused(self, reader: BlockReader, refused: DeviceRefused, scan: Scan) -> None:
        """Do what an exception response asks for; its tags are bad with the reason."""
        self._count(refused)
        self.has_answer = True
        self._error = refused
        scan.is_well = scan.is_well or refused.code not in NOT_WELL
        scan.is_unwell = scan.is_unwell or refused.code in NOT_WELL
        if refused.code not in _UNIT_AWAY:
            self.answered_ns = self._clock.monotonic_ns()
        request, patience, now_s = reader.request, self._device.patience, self._clock.monotonic_s()
        quality = _QUALITY_OF_CODE.get(refused.code, Quality.BAD_DEVICE_FAILURE)
        if refused.code in _UNIT_AWAY:
            self._failed(reader, refused, quality, scan)
            return
        scan.working.add(request.unit_id)
        if self._is_about_addresses(reader, refused):
            await self._halve(reader, refused, scan)
            return
        reader.failures += 1
        if reader.failures >= FAILURES_DOUBTED:
            self._said.failing(request, refused)
        if refused.code in _BUSY:
            patience.busy(request, now_s)
        else:
            patience.answered(request)
        self._stats.error_last = str(refused)
        scan.failed += 1
        scan.add_bad(reader, quality, self._clock.monotonic_ns())

    def _is_about_addresses(self, reader: BlockReader, refused: DeviceRefused) -> bool:
        """Whether some of the addresses in a block are refused, not the whole of it."""
        if refused.code in _ADDRESS_REFUSED:
            return True
        is_one_of_several = len(reader.ids) > 1 or reader.is_part
        is_doubted = is_one_of_several and reader.failures >= FAILURES_DOUBTED - 1
        is_known = reader.block.rows[0] in self._device.learned.alone
        return refused.code == _DEVICE_FAILURE and (is_doubted or is_known)

    async def _ask_for_one(self, reader: BlockReader, scan: Scan) -> None:
        """Ask for one tag of a block that is never answered, another one each time.

        Some devices meet an address that they have not, or more registers than they can give, with
        silence. Raises what says that the device is away.
        """
        rows = reader.block.rows
        part = reader.block.part(rows[reader.failures // 2 % len(rows) :][:1], self._device.rows)
        try:
            await self._request(part.request, scan.breaks)
        except DeviceRefused as refused:
            if refused.code in _UNIT_AWAY:
                raise
            self._count(refused)
        scan.working.add(part.request.unit_id)

    def _cut_in_two(self, reader: BlockReader, scan: Scan) -> None:
        """Part of a block is answered, and the whole of it is not."""
        request = reader.request
        _, second = reader.block.halves(self._device.rows)
        self._device.learned.cuts[request.unit_id, request.function].add(second.request.address)
        scan.has_learned = True
        self._said.cut(request, second.request.address)

    async def _halve(self, reader: BlockReader, refused: DeviceRefused, scan: Scan) -> None:
        """Find what it is in a block that the device refuses, and read the rest of it."""
        request, learned = reader.request, self._device.learned
        place = (request.unit_id, request.function)
        quality = _QUALITY_OF_CODE.get(refused.code, Quality.BAD_DEVICE_FAILURE)
        scan.refusals += 1
        if len(reader.ids) == 1:
            row = reader.block.rows[0]
            if row in learned.alone:
                scan.refused_again += 1
            else:
                learned.alone.add(row)
                scan.refused.append((row, refused))
                scan.has_learned = True
            self._device.patience.parked(request, quality, self._clock.monotonic_s())
            scan.add_bad(reader, quality, self._clock.monotonic_ns())
        elif scan.refusals >= REFUSALS_MAX:
            learned.unfinished[place] |= {request.address, request.address + request.quantity}
            scan.has_learned = True
            scan.failed += 1
            scan.add_bad(reader, quality, self._clock.monotonic_ns())
        else:
            self._device.patience.answered(request)
            first, second = (
                BlockReader(half, self._device, reader.failures)
                for half in reader.block.halves(self._device.rows)
            )
            answers = [await self._read(first, scan), await self._read(second, scan)]
            if all(answers) and await self._is_refused(reader, scan):
                # Each half is there, both together are not: too many, or a gap between them.
                learned.cuts[place].add(second.request.address)
                scan.has_learned = True

    async def _is_refused(self, reader: BlockReader, scan: Scan) -> bool:
        """Whether a block still is: its halves may be there because the device has started now."""
        try:
            await self._request(reader.request, scan.breaks)
        except DeviceRefused as refused:
            self._count(refused)
            return self._is_about_addresses(reader, refused)
        except (ResponseTimeout, ConnectionClosed, WireError) as error:
            self._error = error
        return False

    def _welcome_back(self, reader: BlockReader, scan: Scan) -> None:
        """A tag that was refused is read again like any other, once the device gives it."""
        for row in self._device.learned.alone.intersection(reader.block.rows):
            self._device.learned.alone.discard(row)
            self._device.patience.reconsider(reader.request.unit_id)
            scan.has_learned = True
            self._said.accepted(row)
