r"""Logs: one line a record, `event key=value key=value`, that journald and grep keep well.

A message is written as `log.warning("source.connect_failed source=%s error=%s", name, error)`.
The arguments may hold anything a peer sent: each is limited to 255 bytes, and quoted, with
control characters escaped, wherever it is not a plain word. So a topic with a newline can
neither forge a line nor move the terminal's cursor.

    <4>source.connect_failed source=press-plc attempt=3 error="connection refused"
    2026-01-31T12:00:00.123Z WARNING source.connect_failed source=press-plc attempt=3 ...
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

__all__ = ["KeyValueFormatter", "quote", "setup_logging"]

VALUE_BYTES_MAX = 255
# A whole traceback of nested groups; the end of it is the part that says where.
TRACEBACK_CHARS_MAX = 8000

_PLAIN = re.compile(r"[\w./:@%+,#*()\[\]{}<>!?;&|~^-]+", re.ASCII)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}
# syslog(3) severities, which journald reads from "<n>" in front of a line.
_SEVERITY = {"CRITICAL": 2, "ERROR": 3, "WARNING": 4, "INFO": 6, "DEBUG": 7}


def setup_logging(level: str, stream: TextIO | None = None) -> None:
    """Send every logger's records to standard error."""
    stream = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(stream)
    handler.setFormatter(KeyValueFormatter(journal=_is_journal(stream, os.environ)))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    # Libraries speak of every socket at DEBUG and INFO; what we do about it we say ourselves.
    for name in ("aiohttp", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


def quote(value: object, bytes_max: int = VALUE_BYTES_MAX) -> str:
    """A value as it may stand in a line: plain, or quoted and escaped; cut when it is long."""
    text = str(value)
    encoded = text[: bytes_max + 1].encode("utf-8", "backslashreplace")
    if len(encoded) > bytes_max:
        text = encoded[: bytes_max - 3].decode("utf-8", "ignore") + "..."
    if _PLAIN.fullmatch(text):
        return text
    return '"' + "".join(map(_escape, text)) + '"'


def _escape(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    if character.isprintable():
        return character
    # Control characters, line separators, bidirectional marks, lone surrogates.
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class KeyValueFormatter(logging.Formatter):
    """A record as one line."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """The line; never raises for what is in the record's arguments."""
        line = self._head(record) + self._message(record)
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            trace = "".join(traceback.format_exception(error))[-TRACEBACK_CHARS_MAX:]
            line += f" error={quote(repr(error))}"
            line += f" traceback={quote(trace, TRACEBACK_CHARS_MAX * 4)}"
        return line

    def _head(self, record: logging.LogRecord) -> str:
        if self._journal:
            return f"<{_SEVERITY.get(record.levelname, 6)}>"
        moment = datetime.fromtimestamp(record.created, UTC)
        return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z {record.levelname} "

    def _message(self, record: logging.LogRecord) -> str:
        if record.name.partition(".")[0] not in ("gateway", "simulators"):
            # Someone else's prose.
            return f"log logger={quote(record.name)} message={quote(record.getMessage())}"
        arguments = record.args
        if not arguments:
            return record.getMessage()
        assert not isinstance(arguments, Mapping)
        return str(record.msg) % tuple(
            value if isinstance(value, (int, float)) else quote(value) for value in arguments
        )


def _is_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether a stream goes to journald: $JOURNAL_STREAM is its device:inode (systemd.exec(5))."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
