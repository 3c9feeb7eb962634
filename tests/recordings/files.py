"""Recordings read back as rows that a test can name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.errors import RecordingInvalid
from gateway.recordings import Reader, RecordingOptions
from gateway.tag import Quality, Tag, TagTable
from tests.samples import make_tag

Row = tuple[int, str, float, int]


def naming(asset: str, name: str, eng_unit: str) -> Tag:
    return make_tag(f"{asset}.{name}", asset=asset, field=name, eng_unit=eng_unit)


def reader_of(path: Path, content: str | bytes = "", **options: Any) -> Reader:
    if content:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return Reader(path, TagTable(), naming, RecordingOptions(**options))


def rows_of(reader: Reader) -> list[Row]:
    """(seconds, tag, value or -1 where it is not usable, quality), as they come."""
    table = reader.table
    return [
        (int(t_ns) // 10**9, table[int(i)].name, -1.0 if q >= Quality.BAD else float(value), int(q))
        for frame in reader.frames()
        for t_ns, i, value, q in zip(
            frame.t_ns, frame.tag_ids, frame.values, frame.quality, strict=True
        )
    ]


def refusal(path: Path, content: str | bytes = "", **options: Any) -> str:
    """The words with which a recording is refused."""
    with pytest.raises(RecordingInvalid) as refused:
        rows_of(reader_of(path, content, **options))
    assert refused.value.problems[0].file == str(path)
    assert refused.value.problems[0].mend
    return str(refused.value)
