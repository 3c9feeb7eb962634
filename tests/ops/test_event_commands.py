"""Events and bundles over the API: what is said there is kept as on the command line."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.clock import ManualClock
from gateway.errors import SluicegateError
from gateway.inference.engine import Engine
from gateway.inference.events import AnomalyEvent
from gateway.inference.notes import NOTES_FILE, Notes
from gateway.ops.api import Api
from gateway.ops.event_commands import add_event_commands
from gateway.settings import Secret
from gateway.tag import TagTable

S = 10**9


class Commands:
    """An engine without a model, an event it had, and its commands."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.engine = Engine([], TagTable(), folder, directory=folder)
        self.start_ns = self.clock.utc_ns() - 600 * S
        self.engine.recent_events.append(
            AnomalyEvent(
                model="pump", asset="pump-1", start_ns=self.start_ns, end_ns=self.start_ns + 9 * S,
                is_open=False, peak=2.0, score_last=0.5, top="flow",
            )
        )  # fmt: skip
        self.added: dict[str, tuple[Any, Callable[[Any], Awaitable[Any]]]] = {}
        api = Api(Secret("env:NONE"), self.clock)
        api.add = lambda name, body, run: self.added.update({name: (body, run)})  # type: ignore[method-assign] - to call them without a server
        add_event_commands(api, self.engine)

    async def __call__(self, name: str, **body: object) -> Any:
        kind, run = self.added[name]
        return await run(kind.model_validate_json(json.dumps(body)))


@pytest.fixture
def command(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


async def test_an_event_is_acknowledged_and_a_later_fit_hears_of_it(
    command: Commands, tmp_path: Path
) -> None:
    said = await command("events/acknowledge", asset="pump-1", verdict="normal", words="cleaning")
    assert said["start_ms"] == command.start_ns // 10**6
    notes = Notes(tmp_path / NOTES_FILE)
    assert notes.normal_spans("pump-1") == [(command.start_ns, command.start_ns + 9 * S)]


async def test_an_event_that_there_is_not_is_said(command: Commands) -> None:
    with pytest.raises(LookupError, match="no such event of 'pump-2'"):
        await command("events/acknowledge", asset="pump-2")
    with pytest.raises(LookupError):
        await command("events/acknowledge", asset="pump-1", start_ms=5)


async def test_maintenance_begins_and_ends(command: Commands) -> None:
    assert (await command("events/maintenance", asset="pump-1"))["state"] == "maintenance"
    command.clock.advance(60)
    assert (await command("events/maintenance", asset="pump-1", end=True))["state"] == ""
    with pytest.raises(SluicegateError, match="no snooze"):
        await command("events/snooze", asset="pump-1", end=True)


async def test_a_model_that_there_is_not_is_said(command: Commands) -> None:
    with pytest.raises(SluicegateError, match="no model 'pump' is at work"):
        await command("models", model="pump", do="promote")
