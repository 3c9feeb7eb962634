"""Report: what was learned, what it can find and what not, and how sure it is, for a person.

One HTML file with the bundle; it says as much of what is not known as of what is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

from gateway.frame import FloatArray
from gateway.inference.fit.bundling import Facts
from gateway.inference.fit.fit import Fitted, Injection, Stretch
from gateway.inference.fit.fit import History as ScoreHistory
from gateway.inference.fit.prepare import LeftOut
from gateway.inference.fit.recording import Recording
from gateway.reports.page import (
    Html,
    div,
    figure,
    figures,
    html_page,
    note,
    section,
    table,
    text,
)
from gateway.reports.svg import (
    Band,
    bars,
    grid_of_shares,
    histogram,
    interval,
    over_time,
    spark,
)
from gateway.reports.words import duration, rate, utc

__all__ = ["report_of"]

ASSETS_SHOWN_MAX = 8
STRETCHES_SHOWN_MAX = 25
# The share of the highest scores that "what raised the score" is made of.
HIGHEST_SHARE = 0.01
NOTHING = "-"


def report_of(
    fitted: Fitted,
    facts: Facts,
    recordings: Sequence[Recording],
    left_out: Sequence[LeftOut] = (),
    signed_by: str = "",
) -> str:
    """The text of report.html."""
    what = f"Anomaly model for assets of class {facts.asset_class}, version {facts.version}."
    lead = [
        f"{what} {facts.provenance.get('fitted_by', '')}.",
        f"Signed with the key {signed_by}." if signed_by else "Not signed.",
    ]
    parts = [
        _summary(fitted, recordings),
        _scores(fitted),
        _faults(fitted),
        _calibration(fitted),
        _dropped(fitted, recordings),
        _states(fitted),
        _quality(fitted, recordings, left_out),
        _contributions(fitted),
        _detectors(fitted),
        section("Where it comes from", table((), facts.provenance.items())),
    ]
    return html_page(f"Commissioning of {facts.name}", lead, [part for part in parts if part])


def _summary(fitted: Fitted, recordings: Sequence[Recording]) -> Html:
    calibration, injections = fitted.calibration, fitted.injections
    caught = sum(injection.caught for injection in injections)
    right = sum(
        injection.caught and injection.blamed == injection.field for injection in injections
    )
    span_s = sum(recording.span_s for recording in recordings)
    assets = len({recording.asset for recording in recordings})
    dropped = _share_dropped(fitted, recordings)
    window_s = fitted.window * fitted.period_s
    blamed = f"the right tag was blamed in {right} of {caught}" if caught else "nothing was found"
    sure = (
        f"with {calibration.confidence:.0%} confidence {rate(calibration.low_per_day)}"
        f" to {rate(calibration.high_per_day)}"
    )
    steps = (
        f"a score every {duration(fitted.hop * fitted.period_s)},"
        f" an event after {fitted.open_after} in a row"
    )
    found = f"{caught} of {len(injections)}" if injections else "none"
    of_assets = f"of history, {assets} asset{'s' * (assets != 1)}"
    tiles = [
        (duration(span_s), of_assets, f"{dropped:.0%} of it was not learned from"),
        (found, "faults put in were found", blamed),
        (rate(calibration.wanted_per_day), "false alarms asked for, an asset", sure),
        (duration(window_s), "is what it looks at at once", steps),
    ]
    warnings = []
    if calibration.high_per_day > 10 * calibration.wanted_per_day:
        times = calibration.high_per_day / calibration.wanted_per_day
        warnings.append(
            "There was too little healthy history to be sure of the rate of false alarms: it may be"
            f" {times:.0f} times what was asked for. Fit again when there is more."
        )
    if dropped > 0.3:
        warnings.append(
            f"{dropped:.0%} of the history was dropped. See below why, before you trust the model."
        )
    if len(fitted.states) == 1:
        warnings.append(
            "Only one operating state was seen. In any other, the model is likely to alarm."
        )
    return Html(figures(tiles) + (note(*warnings) if warnings else ""))


def _scores(fitted: Fitted) -> Html:
    drawings = []
    for history in fitted.histories[:ASSETS_SHOWN_MAX]:
        if not len(history.t_ns):
            continue
        stretches = [s for s in fitted.stretches if s.asset == history.asset]
        bands = [
            Band(s.start_ns, s.end_ns, "shade" if s.field == "" else "shade2", _said(s))
            for s in stretches
        ]
        over = int((history.scores >= 1).sum())
        rows = len(history.scores)
        caption = (
            f"{history.asset}, {utc(int(history.t_ns[0]))} to {utc(int(history.t_ns[-1]))} UTC:"
            f" {over:,} of {rows:,} scores at or above 1,"
            f" {int((history.scores >= 1)[history.learned].sum()):,} of them in what was learned"
            " from"
        )
        drawing = over_time(history.t_ns, history.scores, limit=1.0, bands=bands)
        drawings.append(figure(drawing, caption))
    more = len(fitted.histories) - ASSETS_SHOWN_MAX
    if more > 0:
        drawings.append(Html(f"<p>{more} more histories are not drawn.</p>"))
    legend = div(
        "legend",
        Html("<span style='background:var(--shade)'></span>"), "not learned from, all of it",
        Html("<span style='background:var(--shade2)'></span>"), "one tag not learned from",
        Html("<span style='background:var(--bad)'></span>"), "a score of 1 alarms",
    )  # fmt: skip
    return section(
        "The score over the history",
        legend,
        *drawings,
        lead="By the finished model itself, as the gateway will run it. The axis is even up to 2"
        " and logarithmic beyond.",
    )


def _faults(fitted: Fitted) -> Html:
    if not fitted.injections:
        return section(
            "Faults it was tried on", lead="None: there was no healthy history to put them into."
        )
    cases: dict[tuple[str, str], list[Injection]] = {}
    for injection in fitted.injections:
        cases.setdefault((injection.field, _case(injection)), []).append(injection)
    fields = [field for field in fitted.fields if any(key[0] == field for key in cases)]
    fields += sorted({key[0] for key in cases} - set(fields))
    order = {_case(i): (i.kind, i.size) for i in fitted.injections}
    columns = sorted(order, key=lambda name: order[name])
    shares = np.full((len(fields), len(columns)), np.nan)
    words = [[""] * len(columns) for _ in fields]
    for i, field in enumerate(fields):
        for j, column in enumerate(columns):
            tried = cases.get((field, column), [])
            if tried:
                caught = sum(injection.caught for injection in tried)
                shares[i, j], words[i][j] = caught / len(tried), f"{caught}/{len(tried)}"
    grid = grid_of_shares(fields, columns, shares, words)
    rows = []
    for column in columns:
        tried = [i for i in fitted.injections if _case(i) == column]
        found = [injection for injection in tried if injection.caught]
        delays = [injection.delay_s for injection in found if np.isfinite(injection.delay_s)]
        blamed = sum(injection.blamed == injection.field for injection in found)
        rows.append((
            column, f"{len(found)} of {len(tried)}",
            duration(float(np.median(delays))) if delays else NOTHING,
            f"{blamed} of {len(found)}" if found else NOTHING,
        ))  # fmt: skip
    return section(
        "Faults it was tried on",
        figure(grid, "How many of the faults put into each tag were found; sd is a healthy standard"
               " deviation of the tag"),
        table(("fault", "found", "median delay", "right tag blamed"), rows, numbers=(1, 2, 3)),
        lead="Synthetic faults were put into healthy history that the model had not seen. What is"
        " missed here would be missed on the machine, too; but that an input is stuck, missing or"
        " out of its range the gateway's check of the sensors tells, whatever the model.",
    )  # fmt: skip


def _calibration(fitted: Fitted) -> Html:
    said = fitted.calibration
    drawing = interval(
        said.low_per_day, said.expected_per_day, said.high_per_day, said.wanted_per_day, "a day"
    )
    scores = [h.scores[h.learned] for h in fitted.histories]
    pooled = np.concatenate([np.empty(0, np.float32), *scores])
    return section(
        "How often it will alarm falsely",
        figure(
            drawing,
            f"False alarms a day and asset: expected (dot), where the rate lies with"
            f" {said.confidence:.0%} confidence (bar), asked for (dashed). It rests on"
            f" {duration(said.healthy_s)} of healthy history that was held back.",
        ),
        figure(
            histogram(pooled, limit=1.0),
            f"Scores of the {len(pooled):,} windows learned from; at 1 (dashed) it alarms",
        ),
        lead=said.in_words,
    )


def _dropped(fitted: Fitted, recordings: Sequence[Recording]) -> Html:
    if not fitted.stretches:
        return section("What was not learned from", lead="Nothing was dropped.")
    longest = sorted(fitted.stretches, key=lambda s: s.start_ns - s.end_ns)
    by_reason = Counter[tuple[str, str]]()
    for stretch in fitted.stretches:
        by_reason[stretch.reason, stretch.field] += stretch.end_ns - stretch.start_ns
    total = [
        (reason, field or "all tags", duration(ns / 1e9))
        for (reason, field), ns in by_reason.most_common(STRETCHES_SHOWN_MAX)
    ]
    rows = [
        (
            s.asset,
            s.field or "all tags",
            s.reason,
            utc(s.start_ns),
            duration((s.end_ns - s.start_ns) / 1e9 + fitted.period_s),
        )
        for s in longest[:STRETCHES_SHOWN_MAX]
    ]
    more = len(longest) - len(rows)
    return section(
        "What was not learned from",
        table(("why", "tag", "in all"), total, numbers=(2,)),
        Html("<p></p>"),
        table(("asset", "tag", "why", "from (UTC)", "for"), rows, numbers=(4,)),
        Html(f"<p>{more:,} shorter ones are not listed.</p>") if more > 0 else "",
        lead=f"{_share_dropped(fitted, recordings):.0%} of the history. The longest stretches:",
    )


def _states(fitted: Fitted) -> Html:
    header = ["", *(f"{state.name}, {state.share:.0%} of the time" for state in fitted.states)]
    rows = [
        [name, *(f"{state.levels[i]:.4g}" for state in fitted.states)]
        for i, name in enumerate(_with_units(fitted))
    ]
    return section(
        "Operating states",
        table(header, rows, numbers=range(1, len(header))),
        lead="What the machine was found doing, with the usual value of each tag there.",
    )


def _quality(fitted: Fitted, recordings: Sequence[Recording], left_out: Sequence[LeftOut]) -> Html:
    rows = []
    for i, (field, unit) in enumerate(zip(fitted.fields, fitted.eng_units, strict=True)):
        usable = np.concatenate([recording.usable[:, i] for recording in recordings])
        values = np.concatenate([recording.values[:, i] for recording in recordings])
        good = values[usable]
        shape = np.where(usable, values, np.nan)
        reasons = Counter(s.reason for s in fitted.stretches if s.field == field)
        gap_s = (
            max((_longest_gap(recording.usable[:, i]) for recording in recordings), default=0)
            * fitted.period_s
        )
        rows.append((
            field, unit, spark(shape), f"{usable.mean():.1%}" if len(usable) else NOTHING,
            duration(gap_s) if gap_s else "none",
            *([f"{good.min():.4g}", f"{good.max():.4g}"] if len(good) else [NOTHING] * 2),
            _counted(reasons),
        ))  # fmt: skip
    header = ("tag", "unit", "shape", "usable", "longest gap", "least", "most", "dropped")
    parts: list[object] = [table(header, rows, numbers=(3, 4, 5, 6))]
    if left_out:
        parts += [
            Html("<p></p>"),
            table(("left out", "why"), [(left.what, left.why) for left in left_out]),
        ]
    return section("The data, tag by tag", *parts)


def _contributions(fitted: Fitted) -> Html:
    usual: list[FloatArray] = []
    highest: list[FloatArray] = []
    for history in fitted.histories:
        if not len(history.scores):
            continue
        shares = _shares(history)
        usual.append(shares[history.learned])
        limit = np.quantile(history.scores, 1 - HIGHEST_SHARE)
        highest.append(shares[history.scores >= limit])
    if not usual:
        return Html("")
    first, second = (
        np.concatenate(parts).mean(axis=0) if sum(map(len, parts)) else np.zeros(len(fitted.fields))
        for parts in (usual, highest)
    )
    rows = [
        (field, float(a), float(b))
        for field, a, b in zip(fitted.fields, first, second, strict=True)
    ]
    return section(
        "What makes the score",
        figure(
            bars(rows),
            "Share of each tag in the score: in what was learned from (wide bar), and in the"
            f" {HIGHEST_SHARE:.0%} highest scores of the history (thin bar)",
        ),
    )


def _detectors(fitted: Fitted) -> Html:
    rows = [
        (
            detector.name,
            detector.looks_at,
            f"{detector.criterion:.0%}",
            Html('<span class="good">used</span>') if detector.used else "not used",
        )
        for detector in sorted(fitted.detectors, key=lambda d: (-d.used, -d.criterion))
    ]
    return section(
        "Detectors",
        table(("detector", "looks at", "faults found alone", ""), rows, numbers=(2,)),
        lead="Each was tried on the same faults, at a limit of its own. Used are those that find"
        " what the others miss.",
    )


def _shares(history: ScoreHistory) -> FloatArray:
    positive = np.maximum(np.nan_to_num(history.contributions.astype(np.float64)), 0)
    whole = positive.sum(axis=1, keepdims=True)
    return positive / np.where(whole > 0, whole, 1)


def _share_dropped(fitted: Fitted, recordings: Sequence[Recording]) -> float:
    """Of the assets' ticks, in which nothing, or not all of it, was learned from.

    That is also what lies in stretches too short for a window.
    """
    dropped = ticks = 0
    window_ns = round(fitted.window * fitted.period_s * 1e9)
    for recording, history in zip_longest(recordings, fitted.histories):
        rows = np.zeros(len(recording.t_ns), np.bool_)
        for stretch in fitted.stretches:
            if stretch.asset == recording.asset:
                rows |= (recording.t_ns >= stretch.start_ns) & (recording.t_ns <= stretch.end_ns)
        if history is not None:
            ends = history.t_ns[history.learned]
            edges = np.zeros(len(rows) + 1, np.int64)
            np.add.at(edges, np.searchsorted(recording.t_ns, ends - window_ns, side="right"), 1)
            np.add.at(edges, np.searchsorted(recording.t_ns, ends, side="right"), -1)
            rows |= np.cumsum(edges[:-1]) == 0
        dropped, ticks = dropped + int(rows.sum()), ticks + len(rows)
    return dropped / ticks if ticks else 0.0


def _longest_gap(usable: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[True], usable, [True]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _counted(reasons: Counter[str]) -> str:
    return ", ".join(f"{count} x {reason}" for reason, count in reasons.items()) or NOTHING


def _case(injection: Injection) -> str:
    return f"{injection.kind} {injection.size:g} sd" if injection.size else injection.kind


def _said(stretch: Stretch) -> str:
    which = stretch.field or "all tags"
    return f"{which}: {stretch.reason}, from {utc(stretch.start_ns)} to {utc(stretch.end_ns)}"


def _with_units(fitted: Fitted) -> list[Html]:
    return [
        Html(f"{text(field)}{f' [{text(unit)}]' if unit else ''}")
        for field, unit in zip(fitted.fields, fitted.eng_units, strict=True)
    ]
