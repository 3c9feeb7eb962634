"""Commissioning: a machine's own healthy history becomes its model. Needs the `onnx` package."""

from __future__ import annotations

from gateway.inference.fit.fit import FitError, FitSettings, Fitted, fit, parse_rate
from gateway.inference.fit.recording import Recording

__all__ = ["FitError", "FitSettings", "Fitted", "Recording", "fit", "parse_rate"]
