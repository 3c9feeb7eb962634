"""`sluicegate simulate PLANT`: whole plants on this machine, to try the gateway on."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from gateway.errors import SluicegateError

__all__ = ["add_parser"]


def add_parser(subparsers: Any) -> None:
    """The `simulate` command; the plant's own options are the plant's business."""
    parser = subparsers.add_parser(
        "simulate",
        help="run a simulated plant",
        description="Run a simulated plant: 'line' speaks Modbus TCP, 'greenhouse' MQTT,"
        " 'sunspec' is an inverter and a meter, 'fleet' many devices, 'device'"
        " one that misbehaves on demand, 'replay' a recorded CSV (Modbus).",
        add_help=False,
    )
    parser.add_argument(
        "plant", choices=("line", "greenhouse", "sunspec", "fleet", "device", "replay")
    )
    parser.add_argument("options", nargs=argparse.REMAINDER, help="see simulate PLANT --help")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    try:
        plants = importlib.import_module("simulators.cli")
    except ImportError as error:
        raise SluicegateError(
            f"the simulators need a package that is not installed: {error.name}",
            hint="pip install 'sluicegate[simulators]'",
        ) from error
    main = getattr(plants, f"{options.plant}_main")
    return int(main(options.options) or 0)
