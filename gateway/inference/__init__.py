"""Inference: rings of recent samples, one batched model run a tick, scores, events."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ModelStats"]


@dataclass(slots=True)
class ModelStats:
    """What an operator wants to know of one model. Counters only rise."""

    active: bool = False
    assets: int = 0
    windows_total: int = 0
    windows_unknown_total: int = 0  # too little good data to score
    runs_total: int = 0
    runs_failed_total: int = 0
    run_ms_last: float = 0.0
    events_open: int = 0
    events_total: int = 0
    error_last: str = ""
