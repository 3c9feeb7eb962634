"""A device's second address: taken over, taken back, and never a value of the one for the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.load import load
from gateway.errors import ConfigError
from gateway.sources import supervise
from gateway.sources.modbus.config import ModbusTcpSettings
from gateway.sources.modbus.standby import PRIMARY, STANDBY, Standby, standby_settings
from tests.config.good import GOOD, PRESS
from tests.rig import free_port
from tests.sources.modbus.hostile import Asked, Hostile, exception_to
from tests.sources.modbus.test_outages import Supervised, source_of

WELL_S = 0.3


@pytest.fixture(autouse=True)
def soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "RETRY_FIRST_S", 0.02)
    monkeypatch.setattr(supervise, "RETRY_MAX_S", 0.05)


class Device:
    """A device that is switched on and off at its own address; register `a` holds a + `shift`."""

    def __init__(self, shift: int) -> None:
        self.shift = shift
        self.port = free_port()
        self.is_silent = False
        self.refuses = 0  # exception code
        self._peer = Hostile(self._answer, self.port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def asked(self) -> int:
        return len(self._peer.asked)

    async def on(self) -> Device:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    def off(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        await self._peer.serve(reader, writer)

    async def _answer(self, asked: Asked, _: asyncio.StreamWriter) -> bytes | None:
        if self.is_silent:
            return None
        if self.refuses:
            return exception_to(asked, self.refuses)
        words = [(asked.address + i + self.shift) % 65536 for i in range(asked.quantity)]
        block = b"".join(word.to_bytes(2, "big") for word in words)
        head = asked.tid.to_bytes(2, "big") + b"\0\0" + (3 + len(block)).to_bytes(2, "big")
        return head + bytes([asked.unit_id, asked.function, len(block)]) + block


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Device, Device]]:
    first, second = Device(1000), Device(2000)
    yield first, second
    first.off()
    second.off()


class Rig(Supervised):
    def __init__(self, folder: Path, first: Device, second: Device, **more: object) -> None:
        facts: dict[str, object] = {
            "standby": f"tcp://127.0.0.1:{second.port}",
            "standby_failures": 2,
            "standby_silence": 0.5,
            "take_back": WELL_S,
            "connect_timeout": 1.0,
            "response_timeout": 0.2,
        }
        rows = ("a,x,1,5", "a,y,1,300", "b,z,2,7")
        super().__init__(source_of(folder, first.port, *rows, **(facts | more)))
        self.shifts = (first.shift, second.shift)

    def reads(self, device: Device) -> bool:
        """Whether the newest values are good, and this device's."""
        if not self.is_good():
            return False
        frame = self.last().frame
        table = self.source.context.table
        at = {"a.x": 5, "a.y": 300, "b.z": 7}
        found = {table[int(i)].name: v for i, v in zip(frame.tag_ids, frame.values, strict=True)}
        return found == {name: address + device.shift for name, address in at.items()}

    def check_all(self) -> None:
        """Every frame is of one device, each tag its own register's value, or bad."""
        at = {"a.x": 5, "a.y": 300, "b.z": 7}
        table = self.source.context.table
        for arrival in self.arrivals:
            frame = arrival.frame
            shifts = {
                value - at[table[int(i)].name]
                for i, value, quality in zip(
                    frame.tag_ids, frame.values, frame.quality, strict=True
                )
                if not quality
            }
            assert len(shifts) <= 1
            assert shifts <= set(self.shifts)


def steps(*conditions: Callable[[], bool]) -> Callable[[], bool]:
    """True once the conditions were true one after the other; each may do something, too."""
    left = list(conditions)

    def holds() -> bool:
        while left and left[0]():
            left.pop(0)
        return not left

    return holds


def then(action: Callable[[], object]) -> Callable[[], bool]:
    def done() -> bool:
        action()
        return True

    return done


async def until(rig: Rig, *conditions: Callable[[], bool]) -> None:
    await rig.until(steps(*conditions))
    rig.check_all()


def switch_on(device: Device) -> Callable[[], bool]:
    tasks: list[asyncio.Task[Device]] = []

    def done() -> bool:
        if not tasks:
            tasks.append(asyncio.get_running_loop().create_task(device.on()))
        return tasks[0].done()

    return done


