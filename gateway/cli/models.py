"""`sluicegate models ...`: commission a model from a machine's own history, check one, sign it."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.cli.swap import add_commands
from gateway.errors import BundleInvalid, SluicegateError

if TYPE_CHECKING:
    from gateway.inference.bundle import Bundle
    from gateway.inference.config import ModelSettings

__all__ = ["add_parser", "key_of"]

EX_CONFIG = 78
CONFIG = Path("sluicegate.toml")


def add_parser(subparsers: Any) -> None:
    """The `models` group of commands."""
    parser = subparsers.add_parser(
        "models",
        help="fit, check, show and sign anomaly models",
        description="Commission anomaly models from the machines' own history (docs/models.md).",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_fit(commands)
    check = _command(commands, "check", _check, "say what is wrong with a bundle, and the mend")
    check.add_argument("bundle", type=Path, help="folder with bundle.toml and model.onnx")
    check.add_argument("--json", action="store_true", help="print it for programs")
    show = _command(commands, "show", _show, "what a bundle says of itself")
    show.add_argument("bundle", type=Path, help="folder with bundle.toml and model.onnx")
    listing = _command(commands, "list", _list, "the models of a configuration, and their bundles")
    listing.add_argument("config", type=Path, nargs="?", default=CONFIG, help="sluicegate.toml")
    key = _command(commands, "key", _key, "print the device's public key; made on first use")
    key.add_argument("config", type=Path, nargs="?", help="sluicegate.toml; its data_dir has it")
    key.add_argument("--key", type=Path, help="another file for the private key")
    add_commands(commands)


def key_of(config: Path | None, key: Path | None) -> Path:
    """Where the device's private key is: in the data folder, or the user's own."""
    if key is not None:
        return key
    if config is None:
        import os

        home = os.environ.get("XDG_DATA_HOME") or Path("~/.local/share").expanduser()
        return Path(home) / "sluicegate" / "model-key.pem"
    from gateway.config.load import load

    return load(config).settings.gateway.data_dir / "model-key.pem"


def _add_fit(commands: Any) -> None:
    fit = _command(commands, "fit", _fit, "learn a model from healthy history; write a bundle")
    fit.add_argument("config", type=Path, nargs="?", help=f"its spool is read; default {CONFIG}")
    fit.add_argument("--asset-class", required=True, help="the class of assets to learn")
    fit.add_argument("--out", type=Path, required=True, help="folder of the new bundle")
    fit.add_argument(
        "--recording", type=Path, action="append", default=[], metavar="FILE",
        help="CSV or Parquet instead of the spool; may be given several times",
    )  # fmt: skip
    fit.add_argument(
        "--from", dest="start", help='"2h" ago, or 2026-01-31T12:00 (UTC); default 24h, or all'
    )
    fit.add_argument("--to", dest="end", help="likewise; default now, or the recording's end")
    fit.add_argument(
        "--asset", nargs="+", default=["*"], metavar="NAME",
        help="assets to learn from, names or patterns; for a recording of fields alone, whose",
    )  # fmt: skip
    fit.add_argument(
        "--fields", nargs="+", default=["*"], metavar="FIELD",
        help="fields to learn, names or patterns; those named are never left out",
    )  # fmt: skip
    fit.add_argument("--exclude", nargs="+", default=[], metavar="FIELD", help="fields not to")
    fit.add_argument("--period", help='sample period of the model, as "1s"; default the samples\'')
    fit.add_argument("--time-column", default="", help="of a recording")
    fit.add_argument(
        "--false-alarms", default="1/week", metavar="RATE",
        help='how often a healthy asset may alarm: "1/week", "2/day", "1/month"',
    )  # fmt: skip
    fit.add_argument("--window", type=int, help="samples; default chosen from the history")
    fit.add_argument("--name", default="", help="of the model; default the folder's")
    fit.add_argument("--version", default="", help="of the model; default the time")
    fit.add_argument("--seed", type=int, default=0, help="the same seed gives the same model")
    fit.add_argument("--key", type=Path, help="private key to sign with; default the device's")
    fit.add_argument("--no-signature", action="store_true", help="do not sign the bundle")
    fit.add_argument("--replace", action="store_true", help="replace the bundle that is there")


def _command(commands: Any, name: str, run: Any, what: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=what, description=what)
    parser.set_defaults(run=run)
    return parser


def _fit(options: argparse.Namespace) -> int:
    try:
        import onnx  # noqa: F401 - asked for here, so that its absence is said at once
    except ImportError as error:
        raise SluicegateError(
            "fitting needs a package that is not installed: onnx",
            hint="pip install 'sluicegate[fit]'; running the model will not need it",
        ) from error
    from gateway.cli.fit import commission

    return commission(options)


def _check(options: argparse.Namespace) -> int:
    from gateway.inference.bundle import MANIFEST, MODEL

    try:
        bundle = _opened(options.bundle)
    except BundleInvalid as error:
        if options.json:
            print(json.dumps({"problems": [asdict(problem) for problem in error.problems]}))
            return EX_CONFIG
        for problem in error.problems:
            print(problem, file=sys.stderr)
        print(f"{len(error.problems)} to mend", file=sys.stderr)
        if (options.bundle / MODEL).is_file() and not (options.bundle / MANIFEST).is_file():
            print(
                f"A model of your own needs a {MANIFEST} beside it, which says what its input and"
                " outputs are: docs/models.md and docs/formats/bundle.md have one to begin with.",
                file=sys.stderr,
            )
        return EX_CONFIG
    if options.json:
        print(json.dumps({"problems": []}))
        return 0
    manifest = bundle.manifest
    golden = len(manifest.golden)
    print(
        f"{options.bundle} is a good bundle: {manifest.name} {manifest.version},"
        f" {golden} golden window{'s' * (golden != 1)} scored as {'they' if golden > 1 else 'it'}"
        f" should, {_signed(bundle.signed_by)}"
    )
    return 0


def _opened(path: Path, model: ModelSettings | None = None) -> Bundle:
    """A bundle that was run once, in a process of its own: it may be a stranger's.

    Raises BundleInvalid.
    """
    from gateway.inference.bundle import load_bundle
    from gateway.inference.trial import Trial

    trial = Trial() if model is None else Trial.of(model)
    trial.isolate = "always"
    bundle = load_bundle(path, model.trusted_keys if model is not None else (), trial)
    bundle.runner.close()
    return bundle


def _show(options: argparse.Namespace) -> int:
    bundle = _opened(options.bundle)
    manifest = bundle.manifest
    window_s = manifest.window * manifest.sample_period
    print(f"{manifest.name} {manifest.version}, for assets of class {manifest.asset_class!r}")
    print(f"  {_signed(bundle.signed_by)}")
    print(
        f"  windows of {window_s:g} s ({manifest.window} samples), a score every"
        f" {manifest.hop * manifest.sample_period:g} s"
    )
    if manifest.false_alarms is not None:
        said = manifest.false_alarms
        print(
            f"  false alarms: {said.per_week:g} a week and asset asked for; with"
            f" {said.confidence:.0%} confidence at most {said.bound_per_week:.3g},"
            f" from {said.hours:.3g} h held back"
        )
    print("  features:")
    for feature in manifest.features:
        healthy = feature.healthy
        seen = "" if healthy is None else f"  healthy {healthy.low:.4g} to {healthy.high:.4g}"
        print(f"    {feature.field:<28} {feature.eng_unit:<8}{seen}")
    print("  provenance:")
    for key, text in manifest.provenance.items():
        print(f"    {key}: {text}")
    report = options.bundle / "report.html"
    if report.is_file():
        print(f"  report: {report}")
    return 0


def _list(options: argparse.Namespace) -> int:
    from gateway.config.load import load

    config = load(options.config)
    failed = False
    for model in config.settings.models:
        folder = config.path.parent / model.bundle
        try:
            bundle = _opened(folder, model)
        except BundleInvalid as error:
            failed = True
            print(f"{model.name}  {folder}: not good, see `sluicegate models check {folder}`")
            print(f"    {error.problems[0]}")
            continue
        manifest = bundle.manifest
        print(
            f"{model.name}  {folder}: {manifest.name} {manifest.version},"
            f" class {model.asset_class or manifest.asset_class},"
            f" {len(manifest.features)} features, {_signed(bundle.signed_by)}"
        )
    if not config.settings.models:
        print("the configuration has no [[model]]")
    return EX_CONFIG if failed else 0


def _key(options: argparse.Namespace) -> int:
    from gateway.inference.keys import DeviceKey

    print(DeviceKey.open(key_of(options.config, options.key)).public)
    return 0


def _signed(key: str) -> str:
    return f"signed by {key}" if key else "not signed"
