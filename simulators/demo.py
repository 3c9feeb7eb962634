"""`make demo`: both plants, a broker, the gateway, and a fault to watch. Ctrl-C ends it all.

The gateway is a process of its own with a configuration that a user could have written; it is in
`.demo/`, to look at and to change. What the demo prints of scores and events it reads from the
stream that the gateway's page lives on.

Environment: DEMO_PORT is the page's port; INFLUX_URL with INFLUX_TOKEN, INFLUX_ORG and
INFLUX_BUCKET forwards to a server as well.
"""

# ruff: noqa: E402 - the signals are held before anything that takes long is imported

from __future__ import annotations

import signal

SIGNALS = (signal.SIGINT, signal.SIGTERM)
if __name__ == "__main__":
    # The imports take a quarter of a second, of a board's a few: Ctrl-C then waits for `_demo`.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

import asyncio
import json
import logging
import os
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from simulators.broker import open_broker
from simulators.cli import stop_on_signals
from simulators.config import GatewayOptions, write_config
from simulators.faults import Fault
from simulators.greenhouse import GreenhouseSettings, run_greenhouse
from simulators.line import Line, LineSettings, run_line

__all__ = ["main"]

FOLDER = Path(".demo")
ROOT = Path(__file__).parents[1]
FAULT = Fault(name="bearing_wear", asset="pump-3")
FAULT_AFTER_S = 30.0
START_S = 30.0
STOP_S = 10.0
PORTS_TRIED = 20


def main() -> int:
    """Run the demo until SIGINT or SIGTERM; the exit status."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    return asyncio.run(_demo())


async def _demo() -> int:
    async with AsyncExitStack() as stack:
        stopped = stack.enter_context(stop_on_signals())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        broker = await stack.enter_async_context(open_broker())
        if broker.kind == "amqtt":
            # It shuts down sockets that have gone already, and asyncio would show each traceback.
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        line = await stack.enter_async_context(run_line(LineSettings()))
        bays = GreenhouseSettings(host=broker.host, port=broker.port)
        await stack.enter_async_context(run_greenhouse(bays))
        listen = f"127.0.0.1:{_port()}"
        options = GatewayOptions(
            listen=listen, bundle=ROOT / "models" / "pump", tail=_sink(os.environ)
        )
        config = write_config(FOLDER, line=line, greenhouse=bays, options=options)
        gateway = await stack.enter_async_context(_gateway(config))
        _say(f"8 pumps on 4 Modbus servers, 4 greenhouse bays on {broker.kind}, one gateway")
        _say(f"the configuration is {config}, the gateway's log {FOLDER / 'gateway.log'}")
        async with asyncio.TaskGroup() as tasks:
            work = [
                tasks.create_task(_watch(f"http://{listen}"), name="watch"),
                tasks.create_task(_break_a_bearing(line), name="fault"),
            ]
            ended = tasks.create_task(gateway.wait(), name="gateway")
            stopping = tasks.create_task(stopped.wait(), name="stop")
            await asyncio.wait([ended, stopping], return_when=asyncio.FIRST_COMPLETED)
            failed = ended.done()
            for task in (*work, ended, stopping):
                task.cancel()
    if failed:
        print((FOLDER / "gateway.log").read_text()[-2000:], file=sys.stderr)  # noqa: T201
        return 1
    _say("stopped; nothing is left running")
    return 0


@asynccontextmanager
async def _gateway(config: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The gateway as a process; its log goes to a file."""
    with (FOLDER / "gateway.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway.cli.main", "run", str(config)),
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is ours: the plants outlive the gateway's last scan
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _break_a_bearing(line: Line) -> None:
    await asyncio.sleep(FAULT_AFTER_S)
    line.pumps.board.start(FAULT, line.pumps.now_s)
    _say(f"the bearing of {FAULT.asset} begins to wear")


async def _watch(url: str) -> None:
    """Print the page's address once it answers, and then what the model says."""
    async with aiohttp.ClientSession() as session:
        async with asyncio.timeout(START_S):
            while not await _answers(session, url):  # noqa: ASYNC110 - another process starts
                await asyncio.sleep(0.1)
        _say(f"the page: {url}/   (Ctrl-C ends the demo)")
        seen: set[tuple[str, int, bool]] = set()
        timeout = aiohttp.ClientTimeout(total=None)
        async with session.get(f"{url}/events", timeout=timeout) as stream:
            async for raw in stream.content:
                if raw.startswith(b"data:"):
                    data = json.loads(raw[5:])
                    _tell(data.get("tick", data), seen)


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(f"{url}/healthz") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


def _tell(tick: dict[str, Any], seen: set[tuple[str, int, bool]]) -> None:
    for event in reversed(tick.get("events", [])):
        key = (event["asset"], event["start_ms"], event["open"])
        if key in seen:
            continue
        seen.add(key)
        if event["open"]:
            why = f"because of {event['top']}" if event["top"] else "for no single reason"
            _say(f"ANOMALY on {event['asset']}: score {event['peak']:.1f} (1 alarms), {why}")
        else:
            lasted_s = (event["end_ms"] - event["start_ms"]) / 1000
            _say(f"anomaly on {event['asset']} is over after {lasted_s:.0f} s")


def _sink(environment: Any) -> str:
    """The [[sink]] of INFLUX_URL, if there is one."""
    url = environment.get("INFLUX_URL", "")
    if not url:
        return ""
    lines = [
        "[[sink]]",
        'name = "influx"',
        'type = "influxdb2"',
        f"url = {json.dumps(url)}",
        f"org = {json.dumps(environment.get('INFLUX_ORG', 'sluicegate'))}",
        f"bucket = {json.dumps(environment.get('INFLUX_BUCKET', 'sluicegate'))}",
    ]
    if environment.get("INFLUX_TOKEN"):
        lines.append('token = "env:INFLUX_TOKEN"')
    return "\n".join(lines)


def _port() -> int:
    """8080, or the next one that is free."""
    first = int(os.environ.get("DEMO_PORT", "8080"))
    for port in range(first, first + PORTS_TRIED):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise SystemExit(f"no free port from {first} on; set DEMO_PORT")


_BEGAN_S = time.monotonic()


def _say(text: str) -> None:
    print(f"[{time.monotonic() - _BEGAN_S:5.1f} s] {text}", flush=True)  # noqa: T201 - its work


if __name__ == "__main__":
    sys.exit(main())
