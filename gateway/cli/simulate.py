"""`sluicegate simulate PLANT`: whole plants on this machine, to try the gateway on."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from gateway.errors import SluicegateError

__all__ = ["add_parser"]

PLANTS = {
    "line": "a bottling line's pumps behind Modbus TCP servers, or on serial lines",
    "greenhouse": "a greenhouse's bays, published over MQTT",
    "sunspec": "a SunSpec inverter and a grid meter (Modbus TCP)",
    "fleet": "hundreds of Modbus TCP devices that know how late they are read",
    "device": "one Modbus device that misbehaves on demand",
    "replay": "a recorded CSV as a Modbus device",
}


def add_parser(subparsers: Any) -> None:
    """The `simulate` command; the plant's own options are the plant's business."""
    listed = "\n".join(f"  {plant:12}{what}" for plant, what in PLANTS.items())
    parser = subparsers.add_parser(
        "simulate",
        help="run a simulated plant",
        description=f"Run a simulated plant until Ctrl-C.\n\n{listed}\n\n"
        "`sluicegate simulate PLANT --help` has its options.\n"
        "They need more packages: pip install 'sluicegate[simulators]'.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("plant", choices=tuple(PLANTS), metavar="PLANT", help="one of these")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="of the plant")
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
