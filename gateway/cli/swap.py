"""`sluicegate models shadow`, `promote`, `roll-back`, `end-shadow`: asked of a running gateway."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gateway.errors import SluicegateError

__all__ = ["add_commands"]

_COMMANDS = {
    "shadow": ("shadow", "run a second bundle beside the active one, and compare"),
    "promote": ("promote", "let the shadow take over"),
    "roll-back": ("roll back", "let the bundle before take over again"),
    "end-shadow": ("end shadow", "stop running the second bundle"),
}


def add_commands(commands: Any) -> None:
    """The commands, into the `models` group."""
    for name, (what, words) in _COMMANDS.items():
        parser = commands.add_parser(name, help=words, description=words)
        parser.add_argument("config", type=Path, help="sluicegate.toml of the running gateway")
        parser.add_argument("model", help="name of the [[model]]")
        if name == "shadow":
            parser.add_argument("bundle", type=Path, help="folder of the bundle to try")
        parser.set_defaults(run=_run, what=what)


def _run(options: argparse.Namespace) -> int:
    from gateway.config.load import load
    from gateway.inference.desk import ask

    settings = load(options.config).settings
    names = [model.name for model in settings.models]
    if options.model not in names:
        raise SluicegateError(
            f"there is no [[model]] {options.model!r}",
            hint=f"there is {', '.join(names) or 'none'}",
        )
    directory = settings.gateway.data_dir / "models"
    print(ask(directory, options.model, options.what, getattr(options, "bundle", None)))
    return 0
