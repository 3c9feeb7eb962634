"""Guess: what registers may hold, from what they held over a while. Pure; a proposal to edit.

A right reading of several registers is plausible in size and smooth over time, while its low word
taken alone jumps. So two registers are a float in that order of bytes in which every sample is of
a usual size and the steps are the smallest against the value; they are a counter where the high
word stands and only carries. What stays in doubt is two plain registers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gateway.sources.modbus.types import RegisterType
from gateway.tag import ByteOrder

__all__ = ["Guess", "guess"]

Words = npt.NDArray[np.uint16]

# Engineering values lie here; a random pair of registers does in one case of seven.
_USUAL_MIN, _USUAL_MAX = 1e-3, 1e7
# A measured value changes by less between two looks a second apart, against its own size.
_STEP_MAX = 0.25
_DIGITS_STILL_MAX = 5
_TEXT_REGISTERS_MIN = 3
_TEXT_REGISTERS_MAX = 32
_ORDERS = (ByteOrder.ABCD, ByteOrder.CDAB, ByteOrder.BADC, ByteOrder.DCBA)


@dataclass(frozen=True, slots=True)
class Guess:
    """One value in a block; `least` and `most` are what it was, as text for a string."""

    offset: int  # registers from the block's begin
    registers: int
    data_type: RegisterType
    byte_order: ByteOrder
    least: float | str
    most: float | str


def guess(samples: Words) -> list[Guess]:
    """What (looks, registers) of one block may be; each register is in one guess."""
    found = []
    at, end = 0, samples.shape[1]
    while at < end:
        best = (
            _text(samples, at) or _float(samples, at) or _counter(samples, at) or _word(samples, at)
        )
        found.append(best)
        at += best.registers
    return found


def _text(samples: Words, at: int) -> Guess | None:
    """Printable characters that do not change."""
    raw = samples[:, at : at + _TEXT_REGISTERS_MAX]
    if (raw != raw[0]).any():
        same = np.flatnonzero((raw != raw[0]).any(axis=0))
        raw = raw[:, : int(same[0])]
    data = raw[0].astype(">u2").tobytes()
    text = data.split(b"\0", 1)[0]
    length = len(text)
    while length and not (
        text[:length].isascii() and text[:length].decode("latin-1").isprintable()
    ):
        length -= 1
    registers = length // 2
    padding = registers + (length % 2)
    if registers < _TEXT_REGISTERS_MIN or not any(c.isalpha() for c in text[:length].decode()):
        return None
    shown = text[:length].decode().strip()
    return Guess(at, padding, RegisterType.STRING, ByteOrder.ABCD, shown, shown)


def _float(samples: Words, at: int) -> Guess | None:
    if at + 2 > samples.shape[1] or not samples[:, at : at + 2].any():
        return None
    best: tuple[float, Guess] | None = None
    for order in _ORDERS:
        with np.errstate(invalid="ignore"):  # a signalling NaN is none of ours
            values = _pair(samples, at, order).view(">f4")[:, 0].astype(np.float64)
        size = np.abs(values)
        is_usual = (size == 0) | ((size >= _USUAL_MIN) & (size <= _USUAL_MAX))
        if not np.isfinite(values).all() or not is_usual.all() or not size.any():
            continue
        step = float(np.abs(np.diff(values)).max(initial=0.0) / size.max())
        if step > _STEP_MAX:
            continue
        # Of two that are alike the rounder one: mantissas of short decimals end in zeros.
        roundness = len(f"{values[0]:.7g}") / 100
        kind = Guess(at, 2, RegisterType.FLOAT32, order, float(values.min()), float(values.max()))
        if best is None or step + roundness < best[0]:
            best = (step + roundness, kind)
    if best is None or _is_plain(samples, at, best[1]):
        return None
    return best[1]


def _is_plain(samples: Words, at: int, found: Guess) -> bool:
    """Whether both registers are as smooth, and so as likely two values of their own."""
    pair = samples[:, at : at + 2].astype(np.float64)
    size = np.maximum(pair.max(axis=0), 1.0)
    steps = np.abs(np.diff(pair, axis=0)).max(axis=0, initial=0.0) / size
    is_still = not steps.any()
    if is_still:
        # Nothing moved: believed only for a short decimal, such as 12.5, which chance seldom makes.
        digits = f"{abs(float(found.most)):.7g}".replace(".", "").strip("0")
        return len(digits) > _DIGITS_STILL_MAX or not samples[:, at : at + 2].all(axis=0).any()
    return bool((steps <= _STEP_MAX / 10).all())


def _counter(samples: Words, at: int) -> Guess | None:
    """A number of 32 bits that rises, its high word more than nothing."""
    if at + 2 > samples.shape[1]:
        return None
    for order in (ByteOrder.ABCD, ByteOrder.CDAB):
        values = _pair(samples, at, order).view(">u4")[:, 0].astype(np.int64)
        steps = np.diff(values)
        high = values >> 16
        is_rising = bool(steps.size and (steps >= 0).all() and steps.any())
        # The high word of a counter stays, or carries once; a value of its own does as it likes.
        if is_rising and high.min() > 0 and high.max() - high.min() <= 1 and steps.max() < 2**16:
            least, most = float(values.min()), float(values.max())
            return Guess(at, 2, RegisterType.UINT32, order, least, most)
    return None


def _word(samples: Words, at: int) -> Guess:
    values = samples[:, at].astype(np.int64)
    signed = np.where(values >= 2**15, values - 2**16, values)
    # Small below zero is 65,000 and more; a plain number is seldom so large.
    is_signed = bool((signed < 0).any() and np.abs(signed).max() < 2**13)
    kind, shown = (RegisterType.INT16, signed) if is_signed else (RegisterType.UINT16, values)
    return Guess(at, 1, kind, ByteOrder.ABCD, float(shown.min()), float(shown.max()))


def _pair(samples: Words, at: int, order: ByteOrder) -> npt.NDArray[np.uint8]:
    """(looks, 4) bytes of two registers, most significant first."""
    pair = samples[:, at : at + 2].astype(">u2")
    if order in (ByteOrder.CDAB, ByteOrder.DCBA):
        pair = pair[:, ::-1]
    raw = np.ascontiguousarray(pair).view(np.uint8).reshape(len(samples), 4)
    if order in (ByteOrder.BADC, ByteOrder.DCBA):
        raw = raw.reshape(-1, 2, 2)[:, :, ::-1].reshape(-1, 4)
    return np.ascontiguousarray(raw)
