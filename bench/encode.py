"""What encoding costs, beside influxdb-client's Point: `python -m bench.encode`.

Ten assets of ten float tags each, at one time (a scan) and at fifty (a batch from the spool).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from influxdb_client import Point, WritePrecision

from gateway.frame import Frame
from gateway.sinks.lineprotocol import LineEncoder
from gateway.tag import Tag, TagTable

ASSETS, FIELDS = 10, 10


def main() -> None:
    """Print microseconds of CPU a sample for both."""
    table = TagTable()
    for asset in range(ASSETS):
        for field in range(FIELDS):
            table.add(
                Tag(
                    name=f"pump-{asset}.f{field}",
                    asset=f"pump-{asset}",
                    asset_class="pump",
                    field=f"f{field}",
                    measurement="pump",
                    labels=(("asset", f"pump-{asset}"), ("gateway", "line1"), ("site", "plant")),
                )
            )
    encoder = LineEncoder(table)
    rng = np.random.default_rng(1)
    ids = np.arange(len(table), dtype=np.int32)
    scans = [
        Frame.of((1_700_000_000 + i) * 10**9, ids, rng.normal(50, 5, len(ids)).round(3))
        for i in range(50)
    ]
    for name, frame in (("one scan", scans[0]), ("fifty scans", Frame.concatenate(scans))):
        ours = _cost(lambda frame=frame: encoder.encode(frame), len(frame))
        theirs = _cost(lambda frame=frame: _points(table, frame), len(frame))
        print(f"{name:12s} {len(frame):5d} samples  ours {ours:.2f} us a sample", end="  ")
        print(f"influxdb-client {theirs:.2f} us  ratio {theirs / ours:.1f}")


def _points(table: TagTable, frame: Frame) -> str:
    """The same points by influxdb-client."""
    lines = []
    for start in range(0, len(frame), FIELDS):
        first = table[int(frame.tag_ids[start])]
        point = Point(first.measurement)
        for key, value in first.labels:
            point.tag(key, value)
        for row in range(start, start + FIELDS):
            point.field(table[int(frame.tag_ids[row])].field, float(frame.values[row]))
        point.field("quality", 0).time(int(frame.t_ns[start]), WritePrecision.NS)
        lines.append(point.to_line_protocol())
    return "\n".join(lines)


def _cost(work: Callable[[], object], samples: int) -> float:
    work()
    runs = max(3, 100_000 // samples)
    began_s = time.process_time()
    for _ in range(runs):
        work()
    return (time.process_time() - began_s) / runs / samples * 1e6


if __name__ == "__main__":
    main()
