"""What the engine adds to a bare ONNX Runtime loop: rings, gathering, scores, events.

    python bench/engine.py [--bundle models/pump] [--assets 64] [--seconds 5]

Both sides run the same session options and model on the same batch, in the same process, turn by
turn: first the raw loop (input prepared once, outputs bound), then the engine from a frame of
samples to its scores. Windows a second count one window an asset and run.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import numpy as np
import psutil

from gateway.frame import EMPTY_FRAME, Frame
from gateway.inference.bundle import Manifest, load_bundle
from gateway.inference.config import ModelSettings
from gateway.inference.engine import Engine
from gateway.tag import Tag, TagTable

START_NS = 1_767_225_600 * 10**9


def rss_mb() -> float:
    return psutil.Process().memory_info().rss / 1e6


class Line:
    """An engine with all its assets, and the frames that feed it."""

    def __init__(self, folder: Path, manifest: Manifest, assets: int) -> None:
        self.table = TagTable()
        for i in range(assets):
            for feature in manifest.features:
                self.table.add(
                    Tag(
                        name=f"pump-{i}.{feature.field}",
                        asset=f"pump-{i}",
                        asset_class=manifest.asset_class,
                        field=feature.field,
                        measurement=manifest.asset_class,
                        eng_unit=feature.eng_unit,
                    )
                )
        self.engine = Engine([ModelSettings(name="bench", bundle=folder)], self.table, Path())
        ids = np.arange(assets * len(manifest.features), dtype=np.int32)
        window = np.array(manifest.golden[0].window, np.float64)
        # Without its trend: a leap from its end to its start would be an event of every asset.
        t = np.arange(len(window)) - (len(window) - 1) / 2
        level = window - np.outer(t, t @ window / (t @ t))
        self.frames = [Frame.of(0, ids, np.tile(row, assets)) for row in level]
        self.period_ns = manifest.period_ns
        self.hop = manifest.hop
        self.now_ns = START_NS
        self.periods = 0

    def run_hop(self) -> tuple[float, float]:
        """Frames and ticks of one hop: seconds of all of them, and of the tick that scores."""
        total_s, tick_s = 0.0, 0.0
        for _ in range(self.hop):
            self.periods += 1
            self.now_ns += self.period_ns
            came = self.frames[self.periods % len(self.frames)]
            frame = Frame.of(self.now_ns, came.tag_ids, came.values)
            began_s = time.perf_counter()
            self.engine.apply(EMPTY_FRAME, self.now_ns)
            ticked_s = time.perf_counter()
            self.engine.apply(frame, self.now_ns)
            total_s += time.perf_counter() - began_s
            tick_s = max(tick_s, ticked_s - began_s)
        return total_s, tick_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=Path("models/pump"))
    parser.add_argument("--assets", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    args = parser.parse_args()

    rss_start = rss_mb()
    bundle = load_bundle(args.bundle)
    rss_loaded = rss_mb()
    manifest, raw = bundle.manifest, bundle.runner
    raw.reserve(args.assets, manifest.window, len(manifest.features))
    raw.windows[: args.assets] = np.array(manifest.golden[0].window, np.float32)
    line = Line(args.bundle, manifest, args.assets)
    for _ in range(2 * manifest.window // manifest.hop + 2):
        line.run_hop()
    stats = line.engine.stats["bench"]
    rss_warm, unknown = rss_mb(), stats.windows_unknown_total

    raw_us, hop_us, tick_us, idle_us = [], [], [], []
    end_s = time.perf_counter() + args.seconds
    while time.perf_counter() < end_s:
        for _ in range(20):  # turn about, so that both see the same caches and the same clock rate
            began_s = time.perf_counter()
            raw.run()
            raw_us.append((time.perf_counter() - began_s) * 1e6)
        runs = stats.runs_total
        for _ in range(20):
            hop_s, tick_s = line.run_hop()
            hop_us.append(hop_s * 1e6)
            tick_us.append(tick_s * 1e6)
        assert stats.runs_total == runs + 20
        began_s = time.perf_counter()
        for _ in range(100):
            line.engine.apply(EMPTY_FRAME, line.now_ns + 1)
        idle_us.append((time.perf_counter() - began_s) * 1e4)
    assert stats.windows_unknown_total == unknown

    raw_run, tick, hop = median(raw_us), median(tick_us), median(hop_us)
    print(
        f"{args.bundle}: {manifest.window} samples x {len(manifest.features)}, {args.assets} assets"
    )
    for name, spent_us in (
        ("raw ONNX Runtime loop", raw_run),
        ("engine: push, gather, run, scores, events", tick),
        (f"engine: that, and {manifest.hop} periods of samples", hop),
    ):
        rate = args.assets / spent_us * 1e6
        print(f"{name:45} {spent_us:8.1f} us {rate:10,.0f} windows/s {raw_run / spent_us:5.0%}")
    print(f"{'engine: a turn with nothing due':45} {median(idle_us):8.2f} us")
    late = sorted(tick_us)
    p99_ms, worst_ms = late[len(late) * 99 // 100] / 1000, late[-1] / 1000
    print(f"from a tick to its scores: 99th percentile {p99_ms:.2f} ms, worst {worst_ms:.2f} ms")
    print(
        f"RSS: {rss_start:.0f} MB, with the model {rss_loaded:.0f}, with {args.assets} assets"
        f" {rss_warm:.0f}, after {line.periods} periods {rss_mb():.0f}:"
        f" {rss_mb() - rss_loaded:.0f} MB for the assets"
    )


if __name__ == "__main__":
    main()