async def test_a_device_that_is_away_from_the_start_is_read_at_its_standby(
    tmp_path: Path, pair: tuple[Device, Device], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = pair
    await second.on()
    rig = Rig(tmp_path, first, second)
    await until(rig, lambda: rig.reads(second))
    stats = rig.source.stats
    assert (stats.on_standby, stats.standby_taken_total, stats.standby_left_total) == (True, 1, 0)
    assert "source.standby_taken source=plc" in caplog.text
    assert str(second.port) in caplog.text


async def test_it_is_taken_back_once_it_was_well_for_long_enough(
    tmp_path: Path, pair: tuple[Device, Device], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = pair
    await first.on()
    await second.on()
    rig = Rig(tmp_path, first, second)
    times: list[float] = []
    now = asyncio.get_running_loop().time
    await until(
        rig,
        lambda: rig.reads(first),
        then(first.off),
        lambda: rig.reads(second),
        then(lambda: times.append(now())),
        switch_on(first),
        lambda: rig.reads(first),
        then(lambda: times.append(now())),
    )
    assert times[1] - times[0] >= WELL_S
    stats = rig.source.stats
    assert (stats.on_standby, stats.standby_taken_total, stats.standby_left_total) == (False, 1, 1)
    assert "source.standby_left source=plc" in caplog.text
    came_back = next(i for i, each in enumerate(rig.arrivals) if _shift(each) == second.shift)
    assert not any(each.frame.quality.any() for each in rig.arrivals[came_back:])  # seamless


def _shift(arrival: object) -> float:
    frame = arrival.frame  # type: ignore[attr-defined] - an Arrival
    return float(frame.values[0] - 5) if not frame.quality[0] else 0.0


async def test_a_device_that_accepts_and_is_silent_is_left_for_its_standby(
    tmp_path: Path, pair: tuple[Device, Device]
) -> None:
    first, second = pair
    await first.on()
    await second.on()
    rig = Rig(tmp_path, first, second)
    await until(
        rig,
        lambda: rig.reads(first),
        then(lambda: setattr(first, "is_silent", True)),
        lambda: rig.reads(second),
    )
    asked = first.asked
    assert rig.source.stats.on_standby
    # It accepts connections still: that does not make it well.
    seen = len(rig.arrivals)
    await until(rig, lambda: first.asked >= asked + 3, lambda: len(rig.arrivals) > seen + 20)
    assert rig.source.stats.standby_left_total == 0


@pytest.mark.parametrize("code", [4, 6, 11])
async def test_a_device_that_says_that_it_is_not_well_is_left_for_its_standby(
    tmp_path: Path, pair: tuple[Device, Device], code: int
) -> None:
    first, second = pair
    first.refuses = code
    await first.on()
    await second.on()
    rig = Rig(tmp_path, first, second)
    await until(rig, lambda: rig.reads(second))
    asked, seen = first.asked, len(rig.arrivals)
    await until(rig, lambda: first.asked >= asked + 3, lambda: len(rig.arrivals) > seen + 20)
    assert rig.source.stats.standby_left_total == 0
    first.refuses = 0
    await until(rig, lambda: rig.reads(first))


async def test_addresses_that_are_not_there_are_no_reason_to_leave_a_device(
    tmp_path: Path, pair: tuple[Device, Device]
) -> None:
    first, second = pair
    first.refuses = 2
    await first.on()
    await second.on()
    rig = Rig(tmp_path, first, second, standby_silence=0.1)
    await until(rig, lambda: len(rig.arrivals) > 30)
    assert rig.source.stats.standby_taken_total == 0


async def test_never_taking_back_stays_until_the_standby_fails(
    tmp_path: Path, pair: tuple[Device, Device]
) -> None:
    first, second = pair
    await second.on()
    rig = Rig(tmp_path, first, second, take_back=0.0)
    seen: list[int] = []
    await until(
        rig,
        lambda: rig.reads(second),
        switch_on(first),
        then(lambda: seen.append(len(rig.arrivals))),
        lambda: len(rig.arrivals) > seen[0] + 40,
        lambda: rig.reads(second),
        then(second.off),
        lambda: rig.reads(first),
    )
    assert rig.source.stats.standby_left_total == 1


async def test_with_both_away_all_is_bad_and_whichever_comes_first_is_read(
    tmp_path: Path, pair: tuple[Device, Device], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = pair
    rig = Rig(tmp_path, first, second)
    await until(
        rig,
        lambda: len(rig.arrivals) > 10 and rig.is_lost(),
        switch_on(second),
        lambda: rig.reads(second),
        then(second.off),
        rig.is_lost,
        switch_on(first),
        lambda: rig.reads(first),
    )
    assert caplog.text.count("source.standby_taken") == 1


async def test_with_both_silent_it_goes_to_and_fro_and_says_so_once(
    tmp_path: Path, pair: tuple[Device, Device], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    first, second = pair
    for device in pair:
        await device.on()
        device.is_silent = True
    rig = Rig(tmp_path, first, second)
    stats = rig.source.stats
    await until(
        rig,
        lambda: stats.standby_taken_total >= 2,
        then(lambda: setattr(first, "is_silent", False)),
        lambda: rig.reads(first),
    )
    assert caplog.text.count("source.standby_") == 1


async def test_a_first_address_that_flaps_is_left_alone_for_longer(
    tmp_path: Path, pair: tuple[Device, Device]
) -> None:
    first, second = pair
    await first.on()
    await second.on()
    rig = Rig(tmp_path, first, second, standby_failures=1, take_back=0.1)
    for _ in range(3):
        await until(
            rig,
            lambda: rig.reads(first),
            then(first.off),
            lambda: rig.reads(second),
            switch_on(first),
        )
    assert rig.source.ways._rule.well_s >= 0.2
    assert rig.source.stats.standby_taken_total == 3


# --- the rule ------------------------------------------------------------------------------------


def test_an_hourly_device_is_not_silent_in_between() -> None:
    rule = Standby(3, 10, 60)
    assert rule.next((), 0) == PRIMARY
    rule.heard(1)
    assert rule.next((), 3600) == PRIMARY
    rule.failed(PRIMARY)  # now it is: nothing for an hour, and an attempt that failed
    assert rule.next((), 3601) == STANDBY
    assert rule.next((STANDBY,), 3601) == PRIMARY
    assert rule.next((STANDBY, PRIMARY), 3601) is None


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from(["fail", "hear", "try"]), st.floats(0.01, 5)), max_size=60),
)
def test_an_address_that_works_is_never_left(
    failures_max: int, events: list[tuple[str, float]]
) -> None:
    rule, now_s, in_a_row, heard_s = Standby(failures_max, 10, 60), 0.0, 0, 0.0
    rule.next((), 0.0)
    for event, wait_s in events:
        now_s += wait_s
        if event == "hear":
            rule.heard(now_s)
            in_a_row, heard_s = 0, now_s
        elif event == "fail":
            rule.failed(rule.active)
            in_a_row += 1
        else:
            before, chosen = rule.active, rule.next((), now_s)
            assert chosen is not None
            if before == PRIMARY:
                is_due = in_a_row >= failures_max or (in_a_row > 0 and now_s - heard_s >= 10)
            else:
                is_due = in_a_row > 0
            assert (chosen != before) == is_due
            if rule.chosen(chosen, now_s):
                in_a_row, heard_s = 0, now_s
            assert rule.active == chosen


def test_who_fails_soon_after_it_was_taken_back_must_be_well_for_longer() -> None:
    rule, now_s = Standby(1, 10, 60), 0.0
    lengths = []
    for _ in range(9):
        rule.failed(PRIMARY)
        rule.chosen(STANDBY, now_s)
        lengths.append(rule.well_s)
        now_s += rule.well_s
        rule.chosen(PRIMARY, now_s)
        now_s += 5
    assert lengths == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    now_s += 3600
    rule.chosen(STANDBY, now_s)
    assert rule.well_s == 60


# --- settings ------------------------------------------------------------------------------------


def settings_with(standby: str, **more: object) -> ModbusTcpSettings:
    facts = {"type": "modbus-tcp", "name": "plc", "host": "h", "map": "m.csv", "standby": standby}
    return ModbusTcpSettings.model_validate(facts | more)


def test_a_standby_has_what_the_source_has_but_for_its_address() -> None:
    source = settings_with("rtu+tcp://other:4001", registers_max=20, response_timeout=0.7)
    found = standby_settings(source)
    assert isinstance(found, ModbusTcpSettings)
    assert (found.host, found.port, found.framing) == ("other", 4001, "rtu")
    assert (found.name, found.registers_max, found.response_timeout) == ("plc", 20, 0.7)
    assert found.register_map == source.register_map
    line = standby_settings(settings_with("rtu:///dev/ttyUSB0?baud_rate=19200&response_timeout=2s"))
    assert line is not None
    assert (line.address, line.response_timeout) == ("/dev/ttyUSB0", 2.0)


@pytest.mark.parametrize(
    ("standby", "what"),
    [
        ("192.168.1.11", "is not an endpoint"),
        ("http://192.168.1.11", "is not an endpoint"),
        ("tcp://192.168.1.10:502", "is the source's own address"),
        ("tcp://h:99999", "out of range"),
    ],
)
def test_what_is_no_standby_is_refused_with_its_place(
    tmp_path: Path, standby: str, what: str
) -> None:
    (tmp_path / "press.csv").write_text(PRESS)
    path = tmp_path / "plant.toml"
    path.write_text(GOOD.replace("port = 502\n", f'port = 502\nstandby = "{standby}"\n'))
    with pytest.raises(ConfigError) as refused:
        load(path)
    (problem,) = refused.value.problems
    assert what in problem.found
    assert "line" in problem.place
