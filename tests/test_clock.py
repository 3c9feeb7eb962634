from __future__ import annotations

import time
from pathlib import Path

import pytest

import gateway.clock as clock_module
from gateway.clock import BUILT_NS, ManualClock, SystemClock, who_vouches


def test_a_small_difference_of_the_wall_clock_is_not_a_step() -> None:
    clock = SystemClock()
    assert clock.follow_wall() == 0
    assert abs(clock.utc_ns() - time.time_ns()) < 100_000_000


@pytest.mark.parametrize("step_s", [3600, -3600, 157_680_000])
def test_a_step_of_the_wall_clock_is_adopted_once(
    monkeypatch: pytest.MonkeyPatch, step_s: int
) -> None:
    clock = SystemClock()
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + step_s * 10**9)
    assert clock.follow_wall() == pytest.approx(step_s * 10**9, abs=10**8)
    assert clock.follow_wall() == 0
    assert abs(clock.utc_ns() - time.time_ns()) < 100_000_000


def test_stamps_do_not_run_backwards_before_a_step_is_adopted(clock: ManualClock) -> None:
    before = clock.utc_ns()
    clock.step_wall(-3600)
    clock.advance(1)
    assert clock.utc_ns() == before + 10**9
    assert clock.follow_wall() == -3600 * 10**9
    assert clock.utc_ns() == before + 10**9 - 3600 * 10**9


def test_the_difference_to_the_wall_clock_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 40_000_000)
    assert clock.wall_ahead_ns() == pytest.approx(40_000_000, abs=10_000_000)
    assert clock.follow_wall() == 0  # NTP's business, not a step


@pytest.mark.parametrize("wall_s", [30, 1_600_000_000])
def test_a_clock_that_was_before_this_version_was_made_is_nobodys(wall_s: int) -> None:
    assert who_vouches(wall_s * 10**9, 0) == ""


def test_a_clock_chip_is_no_witness_against_what_is_on_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chip = tmp_path / "rtc0" / "hctosys"
    chip.parent.mkdir()
    chip.write_text("1\n")
    monkeypatch.setattr(clock_module, "_RTC", tmp_path)
    monkeypatch.setattr(clock_module, "_TIMESYNCD", tmp_path / "none")
    monkeypatch.setattr(clock_module, "_is_kernel_synchronised", lambda: False)
    monkeypatch.setattr(clock_module, "_CPU", tmp_path / "none")
    now_ns = BUILT_NS + 10**18
    assert who_vouches(now_ns, now_ns - 1) == "clock chip"
    assert who_vouches(now_ns, now_ns + 1) == ""
    monkeypatch.setattr(clock_module, "_is_kernel_synchronised", lambda: True)
    assert who_vouches(now_ns, now_ns + 1) == "kernel"


def test_a_machine_without_any_witness_is_not_believed_until_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    witness = [""]
    clock = SystemClock(lambda _wall_ns, _floor_ns: witness[0])
    monkeypatch.setattr(time, "time_ns", lambda: 30 * 10**9)
    clock.begin(BUILT_NS + 5, None, is_final=False)
    assert clock.boot == clock.boot_id
    before_ns = clock.utc_ns()
    assert before_ns >= BUILT_NS + 5
    assert clock.missing_ns() is None
    assert clock.follow_wall() == 0
    monkeypatch.setattr(time, "time_ns", lambda: BUILT_NS + 10**18)
    witness[0] = "kernel"
    missing_ns = clock.missing_ns()
    assert missing_ns is not None
    clock.trust(missing_ns)
    assert clock.boot == 0
    assert clock.utc_ns() == pytest.approx(BUILT_NS + 10**18, abs=10**9)


def test_a_wall_clock_that_falls_to_1970_is_not_followed_and_one_that_is_right_again_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = SystemClock()
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: 30 * 10**9)
    for _ in range(3):
        assert clock.follow_wall() == 0
    assert abs(clock.utc_ns() - real()) < 100_000_000
    assert caplog.text.count("clock.impossible") == 1
    monkeypatch.setattr(time, "time_ns", lambda: real() + 3600 * 10**9)
    assert clock.follow_wall() > 3599 * 10**9


def test_a_boot_without_an_id_is_not_taken_for_another_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(clock_module, "_BOOT_ID", tmp_path / "none")
    ids = {SystemClock().boot_id for _ in range(10)}
    assert len(ids) == 10
    assert all(0 < boot < 2**64 for boot in ids)
