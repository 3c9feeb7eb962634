"""Setting tags, whoever asks: all of it or, as far as that can be known, nothing."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import SluicegateError, SourceLost
from gateway.ops.writes import Writes
from gateway.sources.modbus.config import RegisterRow
from gateway.sources.modbus.wire import Request
from gateway.sources.modbus.write import Writer
from gateway.sources.modbus.write_wire import WriteRefused


class Device:
    """Holds one word; answers reads with it, or nothing at all."""

    def __init__(self) -> None:
        self.word = b"\0\0"
        self.is_away = False
        self.writes = 0

    async def ask(self, query: Any, timeout_s: float) -> Any:
        del timeout_s
        if self.is_away:
            raise SourceLost("no answer")
        if isinstance(query, Request):
            return self.word
        self.writes += 1
        self.word = query.words
        return True


def writer_of(name: str, device: Device) -> Writer:
    asset, _, tag = name.partition(".")
    facts = {"asset": asset, "tag": tag, "address": 0, "low": 0, "high": 9, "writable": True}
    return Writer({name: RegisterRow.model_validate(facts)}, device, 1.0, "source")


@pytest.fixture
def plant() -> tuple[Writes, Device, Device]:
    one, other = Device(), Device()
    writers = {"a.x": writer_of("a.x", one), "b.y": writer_of("b.y", other)}
    return Writes(writers), one, other


async def test_tags_of_several_devices_are_set(plant: tuple[Writes, Device, Device]) -> None:
    writes, _, _ = plant
    assert await writes.write({"b.y": 3, "a.x": 4}) == {"b.y": 3, "a.x": 4}


@pytest.mark.parametrize("wrong", [{"b.y": 10}, {"b.y": "x"}, {"b.y": 0.5}, {"c.z": 1}, {"": 1}])
async def test_nothing_is_sent_when_one_of_them_may_not_be(
    plant: tuple[Writes, Device, Device], wrong: dict[str, Any]
) -> None:
    writes, one, other = plant
    with pytest.raises((WriteRefused, LookupError)):
        await writes.write({"a.x": 1} | wrong)
    assert (one.writes, other.writes) == (0, 0)


async def test_what_was_written_before_a_device_failed_is_said(
    plant: tuple[Writes, Device, Device],
) -> None:
    writes, _, other = plant
    other.is_away = True
    with pytest.raises(SluicegateError, match=r"no answer; written before: a\.x"):
        await writes.write({"a.x": 1, "b.y": 2})
