"""What wears the card is measured over days and restarts, and said once it is known."""

from __future__ import annotations

import logging
import math
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import ManualClock
from gateway.spool import wear as wear_module
from gateway.spool.config import WearSettings
from gateway.spool.stats import SpoolStats
from gateway.spool.wear import (
    FLUSH_BYTES,
    DeviceWrites,
    Wear,
    WearMeter,
    find_device,
    life_days_of,
    load,
    save,
    saved_wear,
)

DAY_S = 86_400
GiB = 2**30


def settings(**changes: int) -> WearSettings:
    return WearSettings.model_construct(**({"card_bytes": 8 * GiB} | changes))


def steady(days: float, per_day: float, flushes: float, device: float | None = None) -> Wear:
    """So much a day, looked at once a minute."""
    wear = Wear()
    for _ in range(round(days * 1440)):
        part = None if device is None else device / 1440
        wear = wear.after(60, per_day / 1440, flushes / 1440, part)
    return wear


def test_a_steady_load_is_told_as_it_is_whatever_the_span() -> None:
    for days in (0.01, 1, 30):
        wear = steady(days, 5e8, 86_000, 9e8)
        assert wear.bytes_day == pytest.approx(5e8)
        assert wear.flushes_day == pytest.approx(86_000)
        assert wear.device_bytes_day == pytest.approx(9e8)


def test_a_change_is_followed_within_days() -> None:
    wear = steady(60, 4e9, 86_000)
    for _ in range(20 * 1440):
        wear = wear.after(60, 1e8 / 1440, 10_000 / 1440, None)
    assert wear.bytes_day < 4e8
    assert wear.bytes_total == pytest.approx(60 * 4e9 + 20 * 1e8)


def test_life_is_what_the_card_bears_over_what_it_is_given() -> None:
    wear = steady(1, 5e8, 80_000)
    worn = 5e8 + 80_000 * FLUSH_BYTES
    assert life_days_of(wear, 8 * GiB, 1000) == pytest.approx(8 * GiB * 1000 / worn)
    # The kernel's own count has the word where it is more.
    louder = steady(1, 5e8, 80_000, 4e9)
    assert life_days_of(louder, 8 * GiB, 1000) == pytest.approx(8 * GiB * 1000 / 4e9)
    assert math.isnan(life_days_of(Wear().after(599, 1e6, 1, None), 8 * GiB, 1000))
    assert life_days_of(steady(1, 0, 0), 8 * GiB, 1000) == math.inf


@given(st.lists(st.floats(0, 1e18), min_size=6, max_size=6))
def test_the_state_comes_back_as_it_was(facts: list[float]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wear.json"
        save(path, Wear(*facts))
        assert load(path) == Wear(*facts)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[1]", b"null", b'{"observed_s": 1e999}', b"\xff" * 100]
)
def test_a_state_that_is_not_what_was_written_is_begun_anew(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "wear.json"
    assert load(path) == Wear()
    path.write_bytes(data)
    assert load(path) == Wear()
    save(path, Wear(1.0, 2.0))
    path.write_bytes(path.read_bytes().replace(b"2.0", b"9.0"))
    assert load(path) == Wear()


def test_restarts_forget_nothing(tmp_path: Path) -> None:
    clock = ManualClock()
    for _ in range(4):
        spool = SpoolStats()
        meter = WearMeter(tmp_path, settings(), spool, clock)
        meter.measure()
        for _ in range(5):
            clock.advance(60)
            spool.bytes_written_total += 300_000
            spool.fsyncs_total += 60
            meter.measure()
        meter.save()
    assert meter.stats.observed_s == pytest.approx(20 * 60, rel=0.01)
    assert meter.stats.bytes_total == 20 * 300_000
    assert meter.stats.bytes_day == pytest.approx(300_000 * 1440)
    assert meter.stats.flushes_day == pytest.approx(86_400)
    shown = saved_wear(tmp_path, settings())
    assert shown.life_days == meter.stats.life_days > 0


def test_limits_warn_once_they_are_known_to_be_exceeded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, spool = ManualClock(), SpoolStats()
    bounds = settings(bytes_day_max=100 * 2**20, flushes_day_max=90_000)
    meter = WearMeter(tmp_path, bounds, spool, clock)
    with caplog.at_level(logging.INFO):
        for minute in range(30):
            meter.measure()
            assert bool(meter.stats.warning) == (minute > 10), minute
            clock.advance(60)
            spool.bytes_written_total += 2**20
            spool.fsyncs_total += 60
    assert "1,440 MiB a day" in meter.stats.warning
    assert "flushes" not in meter.stats.warning
    assert caplog.text.count("spool.wear_exceeded") == 1
    for _ in range(60 * 24 * 40):
        clock.advance(60)
        meter.measure()
        if not meter.stats.warning:
            break
    assert not meter.stats.warning


def test_the_kernels_count_is_taken_where_there_is_one(tmp_path: Path) -> None:
    stat = "  1 2 3 4  500 0 {} 12 0 0 0 0 0 0 0 7 9\n"
    device = tmp_path / "stat"
    device.write_text(stat.format(1000))
    clock = ManualClock()
    meter = WearMeter(tmp_path, settings(), SpoolStats(), clock)
    meter.measure()
    meter._device = device
    meter.measure()
    for minute in range(1, 20):
        clock.advance(60)
        device.write_text(stat.format(1000 + minute * 2048))
        meter.measure()
    assert meter.stats.device_bytes_day == pytest.approx(1440 * 2**20)
    device.unlink()  # the card was pulled out
    clock.advance(60)
    meter.measure()
    assert meter.stats.device_bytes_day == pytest.approx(1440 * 2**20)


def test_a_folder_without_a_device_of_its_own_has_no_count(tmp_path: Path) -> None:
    assert find_device(tmp_path, tmp_path) is None
    assert find_device(tmp_path / "none") is None
    assert DeviceWrites.parse("1 2 3") is None
    assert DeviceWrites.parse("a b c d e f g h") is None


def test_the_meters_thread_saves_when_it_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wear_module, "PERIOD_S", 0.01)
    clock, spool = ManualClock(), SpoolStats()
    meter = WearMeter(tmp_path, settings(), spool, clock)
    meter.start()
    meter.end()
    meter._thread.join(5)
    assert (tmp_path / "wear.json").exists()
    assert meter.stats.card_bytes == 8 * GiB
