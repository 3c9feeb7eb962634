"""The wiring: sources -> channel -> turns -> spool -> deliveries, and the order of start and stop.

    supervise(source) --put--> Channel --gather--> Turns --append--> Spool
                                                                |-- durable --> source
                                                                `-- reader --> Delivery

Start: the spool recovers, the raw lane's tail is replayed, sinks begin to drain, then sources
connect. Stop: sources end, what has arrived is worked and made durable, and only then do the
sinks stop, wherever they are; the spool remembers the rest.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.asset import Assets
from gateway.channel import Channel
from gateway.clock import Clock
from gateway.config.load import Config
from gateway.frame import Arrival, Lane
from gateway.hints import Servers
from gateway.jobs import finished_aside
from gateway.sinks import Sink, build_sink, tags_of
from gateway.sinks.budget import Budget
from gateway.sinks.config import SinkSettings
from gateway.sinks.deadletters import DeadLetters
from gateway.sinks.delivery import Delivery, Link
from gateway.sinks.selection import Selection
from gateway.sources import Source, SourceContext, build_source
from gateway.sources.supervise import supervise
from gateway.spool.log import Spool, SpoolReader
from gateway.spool.wear import WearMeter
from gateway.stats import stat, stats
from gateway.tag import TagTable
from gateway.turns import CHECKPOINT_PERIOD_NS, Turns

if TYPE_CHECKING:
    from gateway.inference.engine import Engine

__all__ = ["Gateway"]

log = logging.getLogger(__name__)

# Windows and model ticks are at whole seconds at the finest; a silent plant still turns this often.
IDLE_TURN_S = 0.25
# A supervisor grants five seconds from SIGTERM to exit; the disk gets three of them.
DRAIN_S = 3.0
CLOCK_CHECK_S = 1.0
# Servers that say the time are asked so often while nobody else does, and then.
HEAR_PERIOD_S, HEAR_AGAIN_PERIOD_S = 30.0, 3600.0
ATTEND_PERIOD_S = 1.0
# Unsynced, a small file: it costs the card nothing to speak of.
BUDGET_SAVE_PERIOD_S = 60


@stats
class ClockStats:
    """Whether the time is known, and how often the wall clock jumped."""

    trusted: bool = stat("1 while somebody vouches for the time", default=True)
    samples_waiting: int = stat("samples that no sink gets before the time is known")
    missing_s: float = stat(
        "how far behind the times of this boot were before the time was known", default=0.0
    )
    wall_ahead_s: float = stat(
        "wall clock less the gateway's own, which does not jump", default=0.0
    )
    steps_total: int = stat("times the wall clock jumped")
    step_s_last: float = stat("how far the wall clock jumped the last time", default=0.0)


class Gateway:
    """One configuration, running."""

    def __init__(self, config: Config, clock: Clock) -> None:
        settings = config.settings
        self.config = config
        self.clock = clock
        self.table = TagTable(settings.gateway.tags_max)
        self.channel = Channel()
        self.clock_stats = ClockStats()
        context = SourceContext(
            clock=clock,
            table=self.table,
            assets=Assets(
                settings.assets, gateway=settings.gateway.name, site=settings.gateway.site
            ),
            gateway_name=settings.gateway.name,
            has_room=self.channel.has_room,
            directory=settings.gateway.data_dir / "sources",
        )
        self.sources: list[Source] = [build_source(entry, context) for entry in settings.sources]
        self.engine = _build_engine(config, self.table)
        self.turns = Turns(
            self.table, settings.aggregates, settings.gateway.deadband_report, self.engine
        )
        self._sink_tags = [tags_of(entry, self.table) for entry in settings.sinks]
        self.sinks: list[Sink] = [
            build_sink(entry, tags, settings.gateway.data_dir)
            for entry, tags in zip(settings.sinks, self._sink_tags, strict=True)
        ]
        self.spool: Spool
        self._readers: list[SpoolReader] = []
        self.wear: WearMeter
        self._durable: asyncio.Future[int] | None = None  # of the newest turn with samples
        self._checkpointed_ns = 0
        self._events_told: set[tuple[str, str, int, bool]] = set()
        self._missing_ns = 0  # what the clock is to be set by before the next turn
        self._is_known = asyncio.Event()
        self._servers = Servers(settings.gateway.clock.servers, clock)
        self._acknowledge: dict[asyncio.Future[int], list[Callable[[], None]]] = {}

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Gateway]:
        """The gateway with its spool open and its memory rebuilt."""
        directory = self.config.settings.gateway.data_dir
        spool_settings = self.config.settings.gateway.spool
        async with Spool.open(directory / "spool", spool_settings, self.table, self.clock) as spool:
            self.spool = spool
            # Before anything is deleted for room: what they have not had is counted then.
            self._readers = [
                spool.reader(entry.name, [Lane[name.upper()] for name in entry.lanes])
                for entry in self.config.settings.sinks
            ]
            spool.begin_clock()
            began_s = self.clock.monotonic_s()
            missing = self.turns.recover(spool)
            stats = self.turns.stats
            stats.replay_ms = (self.clock.monotonic_s() - began_s) * 1000
            if stats.replayed_turns:
                log.info(
                    "pipeline.recovered turns=%d ms=%.0f", stats.replayed_turns, stats.replay_ms
                )
            self.wear = WearMeter(directory / "spool", spool_settings.wear, spool.stats, self.clock)
            for turn in self.turns.seam_after(missing, self.clock.boot):
                spool.append(turn)
            self._look_at_clock()
            self.wear.start()
            try:
                yield self
            finally:
                self.wear.end()
                if self.engine is not None:
                    self.engine.close()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then drain. Needs `opened()`."""
        async with asyncio.TaskGroup() as tasks:
            draining = asyncio.Event()
            delivering = tasks.create_task(self._deliver(), name="sinks")
            following = tasks.create_task(self._follow_clock(), name="clock")
            turning = tasks.create_task(self._turn(draining), name="turns")
            attending = tasks.create_task(self._attend(), name="models")
            reading = tasks.create_task(self._read(), name="sources")
            await stop.wait()
            log.info("gateway.stopping")
            reading.cancel()
            await asyncio.wait([reading])
            draining.set()
            await asyncio.wait([turning], timeout=DRAIN_S)
            if turning.cancel():
                log.error("gateway.not_drained reason=the disk did not answer in %s s", DRAIN_S)
            following.cancel()
            attending.cancel()
            delivering.cancel()

    async def _read(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for source in self.sources:
                tasks.create_task(
                    supervise(source, self.channel.put, self.clock), name=f"source:{source.name}"
                )

    async def _deliver(self) -> None:
        async with AsyncExitStack() as opened, asyncio.TaskGroup() as tasks:
            all_settings = self.config.settings.sinks
            for sink, settings, tags, reader in zip(
                self.sinks, all_settings, self._sink_tags, self._readers, strict=True
            ):
                await opened.enter_async_context(sink.session())
                budget = self._budget_of(settings)
                await opened.enter_async_context(_kept(budget))
                deliver = partial(
                    Delivery,
                    sink=sink,
                    settings=settings,
                    clock=self.clock,
                    table=tags,
                    link=Link(
                        dead_letters=DeadLetters(self._dead_letter_path(sink.name)),
                        selection=Selection(self.table, settings.tags, settings.exclude_tags),
                        budget=budget,
                        secrets=settings.secrets,
                        writing=nullcontext() if sink.is_concurrent else asyncio.Lock(),
                    ),
                )
                current = deliver(reader=reader)
                tasks.create_task(current.run(), name=f"sink:{sink.name}")
                if settings.live_first:
                    rest = deliver(reader=reader.backfill, ahead=current)
                    tasks.create_task(rest.run(), name=f"backfill:{sink.name}")

    def _budget_of(self, settings: SinkSettings) -> Budget:
        path = self.config.settings.gateway.data_dir / "budgets" / f"{settings.name}.json"
        return Budget(path, settings.budget_hour, settings.budget_day)

    def _dead_letter_path(self, sink: str) -> Path:
        return self.config.settings.gateway.data_dir / "dead-letters" / f"{sink}.jsonl"

    async def _turn(self, draining: asyncio.Event) -> None:
        turn_s = self.config.settings.gateway.turn
        while not draining.is_set():
            # With the spool full nothing is taken; the channel fills and holds the sources back.
            await self.spool.wait_for_room()
            if self._missing_ns:
                self._set_clock()
            await self._work(await self.channel.gather(turn_s, IDLE_TURN_S))
        await (await self._work(self.channel.take()))
        await asyncio.sleep(0)  # the acknowledgements hang on the same future
        self._checkpoint(self.clock.utc_ns(), at_end=True)

    async def _work(self, arrivals: list[Arrival]) -> asyncio.Future[int]:
        """Work a turn; the future is done once it is durable."""
        began_s = self.clock.monotonic_s()
        now_ns = self.clock.utc_ns()
        self._checkpoint(now_ns)
        turn = await finished_aside(self.turns.work(arrivals, now_ns))
        durable = self.spool.append(turn)
        if turn.frames:
            self._durable = durable
        self.turns.stats.turn_ms_last = (self.clock.monotonic_s() - began_s) * 1000
        if Lane.EVENT in turn.frames:
            self._tell_events()
        waiting = [a.on_durable for a in arrivals if a.on_durable is not None]
        if waiting:
            known = self._acknowledge.setdefault(durable, [])
            if not known:
                durable.add_done_callback(self._on_durable)
            known += waiting
        return durable

    def _checkpoint(self, now_ns: int, *, at_end: bool = False) -> None:
        """Have the state of the turns written, when it is time and all of them are in a group."""
        is_due = abs(now_ns - self._checkpointed_ns) >= CHECKPOINT_PERIOD_NS or at_end
        last = self._durable
        if not is_due or last is None or not self.spool.is_between_groups:
            return
        self._checkpointed_ns = now_ns
        if not self.turns.wants_checkpoints or not self.config.settings.gateway.spool.raw:
            return
        state = self.turns.checkpoint()

        def save(durable: asyncio.Future[int]) -> None:
            if not durable.cancelled() and durable.exception() is None:
                self.spool.save_checkpoint(state.after(durable.result()))

        last.add_done_callback(save)

    def _tell_events(self) -> None:
        """Log each event once when it opens and once when it closes."""
        assert self.engine is not None
        recent = {
            (event.model, event.asset, event.start_ns, event.is_open): event
            for event in self.engine.recent_events
        }
        for key, event in recent.items():
            if key in self._events_told:
                continue
            attended = self.engine.attended(event, self.clock.utc_ns())
            level = logging.WARNING if event.is_open and not attended else logging.INFO
            log.log(
                level,
                "anomaly.%s asset=%s model=%s peak=%.2f because_of=%s",
                "opened" if event.is_open else "closed",
                *(event.asset, event.model, event.peak, event.deviation or event.top),
            )
        self._events_told = set(recent)

    def _on_durable(self, durable: asyncio.Future[int]) -> None:
        waiting = self._acknowledge.pop(durable)
        if durable.cancelled() or durable.exception() is not None:
            return
        for on_durable in waiting:
            on_durable()

    async def _attend(self) -> None:
        """Hear what operators say of events, and what they ask of the models."""
        if self.engine is None:
            return
        from gateway.inference.desk import answer_asks  # noqa: PLC0415 - only with a model

        directory = self.config.settings.gateway.data_dir / "models"
        while True:
            await asyncio.sleep(ATTEND_PERIOD_S)
            self.engine.attend(self.clock.utc_ns())
            await answer_asks(self.engine, directory)

    async def _follow_clock(self) -> None:
        if self.clock.boot:
            await self._find_time()
        while True:
            if self.spool.samples_waiting:
                await self.spool.settle_clock()
            await asyncio.sleep(CLOCK_CHECK_S)
            await self._servers.look(HEAR_AGAIN_PERIOD_S)
            self._look_at_clock()
            step_ns = self.clock.follow_wall()
            if step_ns:
                self.clock_stats.steps_total += 1
                self.clock_stats.step_s_last = step_ns / 1e9
                log.warning("clock.stepped seconds=%.3f", step_ns / 1e9)

    async def _find_time(self) -> None:
        """Wait until somebody vouches for the wall clock; after a while, go on without."""
        since_s, wait_s = self.clock.monotonic_s(), self.config.settings.gateway.clock.wait
        log.warning("clock.not_trusted consequence=samples wait for the time")
        is_waiting = True
        while (missing_ns := self.clock.missing_ns()) is None:
            await self._servers.look(HEAR_PERIOD_S)
            await asyncio.sleep(CLOCK_CHECK_S)
            self._look_at_clock()
            if is_waiting and 0 < wait_s <= self.clock.monotonic_s() - since_s:
                is_waiting = not await self.spool.settle_clock("unsynchronised")
                log.error("clock.given_up consequence=samples are sent with times that are a guess")
        self._missing_ns = missing_ns or 1
        await self._is_known.wait()

    def _set_clock(self) -> None:
        """Between two turns: what comes after has the time that was found out."""
        seam = self.turns.seam(0, self._missing_ns)
        self.clock.trust(self._missing_ns)
        if seam is not None:
            self.spool.append(seam)
        self.clock_stats.missing_s = self._missing_ns / 1e9
        log.warning("clock.trusted seconds=%.3f", self._missing_ns / 1e9)
        self._missing_ns = 0
        self._is_known.set()

    def _look_at_clock(self) -> None:
        stats, clock = self.clock_stats, self.clock
        stats.trusted = not clock.boot
        stats.samples_waiting = self.spool.samples_waiting
        stats.wall_ahead_s = clock.wall_ahead_ns() / 1e9


@asynccontextmanager
async def _kept(budget: Budget) -> AsyncIterator[None]:
    """Load a budget, save it now and then, and in the end."""
    if not budget.is_bounded:
        yield
        return

    async def save() -> None:
        try:
            await asyncio.to_thread(budget.save)
        except OSError as error:
            log.warning("sink.budget_not_saved error=%s", error)

    async def keep() -> None:
        for second in itertools.count(1):
            await asyncio.sleep(1.0)
            if budget.wants_saving or second % BUDGET_SAVE_PERIOD_S == 0:
                await save()

    await asyncio.to_thread(budget.load)
    async with asyncio.TaskGroup() as tasks:
        keeping = tasks.create_task(keep(), name="budget")
        try:
            yield
        finally:
            keeping.cancel()
            await save()


def _build_engine(config: Config, table: TagTable) -> Engine | None:
    if not config.settings.models:
        return None
    from gateway.inference.engine import Engine  # noqa: PLC0415 - loads ONNX Runtime

    return Engine(
        config.settings.models,
        table,
        config.path.parent,
        deadband_report_s=config.settings.gateway.deadband_report,
        directory=config.settings.gateway.data_dir / "models",
    )
