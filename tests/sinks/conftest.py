from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import Influx1, running


@pytest.fixture(scope="module")
def influx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influx1]:
    """A real InfluxDB 1; each test makes a database of its own."""
    with running(Influx1(tmp_path_factory.mktemp("influx"))) as server:
        yield server
