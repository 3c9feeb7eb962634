"""Inference: rings of recent samples, one batched model run a tick, scores, events."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ModelStats"]


@dataclass(slots=True)
class ModelStats:
    """What an operator wants to know of one model. Counters only rise."""

    active: bool = False
    state: str = "invalid"  # "running", "quarantined" after failures, "invalid": not loaded
    version: str = ""  # of the bundle at work
    signed_by: str = ""  # public key; empty when nobody signed it
    assets: int = 0
    windows_total: int = 0
    windows_unknown_total: int = 0  # too little good data to score
    windows_gated_total: int = 0  # of these, because a sensor cannot be believed
    sensor_faults: int = 0  # assets with a sensor event open
    sensor_faults_total: int = 0
    samples_late_total: int = 0  # too old when they came to count as the present
    runs_total: int = 0
    runs_failed_total: int = 0
    run_ms_last: float = 0.0
    drifting: int = 0  # assets whose healthy input does not look like the fitting's
    refits_due: int = 0  # of these, where several inputs have shifted: the process has changed
    shadow_version: str = ""  # of the bundle that is tried beside it
    standby_version: str = ""  # of the bundle before, while it can be gone back to at once
    shadow_windows_total: int = 0  # scored by both
    shadow_agreed_total: int = 0  # of these, both or neither alarmed
    shadow_events_total: int = 0  # that the shadow would have opened
    shadow_error: str = ""  # why it is not promoted, or is gone
    is_aside: bool = False  # it runs in a process of its own
    events_open: int = 0
    events_total: int = 0
    events_waiting: int = 0  # open, and no operator has said anything of them
    error_last: str = ""
