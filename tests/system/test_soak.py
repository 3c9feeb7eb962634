"""The soak of `make soak`, short: nothing lost, nothing doubled, also with kills."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.soak import SoakSettings, soak

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]


@pytest.mark.parametrize("kills", [0, 3])
async def test_what_the_plant_counts_is_what_the_database_holds(tmp_path: Path, kills: int) -> None:
    settings = SoakSettings(
        seconds=15.0 + 5 * kills, kills=kills, servers=4, tags=40, rate=200.0, bays=10
    )
    result = await soak(settings, tmp_path)
    assert result.faults == []
    assert result.scans >= 4 * 10
    assert result.messages >= 2000
    assert result.aggregates > 30
    assert result.stop_s < 5.0
