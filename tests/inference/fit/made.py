"""A fitted model with something of everything in it, for what tells of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gateway.inference.fit import FitSettings, Fitted, Recording, fit
from gateway.inference.fit.fit import Calibration, Detector, Injection, State, Stretch

__all__ = ["SECOND", "START_NS", "full", "recording"]

SECOND = 10**9
START_NS = 1_769_860_800 * SECOND
FIELDS = ("flow", "pressure", "vibration")


def recording(asset: str = "pump-7", n: int = 7200, fields: tuple[str, ...] = FIELDS) -> Recording:
    random = np.random.default_rng(len(asset))
    phase = np.arange(n) / 300
    values = np.stack([30 + 5 * np.sin(phase + i) for i in range(len(fields))], axis=1)
    values += random.normal(size=values.shape) / 4
    usable = np.ones(values.shape, np.bool_)
    usable[n // 2 : n // 2 + 90, -1] = False
    return Recording(
        asset=asset, fields=fields, eng_units=("m³/h", "bar", "mm/s")[: len(fields)], period_s=1.0,
        t_ns=START_NS + np.arange(n, dtype=np.int64) * SECOND, values=values, usable=usable,
    )  # fmt: skip


def full(recordings: list[Recording]) -> Fitted:
    """The fit of some recordings, with faults, stretches and states made up around it."""
    fitted = fit(recordings, FitSettings())
    random = np.random.default_rng(1)
    fields = fitted.fields
    injections = [
        Injection(
            kind=kind, field=field, size=size, caught=(caught := random.random() < size / 6),
            delay_s=float(random.integers(3, 90)) if caught else float("nan"),
            blamed=field if caught and random.random() < 0.8 else fields[0] if caught else "",
        )
        for kind in ("step", "drift", "noise", "swap")
        for field in fields
        for size in (1.0, 2.0, 4.0)
        for _ in range(5)
    ]  # fmt: skip
    asset, start_ns = recordings[0].asset, int(recordings[0].t_ns[0])
    at = [start_ns + s * SECOND for s in (900, 1400, 3600, 3690, 5000, 5020)]
    histories = [
        replace(
            history,
            scores=np.where(
                (history.t_ns > at[0]) & (history.t_ns < at[1]), history.scores * 9, history.scores
            ).astype(np.float32),
            learned=~((history.t_ns > at[0]) & (history.t_ns < at[1])),
        )
        for history in fitted.histories
    ]
    return replace(
        fitted,
        injections=tuple(injections),
        histories=tuple(histories),
        stretches=(
            Stretch(asset=asset, field="", start_ns=at[0], end_ns=at[1], reason="unusual"),
            Stretch(asset=asset, field=fields[-1], start_ns=at[2], end_ns=at[3], reason="missing"),
            Stretch(asset=asset, field=fields[0], start_ns=at[4], end_ns=at[5], reason="stuck"),
        ),
        states=(
            State(name="running", share=0.8, levels=tuple(30.0 + i for i in range(len(fields)))),
            State(name="idle", share=0.2, levels=tuple(0.1 for _ in fields)),
        ),
        detectors=(
            Detector(name="levels", looks_at="means of the window", criterion=0.7, used=True),
            Detector(name="patches", looks_at="shape of the window", criterion=0.4, used=False),
        ),
        calibration=Calibration(
            wanted_per_day=1 / 7, expected_per_day=0.12, low_per_day=0.01, high_per_day=2.3,
            confidence=0.9, healthy_s=2400.0, in_words="About one false alarm a week is expected.",
        ),
    )  # fmt: skip
