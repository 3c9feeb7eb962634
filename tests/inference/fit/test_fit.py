from __future__ import annotations

import numpy as np
import pytest

from gateway.inference.fit import FitError, FitSettings, Recording, fit, parse_rate
from gateway.inference.fit.fit import Scorer
from gateway.inference.onnx_wire import objections


def recording(values: np.ndarray, asset: str = "a", period_s: float = 1.0) -> Recording:
    n, features = values.shape
    return Recording(
        asset=asset,
        fields=tuple(f"f{k}" for k in range(features)),
        eng_units=("",) * features,
        period_s=period_s,
        t_ns=1_700_000_000 * 10**9 + np.arange(n) * round(period_s * 1e9),
        values=values,
        usable=np.ones((n, features), np.bool_),
    )


def test_the_model_is_one_graph_of_allowed_operators_and_scores_its_golden_windows() -> None:
    rng = np.random.default_rng(1)
    fitted = fit([recording(rng.normal(size=(600, 4)))], FitSettings())
    assert objections(fitted.model) == []
    assert fitted.golden_windows.shape[1:] == (fitted.window, 4)
    scores, _ = Scorer(fitted.model, fitted.window, 4)(fitted.golden_windows)
    np.testing.assert_allclose(scores, fitted.golden_scores, rtol=1e-4)


def test_a_rate_is_read_as_users_write_it() -> None:
    assert parse_rate("1/week") == pytest.approx(1 / 7)
    assert parse_rate("2 / day") == 2
    with pytest.raises(ValueError, match="1/week"):
        parse_rate("weekly")


def test_recordings_that_do_not_agree_are_refused_with_what_differs() -> None:
    rng = np.random.default_rng(1)
    one, two = (recording(rng.normal(size=(600, n)), a) for n, a in ((4, "a"), (3, "b")))
    with pytest.raises(FitError, match="fields of 'b'"):
        fit([one, two], FitSettings())
