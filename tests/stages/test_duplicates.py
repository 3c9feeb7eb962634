from __future__ import annotations

from gateway.frame import Arrival, Frame
from gateway.stages.duplicates import KEYS_MAX, Duplicates
from tests.samples import make_frame


def acknowledged(frame: Frame, *, redelivered: bool = False) -> Arrival:
    return Arrival(frame, on_durable=lambda: None, redelivered=redelivered)


def test_a_redelivered_sample_is_counted_once() -> None:
    duplicates = Duplicates()
    frame = make_frame([(1.0, 0, 5.0), (1.0, 1, 6.0)])
    assert len(duplicates.screen(acknowledged(frame))) == 2
    assert len(duplicates.screen(acknowledged(frame, redelivered=True))) == 0
    assert duplicates.dropped_total == 2


def test_a_redelivered_sample_that_never_arrived_is_kept() -> None:
    duplicates = Duplicates()
    duplicates.screen(acknowledged(make_frame([(1.0, 0, 5.0)])))
    again = make_frame([(1.0, 0, 5.0), (2.0, 0, 5.0), (1.0, 1, 5.0)])
    kept = duplicates.screen(acknowledged(again, redelivered=True))
    assert list(zip(kept.t_ns.tolist(), kept.tag_ids.tolist(), strict=True)) == [
        (2 * 10**9, 0),
        (1 * 10**9, 1),
    ]


def test_equal_samples_that_are_not_redeliveries_are_kept() -> None:
    duplicates = Duplicates()
    frame = make_frame([(1.0, 0, 5.0)])
    assert len(duplicates.screen(acknowledged(frame))) == 1
    assert len(duplicates.screen(acknowledged(frame))) == 1


def test_what_was_stored_before_a_restart_is_known() -> None:
    duplicates = Duplicates()
    duplicates.seen(make_frame([(1.0, 0, 5.0)]))
    again = acknowledged(make_frame([(1.0, 0, 5.0)]), redelivered=True)
    assert len(duplicates.screen(again)) == 0


def test_memory_is_bounded_and_keeps_the_latest() -> None:
    duplicates = Duplicates()
    for start in range(0, 2 * KEYS_MAX, 5000):
        duplicates.seen(make_frame([(float(start + i), 3, 0.0) for i in range(5000)]))
    newest = make_frame([(float(2 * KEYS_MAX - 1 - i), 3, 0.0) for i in range(1000)])
    assert len(duplicates.screen(acknowledged(newest, redelivered=True))) == 0
    oldest = make_frame([(float(i), 3, 0.0) for i in range(1000)])
    assert len(duplicates.screen(acknowledged(oldest, redelivered=True))) == 1000
