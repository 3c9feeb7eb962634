"""Recording: one asset's history as the engine would have seen it, ready to be learned from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gateway.frame import BoolArray, FloatArray, TimeArray

__all__ = ["Recording"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recording:
    """n ticks of one asset, resampled by sample and hold to the model's period.

    A break in time is a row whose `t_ns` is later than one period after the one before it; no
    window spans it. What is not usable may hold any value, NaN included.
    """

    asset: str
    fields: tuple[str, ...]
    eng_units: tuple[str, ...]
    period_s: float
    t_ns: TimeArray  # (n,) UTC nanoseconds, rising
    values: FloatArray  # (n, features) in engineering units
    usable: BoolArray  # (n, features) good quality, fresh
    # (n,) rows that somebody called normal: learned from, however unusual they are
    normal: BoolArray | None = None

    def __post_init__(self) -> None:
        assert len(self.fields) == len(self.eng_units) == self.values.shape[1]
        assert self.values.shape == self.usable.shape == (len(self.t_ns), len(self.fields))
        assert self.normal is None or self.normal.shape == self.t_ns.shape
        assert self.period_s > 0
        assert len(self.t_ns) < 2 or bool(np.all(np.diff(self.t_ns) > 0))

    @property
    def span_s(self) -> float:
        """From the first tick to the end of the last."""
        if not len(self.t_ns):
            return 0.0
        return float(self.t_ns[-1] - self.t_ns[0]) / 1e9 + self.period_s
