"""Notes: what the operator says of events and assets, kept for the page and for later fits.

    acknowledge   an event is seen; it may also be judged: "normal" (a false alarm) or "fault"
    snooze        an asset's events are not to disturb anybody until some time
    maintenance   somebody works on an asset; what it does meanwhile says nothing of its health

Notes change what people are told and what a later fit learns from, never a score or an event,
which follow from the samples alone. They are in one file that the running gateway and the command
line may both change: a change is read, made and written under a lock, whole or not at all, synced.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from gateway.errors import SluicegateError
from gateway.owners import give_to_owner, make_folder

__all__ = ["FOREVER_NS", "NOTES_FILE", "Note", "Notes", "NotesFull"]

log = logging.getLogger(__name__)

NOTES_FILE = "notes.json"  # in the folder of the models' states
# Several a day for years; the oldest that nothing depends on any more make room.
NOTES_MAX = 10_000
FILE_BYTES_MAX = 16 * 2**20
WORDS_CHARS_MAX = 200
FOREVER_NS = 2**63 - 1

KINDS = ("acknowledge", "snooze", "maintenance")
VERDICTS = ("", "normal", "fault")


class NotesFull(SluicegateError):
    """There is no room for another note."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something an operator said. Times are UTC nanoseconds."""

    kind: str
    asset: str
    model: str = ""  # empty: of whichever model
    start_ns: int = 0  # an acknowledged event's own; else when it begins
    end_ns: int = (
        0  # an acknowledged event's own; else when it ends, FOREVER_NS until somebody says
    )
    at_ns: int = 0  # when it was said
    by: str = ""
    words: str = ""
    verdict: str = ""

    def is_valid(self) -> bool:
        """Whether it could have been written by us."""
        texts = (self.kind, self.asset, self.model, self.by, self.words, self.verdict)
        times = (self.start_ns, self.end_ns, self.at_ns)
        return (
            all(isinstance(text, str) and len(text) <= WORDS_CHARS_MAX for text in texts)
            and all(type(t) is int and 0 <= t <= FOREVER_NS for t in times)
            and self.kind in KINDS
            and self.verdict in VERDICTS
            and self.asset != ""
        )

    def covers(self, kind: str, model: str, asset: str, at_ns: int) -> bool:
        return (
            self.kind == kind
            and self.asset == asset
            and self.model in ("", model)
            and self.start_ns <= at_ns < self.end_ns
        )


