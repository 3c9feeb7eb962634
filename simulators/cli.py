"""`sluicegate simulate line|greenhouse|sunspec`: run a plant until SIGINT or SIGTERM.

Standard output is for programs: one JSON object a line. The first, {"event": "ready", ...}, says
where everything is; the last, {"event": "truth", ...}, what was served or published.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import uvloop

from simulators import device
from simulators.broker import BrokerError, open_broker
from simulators.config import GatewayOptions, write_config
from simulators.control import ControlledPlant, control_server
from simulators.faults import Fault, FaultBoard, FaultError, parse_fault
from simulators.fleet import FleetSettings, run_fleet, write_fleet_config
from simulators.greenhouse import GreenhouseSettings, run_greenhouse
from simulators.line import LineSettings, run_line
from simulators.replay import ReplayError, read_recording, run_replay
from simulators.sunspec import UNITS, RoofSettings, run_roof

__all__ = [
    "device_main",
    "fleet_main",
    "greenhouse_main",
    "line_main",
    "replay_main",
    "stop_on_signals",
    "sunspec_main",
]

# The plants have been driven so fast; beyond it a core is not enough.
_SPEED_MAX = 1000.0


def line_main(argv: Sequence[str]) -> int:
    """Run the pump line; the exit status."""
    parser = _parser("line", "A bottling line's pumps behind Modbus TCP servers.")
    parser.add_argument("--port", type=_port, default=0, help="of the first server; 0 = free ones")
    parser.add_argument("--servers", type=_count, default=4, help="PLCs (default 4)")
    parser.add_argument("--pumps", type=_count, default=2, help="pumps a server (default 2)")
    parser.add_argument(
        "--tags-per-server", type=_count, default=0, help="map exactly so many, on enough pumps"
    )
    parser.add_argument(
        "--units",
        choices=("each", "shared"),
        help="a unit id for each pump, or one for a server (default each; shared when"
        " --tags-per-server is given)",
    )
    parser.add_argument(
        "--steady", action="store_true", help="the fillers never stop; minutes are a history then"
    )
    parser.add_argument(
        "--serial",
        choices=("rtu", "ascii"),
        help="a serial line (a pseudo-terminal) to each server in place of TCP",
    )
    parser.add_argument("--scan-period", default="1s", help="in the configuration (default 1s)")
    parser.add_argument("--slow-period", default="10s", help="of what seldom changes (default 10s)")
    args = parser.parse_args(argv)
    settings = LineSettings(
        servers=args.servers,
        pumps_per_server=args.pumps,
        tags_per_server=args.tags_per_server,
        units=args.units or ("shared" if args.tags_per_server else "each"),
        seed=args.seed,
        host=args.host,
        port=args.port,
        speed=args.speed,
        steady=args.steady,
        framing=args.serial or "tcp",
    )
    return _run(_line(settings, args))


def greenhouse_main(argv: Sequence[str]) -> int:
    """Run the greenhouse; the exit status."""
    parser = _parser("greenhouse", "A greenhouse's bays, published over MQTT.")
    parser.add_argument("--port", type=_port, default=0, help="of the broker; 0 = start one")
    parser.add_argument(
        "--broker",
        choices=("auto", "mosquitto", "amqtt", "external"),
        help="which broker to start, or none (default: auto without --port, else external)",
    )
    parser.add_argument("--bays", type=_count, default=4, help="bays (default 4)")
    parser.add_argument(
        "--rate", type=_rate, default=12.0, help="messages a second in all (default 12)"
    )
    parser.add_argument("--qos", type=int, choices=(0, 1), default=1, help="default 1")
    args = parser.parse_args(argv)
    kind = args.broker or ("external" if args.port else "auto")
    if kind == "external" and not args.port:
        parser.error("--broker external needs --port")
    return _run(_greenhouse(args, kind))


def sunspec_main(argv: Sequence[str]) -> int:
    """Run the roof; the exit status."""
    parser = _parser("sunspec", "A SunSpec inverter (unit 1) and a grid meter (unit 2).")
    parser.add_argument("--port", type=_port, default=0, help="0 = a free one")
    parser.add_argument(
        "--base", type=int, choices=(40000, 50000, 0), default=40000, help="where the marker is"
    )
    parser.add_argument("--scan-period", default="1s", help="in the configuration (default 1s)")
    parser.add_argument("--slow-period", default="10m", help="of nameplates (default 10m)")
    args = parser.parse_args(argv)
    settings = RoofSettings(
        seed=args.seed, host=args.host, port=args.port, base=args.base, speed=args.speed
    )
    return _run(_sunspec(settings, args))


def device_main(argv: Sequence[str]) -> int:
    """Run a device that misbehaves; the exit status."""
    return device.main(argv, port=_port)


def replay_main(argv: Sequence[str]) -> int:
    """Play a recording as a device; the exit status."""
    parser = argparse.ArgumentParser(
        prog="sluicegate simulate replay",
        description="A recorded CSV (time, then <asset>.<tag> each) as live Modbus registers.",
    )
    parser.add_argument("recording", type=Path, help="CSV file")
    parser.add_argument("--map", type=Path, required=True, help="register map, as the gateway's")
    parser.add_argument("--host", default="127.0.0.1", help="address (default 127.0.0.1)")
    parser.add_argument("--port", type=_port, default=0, help="0 = a free one")
    parser.add_argument("--speed", type=_speed, default=1.0, help="recorded seconds a second")
    parser.add_argument("--once", action="store_true", help="stay at the last row at its end")
    args = parser.parse_args(argv)
    return _run(_replay(args))


async def _replay(args: argparse.Namespace) -> None:
    recorded = read_recording(args.recording, args.map)
    async with AsyncExitStack() as stack:
        stopped = stack.enter_context(stop_on_signals())
        playing = run_replay(
            recorded, host=args.host, port=args.port, speed=args.speed, once=args.once
        )
        port, player = await stack.enter_async_context(playing)
        _say("ready", plant="replay", host=args.host, port=port, rows=len(recorded.rows))
        await stopped.wait()
    _say("truth", plant="replay", row=player.row, laps=player.laps)


def fleet_main(argv: Sequence[str]) -> int:
    """Run the fleet; the exit status."""
    parser = argparse.ArgumentParser(
        prog="sluicegate simulate fleet",
        description="Many Modbus TCP devices, which tell at the end how late they were read.",
    )
    parser.add_argument("--seed", type=int, default=1, help="same seed, same values (default 1)")
    parser.add_argument("--host", default="127.0.0.1", help="address (default 127.0.0.1)")
    parser.add_argument("--devices", type=_count, default=100, help="how many (default 100)")
    parser.add_argument("--registers", type=_count, default=100, help="of each (default 100)")
    parser.add_argument(
        "--period", type=_period, default=0.1, help="seconds between two reads (default 0.1)"
    )
    parser.add_argument(
        "--write-config", type=Path, metavar="DIR", help="write sluicegate.toml and maps there"
    )
    args = parser.parse_args(argv)
    settings = FleetSettings(
        devices=args.devices,
        registers=args.registers,
        period_s=args.period,
        seed=args.seed,
        host=args.host,
    )
    return _run(_fleet(settings, args.write_config), uvloop.run)


async def _fleet(settings: FleetSettings, folder: Path | None) -> None:
    async with AsyncExitStack() as stack:
        stopped = stack.enter_context(stop_on_signals())
        fleet = await stack.enter_async_context(run_fleet(settings))
        config = folder and write_fleet_config(folder, fleet)
        ports = [device.port for device in fleet.devices]
        _say("ready", plant="fleet", host=settings.host, ports=ports, config=_text(config))
        await stopped.wait()
    _say("truth", **fleet.truth())


async def _sunspec(settings: RoofSettings, args: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        stopped = stack.enter_context(stop_on_signals())
        roof = await stack.enter_async_context(run_roof(settings))
        plant = ControlledPlant(roof.truth, roof.board, lambda: roof.now_s)
        control = await stack.enter_async_context(control_server(plant, args.control_port))
        _start_faults(roof.board, args.fault)
        options = GatewayOptions(scan_period=args.scan_period, slow_period=args.slow_period)
        config = args.write_config and write_config(args.write_config, roof=roof, options=options)
        server = {"host": settings.host, "port": roof.port, "units": UNITS}
        _say("ready", plant="sunspec", server=server, control=control, config=_text(config))
        await stopped.wait()
    _say("truth", **roof.truth())


async def _line(settings: LineSettings, args: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        stopped = stack.enter_context(stop_on_signals())
        line = await stack.enter_async_context(run_line(settings))
        board = line.pumps.board
        plant = ControlledPlant(line.truth, board, lambda: line.pumps.now_s)
        control = await stack.enter_async_context(control_server(plant, args.control_port))
        _start_faults(board, args.fault)
        servers = [
            {"name": p.name, "host": p.host, "port": p.port}
            | ({"device": p.device} if p.device else {})
            for p in line.plcs
        ]
        options = GatewayOptions(scan_period=args.scan_period, slow_period=args.slow_period)
        config = args.write_config and write_config(args.write_config, line=line, options=options)
        _say("ready", plant="line", servers=servers, control=control, config=_text(config))
        await stopped.wait()
    _say("truth", **line.truth())


async def _greenhouse(args: argparse.Namespace, kind: Any) -> None:
    async with AsyncExitStack() as stack:
        stopped = stack.enter_context(stop_on_signals())
        host, port = args.host, args.port
        if kind != "external":
            broker = await stack.enter_async_context(open_broker(host=host, port=port, kind=kind))
            kind, port = broker.kind, broker.port
        settings = GreenhouseSettings(
            host=host,
            port=port,
            bays=args.bays,
            rate=args.rate,
            qos=args.qos,
            seed=args.seed,
            speed=args.speed,
        )
        greenhouse = await stack.enter_async_context(run_greenhouse(settings))
        board = greenhouse.bays.board
        plant = ControlledPlant(greenhouse.truth, board, lambda: greenhouse.bays.now_s)
        control = await stack.enter_async_context(control_server(plant, args.control_port))
        _start_faults(board, args.fault)
        config = args.write_config and write_config(args.write_config, greenhouse=settings)
        broker_facts = {"kind": kind, "host": host, "port": port}
        _say(
            "ready", plant="greenhouse", broker=broker_facts, control=control, config=_text(config)
        )
        await stopped.wait()
    _say("truth", **greenhouse.truth())


def _run(plant: Any, run: Callable[[Any], Any] = asyncio.run) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        run(plant)
    except (OSError, BrokerError, FaultError, ReplayError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - a program's last word
        return 1
    return 0


@contextmanager
def stop_on_signals() -> Iterator[asyncio.Event]:
    """An event that SIGINT or SIGTERM sets, in place of ending the process at once."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    try:
        yield stopped
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _parser(plant: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"sluicegate simulate {plant}", description=description)
    parser.add_argument("--seed", type=int, default=1, help="same seed, same values (default 1)")
    parser.add_argument("--host", default="127.0.0.1", help="address (default 127.0.0.1)")
    parser.add_argument("--speed", type=_speed, default=1.0, help="plant seconds a second")
    parser.add_argument(
        "--fault",
        type=_fault,
        action="append",
        default=[],
        metavar="NAME@ASSET[.TAG][:after=30s][:severity=1][:ramp=6h]",
        help="may be given several times; times are plant time",
    )
    parser.add_argument("--control-port", type=_port, default=0, help="0 = a free one")
    parser.add_argument(
        "--write-config", type=Path, metavar="DIR", help="write sluicegate.toml and maps there"
    )
    return parser


def _number(low: float, high: float, kind: Callable[[str], float]) -> Callable[[str], Any]:
    def number(text: str) -> float:
        try:
            value = kind(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not from {low:g} to {high:g}")
        return value

    return number


_port = _number(0, 65535, int)
# Names, ports and memory are fine far beyond; nobody's machine has so many of anything.
_count = _number(1, 1000, int)
_period = _number(0.01, 3600, float)
_rate = _number(0.1, 5000, float)
_speed = _number(0.01, _SPEED_MAX, float)


def _fault(text: str) -> Fault:
    try:
        return parse_fault(text)
    except FaultError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _start_faults(board: FaultBoard, faults: Sequence[Fault]) -> None:
    for fault in faults:
        board.start(fault, 0.0)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _say(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)  # noqa: T201 - what the program is for
