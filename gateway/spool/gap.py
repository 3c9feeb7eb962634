"""Gap: what was deleted from a lane, kept in the lane so that a hole can be told from silence.

A gap record stands where the lane was being written when the deletion happened, not where the
samples had been: those records are gone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import orjson

from gateway.errors import SpoolDamaged

__all__ = ["Gap", "decode_gap", "encode_gap"]


@dataclass(frozen=True, slots=True)
class Gap:
    """Samples that are not in a lane any more."""

    reason: str  # "space": bytes_max or a full disk, "age", "lane": its own bytes_max
    samples: int
    undelivered: int  # of these, what some sink had not had
    sequence_first: int
    sequence_last: int
    t_ns_min: int
    t_ns_max: int


def encode_gap(gap: Gap) -> bytes:
    """The payload of a gap record: JSON."""
    return orjson.dumps(asdict(gap))


def decode_gap(payload: bytes) -> Gap:
    """The inverse; attributes of a later version are passed over. Raises SpoolDamaged."""
    try:
        facts = orjson.loads(payload)
        numbers = [int(facts[name]) for name in Gap.__slots__[1:]]
        return Gap(str(facts["reason"]), *numbers)
    except (ValueError, TypeError, KeyError) as error:
        raise SpoolDamaged(f"a gap record cannot be read: {error}") from error