class Notes:
    """All notes there are. Without a file they last as long as the process."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._seen: tuple[int, int, int] | None = None  # the file's, when it was read
        self._notes: list[Note] = []
        self.refresh()

    def __iter__(self) -> Iterator[Note]:
        return iter(self._notes)

    def refresh(self) -> None:
        """Read the file, if somebody else has changed it. A file that is spoilt is set aside."""
        if self._file is None:
            return
        try:
            stat = self._file.stat()
        except OSError:
            return
        mark = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if mark == self._seen:
            return
        self._seen = mark
        try:
            if stat.st_size > FILE_BYTES_MAX:
                raise ValueError(f"it is larger than {FILE_BYTES_MAX} bytes")  # noqa: TRY301 - told like the rest
            known = {f.name for f in fields(Note)}
            said = json.loads(self._file.read_text("utf-8"))
            notes = [Note(**{k: v for k, v in entry.items() if k in known}) for entry in said]
            if not all(note.is_valid() for note in notes):
                raise ValueError("it has what no note has")  # noqa: TRY301
            self._notes = notes[-NOTES_MAX:]
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            aside = self._file.with_suffix(".spoilt")
            log.error("model.notes_spoilt file=%s kept_as=%s error=%s", self._file, aside, error)  # noqa: TRY400 - the words are enough
            try:
                self._file.replace(aside)
            except OSError:
                log.warning("model.notes_not_set_aside file=%s", self._file)

    # --- to say something ------------------------------------------------------------------------

    def acknowledge(
        self,
        model: str,
        asset: str,
        start_ns: int,
        end_ns: int,
        *,
        now_ns: int,
        by: str = "",
        words: str = "",
        verdict: str = "",
    ) -> Note:
        """An event is seen, and perhaps judged; said anew it replaces what was said before."""
        note = Note(
            kind="acknowledge",
            model=model,
            asset=asset,
            start_ns=start_ns,
            end_ns=max(start_ns, end_ns),
            at_ns=now_ns,
            by=by[:WORDS_CHARS_MAX],
            words=words[:WORDS_CHARS_MAX],
            verdict=verdict,
        )

        def change(notes: list[Note]) -> list[Note]:
            return [n for n in notes if not _is_of(n, model, asset, start_ns)] + [note]

        return self._add(note, change)

    def begin(
        self,
        kind: str,
        asset: str,
        *,
        now_ns: int,
        until_ns: int = FOREVER_NS,
        model: str = "",
        by: str = "",
        words: str = "",
    ) -> Note:
        """A snooze or maintenance from now on; one that holds already ends now."""
        note = Note(
            kind=kind,
            model=model,
            asset=asset,
            start_ns=now_ns,
            end_ns=until_ns,
            at_ns=now_ns,
            by=by[:WORDS_CHARS_MAX],
            words=words[:WORDS_CHARS_MAX],
        )
        return self._add(note, lambda notes: [*_ended(notes, kind, model, asset, now_ns), note])

    def end(self, kind: str, asset: str, *, now_ns: int, model: str = "") -> None:
        """A snooze or maintenance ends now; raises SluicegateError when there is none."""
        if not any(note.covers(kind, model, asset, now_ns) for note in self._notes):
            raise SluicegateError(f"there is no {kind} of {asset}", hint="there is nothing to end")
        self._change(lambda notes: _ended(notes, kind, model, asset, now_ns))

    # --- what was said ----------------------------------------------------------------------------

    def of_event(self, model: str, asset: str, start_ns: int) -> Note | None:
        """The acknowledgement of an event, if there is one."""
        for note in reversed(self._notes):
            if _is_of(note, model, asset, start_ns):
                return note
        return None

    def state_of(self, model: str, asset: str, now_ns: int) -> str:
        """What the operator says of an asset now: "maintenance", "snoozed" or nothing."""
        if not self._notes:
            return ""
        for kind, word in (("maintenance", "maintenance"), ("snooze", "snoozed")):
            if any(note.covers(kind, model, asset, now_ns) for note in self._notes):
                return word
        return ""

    def normal_spans(self, asset: str) -> list[tuple[int, int]]:
        """Times (start_ns, end_ns) of an asset's events that somebody called normal.

        A fit may learn from them, though the model of that time alarmed.
        """
        return self._spans(asset, lambda note: note.verdict == "normal")

    def excluded_spans(self, asset: str) -> list[tuple[int, int]]:
        """Times of an asset that no fit may learn from: maintenance, and events called a fault."""
        return self._spans(asset, lambda n: n.kind == "maintenance" or n.verdict == "fault")

    def _spans(self, asset: str, wanted: Callable[[Note], bool]) -> list[tuple[int, int]]:
        return sorted(
            (note.start_ns, note.end_ns)
            for note in self._notes
            if note.asset == asset and wanted(note)
        )

    # --- to keep it -------------------------------------------------------------------------------

    def _add(self, note: Note, change: Callable[[list[Note]], list[Note]]) -> Note:
        if not note.is_valid():
            raise SluicegateError(
                f"{note.kind!r} of asset {note.asset[:40]!r} cannot be noted",
                hint=f"name an asset, and one of {', '.join(filter(None, VERDICTS))} as verdict",
            )
        self._change(change)
        return note

    def _change(self, change: Callable[[list[Note]], list[Note]]) -> None:
        with _locked(self._file):
            self.refresh()
            notes = _bounded(change(list(self._notes)))
            if self._file is not None:
                self._write(self._file, notes)
            self._notes = notes

    def _write(self, file: Path, notes: Sequence[Note]) -> None:
        new = file.with_suffix(".new")
        try:
            with new.open("w", encoding="utf-8") as opened:
                json.dump([asdict(note) for note in notes], opened)
                opened.flush()
                os.fsync(opened.fileno())
            give_to_owner(new)
            new.replace(file)
            folder = os.open(file.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            stat = file.stat()
        except OSError as error:
            raise SluicegateError(
                f"the note cannot be kept: {error}", hint=f"see that {file.parent} can be written"
            ) from error
        self._seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)


def _is_of(note: Note, model: str, asset: str, start_ns: int) -> bool:
    return (note.kind, note.model, note.asset, note.start_ns) == (
        "acknowledge", model, asset, start_ns,
    )  # fmt: skip


def _ended(notes: Sequence[Note], kind: str, model: str, asset: str, now_ns: int) -> list[Note]:
    return [
        replace(note, end_ns=now_ns) if note.covers(kind, model, asset, now_ns) else note
        for note in notes
    ]


def _bounded(notes: list[Note]) -> list[Note]:
    """At most NOTES_MAX: the oldest acknowledgements without a verdict go first."""
    over = len(notes) - NOTES_MAX
    if over <= 0:
        return notes
    kept = []
    for note in notes:
        if over and (note.kind == "snooze" or (note.kind == "acknowledge" and not note.verdict)):
            over -= 1
        else:
            kept.append(note)
    if over:
        raise NotesFull(f"there are {NOTES_MAX} notes", hint="remove old ones from notes.json")
    return kept


@contextmanager
def _locked(file: Path | None) -> Iterator[None]:
    """Nobody else changes the notes meanwhile."""
    if file is None:
        yield
        return
    try:
        make_folder(file.parent)
        lock = file.with_suffix(".lock").open("a")
        give_to_owner(file.with_suffix(".lock"))
    except OSError as error:
        raise SluicegateError(
            f"the note cannot be kept: {error}", hint=f"see that {file.parent} can be written"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
