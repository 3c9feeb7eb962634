"""Report of a backtest: the scores with what they made of the history, for a person."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gateway.backtest.replay import Alarm, Outcome
from gateway.backtest.verdict import Fault, Judged, Verdict
from gateway.inference.events import SensorEvent
from gateway.reports.page import Html, div, figure, figures, html_page, section, table
from gateway.reports.svg import Band, over_time
from gateway.reports.words import duration, rate, utc

__all__ = ["Totals", "report_of", "totals_of"]

PLOTS_MAX = 24
ROWS_MAX = 200
NOTHING = "-"


class Totals:
    """All verdicts of one model together."""

    def __init__(self, model: str, verdicts: Sequence[Verdict]) -> None:
        self.model = model
        judged = [one for verdict in verdicts for one in verdict.judged]
        self.faults = len(judged)
        self.delays_s = [one.delay_s for one in judged if one.delay_s is not None]
        self.found = len(self.delays_s)
        self.alarms = sum(verdict.alarms for verdict in verdicts)
        self.false_alarms = sum(len(verdict.false_alarms) for verdict in verdicts)
        self.healthy_days = sum(verdict.healthy_days for verdict in verdicts)
        self.unknown_share = float(np.mean([verdict.unknown_share for verdict in verdicts]))

    @property
    def false_alarms_per_day(self) -> float | None:
        """Of one asset; None when no healthy score is known."""
        return self.false_alarms / self.healthy_days if self.healthy_days else None

    def delay_s(self, share: float) -> float | None:
        """Within which this share of the found faults was found."""
        return float(np.quantile(self.delays_s, share)) if self.delays_s else None


def totals_of(verdicts: Sequence[Verdict]) -> list[Totals]:
    """A total a model, in the order of the verdicts."""
    models = dict.fromkeys(verdict.model for verdict in verdicts)
    return [Totals(model, [v for v in verdicts if v.model == model]) for model in models]


def report_of(
    title: str,
    lead: Sequence[str],
    outcome: Outcome,
    verdicts: Sequence[Verdict],
    faults: Sequence[Fault] | None,
) -> str:
    """The text of the page."""
    parts = [_tiles(outcome, totals, faults) for totals in totals_of(verdicts)]
    parts += [
        _plots(outcome, verdicts, faults),
        _faults(verdicts, faults),
        _alarms(verdicts, outcome, faults),
        _sensors(outcome.sensor_events),
        _points(verdicts, faults),
    ]
    if outcome.left_out:
        rows = list(outcome.left_out.items())[:ROWS_MAX]
        parts.append(section("Not watched", table(("asset", "why"), rows)))
    return html_page(title, lead, [part for part in parts if part])


def _tiles(outcome: Outcome, totals: Totals, faults: Sequence[Fault] | None) -> Html:
    per_day = totals.false_alarms_per_day
    tiles = [
        (duration(outcome.span_s), "of history", f"{outcome.samples:,} samples"),
        (f"{totals.alarms:,}", "alarm" if totals.alarms == 1 else "alarms", f"by {totals.model}"),
    ]
    if faults:
        median, late = totals.delay_s(0.5), totals.delay_s(0.9)
        tiles.append((
            f"{totals.found} of {totals.faults}", "faults found",
            f"median delay {duration(median)}, 90 % within {duration(late)}"
            if median is not None and late is not None else "none in its time",
        ))  # fmt: skip
    tiles.append((
        NOTHING if per_day is None else rate(per_day),
        "false alarms, an asset" if faults is not None else "alarms, an asset",
        f"{totals.false_alarms} in {totals.healthy_days:.3g} healthy asset-days"
        if faults is not None
        else f"{totals.alarms} in {totals.healthy_days:.3g} asset-days; nothing is labelled",
    ))  # fmt: skip
    return figures(tiles)


def _plots(outcome: Outcome, verdicts: Sequence[Verdict], faults: Sequence[Fault] | None) -> Html:
    drawings: list[object] = []
    for scores, verdict in list(zip(outcome.scores, verdicts, strict=True))[:PLOTS_MAX]:
        here = [fault for fault in faults or () if fault.asset in ("", scores.asset)]
        bands = [Band(f.start_ns, f.end_ns, "shade", "labelled as a fault") for f in here]
        own = [
            alarm for alarm in outcome.alarms
            if (alarm.event.model, alarm.event.asset) == (scores.model, scores.asset)
        ]  # fmt: skip
        false = {id(alarm) for alarm in verdict.false_alarms}
        marks = [
            Band(
                alarm.event.start_ns,
                max(alarm.event.end_ns, alarm.opened_ns),
                "warn" if faults is None else "bad" if id(alarm) in false else "good",
                f"{alarm.event.top}, peak {alarm.event.peak:.1f}",
            )
            for alarm in own
        ]
        caption = (
            f"{scores.asset}, {scores.model}: {len(own)} alarm{'s' * (len(own) != 1)},"
            f" {verdict.unknown_share:.1%} of the scores not known"
        )
        drawing = over_time(scores.t_ns, scores.values, limit=1.0, bands=bands, marks=marks)
        drawings.append(figure(drawing, caption))
    more = len(outcome.scores) - PLOTS_MAX
    if more > 0:
        drawings.append(Html(f"<p>{more} more are not drawn.</p>"))
    words = [Html("<span style='background:var(--shade)'></span>"), "labelled as a fault"]
    if faults is None:
        words = [Html("<span style='background:var(--warn)'></span>"), "an alarm was open"]
    else:
        words += [
            Html("<span style='background:var(--good)'></span>"), "alarm that found a fault",
            Html("<span style='background:var(--bad)'></span>"), "false alarm",
        ]  # fmt: skip
    return section("Scores", div("legend", *words), *drawings)


def _faults(verdicts: Sequence[Verdict], faults: Sequence[Fault] | None) -> Html:
    judged = [one for verdict in verdicts for one in verdict.judged]
    if not faults or not judged:
        return Html("")
    rows = [_fault_row(one) for one in judged[:ROWS_MAX]]
    header = ("asset", "from (UTC)", "for", "", "delay", "because of", "peak")
    return section("Faults", table(header, rows, numbers=(2, 4, 6)), _rest(len(judged)))


def _fault_row(one: Judged) -> tuple[object, ...]:
    fault = one.fault
    lasted = duration((fault.end_ns - fault.start_ns) / 1e9)
    if one.alarm is None or one.delay_s is None:
        missed = Html("<span class=bad>missed</span>")
        return (one.asset, utc(fault.start_ns), lasted, missed, NOTHING, NOTHING, NOTHING)
    found = Html("<span class=good>found</span>")
    event = one.alarm.event
    return (
        one.asset, utc(fault.start_ns), lasted, found, duration(one.delay_s), event.top,
        f"{event.peak:.1f}",
    )  # fmt: skip


def _alarms(verdicts: Sequence[Verdict], outcome: Outcome, faults: Sequence[Fault] | None) -> Html:
    if not outcome.alarms:
        return section("Alarms", lead="None.")
    false = {id(alarm) for verdict in verdicts for alarm in verdict.false_alarms}
    rows = [_alarm_row(alarm, faults is not None and id(alarm) in false)
            for alarm in outcome.alarms[:ROWS_MAX]]  # fmt: skip
    header = ("asset", "opened (UTC)", "for", "severity", "peak", "because of", "")
    return section("Alarms", table(header, rows, numbers=(2, 4)), _rest(len(outcome.alarms)))


def _alarm_row(alarm: Alarm, is_false: bool) -> tuple[object, ...]:
    event = alarm.event
    lasted = duration(event.duration_s) + (", open" if event.is_open else "")
    why = event.deviation or event.top or "no single reason"
    peak = f"{event.peak:.1f}" if math.isfinite(event.peak) else NOTHING
    remark = Html("<span class=bad>false</span>") if is_false else ""
    return (event.asset, utc(alarm.opened_ns), lasted, event.severity, peak, why, remark)


def _sensors(events: Sequence[SensorEvent]) -> Html:
    if not events:
        return Html("")
    rows = [
        (event.asset, utc(event.start_ns), duration(event.duration_s), event.faults)
        for event in events[:ROWS_MAX]
    ]
    return section(
        "Sensors that were not believed",
        table(("asset", "from (UTC)", "for", "what"), rows, numbers=(2,)),
        _rest(len(events)),
        lead="While an input is wrong the machine is not judged: no score is better than a false"
        " one.",
    )


def _points(verdicts: Sequence[Verdict], faults: Sequence[Fault] | None) -> Html:
    if not faults:
        return Html("")
    rows = [
        (v.model, v.asset, _share(v.f1, 3), _share(v.points_false), _share(v.points_missed))
        for v in verdicts[:ROWS_MAX]
    ]
    return section(
        "Point by point",
        table(("model", "asset", "F1", "false", "missed"), rows, numbers=(2, 3, 4)),
        lead="Each score against the label at its time, as it is: no adjustment of points.",
    )


def _share(value: float | None, digits: int = 0) -> str:
    if value is None:
        return NOTHING
    return f"{value:.{digits}f}" if digits else f"{value:.1%}"


def _rest(count: int) -> Html:
    more = count - ROWS_MAX
    return Html(f"<p>{more:,} more are not listed.</p>") if more > 0 else Html("")
