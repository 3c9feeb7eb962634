"""Desk: where an operator asks a running gateway to try, promote or take back a bundle.

    sluicegate models shadow ... -> data_dir/models/<model>.ask.json -> gateway, within a second
                                 <- data_dir/models/<model>.answer.json <-

Files, because who may write the data folder may do as much anyway: no port is opened, and nothing
has to be logged in to. An ask that nobody took away is overwritten by the next, and not done when
whoever asked no longer waits.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from gateway.errors import BundleInvalid, SluicegateError
from gateway.inference.engine import Engine
from gateway.owners import give_to_owner, make_folder

__all__ = ["What", "answer_asks", "ask"]

log = logging.getLogger(__name__)

What: TypeAlias = Literal["shadow", "promote", "roll back", "end shadow"]

BYTES_MAX = 65_536
# Loading a bundle tries it in a process of its own first: some seconds on a small board.
ANSWER_S_MAX = 60.0
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ask:
    id: str
    what: str
    at_s: float  # monotonic, which all processes of a boot share
    bundle: str = ""


def ask(directory: Path, model: str, what: What, bundle: Path | None = None) -> str:
    """Ask the gateway whose models' states are in a folder; its answer, or SluicegateError."""
    wanted = _Ask(
        id=secrets.token_hex(8),
        what=what,
        at_s=time.monotonic(),
        bundle=str(bundle.absolute()) if bundle else "",
    )
    ask_file, answer_file = directory / f"{model}.ask.json", directory / f"{model}.answer.json"
    try:
        make_folder(directory)
        with suppress(FileNotFoundError):
            answer_file.unlink()
        _write(ask_file, asdict(wanted))
    except OSError as error:
        raise SluicegateError(
            f"the gateway cannot be asked: {error}", hint=f"see that you may write to {directory}"
        ) from error
    try:
        said = _awaited(answer_file, wanted)
    finally:  # also when whoever asked gives up: nobody would expect it to be done later
        with suppress(FileNotFoundError):
            ask_file.unlink()
    if said is None:
        raise SluicegateError(
            "the gateway does not answer", hint="is it running, with this configuration?"
        )
    return said


def _awaited(answer_file: Path, wanted: _Ask) -> str | None:
    """The answer; None when there is none in time. Raises SluicegateError."""
    while time.monotonic() < wanted.at_s + ANSWER_S_MAX:
        answer = _read(answer_file)
        if answer is not None and answer.get("id") == wanted.id:
            if answer.get("error"):
                raise SluicegateError(str(answer["error"]))
            return str(answer.get("said", ""))
        time.sleep(_LOOK_S)
    return None


async def answer_asks(engine: Engine, directory: Path) -> None:
    """Do what is asked for in the folder, and say how it went."""
    for model in engine.stats:
        file = directory / f"{model}.ask.json"
        if not file.exists():
            continue
        said = _read(file)
        with suppress(OSError):
            file.unlink()
        if said is None:
            log.warning("model.ask_not_understood file=%s", file)
            continue
        if not _is_fresh(said.get("at_s")):
            log.warning("model.ask_too_old file=%s consequence=it is not done", file)
            continue
        answer = {"id": str(said.get("id", ""))[:64]}
        try:
            answer["said"] = await _do(engine, model, said)
        except BundleInvalid as error:
            answer["error"] = "; ".join(str(problem) for problem in error.problems)
        except SluicegateError as error:
            answer["error"] = str(error)
        except Exception as defect:
            log.exception("model.ask_failed model=%s", model)
            answer["error"] = f"a defect: {type(defect).__name__}: {defect}"
        log.info(
            "model.asked model=%s what=%.20s answer=%.200s",
            *(model, said.get("what"), answer.get("error") or answer.get("said")),
        )
        try:
            _write(directory / f"{model}.answer.json", answer)
        except OSError as error:
            log.warning("model.answer_not_written model=%s error=%s", model, error)


def _is_fresh(at_s: object) -> bool:
    """Whether somebody still waits for it; one of an earlier boot is from another clock."""
    return isinstance(at_s, (int, float)) and 0 <= time.monotonic() - at_s <= ANSWER_S_MAX


async def _do(engine: Engine, model: str, said: dict[str, object]) -> str:
    what, bundle = said.get("what"), said.get("bundle")
    if what == "shadow" and isinstance(bundle, str) and bundle:
        watcher = await asyncio.to_thread(engine.load, model, Path(bundle))
        engine.offer(model, watcher)
        return f"{bundle} runs beside the active bundle"
    served = engine.served(model)
    if what == "promote":
        served.promote()
        return "the shadow takes over"
    if what == "roll back":
        served.roll_back()
        return "the bundle before takes over again"
    if what == "end shadow":
        served.end_shadow()
        return "the shadow has ended"
    raise SluicegateError(
        f"{str(what)[:40]!r} is nothing to ask for", hint=f"ask for {', '.join(get_args(What))}"
    )


def _read(file: Path) -> dict[str, object] | None:
    try:
        with file.open("rb") as opened:
            said = json.loads(opened.read(BYTES_MAX))
    except (OSError, ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def _write(file: Path, said: Mapping[str, object]) -> None:
    new = file.with_suffix(".new")
    new.write_text(json.dumps(said), "utf-8")
    give_to_owner(new)
    new.replace(file)
