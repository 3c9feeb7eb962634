"""Calls of a real process that fail or dawdle: nothing it said was durable is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.faults.processes import check, last_durable, numbers_in, start_worker

COUNT = 150
STRACE = shutil.which("strace") or "/usr/bin/strace"


def lines_of(process: subprocess.Popen[str]) -> list[str]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    return out.splitlines()


def injected(folder: Path, call: str, what: str) -> list[str]:
    """What a worker said of which one kind of call was interfered with."""
    under = (STRACE, "-f", "-qqq", "-o", "/dev/null", "-e", f"inject={call}:{what}")
    arguments = ("--count", str(COUNT))
    return lines_of(start_worker(folder / "spool", 0, *arguments, under=under))


@pytest.mark.system
@pytest.mark.parametrize("call", ["pwrite64", "fdatasync", "fsync", "rename"])
@pytest.mark.parametrize("what", ["error=EIO:when=4+9", "error=ENOSPC:when=2..5"])
def test_calls_that_fail_now_and_then_cost_nothing(tmp_path: Path, call: str, what: str) -> None:
    lines = injected(tmp_path, call, what)
    assert lines[-1] == "done state=ok lost=0"
    assert last_durable(lines, -1) == COUNT * 20 - 1
    check(tmp_path / "spool", last_durable(lines, -1))


@pytest.mark.system
def test_a_disk_whose_flush_takes_seconds_holds_up_nothing_but_itself(tmp_path: Path) -> None:
    lines = injected(tmp_path, "fdatasync", "delay_enter=5s:when=6")
    ticks = [int(line.split()[1]) for line in lines if line.startswith("tick ")]
    assert max(ticks, default=0) < 1500  # the event loop went on while the flush did not
    check(tmp_path / "spool", last_durable(lines, -1))


@pytest.mark.system
def test_without_a_file_descriptor_left_it_waits_and_goes_on(tmp_path: Path) -> None:
    process = start_worker(tmp_path / "spool", 0, "--count", "1500", "--starve-s", "1")
    lines = lines_of(process)
    assert "fed" in lines
    assert lines[-1] == "done state=ok lost=0"
    assert check(tmp_path / "spool", last_durable(lines, -1)) == 1500 * 20 - 1


@pytest.mark.system
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system of its own")
def test_a_full_file_system_of_32_mb_keeps_what_it_has_and_goes_on(tmp_path: Path) -> None:
    image, mount = tmp_path / "disk.img", tmp_path / "disk"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(32 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    done = subprocess.run(
        ["mount", "-o", "loop", image, mount], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"this machine has no loop devices: {done.stderr.strip()}")
    try:
        free = os.statvfs(mount)
        (mount / "ballast").write_bytes(bytes(free.f_bavail * free.f_frsize - 8_600_000))
        process = start_worker(mount / "spool", 0, "--count", "5000", "--bytes-max", str(2**26))
        lines = lines_of(process)
        assert len(numbers_in(mount / "spool", 2**26)[0]) < 5000 * 20, "nothing had to go"
        assert last_durable(lines, -1) == 5000 * 20 - 1
        assert os.statvfs(mount).f_bavail > 0, "it leaves room for others"
    finally:
        subprocess.run(["umount", mount], check=True)
