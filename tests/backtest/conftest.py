"""A plant with a model over two small machines, and a history of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.config.load import Config, load
from tests.inference.bundles import write_bundle

CONFIG = """\
[gateway]
name = "line-1"
data_dir = "data"
deadband_report = "5s"

[[source]]
type = "modbus-tcp"
name = "plc"
host = "127.0.0.1"
map = "plc.csv"

[[asset]]
name = "pump-*"
class = "pump"

[[aggregate]]
every = "10s"

[[model]]
name = "health"
bundle = "bundle"
"""

MAP = """\
asset,tag,unit_id,table,address,data_type,scale,offset,eng_unit,deadband
pump-1,speed,1,holding_register,0,int16,0.01,1,mm/s,
pump-1,vibration,1,holding_register,1,int16,0.1,,mm/s,0.05
pump-2,speed,2,holding_register,0,float32,,,mm/s,
pump-2,vibration,2,holding_register,2,float32,,,mm/s,
"""


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., Config]:
    """The configuration, with a bundle whose score is the mean of |x| over its limit."""

    def make(tail: str = "", **bundle: object) -> Config:
        (tmp_path / "plc.csv").write_text(MAP)
        write_bundle(tmp_path / "bundle", **bundle)  # type: ignore[arg-type] - what a test wants
        path = tmp_path / "sluicegate.toml"
        path.write_text(CONFIG + tail)
        return load(path)

    return make
