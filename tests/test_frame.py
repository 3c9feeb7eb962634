from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.frame import EMPTY_FRAME, Exact, Frame

rows = st.lists(
    st.tuples(
        st.integers(0, 2**62),
        st.integers(0, 2**31 - 1),
        st.floats(),
        st.integers(0, 255),
        st.none() | st.text(max_size=5) | st.integers(-(2**63), 2**64 - 1),
    ),
    max_size=20,
)


def frame_of(content: list[tuple[int, int, float, int, int | str | None]]) -> Frame:
    exact: Exact = {i: row[4] for i, row in enumerate(content) if row[4] is not None}
    return Frame(
        np.array([row[0] for row in content], np.int64),
        np.array([row[1] for row in content], np.int32),
        np.array([row[2] for row in content], np.float64),
        np.array([row[3] for row in content], np.uint8),
        exact,
    )


def content_of(frame: Frame) -> list[tuple[object, ...]]:
    values = frame.values.view(np.int64).tolist()  # so that NaN equals NaN
    columns = (frame.t_ns.tolist(), frame.tag_ids.tolist(), values, frame.quality.tolist())
    return [(*row, frame.exact.get(i)) for i, row in enumerate(zip(*columns, strict=True))]


@given(st.lists(rows, max_size=5))
def test_concatenation_keeps_every_row_and_its_exact_value(parts: list[list]) -> None:  # type: ignore[type-arg] - rows are shown above
    whole = Frame.concatenate([frame_of(part) for part in parts])
    assert content_of(whole) == content_of(frame_of([row for part in parts for row in part]))


@given(rows, st.data())
def test_choosing_rows_keeps_their_exact_values(content: list, data: st.DataObject) -> None:  # type: ignore[type-arg] - rows are shown above
    keep = data.draw(st.lists(st.booleans(), min_size=len(content), max_size=len(content)))
    chosen = frame_of(content).where(np.array(keep, np.bool_))
    wanted = [row for row, kept in zip(content, keep, strict=True) if kept]
    assert content_of(chosen) == content_of(frame_of(wanted))


@given(rows, st.integers(0, 20), st.integers(0, 20))
def test_cutting_rows_keeps_their_exact_values(content: list, a: int, b: int) -> None:  # type: ignore[type-arg] - rows are shown above
    start, stop = sorted((a, b))
    cut = frame_of(content).rows(start, stop)
    assert content_of(cut) == content_of(frame_of(content[start:stop]))


def test_nothing_concatenated_is_the_empty_frame() -> None:
    assert Frame.concatenate([]) is EMPTY_FRAME
    assert Frame.concatenate([EMPTY_FRAME, EMPTY_FRAME]) is EMPTY_FRAME


def test_a_value_beyond_float_precision_is_read_back_exactly() -> None:
    frame = frame_of([(0, 0, 2.0**60, 0, 2**60 + 1), (0, 1, float("nan"), 0, "PM8000")])
    assert frame.value(0) == 2**60 + 1
    assert frame.value(1) == "PM8000"
