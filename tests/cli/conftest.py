"""A plant's configuration with a small spool beside it, as a gateway left it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gateway.clock import SystemClock
from gateway.frame import Frame, Lane, Turn
from gateway.spool.log import Spool
from gateway.tag import DataType, TagTable
from tests.config.good import GOOD, PRESS
from tests.samples import make_tag
from tests.spool.worlds import small_settings

START_NS = 1_767_225_600 * 10**9  # 2026-01-01
STEPS = 200
TAGS = 5  # samples a step


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    (tmp_path / "press.csv").write_text(PRESS, encoding="utf-8")
    path = tmp_path / "plant.toml"
    path.write_text(GOOD, encoding="utf-8")
    return path


def make_table() -> TagTable:
    table = TagTable()
    labels = (("asset", "p 1"), ("site", "nørd, süd"))
    table.add(make_tag("p.flow", labels=labels, eng_unit="m³/h"))
    table.add(make_tag("p.total", labels=labels, data_type=DataType.UINT64))
    table.add(make_tag("p.running", labels=labels, data_type=DataType.BOOL))
    table.add(make_tag("p.state", labels=labels, data_type=DataType.STRING))
    table.add(make_tag("p.broken", labels=labels))
    return table


def turn_of(step: int) -> Turn:
    """One sample of each kind; the broken one has no value."""
    t_ns = START_NS + step * 10**9 + 7
    values = np.array([step / 7, np.nan if step % 2 else step, step % 2, np.nan, np.nan])
    exact: dict[int, int | str] = {3: f'state "{step}", ünd\\so'}
    if step % 2:
        exact[1] = 2**60 + step
    quality = np.array([0x40 * (step % 3 == 0), 0, 0, 0, 0x81], np.uint8)
    return Turn(
        t_ns, {Lane.RAW: Frame.of(t_ns, np.arange(TAGS, dtype=np.int32), values, quality, exact)}
    )


@pytest.fixture
def spool_of(plant: Path) -> Callable[..., Path]:
    """Fill the plant's spool; its directory. The sink "plant" has had `delivered` samples."""

    def fill(delivered: int = 300, **bounds: object) -> Path:
        directory = plant.parent / "data" / "spool"

        async def run() -> None:
            settings = small_settings(
                **({"bytes_max": 2**24, "segment_bytes": 8192, "commit_bytes": 2**12,
                    "pending_bytes_max": 2**24, "raw": True} | bounds)
            )  # fmt: skip
            async with Spool.open(directory, settings, make_table(), SystemClock()) as spool:
                for step in range(STEPS):
                    durable = spool.append(turn_of(step))
                    if step % 10 == 9:
                        await durable
                reader = spool.reader("plant", [Lane.RAW])
                while delivered and reader.backlog().samples > STEPS * TAGS - delivered:
                    await reader.acknowledge(await reader.next(50))

        asyncio.run(run())
        return directory

    return fill
