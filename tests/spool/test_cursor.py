"""A cursor survives a power cut: as it was, or as it was one step before."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.frame import Lane
from gateway.spool.cursor import NOWHERE, Cursor, decode_slot, encode_slot
from tests.spool.simulated_disk import PowerCut, SimulatedDisk

PATH = Path("/spool/cursors/influx.cursor")
PLACES = st.dictionaries(st.sampled_from(Lane), st.integers(0, NOWHERE - 1))

# Format version 1: generation 5, event lane at 3, raw lane at 2**40, the others never read.
GOLDEN = bytes.fromhex(
    "536c67430100000005000000000000000300000000000000ffffffffffffffffffffffffffffffff"
    "00000000000100003162d7fb"
)


def test_golden_slot() -> None:
    places = {Lane.EVENT: 3, Lane.RAW: 2**40}
    assert encode_slot(5, places) == GOLDEN
    assert decode_slot(GOLDEN) == (5, places)


@given(st.integers(0, 2**64 - 1), PLACES)
def test_every_slot_comes_back(generation: int, places: dict[Lane, int]) -> None:
    assert decode_slot(encode_slot(generation, places)) == (generation, places)


@given(st.binary(max_size=100))
def test_other_bytes_are_no_slot(data: bytes) -> None:
    assert decode_slot(data) is None


@pytest.mark.parametrize("at", range(len(GOLDEN)))
def test_a_slot_with_another_byte_is_no_slot(at: int) -> None:
    data = bytearray(GOLDEN)
    data[at] ^= 0x10
    assert decode_slot(bytes(data)) is None


def test_a_power_cut_takes_back_one_step_at_most() -> None:
    for seed in range(400):
        rng = random.Random(seed)
        disk = SimulatedDisk()
        saved = moved = 0
        cursor = Cursor(PATH)
        disk.cut_at = rng.randint(1, 40)
        try:
            for moved in range(1, 20):
                cursor.move(Lane.RAW, moved)
                cursor.save(disk)
                saved = moved
        except PowerCut:
            disk.power_cut(rng)
        again = Cursor(PATH)
        try:
            again.load(disk)
        except FileNotFoundError:
            assert saved == 0
        assert (again.place(Lane.RAW) or 0) in (saved, moved)


def test_saves_without_a_flush_never_harm_what_was_synced() -> None:
    for seed in range(400):
        rng = random.Random(seed)
        disk = SimulatedDisk()
        synced = moved = 0
        cursor = Cursor(PATH)
        disk.cut_at = rng.randint(1, 40)
        try:
            for moved in range(1, 30):
                cursor.move(Lane.RAW, moved)
                sync = rng.random() < 0.2
                before = disk.syncs
                flushes = cursor.save(disk, sync=sync)
                assert (flushes > 0) == (sync or moved == 1)
                assert cursor.is_unsynced == (flushes == 0)
                assert disk.syncs - before <= flushes
                synced = moved if flushes else synced
        except PowerCut:
            disk.power_cut(rng)
        again = Cursor(PATH)
        try:
            again.load(disk, to_write=True)
        except FileNotFoundError:
            assert synced == 0
        assert synced <= (again.place(Lane.RAW) or 0) <= moved
        again.move(Lane.RAW, 100)
        again.save(disk, sync=False)
        disk.power_cut(rng)
        last = Cursor(PATH)
        last.load(disk)
        assert (last.place(Lane.RAW) or 0) in range(synced, 101)


def test_a_failed_save_is_repeated_and_keeps_what_was_saved_before() -> None:
    disk = SimulatedDisk()
    cursor = Cursor(PATH)
    cursor.move(Lane.RAW, 1)
    cursor.save(disk)
    assert not cursor.is_dirty
    cursor.move(Lane.RAW, 2)
    disk.fail(lambda call: 5 if call == "sync" else 0)
    with pytest.raises(OSError, match="Input/output"):
        cursor.save(disk)
    assert cursor.is_dirty
    disk.power_cut(random.Random(3))
    again = Cursor(PATH)
    assert again.load(disk)
    assert again.place(Lane.RAW) in (1, 2)
    assert disk.files_open == 0
