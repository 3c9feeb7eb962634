"""Health tells what the gateway cannot do apart from what it copes with."""

from __future__ import annotations

from gateway.ops.health import health_of
from tests.ops.fake_view import FakeView


def test_a_device_that_is_connected_and_gives_nothing_is_said(view: FakeView) -> None:
    stats = view.sources[0].stats
    stats.connected, stats.tags_refused, stats.error_last = True, 3, "exception code 2"
    said = health_of(view).warnings
    assert "source press-plc: the device refuses 3 tags: exception code 2" in said
    stats.units_unwell = 2
    assert any("2 unit ids do not answer" in warning for warning in health_of(view).warnings)


def test_all_is_well(view: FakeView) -> None:
    assert health_of(view).status == "ok"
    assert health_of(view).reasons == ()


def test_a_spool_that_is_not_durable_is_a_failure(view: FakeView) -> None:
    view.trouble = "disk is read-only"
    assert health_of(view).status == "failing"
    assert health_of(view).failures == ("spool: disk is read-only",)


def test_work_that_stands_still_is_a_failure(view: FakeView) -> None:
    view.loop.stalled = "no progress: turns stays at 7"
    assert health_of(view).status == "failing"


def test_what_is_wrong_around_it_is_a_warning(view: FakeView) -> None:
    view.sources[0].stats.connected = False
    view.sources[0].stats.error_last = "connection refused"
    view.sinks[0].stats.state = "parked"
    view.sinks[0].stats.burying = "3 samples became dead letters"
    view.sinks[0].stats.error_last = "401"
    view.models["line-anomaly"].active = False
    health = health_of(view)
    assert health.status == "degraded"
    assert health.warnings == (
        "source press-plc: not connected: connection refused",
        "sink influx: parked: 401",
        "sink influx: 3 samples became dead letters",
        "model line-anomaly: not running: ",
    )


def test_a_sink_far_behind_is_a_warning_although_it_sends(view: FakeView) -> None:
    view.sinks[0].stats.state = "sending"
    view.sinks[0].stats.lag_s = 299
    assert health_of(view).status == "ok"
    view.sinks[0].stats.lag_s = 3600
    assert health_of(view).warnings == ("sink influx: 3600 s behind",)


def test_the_worst_decides(view: FakeView) -> None:
    view.sources[0].stats.connected = False
    view.trouble = "full"
    assert health_of(view).status == "failing"
    assert len(health_of(view).reasons) == 2


def test_foreign_text_is_bounded_and_encodable(view: FakeView) -> None:
    view.sources[0].stats.connected = False
    view.sources[0].stats.error_last = "\udc80" * 10_000
    (reason,) = health_of(view).reasons
    assert len(reason) <= 255
    reason.encode()


def test_a_card_that_wears_too_fast_is_a_warning(view: FakeView) -> None:
    view.wear.warning = "900 MiB a day are written, bytes_day_max is 500 MiB"
    health = health_of(view)
    assert health.status == "degraded"
    assert health.warnings == ("spool wears the card: " + view.wear.warning,)


def test_a_budget_that_is_used_up_is_a_warning(view: FakeView) -> None:
    view.sinks[0].stats.state = "budget"
    view.sinks[0].stats.lag_s = 90
    assert health_of(view).warnings == ("sink influx: its link's budget is used up, 90 s behind",)
