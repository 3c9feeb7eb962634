"""One record is one line, whatever is in it; foreign text is bounded and inert."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ops.logs import VALUE_BYTES_MAX, KeyValueFormatter, quote, setup_logging


def line(
    message: str, *arguments: object, level: int = logging.WARNING, journal: bool = True,
    name: str = "gateway.sources.supervise", exc_info: object = None,
) -> str:  # fmt: skip
    record = logging.LogRecord(name, level, "f.py", 1, message, arguments, exc_info)  # type: ignore[arg-type] - as logging itself passes it
    return KeyValueFormatter(journal=journal).format(record)


def test_plain_values_stand_as_they_are() -> None:
    text = line("source.lost source=%s attempt=%d retry_in_s=%.1f", "press-plc", 3, 4.13)
    assert text == "<4>source.lost source=press-plc attempt=3 retry_in_s=4.1"


def test_values_with_spaces_are_quoted() -> None:
    text = line("source.lost error=%s", ConnectionError("connection refused"))
    assert text == '<4>source.lost error="connection refused"'


def test_a_hostile_topic_cannot_forge_a_line_or_a_key() -> None:
    hostile = 'a\n<0>gateway.stopped\x1b[2J level=ERROR "x" \u202e\u2028 b\\'
    text = line("mqtt.rejected topic=%s", hostile)
    assert text == (
        '<4>mqtt.rejected topic="a\\n<0>gateway.stopped\\u001b[2J level=ERROR'
        ' \\"x\\" \\u202e\\u2028 b\\\\"'
    )


@pytest.mark.parametrize(
    ("level", "severity"),
    [("CRITICAL", 2), ("ERROR", 3), ("WARNING", 4), ("INFO", 6), ("DEBUG", 7)],
)
def test_journald_gets_the_severity(level: str, severity: int) -> None:
    assert line("x.y", level=getattr(logging, level)).startswith(f"<{severity}>x.y")


def test_elsewhere_a_line_has_time_and_level() -> None:
    text = line("gateway.ready tags=%d", 5, level=logging.INFO, journal=False)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO gateway.ready tags=5", text)


def test_a_traceback_stays_in_the_line() -> None:
    try:
        int("first\nsecond")
    except ValueError:
        text = line("pipeline.turn_failed samples=%d", 7, exc_info=sys.exc_info())
    assert "\n" not in text
    assert text.startswith('<4>pipeline.turn_failed samples=7 error="ValueError(')
    assert 'int(\\"first\\\\nsecond\\")' in text


def test_other_libraries_prose_is_one_value() -> None:
    text = line("Task %r was\ndestroyed", "t", name="asyncio")
    assert text == "<4>log logger=asyncio message=\"Task 't' was\\ndestroyed\""


@given(
    st.text(max_size=600) | st.text(alphabet='a\n\x00\x7f\x9b\u202e\ud800é😀"\\ =', max_size=300)
)
def test_no_text_breaks_out_of_its_quotes(text: str) -> None:
    quoted = quote(text)
    for character in quoted:
        assert unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
    quoted.encode()  # no lone surrogate is left
    if not quoted.startswith('"'):
        assert quoted == text
        assert not set(quoted) & set(' ="\\')
        return
    assert quoted.endswith('"')
    assert len(quoted) >= 2
    # Every quote inside has an odd number of backslashes before it.
    inside = re.sub(r"\\(.)", "", quoted[1:-1], flags=re.DOTALL)
    assert '"' not in inside
    assert "\\" not in inside


@given(st.text(min_size=1, max_size=2000))
def test_foreign_text_is_bounded(text: str) -> None:
    printable = "".join(c for c in text if c.isprintable() and c not in '"\\') or "x"
    kept = quote(printable * 10).strip('"')
    assert len(kept.encode()) <= VALUE_BYTES_MAX
    if len((printable * 10).encode()) > VALUE_BYTES_MAX:
        assert kept.endswith("...")


@pytest.mark.usefixtures("restore_logging")
def test_set_up_logging_writes_to_the_stream_it_is_given() -> None:
    stream = io.StringIO()
    setup_logging("warning", stream)
    logging.getLogger("gateway.x").info("x.hidden")
    logging.getLogger("gateway.x").warning("x.seen value=%s", "a b")
    assert re.fullmatch(r'\S+ WARNING x\.seen value="a b"\n', stream.getvalue())


@pytest.mark.parametrize("is_journal", [True, False])
def test_the_journal_is_known_by_its_device_and_inode(is_journal: bool) -> None:
    """A process whose $JOURNAL_STREAM is its stderr writes severities, another one times."""
    program = (
        "import os, logging; from gateway.ops.logs import setup_logging\n"
        "s = os.fstat(2)\n"
        f"os.environ['JOURNAL_STREAM'] = f'{{s.st_dev}}:{{s.st_ino + (not {is_journal})}}'\n"
        "setup_logging('info'); logging.getLogger('gateway').info('gateway.ready')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    expected = r"<6>gateway\.ready\n" if is_journal else r"\S+Z INFO gateway\.ready\n"
    assert re.fullmatch(expected, done.stderr), done.stderr
