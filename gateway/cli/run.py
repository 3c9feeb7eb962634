"""`sluicegate run CONFIG`: the gateway as a service."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

__all__ = ["add_parser"]

log = logging.getLogger(__name__)


def add_parser(subparsers: Any) -> None:
    """The `run` command."""
    parser = subparsers.add_parser(
        "run",
        help="run the gateway",
        description="Run the gateway until SIGTERM or SIGINT; it drains and exits within 5 s.",
    )
    parser.add_argument("config", type=Path, help="sluicegate.toml")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    import uvloop

    from gateway.config.load import load
    from gateway.loop import Loop
    from gateway.ops.logs import setup_logging

    config = load(options.config)
    setup_logging(config.settings.gateway.log_level)
    for warning in config.warnings:
        log.warning("config.warning %s", warning)
    uvloop.run(_serve(config), loop_factory=Loop)
    return 0


async def _serve(config: Any) -> None:
    from gateway.clock import SystemClock, who_vouches
    from gateway.ops.status import Status
    from gateway.ops.systemd import Notifier, Watchdog
    from gateway.pipeline import Gateway

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end_at_once)
    is_auto = config.settings.gateway.clock.trust == "auto"
    gateway = Gateway(config, SystemClock(who_vouches) if is_auto else SystemClock())
    status = Status(gateway)
    notifier = Notifier.from_environment()
    async with AsyncExitStack() as opened:
        await opened.enter_async_context(gateway.opened())
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        http, trail = config.settings.gateway.http, None
        if config.settings.gateway.commands.broker:
            trail = await opened.enter_async_context(_commands(gateway, config, status))
        if http.enabled:
            from gateway.ops.commands import api_of
            from gateway.ops.http import serve

            api = api_of(gateway, http, trail)
            host, port = await opened.enter_async_context(serve(status, http, api))
            log.info("gateway.page url=http://%s:%d/", host, port)
        offers = config.settings.gateway.modbus_server
        if offers.listen:
            from gateway.ops.offers import serve_offers

            has_alarm = gateway.engine.has_open_event if gateway.engine is not None else None
            latest = gateway.turns.latest
            offering = serve_offers(
                offers, config.directory, gateway.table, latest, gateway.clock, has_alarm
            )
            offer_port, status.further["modbus_server"] = await opened.enter_async_context(offering)
            log.info("gateway.modbus_server port=%d", offer_port)
        # What start-up made lives as long as the process; the collector need not look at it again.
        gc.collect()
        gc.freeze()
        async with asyncio.TaskGroup() as tasks:
            feeding = Watchdog(notifier, status.progress, status.loop).run()
            watching = tasks.create_task(feeding, name="watchdog")
            running = tasks.create_task(gateway.run(stop), name="gateway")
            notifier.ready()
            log.info("gateway.ready name=%s tags=%d", status.name, len(gateway.table))
            await stop.wait()
            notifier.stopping()
            await running
            watching.cancel()
    log.info("gateway.stopped")


def _end_at_once(number: int, _: object) -> None:
    """While the spool is replayed nothing is under way that would have to be finished."""
    log.info("gateway.stopped signal=%d before=it was ready", number)
    raise SystemExit(0)


@asynccontextmanager
async def _commands(gateway: Any, config: Any, status: Any) -> AsyncIterator[Any]:
    """Take commands over MQTT, where there is something they may set."""
    from gateway.ops.commands import AuditTrail
    from gateway.ops.mqtt_commands import Commander, serve_commands
    from gateway.ops.writes import writes_of

    settings, trail = config.settings.gateway.commands, AuditTrail(gateway)
    writes = writes_of(gateway)
    if writes is None:
        yield trail
        return
    (broker,) = (s for s in config.settings.sources if s.name == settings.broker)
    commander = Commander(writes, settings.age_max, gateway.clock, trail.keep)
    status.further["commands"] = commander.stats
    async with serve_commands(commander, settings, broker, config.settings.gateway.name):
        yield trail
