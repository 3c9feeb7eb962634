"""Commands over MQTT: tags are set by messages on one topic, and what came of it is answered.

    <topic>         {"id": "42", "time": 1767225600.5, "tag": "press-1.set_point", "value": 50}
                    {"id": "43", "time": 1767225601.0, "values": {"<tag>": <value>, ...}}
    <topic>/answer  {"id": "42", "values": {"press-1.set_point": 50}}
                    {"id": "43", "error": "..."}

Only tags that their map marks writable are set, within their limits, of sources that allow it; they
are read back. Who may publish to the topic is the broker's business. Refused is whatever might be
an old command that comes again: a retained message, one whose `time` is not near ours, and any
message while our own time is not known. A broker may send a message of QoS 1 twice: the second of
one id is answered like the first, and does nothing; one that comes for the second time and is not
known here may have been done before a restart, and is refused.

Each command, done or refused, is kept in the event lane (`gateway.audit`). One is done after the
other; what waits is bounded by the link.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import orjson
from pydantic import Field, model_validator

from gateway.clock import Clock
from gateway.config.schema import CommandSettings
from gateway.errors import SluicegateError, SourceError, WireError
from gateway.ops.api import Audit, Refusal, parse_body
from gateway.ops.writes import Writes
from gateway.settings import Settings
from gateway.sources.mqtt.client import Client
from gateway.sources.mqtt.config import MqttSettings
from gateway.sources.mqtt.link import Link
from gateway.sources.mqtt.packets import Publish
from gateway.sources.supervise import retry_pause_s
from gateway.stats import stat, stats

__all__ = ["CommandBody", "CommandStats", "Commander", "serve_commands"]

log = logging.getLogger(__name__)

BODY_BYTES_MAX = 16 * 1024
COMMAND_S = 30.0  # to its answer; a device may be asked several times
# Far more than are redelivered: the broker has no more than `RECEIVE_MAX` of ours in flight.
IDS_REMEMBERED_MAX = 1000
RECEIVE_MAX = 16
_RETAIN_AS_PUBLISHED = 0x08  # MQTT 5.0, 3.8.3.1: else who commands and retains is not found out
_AUDITED_CHARACTERS_MAX = 512
_SHOWN_MAX = 200


@stats
class CommandStats:
    """What an operator wants to know of commands over MQTT. Counters only rise."""

    connected: bool = stat("1 while the broker of the commands is connected", default=False)
    commands_total: int = stat("commands taken over MQTT")
    commands_failed_total: int = stat("commands over MQTT that were not done")
    refused_total: Counter[str] = stat(
        "messages refused, of which nothing was done, by kind", factory=Counter
    )
    error_last: str = ""


class CommandBody(Settings):
    """A command."""

    id: str = Field(min_length=1, max_length=64, description="the answer has it, too")
    time: float = Field(description="when it was given, in seconds since 1970")
    tag: str = Field(default="", max_length=256, description="name of a writable tag")
    value: bool | int | float | str | None = Field(default=None, description="of that tag")
    values: dict[str, bool | int | float | str] = Field(
        default_factory=dict, max_length=100, description="or several: tag -> value"
    )

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        one = bool(self.tag) and self.value is not None
        if one == bool(self.values) or bool(self.tag) != (self.value is not None):
            raise ValueError("write tag and value, or values")
        return self

    @property
    def all_values(self) -> dict[str, Any]:
        """What is to be set."""
        return self.values or {self.tag: self.value}


class _Refused(Exception):
    """A message that is no command to be done."""

    def __init__(self, kind: str, reason: str, command_id: str = "") -> None:
        super().__init__(reason)
        self.kind = kind
        self.command_id = command_id


class Commander:
    """Does what messages say; knows nothing of connections."""

    def __init__(self, writes: Writes, age_max_s: float, clock: Clock, audit: Audit) -> None:
        self.stats = CommandStats()
        self._writes = writes
        self._age_max_s = age_max_s
        self._clock = clock
        self._audit = audit
        self._answers: OrderedDict[str, dict[str, Any]] = OrderedDict()  # by id

    async def answer(self, message: Publish) -> dict[str, Any]:
        """Do what a message says, and give what is to be answered; nothing is raised."""
        try:
            command = self._command_in(message)
        except _Refused as refused:
            self.stats.refused_total[refused.kind] += 1
            self._keep(message, f"refused: {refused}")
            return {"id": refused.command_id, "error": str(refused)}
        known = self._answers.get(command.id)
        if known is not None:
            self.stats.refused_total["repeated"] += 1
            return known
        self.stats.commands_total += 1
        # Before it is done: whatever happens, it is not done twice.
        answer: dict[str, Any] = {"id": command.id, "error": "it is being done"}
        self._answers[command.id] = answer
        if len(self._answers) > IDS_REMEMBERED_MAX:
            self._answers.popitem(last=False)
        outcome, held = "done", {}
        try:
            async with asyncio.timeout(COMMAND_S):
                held = await self._writes.write(command.all_values)
        except TimeoutError:
            outcome = f"no answer within {COMMAND_S:g} s: read the tag, nobody knows if it was set"
        except (SluicegateError, ValueError, LookupError) as error:
            outcome = str(error)
        except Exception as error:  # a defect costs one command, not those behind it
            outcome = f"failed: {type(error).__name__}"
            log.exception("commands.defect")
        del answer["error"]
        answer |= {"values": held} if outcome == "done" else {"error": outcome}
        self.stats.commands_failed_total += outcome != "done"
        self._keep(message, outcome)
        return answer

    def _command_in(self, message: Publish) -> CommandBody:
        if message.is_retained:
            raise _Refused("retained", "a retained message is no command")
        if len(message.payload) > BODY_BYTES_MAX:
            raise _Refused("payload", f"more than {BODY_BYTES_MAX} bytes")
        try:
            command = parse_body(message.payload, CommandBody)
        except Refusal as refusal:
            raise _Refused("payload", str(refusal), _id_in(message.payload)) from refusal
        if message.is_duplicate and command.id not in self._answers:
            raise _Refused("repeated", "sent again: it may have been done already", command.id)
        if self._clock.boot:
            raise _Refused("time", "the gateway does not know the time yet", command.id)
        age_s = self._clock.utc_ns() / 1e9 - command.time
        if not abs(age_s) <= self._age_max_s:  # NaN is not
            word = "old" if age_s > 0 else "ahead of the gateway's clock"
            raise _Refused("stale", f"the command is {abs(age_s):.0f} s {word}", command.id)
        return command

    def _keep(self, message: Publish, outcome: str) -> None:
        said = message.payload[:_AUDITED_CHARACTERS_MAX].decode("utf-8", "replace")
        record = {"command": "mqtt", "peer": message.topic, "body": said, "outcome": outcome}
        shown = "".join(c if c.isprintable() else "?" for c in said[:_SHOWN_MAX])
        log.info("commands.command body=%s outcome=%s", shown, outcome)
        self._audit(record)


def _id_in(payload: bytes) -> str:
    """The id in a payload that is not a command, so that its sender knows which one it was."""
    try:
        said = json.loads(payload)
        found = said.get("id") if isinstance(said, dict) else None
    except (ValueError, RecursionError):
        return ""
    return found if isinstance(found, str) and len(found) <= 64 else ""


@asynccontextmanager
async def serve_commands(
    commander: Commander, settings: CommandSettings, broker: MqttSettings, gateway_name: str
) -> AsyncIterator[None]:
    """Take commands until the block ends; a broker that is away is tried again."""
    topic = settings.topic or f"sluicegate/{gateway_name}/write"
    ours = broker.model_copy(
        update={
            "session_expiry": 0.0,
            "receive_max": RECEIVE_MAX,
            "packet_bytes_max": 4 * BODY_BYTES_MAX,
        }
    )
    client_id = f"{broker.client_id or f'sluicegate-{gateway_name}'}-commands"
    client = Client("commands", ours, client_id, [(topic, 1 | _RETAIN_AS_PUBLISHED)])
    serving = asyncio.create_task(_serve(commander, client, f"{topic}/answer"), name="commands")
    log.info("commands.topic broker=%s:%d topic=%s", broker.host, broker.port, topic)
    try:
        yield
    finally:
        serving.cancel()
        await asyncio.wait([serving])


async def _serve(commander: Commander, client: Client, answer_topic: str) -> None:
    stats, attempt, said = commander.stats, 0, ""
    while True:
        try:
            async with client.connected() as link:
                stats.connected, attempt, said = True, 0, ""
                while True:
                    for message in await link.messages():
                        await _take(commander, link, message, answer_topic)
        except (SourceError, WireError) as error:
            stats.error_last = str(error)[:_SHOWN_MAX]
            if stats.error_last != said:
                said = stats.error_last
                log.warning("commands.away error=%s", said)
        except Exception:
            log.exception("commands.defect")
        finally:
            stats.connected = False
        await asyncio.sleep(retry_pause_s(attempt))
        attempt = min(attempt + 1, 5)


async def _take(commander: Commander, link: Link, message: Publish, answer_topic: str) -> None:
    answer = await commander.answer(message)
    link.publish(answer_topic, orjson.dumps(answer))
    if message.qos and link.is_open:
        link.acknowledge([message.packet_id])
