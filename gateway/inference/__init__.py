"""Inference: rings of recent samples, one batched model run a tick, scores, events."""

from __future__ import annotations

from gateway.stats import stat, stats

__all__ = ["ModelStats"]


@stats
class ModelStats:
    """What an operator wants to know of one model. Counters only rise."""

    active: bool = stat("1 while the model gives scores", default=False)
    state: str = stat(
        "1 for what the model is: running, quarantined (it failed), invalid (not loaded), closed",
        default="invalid",
    )
    version: str = ""  # of the bundle at work
    signed_by: str = ""  # public key; empty when nobody signed it
    assets: int = stat("assets that the model watches")
    windows_total: int = stat("windows that came up for a score")
    windows_unknown_total: int = stat("windows without a score: too little good data")
    windows_gated_total: int = stat("of the windows without a score: a sensor is not believed")
    sensor_faults: int = stat("assets of which a sensor's event is open")
    sensor_faults_total: int = stat("events of sensors that were opened")
    samples_late_total: int = stat("samples that came too late to count as the present")
    runs_total: int = stat("runs of the model, each for all windows that are due")
    runs_failed_total: int = stat("runs that gave no scores")
    run_ms_last: float = stat("how long the newest run took", default=0.0)
    drifting: int = stat("assets whose healthy input does not look like the fitting's")
    refits_due: int = stat("of the drifting assets: several inputs moved, fit the model anew")
    shadow_version: str = ""  # of the bundle that is tried beside it
    standby_version: str = ""  # of the bundle before, while it can be gone back to at once
    shadow_windows_total: int = stat("windows that the shadow scored as well")
    shadow_agreed_total: int = stat("windows in which model and shadow both alarmed, or neither")
    shadow_events_total: int = stat("events that the shadow would have opened")
    shadow_error: str = ""  # why it is not promoted, or is gone
    is_aside: bool = stat("1 while the model runs in a process of its own", default=False)
    events_open: int = stat("anomaly events that are open")
    events_total: int = stat("anomaly events that were opened")
    events_waiting: int = stat("open events of which no operator has said anything")
    error_last: str = ""
