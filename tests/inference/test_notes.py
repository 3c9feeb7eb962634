from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import SluicegateError
from gateway.inference import notes as notes_module
from gateway.inference.notes import FOREVER_NS, Note, Notes, NotesFull


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "models" / "notes.json"


def test_what_was_said_survives_and_another_process_sees_it(file: Path) -> None:
    ours, theirs = Notes(file), Notes(file)
    ours.acknowledge("m", "p", 100, 200, now_ns=300, by="kim", words="a leaf", verdict="normal")
    assert theirs.of_event("m", "p", 100) is None
    theirs.refresh()
    note = theirs.of_event("m", "p", 100)
    assert note is not None
    assert (note.by, note.words, note.verdict) == ("kim", "a leaf", "normal")
    assert list(Notes(file)) == list(ours)


def test_said_anew_it_replaces_what_was_said_before(file: Path) -> None:
    notes = Notes(file)
    notes.acknowledge("m", "p", 100, 150, now_ns=150)
    notes.acknowledge("m", "p", 100, 200, now_ns=300, verdict="fault")
    assert [(n.verdict, n.end_ns) for n in notes] == [("fault", 200)]


def test_a_snooze_ends_at_its_time_and_maintenance_when_it_is_said(file: Path) -> None:
    notes = Notes(file)
    notes.begin("snooze", "p", now_ns=100, until_ns=200)
    notes.begin("maintenance", "q", model="m", now_ns=100)
    assert [notes.state_of("m", "p", t) for t in (99, 100, 199, 200)] == [
        "",
        "snoozed",
        "snoozed",
        "",
    ]
    assert notes.state_of("m", "q", FOREVER_NS - 1) == "maintenance"
    assert notes.state_of("other", "q", 150) == ""
    notes.end("maintenance", "q", model="m", now_ns=500)
    assert notes.state_of("m", "q", 500) == ""
    with pytest.raises(SluicegateError, match="no maintenance of q"):
        notes.end("maintenance", "q", model="m", now_ns=600)


def test_later_fits_learn_from_what_was_normal_and_not_from_work_and_faults(file: Path) -> None:
    notes = Notes(file)
    notes.acknowledge("m", "p", 100, 200, now_ns=300, verdict="normal")
    notes.acknowledge("m", "p", 400, 500, now_ns=600, verdict="fault")
    notes.acknowledge("m", "p", 700, 800, now_ns=900)
    notes.acknowledge("m", "q", 100, 200, now_ns=300, verdict="fault")
    notes.begin("maintenance", "p", now_ns=1000, until_ns=1100)
    assert notes.normal_spans("p") == [(100, 200)]
    assert notes.excluded_spans("p") == [(400, 500), (1000, 1100)]


def test_two_that_speak_at_once_are_both_heard(file: Path) -> None:
    def speak(name: str) -> None:
        notes = Notes(file)
        for i in range(25):
            notes.acknowledge("m", name, i, i, now_ns=i)

    threads = [threading.Thread(target=speak, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(Notes(file))) == 100


def test_it_is_bounded_and_what_a_fit_needs_stays_longest(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes_module, "NOTES_MAX", 5)
    notes = Notes(file)
    notes.acknowledge("m", "p", 0, 0, now_ns=0, verdict="normal")
    for i in range(1, 20):
        notes.acknowledge("m", "p", i, i, now_ns=i)
    assert [n.start_ns for n in notes] == [0, 16, 17, 18, 19]
    for i in range(20, 24):
        notes.acknowledge("m", "p", i, i, now_ns=i, verdict="fault")
    with pytest.raises(NotesFull):
        notes.acknowledge("m", "p", 99, 99, now_ns=99, verdict="fault")


@given(
    st.binary(max_size=200) | st.text(max_size=80).map(lambda t: f'[{{"kind": "{t}"}}]'.encode())
)
def test_a_spoilt_file_is_set_aside_and_said(content: bytes) -> None:
    import tempfile  # noqa: PLC0415 - one a case

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "notes.json"
        file.write_bytes(content)
        notes = Notes(file)
        assert list(notes) == []
        notes.acknowledge("m", "p", 1, 2, now_ns=3)
        assert len(list(Notes(file))) == 1


def test_what_is_no_note_is_refused(file: Path) -> None:
    notes = Notes(file)
    with pytest.raises(SluicegateError, match="cannot be noted"):
        notes.begin("nap", "p", now_ns=1)
    with pytest.raises(SluicegateError, match="cannot be noted"):
        notes.acknowledge("m", "", 1, 2, now_ns=3)
    with pytest.raises(SluicegateError, match="normal"):
        notes.acknowledge("m", "p", 1, 2, now_ns=3, verdict="perhaps")
    assert not Note(kind="snooze", asset="p", start_ns=-1).is_valid()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(SluicegateError, match="cannot be kept"):
        Notes(tmp_path / "models" / "notes.json").begin("snooze", "p", now_ns=1, until_ns=2)
