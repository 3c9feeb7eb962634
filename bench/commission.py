"""What commissioning costs: time and memory on one core, and the size of what it makes.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m bench.commission [--tags 8] [--hours 24]

A machine of so many tags at 1 Hz, some hours of it; each tag follows three hidden states with
curves, noise and drift. One process a figure, so that peaks do not mix.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from gateway.inference.fit import FitSettings, Recording, fit


def machine(rows: int, tags: int, seed: int = 0) -> np.ndarray:
    """(rows, tags) of a machine that moves between operating points."""
    random = np.random.default_rng(seed)
    points = random.uniform(-1, 1, (rows // 600 + 2, 3))
    hidden = np.repeat(points, 600, axis=0)[:rows]
    kernel = np.exp(-np.arange(60) / 15)
    hidden = np.stack([np.convolve(h, kernel / kernel.sum())[:rows] for h in hidden.T], axis=1)
    values = hidden @ random.normal(size=(3, tags)) + hidden**2 @ random.normal(size=(3, tags))
    drift = np.cumsum(random.normal(size=(rows, tags)), axis=0) * 1e-4
    return 50 + 10 * (values + drift + 0.05 * random.normal(size=(rows, tags)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tags", type=int, default=8)
    parser.add_argument("--hours", type=float, default=24.0)
    args = parser.parse_args()
    values = machine(round(args.hours * 3600), args.tags)
    recording = Recording(
        asset="machine",
        fields=tuple(f"tag{k}" for k in range(args.tags)),
        eng_units=("",) * args.tags,
        period_s=1.0,
        t_ns=np.arange(len(values), dtype=np.int64) * 10**9,
        values=values,
        usable=np.ones(values.shape, np.bool_),
    )
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    fitted = fit([recording], FitSettings())
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(
        f"{args.tags} tags x {args.hours:g} h at 1 Hz: {took_s:.1f} s ({cpu_s:.1f} s of CPU),"
        f" peak RSS {peak_mb:.0f} MB, model {len(fitted.model) / 1e3:.0f} kB"
    )
    print(fitted.calibration.in_words)


if __name__ == "__main__":
    main()
