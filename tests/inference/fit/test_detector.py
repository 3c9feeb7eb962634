"""The graph computes what was fitted."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.inference.fit import FitSettings, Recording, fit
from gateway.inference.fit.detector import Detector, Kind, export
from gateway.inference.fit.fit import Scorer
from gateway.inference.fit.learn import Spans, learn
from gateway.inference.fit.windows import Run, level_of, statistics

SCALES = ((16, 4), (32, 8))


def machine(rows: int, tags: int, seed: int = 0) -> np.ndarray:
    """Tags that follow two hidden ones, one of them by its square; noise; large offsets."""
    random = np.random.default_rng(seed)
    hidden = np.cumsum(random.normal(size=(rows, 2)) * 0.1, axis=0)
    hidden -= np.linspace(0, 1, rows)[:, np.newaxis] * hidden[-1]
    mixed = hidden @ random.normal(size=(2, tags))
    mixed[:, 0] += 0.3 * hidden[:, 0] ** 2
    values = 1000.0 + 5 * mixed + random.normal(size=(rows, tags))
    return values.astype(np.float32).astype(np.float64)


def learned(
    values: np.ndarray,
    scales: tuple[tuple[int, int], ...] = SCALES,
    lags: tuple[int, ...] = (),
) -> Detector:
    spans = Spans(period_s=1.0, scales=scales, lags=lags, false_alarms_per_day=1.0)
    return learn([Run(0, 0, values)], spans).detector


def expected(detector: Detector, values: np.ndarray) -> np.ndarray:
    z = detector.scaled(values)
    found = []
    for scale in detector.scales:
        ratios = scale.ratios(scale.answers(scale.statistics(z)))
        found.append(ratios[detector.window - scale.rows :].max(axis=1))
    return np.max(found, axis=0)


@pytest.mark.parametrize(
    ("rows", "tags", "scales", "lags"),
    [
        (400, 5, SCALES, ()),  # straight lines through rows
        (4000, 16, SCALES, ()),  # through levels and slopes
        (12_000, 4, SCALES, ()),  # curves
        (12_000, 4, SCALES, (1, 4)),  # and bands
        (400, 1, SCALES, ()),  # nothing to relate
        (600, 3, ((20, 5),), (1,)),
    ],
)
def test_the_graph_scores_what_was_fitted(
    rows: int, tags: int, scales: tuple[tuple[int, int], ...], lags: tuple[int, ...]
) -> None:
    detector = learned(machine(rows, tags), scales, lags)
    other = machine(500, tags, seed=1)
    other[300:, 0] += 40  # some of it far off
    scores, _ = Scorer(export(detector), detector.window, tags).over(other)
    wanted = expected(detector, other)
    assert wanted.max() > 1
    np.testing.assert_allclose(scores, wanted, rtol=2e-3, atol=2e-3)


def test_a_row_scores_the_same_alone_and_among_others() -> None:
    detector = learned(machine(2000, 4))
    scorer = Scorer(export(detector), detector.window, 4)
    values = machine(300, 4, seed=2)
    together, _ = scorer.over(values)
    alone = np.concatenate([scorer.over(values[k : k + 32])[0] for k in range(100)])
    assert np.array_equal(together[:100], alone)


def test_the_same_recording_gives_the_same_bytes() -> None:
    values = machine(1500, 4)
    assert export(learned(values)) == export(learned(values))


def test_values_beyond_all_measure_give_a_finite_score() -> None:
    detector = learned(machine(800, 3))
    values = machine(100, 3, seed=3)
    values[50:, 1] = 3e38
    scores, shares = Scorer(export(detector), detector.window, 3).over(values)
    assert np.isfinite(scores).all()
    assert np.isfinite(shares).all()
    assert scores[-1] > 1
    assert int(np.argmax(shares[-1])) == 1


def test_a_level_follows_a_step_at_once_and_noise_hardly() -> None:
    random = np.random.default_rng(0)
    z = random.normal(size=(400, 1))
    z[200:] += 8
    found = statistics(z, 32, 8)
    chance = np.array([2 * (found.fast - found.slow)[:150].std()])
    level = level_of(found.slow, found.fast, chance)[:, 0]
    assert level[:160].std() < found.fast[:160].std() / 1.5
    at = 200 - 31
    assert level[at + 8] > 6  # the mean of 32 is a quarter of the way
    assert found.slow[at + 8, 0] < 3


def test_a_tag_that_drifts_gets_a_wide_limit_and_one_that_does_not_a_tight_one() -> None:
    random = np.random.default_rng(4)
    values = np.stack([random.normal(size=400), np.cumsum(random.normal(size=400)) * 0.1], axis=1)
    scale = learned(values, ((16, 4),)).scales[0]
    limits = scale.limit_high[:2]
    assert scale.kinds[:2] == (Kind.LEVEL, Kind.LEVEL)
    assert limits[0] < 3
    assert limits[1] > 5 * limits[0]


def test_a_vibration_that_moves_to_another_band_is_seen_where_the_rate_allows() -> None:
    random = np.random.default_rng(0)
    t = np.arange(12_000) / 10  # 10 Hz

    def shaking(hertz: float, rows: int) -> np.ndarray:
        wave = np.sin(2 * np.pi * hertz * t[:rows] + random.uniform(0, 6))
        return (wave + 0.2 * random.normal(size=rows))[:, np.newaxis]

    history = Recording(
        asset="a",
        fields=("vibration",),
        eng_units=("mm/s",),
        period_s=0.1,
        t_ns=np.arange(12_000) * 10**8,
        values=shaking(0.5, 12_000),
        usable=np.ones((12_000, 1), np.bool_),
    )
    fitted = fit([history], FitSettings())
    scorer = Scorer(fitted.model, fitted.window, 1)
    assert scorer.over(shaking(0.5, 2000))[0].max() < 1
    assert scorer.over(shaking(1.5, 2000))[0].min() > 1  # as strong, but faster
