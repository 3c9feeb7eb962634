"""Healthy devices beside misbehaving ones, for a short while; `make soak` has the ten minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.modbus_soak import soak


@pytest.mark.system
async def test_healthy_devices_lose_no_scan_beside_ones_that_misbehave(tmp_path: Path) -> None:
    # Slowly: beside another worker of the suite nobody gets the core within a tenth of a second.
    result = await soak(4, 14.0, tmp_path, fault_s=1.5, period_s=0.5)
    assert result.faults == []
    assert result.scans_healthy > 4 * 20
    assert result.values_checked > 0
    # Whatever was played, it was seen.
    assert sum(result.errors_by_kind.values()) > 0
