"""Cells: a column's texts as numbers, true or false, and qualities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gateway.frame import BoolArray, ByteArray, FloatArray
from gateway.recordings.tables import Column, Numbers
from gateway.tag import Quality

__all__ = ["NotANumber", "looks_numeric", "numbers_of", "qualities_of", "truths_of"]

# How loggers and historians write that there was a sample, and that it is of no use.
_BAD_WORDS = frozenset(
    ("nan", "null", "none", "na", "n/a", "#n/a", "#n/v", "-", "--", "?", "bad", "bad input",
     "no data", "nodata", "i/o timeout", "error", "fault")
)  # fmt: skip
_TRUTHS = {"true": 1.0, "false": 0.0, "on": 1.0, "off": 0.0, "yes": 1.0, "no": 0.0}
_QUALITIES = {quality.name.lower(): int(quality) for quality in Quality}


class NotANumber(ValueError):
    """A cell that is not what its column should hold; `index` says which."""

    def __init__(self, index: int, text: str) -> None:
        super().__init__(text)
        self.index = index
        self.text = text


def numbers_of(column: Column, *, is_decimal_comma: bool) -> tuple[FloatArray, BoolArray]:
    """Values, and where there is a sample at all; NaN is a sample of no use.

    An empty cell is no sample: a tag that is recorded less often than others. Raises NotANumber.
    """
    if isinstance(column, Numbers):
        return column.values.astype(np.float64), column.present
    try:
        # The usual column, ten times as fast as looking at each cell.
        values = np.array([float(text) for text in column])
    except ValueError:
        return _numbers_slowly(column, is_decimal_comma)
    if any("_" in text for text in column):  # digits as Python has them, and nobody else
        return _numbers_slowly(column, is_decimal_comma)
    return values, np.ones(len(values), np.bool_)


def truths_of(column: Column, *, is_decimal_comma: bool) -> BoolArray:
    """Where a label is set: any number but 0, or a word of a truth. Raises NotANumber."""
    values, present = numbers_of(column, is_decimal_comma=is_decimal_comma)
    truths: BoolArray = present & np.isfinite(values) & (values != 0)
    return truths


def qualities_of(column: Column) -> ByteArray:
    """Codes of the qualities by name; an empty cell is good. Raises NotANumber."""
    if isinstance(column, Numbers):
        if column.present.any():
            raise NotANumber(int(column.present.argmax()), "a number")
        return np.zeros(len(column.values), np.uint8)
    codes = {text: _QUALITIES.get(text.strip().lower() or "good", -1) for text in set(column)}
    for text, code in codes.items():
        if code < 0:
            raise NotANumber(list(column).index(text), text)
    return np.array([codes[text] for text in column], np.uint8)


def looks_numeric(column: Column) -> bool:
    """Whether a number is among the first cells, or nothing is in them."""
    if isinstance(column, Numbers):
        return column.values.dtype.kind in "fi"
    said = [text.strip() for text in column if text.strip()]
    return not said or any(_number(text, is_decimal_comma=True) is not None for text in said[:1000])


def _numbers_slowly(column: Sequence[str], is_decimal_comma: bool) -> tuple[FloatArray, BoolArray]:
    values = np.full(len(column), np.nan)
    present = np.ones(len(column), np.bool_)
    for i, cell in enumerate(column):
        text = cell.strip()
        if not text:
            present[i] = False
            continue
        number = _number(text, is_decimal_comma=is_decimal_comma)
        if number is None:
            if text.lower() not in _BAD_WORDS:
                raise NotANumber(i, text)
        else:
            values[i] = number
    return values, present


def _number(text: str, *, is_decimal_comma: bool) -> float | None:
    if is_decimal_comma and text.count(",") == 1:
        text = text.replace(".", "").replace(",", ".")
    if text.lower() in _TRUTHS:
        return _TRUTHS[text.lower()]
    try:
        return None if "_" in text or text.lower() in _BAD_WORDS else float(text)
    except ValueError:
        return None
