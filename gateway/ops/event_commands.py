"""Event commands: what an operator says of events and bundles, over the API."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from pydantic import Field

from gateway.inference.engine import Engine
from gateway.inference.events import AnomalyEvent
from gateway.ops.api import Api
from gateway.settings import Name, Seconds, Settings

__all__ = ["add_event_commands"]


class AcknowledgeBody(Settings):
    """An event is seen; say what it was, if it is known."""

    asset: str = Field(min_length=1, max_length=256, description="its newest event, unless told")
    model: str = Field(default="", max_length=64, description="only this [[model]]'s")
    start_ms: int = Field(default=0, ge=0, description="when it began, as the page has it")
    verdict: Literal["", "normal", "fault"] = Field(
        default="", description="later fits learn from what was normal, and leave out faults"
    )
    words: str = Field(default="", max_length=255, description="in your own words")


class SpanBody(Settings):
    """A time in which events of an asset are not told, or somebody works on it."""

    asset: str = Field(min_length=1, max_length=256, description="name of the asset")
    model: str = Field(default="", max_length=64, description="only this [[model]]'s")
    seconds: Seconds = Field(default=8 * 3600.0, gt=0, description="how long")
    end: bool = Field(default=False, description="true: it is over")
    words: str = Field(default="", max_length=255, description="in your own words")


class ModelBody(Settings):
    """What becomes of a bundle beside the active one."""

    model: Name = Field(description="name of a [[model]]")
    do: Literal["promote", "roll_back", "end_shadow"] = Field(description="what to do")


def add_event_commands(api: Api, engine: Engine) -> None:
    """`events/acknowledge`, `events/snooze`, `events/maintenance` and `models`."""
    notes, clock = engine.notes, api.clock

    def event_of(body: AcknowledgeBody) -> AnomalyEvent:
        for event in reversed(engine.recent_events):
            is_it = event.asset == body.asset and body.model in ("", event.model)
            if is_it and body.start_ms in (0, event.start_ns // 10**6):
                return event
        raise LookupError(f"there is no such event of {body.asset[:64]!r}")

    async def acknowledge(body: AcknowledgeBody) -> dict[str, Any]:
        event, now_ns = event_of(body), clock.utc_ns()
        await asyncio.to_thread(
            notes.acknowledge,
            *(event.model, event.asset, event.start_ns, now_ns if event.is_open else event.end_ns),
            now_ns=now_ns,
            by="api",
            words=body.words,
            verdict=body.verdict,
        )
        return {"asset": event.asset, "model": event.model, "start_ms": event.start_ns // 10**6}

    async def span(kind: str, body: SpanBody) -> dict[str, Any]:
        now_ns = clock.utc_ns()
        if body.end:
            await asyncio.to_thread(notes.end, kind, body.asset, now_ns=now_ns, model=body.model)
        else:
            await asyncio.to_thread(
                notes.begin,
                *(kind, body.asset),
                now_ns=now_ns,
                until_ns=now_ns + round(body.seconds * 1e9),
                model=body.model,
                by="api",
                words=body.words,
            )
        return {"asset": body.asset, "state": notes.state_of(body.model, body.asset, now_ns)}

    async def snooze(body: SpanBody) -> dict[str, Any]:
        return await span("snooze", body)

    async def maintenance(body: SpanBody) -> dict[str, Any]:
        return await span("maintenance", body)

    async def models(body: ModelBody) -> dict[str, Any]:
        getattr(engine.served(body.model), body.do)()
        return {"model": body.model, "done": body.do}

    api.add("events/acknowledge", AcknowledgeBody, acknowledge)
    api.add("events/snooze", SpanBody, snooze)
    api.add("events/maintenance", SpanBody, maintenance)
    api.add("models", ModelBody, models)
