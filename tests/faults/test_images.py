"""A real file system on a block device of its own: cut off in mid-write, and turned read-only."""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults.processes import check, last_durable, start_worker
from tests.rig import mounted, wait_until

IMAGES = int(os.environ.get("SLUICEGATE_IMAGES", "6"))
IMAGE_BYTES = 24 * 2**20
# Smaller than the image, so that files are recycled and room is made, as in a long life.
BYTES_MAX = 16 * 2**20

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system of its own"),
]


def make_image(image: Path) -> None:
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)


class Worker:
    """A worker whose words are read as they come."""

    def __init__(self, folder: Path, first: int) -> None:
        self.process = start_worker(folder, first, "--bytes-max", str(BYTES_MAX))
        assert self.process.stdout is not None
        self._said = self.process.stdout.fileno()
        os.set_blocking(self._said, False)
        self._text = b""

    def lines(self) -> list[str]:
        """All that was said so far, whole lines."""
        while select.select([self._said], [], [], 0)[0]:
            more = os.read(self._said, 65536)
            if not more:
                break
            self._text += more
        return self._text[: self._text.rfind(b"\n") + 1].decode().splitlines()

    def has_said(self, word: str) -> bool:
        return any(line.startswith(word) for line in self.lines())

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.timeout(60 + 3 * IMAGES)
def test_whenever_the_power_is_cut_what_was_acknowledged_is_on_the_next_boot(
    tmp_path: Path,
) -> None:
    """Each boot's disk is what had reached the block device when the boot before was cut off."""
    rng = random.Random(11)
    image, last, acknowledged = tmp_path / "disk.img", -1, 0
    make_image(image)
    for boot in range(IMAGES):
        with mounted(image, tmp_path / "disk", "-o", "loop") as disk:
            worker = Worker(disk / "spool", last + 1)
            try:
                wait_until(lambda worker=worker: worker.has_said("durable "))
                time.sleep(rng.uniform(0.0, 0.4))
                durable = last_durable(worker.lines(), last)
                # What is in the kernel's cache alone is not in the file behind the loop device.
                worker.process.send_signal(signal.SIGSTOP)
                cut = tmp_path / f"{boot}.img"
                shutil.copyfile(image, cut)
            finally:
                worker.kill()
        image.unlink()
        image = cut
        with mounted(image, tmp_path / "disk", "-o", "loop") as disk:
            acknowledged += durable - last
            last = check(disk / "spool", durable, BYTES_MAX)
            files = [path.name for path in (disk / "spool").iterdir()]
            assert len(files) < 2 * BYTES_MAX // 65536, "junk piles up"
    assert acknowledged > IMAGES * 20


def test_a_file_system_that_turns_read_only_costs_nothing_that_was_acknowledged(
    tmp_path: Path,
) -> None:
    image = tmp_path / "disk.img"
    make_image(image)
    with mounted(image, tmp_path / "disk", "-o", "loop,errors=remount-ro") as disk:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        device = next(line.split()[0] for line in mounts if line.split()[1] == str(disk))
        trigger = Path("/sys/fs/ext4") / Path(device).name / "trigger_fs_error"
        if not trigger.exists():
            pytest.skip("this kernel cannot be asked for a file system error")
        worker = Worker(disk / "spool", 0)
        try:
            wait_until(lambda: last_durable(worker.lines(), -1) > 1000)
            trigger.write_text("1")
            wait_until(lambda: worker.has_said("state degraded"))
            durable = last_durable(worker.lines(), -1)
            wait_until(lambda: "Read-only" in " ".join(worker.lines()[-50:]), timeout_s=5)
            time.sleep(0.5)
            assert worker.process.poll() is None, "it goes on"
            assert last_durable(worker.lines(), -1) == durable, "nothing is acknowledged"
        finally:
            worker.kill()
    subprocess.run(["e2fsck", "-p", "-f", image], check=False, capture_output=True)
    with mounted(image, tmp_path / "disk", "-o", "loop") as disk:
        check(disk / "spool", durable, BYTES_MAX)
