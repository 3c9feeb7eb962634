"""Spool directories with known contents, wrecked by seed: each opens, and the loss is exact.

    python -m tests.faults.wreck --seeds 100000 --processes 2

Bytes are flipped, pages zeroed, files truncated, swapped, taken away, renamed, doubled or filled
with garbage, and blocks refuse to be read. What is served must be what was written; served and
counted together must be all that was written. Two things cannot be counted, and are allowed for:
what stood at the very end of a lane behind every cursor, which looks like a torn write, and
samples of files that are missing at the lane's beginning, which look like retention.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gateway.clock import ManualClock
from gateway.frame import FloatArray, Lane
from gateway.spool.checkpoint import Checkpoint
from gateway.spool.cursor import Cursor
from gateway.spool.evidence import SYNCED
from gateway.spool.store import Store
from tests.faults.seeds import main, run
from tests.spool.simulated_disk import SimulatedDisk
from tests.spool.worlds import DIRECTORY, World, new_table, small_settings, values_of

__all__ = ["run_wrecks", "wreck_one"]

TEMPLATES = 24
COMMITS = 30
PAGE = 4096
TABLE = new_table()
SETTINGS = small_settings(bytes_max=200 * 8192)
Content = dict[Path, bytes]


class Template:
    """A directory as it was closed, and what is in it."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        disk = SimulatedDisk()
        world = World(rng, disk, SETTINGS)
        world.open()
        self.last = dict.fromkeys(Lane, 0)  # samples of the batch at the end
        for _ in range(rng.randint(5, COMMITS)):
            before = {lane: len(world.promised[lane]) for lane in Lane}
            world.commit(rng.randint(1, 2))
            world.sync_derived()
            for lane in Lane:
                grown = len(world.promised[lane]) - before[lane]
                self.last[lane] = grown or self.last[lane]
        cursor = world.store.account.begin("db", tuple(Lane))
        cursor.move(Lane.RAW, world.store.samples_end(Lane.RAW) // 2)
        world.store.save_cursors()
        world.store.save_checkpoint(Checkpoint(world.store.applied(Lane.RAW), [], {}))
        world.store.close()
        self.written = {lane: np.array(world.promised[lane]) for lane in Lane}
        self.files = {path: bytes(disk.content(path)) for path in disk.paths()}


def flip(rng: random.Random, files: Content, path: Path, bits: int = 1) -> None:
    data = bytearray(files[path])
    for _ in range(bits if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    files[path] = bytes(data)


def flip_some(rng: random.Random, files: Content, path: Path) -> None:
    flip(rng, files, path, rng.choice((3, 20)))


def zero(rng: random.Random, files: Content, path: Path) -> None:
    data = bytearray(files[path])
    size = rng.choice((512, PAGE))
    start = rng.randrange(0, len(data) + 1, size)
    data[start : start + size] = bytes(len(data[start : start + size]))
    files[path] = bytes(data)


def truncate(rng: random.Random, files: Content, path: Path) -> None:
    files[path] = files[path][: rng.randrange(len(files[path]) + 1)]


def swap(rng: random.Random, files: Content, path: Path) -> None:
    other = rng.choice(sorted(files))
    files[path], files[other] = files[other], files[path]


def take_away(_: random.Random, files: Content, path: Path) -> None:
    del files[path]


def rename(rng: random.Random, files: Content, path: Path) -> None:
    files[_new_name(rng)] = files.pop(path)


def double(rng: random.Random, files: Content, path: Path) -> None:
    files[_new_name(rng)] = files[path]


def garbage(rng: random.Random, files: Content, path: Path) -> None:
    files[path] = rng.randbytes(rng.choice((0, 100, 5000)))


def shift(rng: random.Random, files: Content, path: Path) -> None:
    """Sectors that were written to the place beside their own."""
    data = bytearray(files[path])
    start = rng.randrange(0, len(data) + 1, 512)
    moved = data[start : start + 512]
    data[start + 512 : start + 512 + len(moved)] = moved
    files[path] = bytes(data[: len(files[path])])


def refuse(rng: random.Random, disk: SimulatedDisk, path: Path) -> None:
    """Blocks that cannot be read any more."""
    begin = rng.randrange(0, len(disk.content(path)) + 1, PAGE)
    disk.make_unreadable(path, begin, begin + rng.choice((1, 1, 2, 8)) * PAGE)


def _new_name(rng: random.Random) -> Path:
    lane = rng.choice(list(Lane)).name.lower()
    return DIRECTORY / rng.choice(
        (
            f"{lane}-{rng.randrange(40):010d}.seg",
            f"{lane}-{10**17 + rng.randrange(10):018d}.seg",
            "spare.seg",
            "x.seg",
            "cursors/other.cursor",
        )
    )


WRECKERS: tuple[Callable[[random.Random, Content, Path], None], ...] = (
    flip, flip_some, zero, truncate, swap, take_away, rename, double, garbage, shift,
)  # fmt: skip

_templates: dict[int, Template] = {}


def _template(seed: int) -> Template:
    if seed not in _templates:
        _templates[seed] = Template(seed)
    return _templates[seed]


def wreck_one(seed: int) -> None:
    """Wreck a directory, open it, read everything, and settle the account."""
    rng = random.Random(seed)
    template = _template(seed % TEMPLATES)
    files = dict(template.files)
    wreckers = [rng.choice(WRECKERS) for _ in range(rng.choice((1, 1, 1, 2, 4)))]
    for wrecker in wreckers:
        wrecker(rng, files, rng.choice(sorted(files)))
    disk = SimulatedDisk()
    for path, data in files.items():
        disk.put(path, data)
    is_readable = not files or rng.random() >= 0.2
    if not is_readable:
        refuse(rng, disk, rng.choice(sorted(files)))
    proven = proven_by_cursors(disk)
    store = Store(DIRECTORY, SETTINGS, TABLE, ManualClock(), disk)
    try:
        store.open()
    except OSError:
        store.enter_memory()  # as the writer does after some seconds
        store.leave_memory()
    lost = 0
    for lane in Lane:
        lost += lost_of(template.written[lane], np.array(values_of(store, lane)), store, lane)
        at_end = len(template.written[lane]) - store.samples_end(lane)
        is_batch = wreckers != [flip] or not is_readable or at_end <= template.last[lane]
        assert is_batch, "more than a batch looks torn"
        if lane in SYNCED and store.catalog.segments[lane]:
            lost += max(proven.get(lane, 0) - store.samples_end(lane), 0)
    counted = store.stats.samples_lost_total
    assert counted == lost, f"{lost} samples lost, {counted} counted"
    store.close()
    assert disk.files_open == 0


def proven_by_cursors(disk: SimulatedDisk) -> dict[Lane, int]:
    """How far each lane went for certain, by the cursors that a start can load."""
    proven: dict[Lane, int] = {}
    for name in disk.names(DIRECTORY / "cursors"):
        cursor = Cursor(DIRECTORY / "cursors" / name)
        try:
            cursor.load(disk)
        except OSError:
            break
        for lane in Lane:
            proven[lane] = max(proven.get(lane, 0), cursor.place(lane) or 0)
    return proven


def lost_of(written: FloatArray, served: FloatArray, store: Store, lane: Lane) -> int:
    """Samples that are missing from where the lane begins to where it ends."""
    place = np.searchsorted(written, served)
    assert (place < len(written)).all(), f"{lane.name}: a value that nobody wrote"
    assert (written[place] == served).all(), f"{lane.name}: a value that nobody wrote"
    assert (np.diff(served) > 0).all(), f"{lane.name}: out of order, or twice"
    begin, end = store.samples_begin(lane), store.samples_end(lane)
    assert 0 <= begin <= end <= len(written), f"{lane.name}: {begin} to {end}"
    assert ((place >= begin) & (place < end)).all(), f"{lane.name}: served from outside"
    return end - begin - len(served)


def run_wrecks(first: int, count: int, processes: int = 1) -> list[str]:
    """Wrecks first..first + count; what went wrong, and the command that shows it again."""
    return run(wreck_one, "tests.faults.wreck", TABLE, first, count, processes)


if __name__ == "__main__":
    sys.exit(main(run_wrecks, "directories"))
