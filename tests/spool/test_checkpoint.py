"""Checkpoints: they save a long replay, and are never believed when they should not be."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gateway.errors import SpoolDamaged
from gateway.frame import Lane
from gateway.spool.checkpoint import (
    NAME,
    Checkpoint,
    decode_checkpoint,
    encode_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from tests.samples import make_tag
from tests.spool.conftest import Opener, Until, raw_turn
from tests.spool.simulated_disk import SimulatedDisk

FOLDER = Path("/spool")


def checkpoint_of(sequence: int, *names: str) -> Checkpoint:
    state = {"counts": np.arange(len(names)), "0:{}/low": np.full((2, len(names)), -np.inf)}
    return Checkpoint(sequence, [make_tag(name) for name in names], state)


arrays = st.dictionaries(
    st.from_regex(r"[0-9]:[ -~]{1,20}", fullmatch=True),
    hnp.arrays(st.sampled_from([np.int64, np.float64, np.bool_]), hnp.array_shapes(max_dims=2)),
    max_size=4,
)


@given(st.integers(0, 2**63 - 1), st.lists(st.text(max_size=9), max_size=5, unique=True), arrays)
def test_what_is_encoded_is_decoded(
    sequence: int, names: list[str], state: dict[str, np.ndarray]
) -> None:
    tags = [make_tag(name) for name in names]
    found = decode_checkpoint(encode_checkpoint(Checkpoint(sequence, tags, state)))
    assert found.sequence == sequence
    assert list(found.tags) == tags
    assert found.state.keys() == state.keys()
    for name, array in state.items():
        assert found.state[name].dtype == array.dtype
        assert np.array_equal(found.state[name], array, equal_nan=array.dtype == np.float64)


@given(st.data())
def test_a_changed_byte_or_a_cut_is_noticed(data: st.DataObject) -> None:
    whole = encode_checkpoint(checkpoint_of(7, "a", "b"))
    if data.draw(st.booleans()):
        damaged = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        changed = bytearray(whole)
        changed[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
        damaged = bytes(changed)
    with pytest.raises(SpoolDamaged):
        decode_checkpoint(damaged)


def test_there_is_none_at_first_and_a_damaged_one_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk = SimulatedDisk()
    disk.make_directory(FOLDER)
    assert load_checkpoint(disk, FOLDER) is None
    assert not caplog.records
    save_checkpoint(disk, FOLDER, checkpoint_of(7, "a"))
    found = load_checkpoint(disk, FOLDER)
    assert found is not None
    assert found.sequence == 7
    file = disk.open(FOLDER / NAME, write=True)
    file.write(b"x", 40)
    file.close()
    assert load_checkpoint(disk, FOLDER) is None
    assert "consequence=a longer replay" in caplog.text


@pytest.mark.parametrize("call", ["create", "write", "sync", "rename"])
def test_a_failed_save_leaves_the_one_before(call: str) -> None:
    disk = SimulatedDisk()
    disk.make_directory(FOLDER)
    save_checkpoint(disk, FOLDER, checkpoint_of(7, "a"))
    disk.fail(lambda this: errno.ENOSPC if this == call else 0)
    with pytest.raises(OSError, match=r".*"):
        save_checkpoint(disk, FOLDER, checkpoint_of(8, "a"))
    disk.heal()
    found = load_checkpoint(disk, FOLDER)
    assert found is not None
    assert found.sequence == 7
    save_checkpoint(disk, FOLDER, checkpoint_of(9, "a"))
    found = load_checkpoint(disk, FOLDER)
    assert found is not None
    assert found.sequence == 9


async def test_a_spool_offers_the_checkpoint_that_it_was_given(
    open_spool: Opener, tmp_path: Path, until: Until
) -> None:
    async with open_spool() as spool:
        assert spool.checkpoint is None
        sequence = await spool.append(raw_turn(10, 1.0))
        spool.save_checkpoint(checkpoint_of(sequence, "a", "b"))
        await until((tmp_path / "spool" / NAME).exists)
        await spool.append(raw_turn(20, 2.0))
    async with open_spool() as spool:
        assert spool.checkpoint is not None
        assert spool.checkpoint.sequence == sequence
        # What comes after it is replayed whatever its time: a clock may have been set back.
        assert [turn.now_ns for _, turn in spool.replay(10**18, sequence)] == [20]
        assert [turn.now_ns for _, turn in spool.replay(10**18)] == []


@pytest.mark.parametrize("ahead", [1, 10**6])
async def test_a_checkpoint_of_records_that_are_gone_is_not_offered(
    open_spool: Opener, tmp_path: Path, ahead: int, until: Until
) -> None:
    async with open_spool() as spool:
        sequence = await spool.append(raw_turn(10, 1.0))
        spool.save_checkpoint(checkpoint_of(sequence + ahead, "a"))
        await until((tmp_path / "spool" / NAME).exists)
    async with open_spool() as spool:
        assert spool.checkpoint is None
        assert spool.stats.lanes[Lane.RAW].samples == 1
