"""`sluicegate`: one command, a module a group of subcommands.

Exit codes follow sysexits.h: 0 done, 64 usage, 65 a recording, 70 a defect of ours, 78 the
configuration.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from gateway import __version__
from gateway.errors import ConfigError, RecordingInvalid, SluicegateError

__all__ = ["command_line", "main"]

EX_DATAERR = 65
EX_CONFIG = 78
EX_UNAVAILABLE = 69

# Each has add_parser(subparsers), which sets `run`; what is heavy is imported inside `run`.
_COMMANDS = (
    "run",
    "check",
    "query",
    "spool",
    "models",
    "events",
    "backtest",
    "simulate",
    "read",
    "write",
    "importing",
    "probe",
)


def command_line() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="sluicegate",
        description="Edge gateway: Modbus and MQTT in, anomaly models, a durable store.",
    )
    parser.add_argument("--version", action="version", version=f"sluicegate {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in _COMMANDS:
        importlib.import_module(f"gateway.cli.{name}").add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    try:
        return _main(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0
    except PermissionError as error:
        print(
            f"sluicegate: {error.filename}: {error.strerror} (run it as the user that the"
            " service runs as, or as root)",
            file=sys.stderr,
        )
        return EX_UNAVAILABLE


# By itself, because what it prints of an error may meet a closed pipe, too: what is raised in one
# `except` clause is not caught by those beside it.
def _main(arguments: Sequence[str] | None) -> int:
    options = command_line().parse_args(arguments)
    # Before numpy is imported. Our matrices are small; the threads of a pool only wait for each
    # other, on cores that the gateway's scans need (a fit beside another one took five times as
    # long with them), and hold memory.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        code: int = options.run(options)
    except (ConfigError, RecordingInvalid) as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        print(f"{len(error.problems)} to mend", file=sys.stderr)
        return EX_CONFIG if isinstance(error, ConfigError) else EX_DATAERR
    except SluicegateError as error:
        print(f"sluicegate: {error}", file=sys.stderr)
        return EX_UNAVAILABLE
    return code


if __name__ == "__main__":
    sys.exit(main())
