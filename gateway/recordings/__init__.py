"""Recordings: what a plant did, read back from files (docs/formats/recordings.md).

tables   CSV or Parquet -> named columns, a chunk at a time
layout   which column is the time, a tag, a label: wide or long
reader   -> frames in the order of time, or a Problem with file, row and column
"""

from __future__ import annotations

from gateway.recordings.layout import RecordingOptions
from gateway.recordings.reader import Naming, Reader, Told

__all__ = ["Naming", "Reader", "RecordingOptions", "Told"]
