"""Health: whether the gateway can do its job, and what someone should look at.

failing   its own work stands still: samples are not becoming durable, or nothing moves.
          /healthz answers 503; starting it anew, or a person, may help
degraded  something around it is wrong - a device, a database, a model - and it copes
ok        neither
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gateway.inference import ModelStats
from gateway.ops.view import GatewayView, SinkView, SourceView

__all__ = ["Health", "health_of", "text_of"]

FOREIGN_CHARS_MAX = 255
# A sink that is this far behind cannot be keeping up, whatever it says of itself.
LAG_MAX_S = 300.0


@dataclass(frozen=True, slots=True)
class Health:
    """What is wrong, worst first."""

    failures: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def status(self) -> str:
        return "failing" if self.failures else "degraded" if self.warnings else "ok"

    @property
    def reasons(self) -> tuple[str, ...]:
        return self.failures + self.warnings


def health_of(view: GatewayView) -> Health:
    """The gateway's health now."""
    return Health(tuple(_failures(view)), tuple(_warnings(view)))


def text_of(foreign: str) -> str:
    """Text that came from outside, made safe to encode and cut to a bound."""
    return foreign[:FOREIGN_CHARS_MAX].encode("utf-8", "replace").decode()


def _failures(view: GatewayView) -> Iterator[str]:
    if view.spool.trouble:
        yield f"spool: {text_of(view.spool.trouble)}"
    if view.loop.stalled:
        yield view.loop.stalled


def _warnings(view: GatewayView) -> Iterator[str]:
    if view.clock.boot:
        waiting = view.spool.samples_waiting
        yield f"clock: nobody vouches for the time, {waiting} samples wait for it"
    for warning in view.spool.warnings:
        yield f"spool: {text_of(warning)}"
    if view.spool.wear.warning:
        yield f"spool wears the card: {text_of(view.spool.wear.warning)}"
    for source in view.sources:
        yield from _of_source(source)
    for sink in view.sinks:
        yield from _of_sink(sink)
    for name, model in view.models.items():
        yield from _of_model(name, model)


def _of_source(source: SourceView) -> Iterator[str]:
    if not source.stats.connected:
        yield text_of(f"source {source.name}: not connected: {source.stats.error_last}")
        return
    stats = source.stats
    if stats.on_standby:
        yield f"source {source.name}: its standby address is used"
    if stats.units_unwell:
        what = f"{stats.units_unwell} unit ids do not answer, or are not well"
        yield text_of(f"source {source.name}: {what}: {stats.error_last}")
    elif stats.tags_refused:
        what = f"the device refuses {stats.tags_refused} tags"
        yield text_of(f"source {source.name}: {what}: {stats.error_last}")


def _of_sink(sink: SinkView) -> Iterator[str]:
    stats = sink.stats
    if stats.state in ("retrying", "parked"):
        yield text_of(f"sink {sink.name}: {stats.state}: {stats.error_last}")
    elif stats.state == "budget":
        yield f"sink {sink.name}: its link's budget is used up, {stats.lag_s:.0f} s behind"
    elif stats.lag_s > LAG_MAX_S:
        yield f"sink {sink.name}: {stats.lag_s:.0f} s behind"
    if stats.burying:
        yield text_of(f"sink {sink.name}: {stats.burying}")


def _of_model(name: str, model: ModelStats) -> Iterator[str]:
    if not model.active:
        yield text_of(f"model {name}: not running: {model.error_last}")
    if model.sensor_faults:
        yield f"model {name}: sensors of {model.sensor_faults} assets are not believed"
    if model.refits_due:
        yield f"model {name}: a refit is due, the process of {model.refits_due} assets has changed"
