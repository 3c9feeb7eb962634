"""Any bytes as a recording: samples in the order of time, or problems with their places."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from gateway.errors import Problem, RecordingInvalid
from gateway.recordings import Reader
from gateway.tag import Quality, Tag, TagTable

# Memory with a name: the file is written for each execution.
_FD = os.memfd_create("recording")
_FILE = Path(f"/proc/self/fd/{_FD}")


def _naming(asset: str, field: str, eng_unit: str) -> Tag:
    return Tag(
        name=f"{asset}.{field}", asset=asset, asset_class="any", field=field, measurement="any",
        eng_unit=eng_unit,
    )  # fmt: skip


def one(data: bytes) -> None:
    """The file as it is; what is taken is usable, or says that it is not."""
    os.ftruncate(_FD, 0)
    os.pwrite(_FD, data, 0)
    newest = -(2**63)
    problems: tuple[Problem, ...] = ()
    try:
        reader = Reader(_FILE, TagTable(), _naming)
        for frame in reader.frames():
            assert int(frame.t_ns[0]) >= newest
            assert (np.diff(frame.t_ns) >= 0).all()
            assert ((frame.quality >= Quality.BAD) | np.isfinite(frame.values)).all()
            newest = int(frame.t_ns[-1])
        t_ns, truths = reader.labels()
        assert len(t_ns) == len(truths)
    except RecordingInvalid as error:
        problems = error.problems
    for problem in problems:
        assert problem.place
        assert problem.found
        assert problem.mend


SEEDS = [
    b"time,pump-1.flow,pump-1.pressure\n1,1.5,2\n2,,NaN\n",
    b"time;a [m3/h];anomaly\n2026-01-31 12:00:00;1,5;0\n2026-01-31T12:00:01+01:00;2;1\n",
    b"time,tag,value,quality,eng_unit\n1769860800000,p.a,true,uncertain,bar\n",
    b"sep=;\nvalue;asset;field;time\n1;p;a;20260131T120000Z\n",
    b'\xef\xbb\xbft\ta\r\n1\t"2"\r\n',
    b"PAR1",
]  # fmt: skip
